package kafka

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// put offers b once, and drops what the sink says of it.
func (l *largeRig) put(b *gateway.Batch) {
	l.t.Helper()
	next := *b
	var later *gateway.LaterError
	if err := l.sink.Send(l.ctx(), &next); !errors.As(err, &later) {
		l.t.Fatalf("%v, want a *gateway.LaterError", err)
	}
}

// waits reports whether a file of that kind is in the spool.
func (l *largeRig) has(suffix string) func() bool {
	return func() bool {
		return slices.ContainsFunc(l.spooled(), func(n string) bool { return strings.HasSuffix(n, suffix) })
	}
}

// crashes are the states in which a crash may leave the spool and the store.
func crashes() map[string]func(l *largeRig, st *fakeS3, b *gateway.Batch) {
	return map[string]func(l *largeRig, st *fakeS3, b *gateway.Batch){
		"half a value in the spool": func(l *largeRig, _ *fakeS3, _ *gateway.Batch) {
			_ = l.sink.Close()
			l.plant("0123-4567.data.tmp", "half")
		},
		"a value without its claim": func(l *largeRig, _ *fakeS3, _ *gateway.Batch) {
			_ = l.sink.Close()
			l.plant("0123-4567.data", "whole perhaps")
		},
		"half a claim": func(l *largeRig, _ *fakeS3, _ *gateway.Batch) {
			_ = l.sink.Close()
			l.plant("0123-4567.data", "whole perhaps")
			l.plant("0123-4567.json", `{"id": "0123-4567", "sha`)
		},
		"spooled": func(l *largeRig, st *fakeS3, b *gateway.Batch) {
			st.plan(once("", 1<<20, answer(503, "SlowDown")))
			l.put(b)
			l.until("it is spooled", l.has(claimSuffix))
		},
		"spooled and damaged": func(l *largeRig, st *fakeS3, b *gateway.Batch) {
			st.plan(once("", 1<<20, answer(503, "SlowDown")))
			l.put(b)
			l.until("it is spooled", l.has(claimSuffix))
			_ = l.sink.Close()
			for _, n := range l.spooled() {
				if path := filepath.Join(l.state, "large", n); strings.HasSuffix(n, dataSuffix) {
					l.damage(path)
				}
			}
		},
		"half uploaded": func(l *largeRig, st *fakeS3, b *gateway.Batch) {
			st.plan(once("part 3", 1<<20, answer(503, "SlowDown")))
			l.put(b)
			l.until("two parts are stored", func() bool { return st.count("part 3") > 1 })
		},
		"uploaded, not noted": func(l *largeRig, st *fakeS3, b *gateway.Batch) {
			l.put(b)
			l.until("it is stored", func() bool { return l.sink.claims.done() == 1 })
			_ = l.sink.Close()
			l.edit(`"done":true`, `"done":false`)
		},
		"uploaded, not sent": func(l *largeRig, _ *fakeS3, b *gateway.Batch) {
			l.put(b)
			l.until("it is stored", func() bool { return l.sink.claims.done() == 1 })
		},
	}
}

// A process that is killed between any two steps goes on where it was, and one
// object and one reference come of it.
func TestClaimCrashAtEveryStep(t *testing.T) {
	for name, setup := range crashes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newFakeS3(t)
			l := newLargeRig(t, st, nil)
			b := l.large(3, 3<<20+5, 1)
			setup(l, st, b)
			_ = l.sink.Close()
			st.plan(nil)
			puts, first := st.count("put"), st.count("part 1")
			l.restart()
			if err := l.again(b); err != nil {
				t.Fatal(err)
			}
			l.exactlyOnce(3, "data")
			l.whole(st, b.Items[1].Record.Payload)
			if strings.HasPrefix(name, "uploaded") && st.count("put")+st.count("part 1") != puts+first {
				t.Error("it was uploaded again")
			}
			if name == "half uploaded" && (st.count("part 1") != 1 || st.count("part 2") != 1 || st.count("begin") != 1) {
				t.Errorf("part 1 was sent %d times, part 2 %d", st.count("part 1"), st.count("part 2"))
			}
		})
	}
}

// done is how many claims are in the store.
func (c *claims) done() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, cl := range c.all {
		if cl.Done {
			n++
		}
	}
	return n
}

// plant puts a file in the spool.
func (l *largeRig) plant(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.state, "large", name), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// damage changes a byte of a file.
func (l *largeRig) damage(path string) {
	l.t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		b[len(b)/2] ^= 1
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// edit replaces a text in the claims.
func (l *largeRig) edit(from, to string) {
	l.t.Helper()
	n := 0
	for _, name := range l.spooled() {
		path := filepath.Join(l.state, "large", name)
		b, err := os.ReadFile(path)
		if err != nil {
			l.t.Fatal(err)
		}
		if s := string(b); strings.HasSuffix(name, claimSuffix) && strings.Contains(s, from) {
			n++
			if err := os.WriteFile(path, []byte(strings.Replace(s, from, to, 1)), 0o600); err != nil {
				l.t.Fatal(err)
			}
		}
	}
	if n == 0 {
		l.t.Fatalf("no claim has %s", from)
	}
}

// Killed after Kafka had the batch: what is in the spool goes with the next
// batch of the lane; and when the batch comes again it is sent, not uploaded.
func TestCrashAfterSend(t *testing.T) {
	st := newFakeS3(t)
	l := newLargeRig(t, st, nil)
	b := l.large(3, 200_000, 1)
	if err := l.again(b); err != nil {
		t.Fatal(err)
	}
	uploads := st.count("put")
	l.restart()
	if err := l.again(b); err != nil { // the release was not on the disk
		t.Fatal(err)
	}
	if st.count("put") != uploads {
		t.Error("it was uploaded again")
	}
	// Sent and released, but the spool not cleared yet: evicted is the same.
	b = l.large(3, 200_000, 1)
	l.put(b)
	l.until("it is stored", func() bool { return l.sink.claims.done() == 1 })
	l.restart()
	if err := l.again(l.large(2, 10)); err != nil {
		t.Fatal(err)
	}
	if s := l.spooled(); len(s) != 0 {
		t.Errorf("left in the spool: %v", s)
	}
}

// A sink with another store begins anew what was for the one before.
func TestAnotherStoreAfterRestart(t *testing.T) {
	gone, st := newFakeS3(t), newFakeS3(t)
	l := newLargeRig(t, gone, nil)
	b := l.large(1, 2<<20, 0)
	l.put(b)
	l.until("it is stored", func() bool { return l.sink.claims.done() == 1 })
	l.conf.Large.Store.Endpoint = st.srv.URL
	l.restart()
	if err := l.again(b); err != nil {
		t.Fatal(err)
	}
	l.whole(st, b.Items[0].Record.Payload)
}

// The spool keeps its bounds: a value for which there is no room waits in the
// queue until others are stored, and no file of the spool is left over.
func TestSpoolIsBounded(t *testing.T) {
	st := newFakeS3(t)
	l := newLargeRig(t, st, func(c *Config) { c.Large.Above = 50_000 })
	l.sink.claims.spool.max = 500_000
	st.plan(once("", 1<<20, answer(503, "SlowDown")))
	b := l.large(12, 90_000, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
	l.put(b)
	l.until("five values are spooled", func() bool { return len(l.spooled()) == 10 })
	next := *b
	if err := l.sink.Send(l.ctx(), &next); err == nil || l.size() > 500_000+12_000 {
		t.Fatalf("%v; the spool has %d bytes", err, l.size())
	}
	if used := l.sink.claims.used; used != 450_000 {
		t.Errorf("%d bytes count as used", used)
	}
	st.plan(nil)
	if err := l.again(b); err != nil {
		t.Fatal(err)
	}
	l.exactlyOnce(12, "data")
	if s := l.spooled(); len(s) != 0 || l.sink.claims.used != 0 {
		t.Errorf("left in the spool: %v, %d bytes", s, l.sink.claims.used)
	}
	l.sink.claims.spool.max = 80_000
	var refused *gateway.RefusedError
	if err := l.again(l.large(2, 90_000, 1)); !errors.As(err, &refused) || !strings.Contains(refused.Refused[0].Reason, "spool_bytes") {
		t.Errorf("a value larger than the spool: %v", err)
	}
}

func (l *largeRig) size() (n int64) {
	for _, name := range l.spooled() {
		if info, err := os.Stat(filepath.Join(l.state, "large", name)); err == nil {
			n += info.Size()
		}
	}
	return n
}

// While the store is away Send answers at once, small batches pass, and Close
// does not wait for an upload that hangs.
func TestStoreThatHangs(t *testing.T) {
	st := newFakeS3(t)
	l := newLargeRig(t, st, nil)
	free := make(chan struct{})
	st.plan(func(string, http.ResponseWriter, *http.Request) bool { <-free; return true })
	defer close(free)
	big := l.large(2, 200_000, 1)
	l.put(big)
	l.until("it is on its way", func() bool { return st.count("") > 0 })
	begun := time.Now()
	for range 5 {
		l.put(big)
		if err := l.sink.Send(l.ctx(), l.large(20, 10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.sink.Close(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}

// A request of which nothing moves is given up and made again.
func TestStalledUpload(t *testing.T) {
	st := newFakeS3(t)
	l := newLargeRig(t, st, nil)
	l.sink.claims.store.(*s3Store).stall = 30 * time.Millisecond
	free := make(chan struct{})
	st.plan(once("part 2", 2, func(http.ResponseWriter, *http.Request) { <-free }))
	defer close(free)
	b := l.large(1, 3<<20, 0)
	if err := l.again(b); err != nil {
		t.Fatal(err)
	}
	l.whole(st, b.Items[0].Record.Payload)
}

// An upload takes no more of the link than it may.
func TestUploadIsPaced(t *testing.T) {
	p := pace{rate: 1 << 20}
	begun := time.Now()
	for range 16 {
		if err := p.take(context.Background(), 16<<10); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(begun); d < 240*time.Millisecond {
		t.Errorf("256 KiB at 1 MiB a second took %s", d)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if p.take(ctx, 100<<20) == nil {
		t.Error("a cancelled wait does not end")
	}
	st := newFakeS3(t)
	l := newLargeRig(t, st, func(c *Config) { c.Large.Rate = 2 << 20 })
	b := l.large(1, 600_000, 0)
	begun = time.Now()
	if err := l.again(b); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begun); d < 270*time.Millisecond {
		t.Errorf("600 kB at 2 MiB a second took %s", d)
	}
}
