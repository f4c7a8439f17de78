package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// pickySink refuses what its rule says, and keeps what it takes.
type pickySink struct {
	fakeSink
	mu     sync.Mutex // guards what follows
	rule   func(*Batch, int) string
	each   func(*Batch) error
	got    []again
	report []DeadLetterInfo
	topic  bool // it has a place for dead letters
	keep   bool
}

func (s *pickySink) LettersToo() (yes, keep bool) { return s.topic, s.keep }

func newPicky(rule func(b *Batch, i int) string) *pickySink {
	s := &pickySink{rule: rule}
	s.send = func(_ context.Context, b *Batch) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.each != nil {
			if err := s.each(b); err != nil {
				return err
			}
		}
		no := &RefusedError{}
		for i := range b.Items {
			if reason := s.rule(b, i); reason != "" {
				no.Refused = append(no.Refused, Refusal{Index: i, Reason: reason})
				continue
			}
			if b.Letters != nil {
				s.report = append(s.report, b.Letters[i])
				continue
			}
			s.got = append(s.got, again{seq: b.Items[i].Seq, name: b.Items[i].Record.Name, lane: b.LaneName, replayed: b.Replayed, at: time.Now()})
		}
		if len(no.Refused) > 0 {
			return no
		}
		return nil
	}
	return s
}

// change sets the rule.
func (s *pickySink) change(rule func(*Batch, int) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rule = rule
}

// seqs are those that came, live and again.
func (s *pickySink) seqs() (live, replayed []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.got {
		if g.replayed {
			replayed = append(replayed, g.seq)
		} else {
			live = append(live, g.seq)
		}
	}
	return live, replayed
}

// even refuses every other record that is live.
func even(b *Batch, i int) string {
	if !b.Replayed && b.Items[i].Seq%2 == 0 {
		return "too large"
	}
	return ""
}

// mustLetter is a stored letter.
func mustLetter(sink string, seq uint64, reason string) []byte {
	lanes := []buffer.LaneInfo{{Name: "alarm", Generation: "g"}, {Name: "telemetry", Generation: "g"}}
	f := &forwarder{name: sink, lanes: lanes, lane: 1, clock: SystemClock()}
	r := Record{Source: "deck", Device: fmt.Sprint("d", seq%3), Name: fmt.Sprint(seq), Payload: []byte("p")}
	return f.letter(seq, reason, AppendRecord(nil, &r))
}

func openShelf(t testing.TB, dir string, keys ...buffer.Key) *buffer.Shelf {
	t.Helper()
	s, err := buffer.OpenShelf(buffer.ShelfOptions{Dir: dir, MaxBytes: 64 << 20, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lettered is a gateway over a queue, with the sinks by name.
func lettered(t *testing.T, dir string, n int, sinks map[string]Sink) *Gateway {
	t.Helper()
	source := sourceFunc(func(ctx context.Context, in *Intake) error {
		in.Up()
		var recs []Record
		for i := range n {
			recs = append(recs, Record{Device: fmt.Sprint("d", i%3), Name: fmt.Sprint(i + 1)})
		}
		in.Deliver(recs, nil)
		<-ctx.Done()
		return nil
	})
	o := Options{ID: "ship-042", Sources: []SourceSpec{{Name: "deck", Lane: LaneTelemetry, Source: source}}, Queue: openQueue(t, dir, 64<<20), Dead: openShelf(t, dir)}
	for name, s := range sinks {
		o.Sinks = append(o.Sinks, SinkSpec{Name: name, Type: "fake", Sink: s})
	}
	slices.SortFunc(o.Sinks, func(a, b SinkSpec) int { return strings.Compare(a.Name, b.Name) })
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// startLettered starts g and returns what ends it.
func startLettered(t *testing.T, g *Gateway) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func all(t testing.TB, ls *Letters, q LetterFilter) (out []DeadLetter) {
	t.Helper()
	for after := uint64(0); ; {
		page, next, err := ls.List(q, after, 100)
		if err != nil {
			t.Fatal(err)
		}
		if out = append(out, page...); next == 0 {
			return out
		}
		after = next
	}
}

// What was refused is sent again when a person asks, once the cause is mended,
// with its own seq, and leaves the shelf when it is confirmed. Nobody else has
// it sent. The books balance.
func TestRetryDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shore := newPicky(even)
		g := lettered(t, t.TempDir(), 1000, map[string]Sink{"shore": shore})
		stop := startLettered(t, g)
		wait(5 * time.Second)
		if s := g.Status(); s.DeadLetters.Kept != 500 || s.DeadLetters.Sinks[0].Kept != 500 || s.DeadLetters.Sinks[0].Oldest == nil || s.DeadLetters.Bytes == 0 {
			t.Fatalf("%+v", s.DeadLetters)
		}
		wait(time.Hour)
		if _, again := shore.seqs(); len(again) != 0 {
			t.Fatalf("%d sent again without being asked for", len(again))
		}
		start := time.Now()
		r, err := g.Letters().Retry(LetterFilter{Device: "d0"}, "")
		if err != nil || r.Count != 167 {
			t.Fatalf("%+v, %v", r, err)
		}
		wait(10 * time.Second)
		_, again := shore.seqs()
		if len(again) != 167 || again[0] != 4 || !slices.IsSorted(again) {
			t.Fatalf("%d sent again: %v", len(again), again)
		}
		if s := g.Status(); s.DeadLetters.Kept != 333 || s.DeadLetters.Delivered != 167 || s.DeadLetters.Retrying != 0 || !s.Books.Balanced || s.Sinks[0].DeadLettered != 500 {
			t.Errorf("%+v, %+v", s.DeadLetters, s.Sinks)
		}
		if r, err = g.Letters().Retry(LetterFilter{All: true}, ""); err != nil || r.Count != 333 {
			t.Fatalf("%+v, %v", r, err)
		}
		wait(10 * time.Second)
		if _, again = shore.seqs(); len(again) != 500 {
			t.Fatalf("%d sent again", len(again))
		}
		shore.mu.Lock()
		for i, x := range shore.got[500:] {
			if x.seq%2 == 1 || x.name != fmt.Sprint(x.seq) || x.lane != "telemetry" || !x.replayed {
				t.Fatalf("letter %d is %+v", i, x)
			}
		}
		if d := shore.got[500+166].at.Sub(start); d < 167/letterRate*time.Second || d > 3*time.Second {
			t.Errorf("it took %s", d)
		}
		shore.mu.Unlock()
		stop()
	})
}

// What is refused again stays, with the new reason and the first one, and is
// not sent until it is asked for once more.
func TestRetryRefusedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shore := newPicky(even)
		g := lettered(t, t.TempDir(), 10, map[string]Sink{"shore": shore})
		stop := startLettered(t, g)
		wait(time.Second)
		shore.change(func(b *Batch, i int) string {
			if b.Items[i].Seq == 4 {
				return "still too large"
			}
			return ""
		})
		if _, err := g.Letters().Retry(LetterFilter{Reason: "TOO large"}, ""); err != nil {
			t.Fatal(err)
		}
		wait(time.Minute)
		left := all(t, g.Letters(), LetterFilter{})
		if len(left) != 1 || left[0].Seq != 4 || left[0].Reason != "still too large" || left[0].FirstReason != "too large" || left[0].Retries != 1 || left[0].RetryTo != "" ||
			!left[0].FirstAt.Before(left[0].At) {
			t.Fatalf("%+v", left)
		}
		tries := 0
		shore.change(func(*Batch, int) string { tries++; return "no" })
		wait(time.Hour)
		if tries > 0 {
			t.Error("it was sent again without being asked for")
		}
		shore.change(func(*Batch, int) string { return "" })
		if _, err := g.Letters().Retry(LetterFilter{IDs: []uint64{left[0].ID}}, ""); err != nil {
			t.Fatal(err)
		}
		wait(time.Minute)
		if left = all(t, g.Letters(), LetterFilter{}); len(left) != 0 || !g.Status().Books.Balanced {
			t.Fatalf("%+v", left)
		}
		stop()
	})
}

// A retry that is asked for while the sink is down, and a restart in between,
// are no harm: the letters wait, and come when it is back, after live records.
func TestRetryWhileDownAndAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, shore := t.TempDir(), newPicky(even)
		g := lettered(t, dir, 100, map[string]Sink{"shore": shore})
		stop := startLettered(t, g)
		wait(time.Second)
		shore.mu.Lock()
		shore.each = func(*Batch) error { return errors.New("no route to host") }
		shore.mu.Unlock()
		if _, err := g.Letters().Retry(LetterFilter{All: true}, ""); err != nil {
			t.Fatal(err)
		}
		wait(10 * time.Minute)
		if s := g.Status(); s.DeadLetters.Retrying != 50 || s.DeadLetters.Kept != 50 {
			t.Fatalf("%+v", s.DeadLetters)
		}
		stop()
		g = lettered(t, dir, 20, map[string]Sink{"shore": shore})
		stop = startLettered(t, g)
		wait(time.Minute)
		shore.mu.Lock()
		shore.each = nil
		shore.mu.Unlock()
		wait(5 * time.Minute)
		live, again := shore.seqs()
		if len(again) != 50 || len(live) != 60 || g.Status().DeadLetters.Kept != 10 {
			t.Errorf("%d live, %d again, %+v", len(live), len(again), g.Status().DeadLetters)
		}
		stop()
	})
}

// Letters of a sink that is gone are told apart, and can go to another one.
func TestRetryToAnotherSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := openShelf(t, dir)
		if err := errors.Join(NewLetters(s, SystemClock(), nil).Put([][]byte{mustLetter("old", 1, "no"), mustLetter("old", 2, "no"), mustLetter("shore", 3, "no"), []byte("junk")}), s.Close()); err != nil {
			t.Fatal(err)
		}
		shore, hall := newPicky(even), newPicky(even)
		g := lettered(t, dir, 0, map[string]Sink{"shore": shore, "hall": hall})
		stop := startLettered(t, g)
		ls := g.Letters()
		if _, err := ls.Retry(LetterFilter{Sink: "old"}, ""); !errors.Is(err, ErrLetterRequest) || !strings.Contains(err.Error(), "sink old is not configured any more: send them to another one with to, one of: hall, shore") {
			t.Errorf("%v", err)
		}
		if _, err := ls.Retry(LetterFilter{Sink: "old"}, "nobody"); !errors.Is(err, ErrLetterRequest) || !strings.Contains(err.Error(), `no sink "nobody"`) {
			t.Errorf("%v", err)
		}
		if r, err := ls.Retry(LetterFilter{All: true, DryRun: true}, ""); err != nil || r.Count != 1 || r.NoSink["old"] != 2 || r.NoRecord != 1 {
			t.Errorf("%+v, %v", r, err)
		}
		if s := g.Status().DeadLetters; len(s.Sinks) != 3 || s.Sinks[0].Sink != "" || !s.Sinks[1].Gone || s.Sinks[1].Kept != 2 || s.Sinks[2].Gone {
			t.Errorf("%+v", s)
		}
		if r, err := ls.Retry(LetterFilter{Sink: "o*"}, "hall"); err != nil || r.Count != 2 {
			t.Errorf("%+v, %v", r, err)
		}
		wait(time.Second)
		if _, again := hall.seqs(); fmt.Sprint(again) != "[1 2]" {
			t.Errorf("%v", again)
		}
		if _, again := shore.seqs(); len(again) != 0 || g.Status().DeadLetters.Kept != 2 {
			t.Errorf("%v, %+v", again, g.Status().DeadLetters)
		}
		stop()
	})
}

// A letter dropped while it is being sent again stays dropped, and does not
// come back when it is refused.
func TestDropDuringRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shore := newPicky(even)
		g := lettered(t, t.TempDir(), 10, map[string]Sink{"shore": shore})
		stop := startLettered(t, g)
		wait(time.Second)
		shore.change(func(*Batch, int) string { return "no" })
		shore.mu.Lock()
		shore.each = func(b *Batch) error {
			if _, err := g.Letters().Drop(LetterFilter{Sink: "shore"}); err != nil {
				t.Error(err)
			}
			return nil
		}
		shore.mu.Unlock()
		if _, err := g.Letters().Retry(LetterFilter{All: true}, ""); err != nil {
			t.Fatal(err)
		}
		wait(time.Minute)
		if s := g.Status().DeadLetters; s.Kept != 0 || s.Bytes != 0 || s.Retrying != 0 || s.Dropped != 5 {
			t.Errorf("%+v", s)
		}
		stop()
	})
}

// A letter that makes the sink panic is found and given back; the others go.
func TestRetryPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shore := newPicky(even)
		g := lettered(t, t.TempDir(), 100, map[string]Sink{"shore": shore})
		stop := startLettered(t, g)
		wait(time.Second)
		shore.change(func(b *Batch, i int) string {
			if b.Items[i].Seq == 42 {
				panic("bad letter")
			}
			return ""
		})
		if _, err := g.Letters().Retry(LetterFilter{All: true}, ""); err != nil {
			t.Fatal(err)
		}
		wait(10 * time.Minute)
		left := all(t, g.Letters(), LetterFilter{})
		if len(left) != 1 || left[0].Seq != 42 || left[0].Reason != "the sink panics on it" || left[0].RetryTo != "" {
			t.Errorf("%+v", left)
		}
		stop()
	})
}

// Each letter is reported to the dead-letter topic once; those from before the
// option too; one that is too large comes without its payload, one that cannot
// be sent now later, and data goes on. keep says whether they stay.
func TestReportDeadLetters(t *testing.T) {
	for _, keep := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			dir, shore := t.TempDir(), newPicky(even)
			g := lettered(t, dir, 10, map[string]Sink{"shore": shore})
			stop := startLettered(t, g)
			wait(time.Second)
			stop()
			if len(shore.report) != 0 {
				t.Fatal("reported by a sink that has no place for it")
			}
			shore.topic, shore.keep = true, keep
			missing := true
			shore.rule = func(b *Batch, i int) string {
				switch {
				case b.Letters == nil:
					return even(b, i)
				case b.Items[i].Seq == 2 && missing:
					b.Letters[i].Later = true
					return "no topic"
				case b.Items[i].Seq == 4 && !b.Letters[i].Cut:
					return "too large"
				case b.Items[i].Seq == 6:
					return "too large however cut"
				}
				return ""
			}
			g = lettered(t, dir, 4, map[string]Sink{"shore": shore})
			stop = startLettered(t, g)
			wait(30 * time.Second)
			if live, again := shore.seqs(); len(live) != 7 || len(again) != 0 {
				t.Errorf("%v, %v", live, again)
			}
			if n := len(shore.report); n != 4 { // 8 10 12 14; 4 comes after those that cannot be sent
				t.Errorf("%d reported: %+v", n, shore.report)
			}
			shore.mu.Lock()
			missing = false
			shore.mu.Unlock()
			wait(5 * time.Minute)
			stop()
			seen := map[uint64]DeadLetterInfo{}
			for _, x := range shore.report {
				if _, twice := seen[x.ID]; twice || x.At.IsZero() || x.Reason != "too large" {
					t.Errorf("%+v", x)
				}
				seen[x.ID] = x
			}
			s := openShelf(t, dir)
			left := all(t, NewLetters(s, SystemClock(), nil), LetterFilter{})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if len(seen) != 6 || !seen[2].Cut || seen[1].Cut {
				t.Errorf("%+v", seen)
			}
			if keep && len(left) != 7 || !keep && len(left) != 1 {
				t.Fatalf("%d left: %+v", len(left), left)
			}
			for _, l := range left {
				if l.Reported == (l.Seq == 6) || (l.ReportError != "") != (l.Seq == 6) {
					t.Errorf("%+v", l)
				}
			}
		})
	}
}

// A crash between the refusal and its release makes no second letter; one
// between the confirmation of a retry and its commit sends it once more, with
// the same seq; a letter is never lost.
func TestLettersAndCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, shore := t.TempDir(), newPicky(even)
		var copies []string
		snap := func() {
			to := t.TempDir()
			if p, err := os.ReadFile(filepath.Join(dir, "dead-letters.db")); err == nil {
				if err := os.WriteFile(filepath.Join(to, "dead-letters.db"), p, 0o600); err != nil {
					t.Error(err)
				}
			}
			copies = append(copies, to)
		}
		g := lettered(t, dir, 10, map[string]Sink{"shore": shore})
		stop := startLettered(t, g)
		wait(time.Second)
		snap() // kept
		entries := [][]byte{}
		for _, l := range all(t, g.Letters(), LetterFilter{}) {
			f := &forwarder{name: l.Sink, lanes: g.lanes, lane: int(l.Lane), clock: SystemClock()}
			entries = append(entries, f.letter(l.Seq, "refused after the crash", l.Stored))
		}
		shore.mu.Lock()
		shore.each = func(*Batch) error { snap(); return nil } // asked for, and sent
		shore.mu.Unlock()
		if _, err := g.Letters().Retry(LetterFilter{All: true}, ""); err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		stop()
		snap() // delivered
		for i, want := range []int{5, 5, 0} {
			s := openShelf(t, copies[i])
			ls := NewLetters(s, SystemClock(), nil)
			if i < 2 {
				if err := ls.Put(entries); err != nil { // refused again after the crash
					t.Fatal(err)
				}
			}
			left := all(t, ls, LetterFilter{})
			asked := ls.status().Retrying
			if len(left) != want || i == 1 && asked != 5 || i != 1 && asked != 0 {
				t.Errorf("copy %d: %d letters, %d asked for", i, len(left), asked)
			}
			for _, l := range left {
				if l.Reason != "too large" {
					t.Errorf("copy %d: %+v", i, l)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		shore.mu.Lock()
		shore.each = nil
		shore.mu.Unlock()
		g = lettered(t, copies[1], 0, map[string]Sink{"shore": shore})
		stop = startLettered(t, g)
		wait(time.Second)
		stop()
		if _, again := shore.seqs(); fmt.Sprint(again) != "[2 4 6 8 10 2 4 6 8 10]" {
			t.Errorf("%v", again)
		}
	})
}

// Shelves of the first form, with letters of all versions and an encrypted one,
// are listed, counted by sink and can be retried.
func TestGoldenShelf(t *testing.T) {
	f, err := os.Open("testdata/dead-letters-form1.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dead-letters.db"), p, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openShelf(t, dir)
	ls := NewLetters(s, SystemClock(), nil)
	left := all(t, ls, LetterFilter{})
	if st := ls.status(); len(left) != 3 || left[0].Gateway != "" || left[1].Gateway != "ship-7" || left[1].LaneName != "bulk" || left[1].Seq != 300 ||
		!left[2].Unreadable || !strings.Contains(left[2].Reason, buffer.Key{1}.ID()) || st.Sinks[0].Kept != 1 || st.Sinks[1].Sink != "shore" || st.Sinks[1].Kept != 2 {
		t.Fatalf("%+v, %+v", left, st)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openShelf(t, dir, buffer.Key{2}, buffer.Key{1})
	ls = NewLetters(s, SystemClock(), nil)
	if err := ls.Put([][]byte{storedLetter(t, left[0])}); err != nil { // known by its place
		t.Fatal(err)
	}
	r, err := ls.Retry(LetterFilter{Sink: "shore"}, "")
	left = all(t, ls, LetterFilter{})
	if err != nil || r.Count != 3 || len(left) != 3 || left[2].Reason != "too large" || left[2].RetryTo != "shore" || left[2].ID != 4 || ls.status().Sinks[0].Kept != 3 {
		t.Fatalf("%+v, %v, %+v", r, err, left)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "dead-letters.db")); err != nil || bytes.Contains(raw, []byte("refused again")) {
		t.Error(err)
	}
}

func storedLetter(t *testing.T, l DeadLetter) []byte {
	t.Helper()
	p := []byte{deadLetterVersion}
	for _, s := range []string{l.Sink, l.Gateway, l.Generation, l.LaneName} {
		p = appendText(p, s)
	}
	p = append(p, byte(l.Lane), 0xac, 0x02, 0, 0, 0, 0, 0, 0, 0, 0) // seq 300
	return append(appendText(p, "again"), l.Stored...)
}

// Many letters are put, listed, selected, asked for and dropped
// in bounded memory and pages.
func TestManyLetters(t *testing.T) {
	n := 12_000 // WAYSTATION_LETTERS=100000 in make soak
	if more, err := strconv.Atoi(os.Getenv("WAYSTATION_LETTERS")); err == nil {
		n = more / 12_000 * 12_000
	}
	dir, err := os.MkdirTemp("/dev/shm", "waystation-letters-") // the commits are not what is tested
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := openShelf(t, dir)
	ls := NewLetters(s, SystemClock(), nil)
	for first := 1; first <= n; first += 2000 {
		var p [][]byte
		for i := range 2000 {
			p = append(p, mustLetter([]string{"shore", "hall"}[i%2], uint64(first+i), "too large"))
		}
		if err := ls.Put(p); err != nil {
			t.Fatal(err)
		}
	}
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	most := uint64(0)
	look := func() {
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
	}
	pages, seen := 0, 0
	for after := uint64(0); ; pages++ {
		page, next, err := ls.List(LetterFilter{Sink: "hall", Device: "d1"}, after, 1000)
		if err != nil || len(page) > 1000 {
			t.Fatal(len(page), err)
		}
		seen += len(page)
		look()
		if after = next; next == 0 {
			break
		}
	}
	if seen != n/6 || pages < n/6000 {
		t.Errorf("%d seen in %d pages", seen, pages)
	}
	if page, next, err := ls.List(LetterFilter{Reason: "nothing has this"}, 0, 10); err != nil || len(page) != 0 || n > letterScan && next == 0 || next > letterScan+letterPage {
		t.Errorf("%d, next %d, %v: one page looks at all of it", len(page), next, err)
	}
	if r, err := ls.Retry(LetterFilter{Sink: "hall"}, ""); err != nil || r.Count != n/2 {
		t.Errorf("%+v, %v", r, err)
	}
	look()
	if st := ls.status(); st.Retrying != n/2 || st.Sinks[0].Kept != n/2 || st.Sinks[0].Retrying != n/2 {
		t.Errorf("%+v", st)
	}
	if r, err := ls.Drop(LetterFilter{All: true}); err != nil || r.Count != n {
		t.Errorf("%+v, %v", r, err)
	}
	look()
	if st := ls.status(); st.Kept != 0 || st.Bytes != 0 || st.Retrying != 0 {
		t.Errorf("%+v", st)
	}
	t.Logf("at most %d KiB more than at the start", most>>10)
	if most > 48<<20 {
		t.Errorf("%d MiB of memory", most>>20)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLetterFilter(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		q      LetterFilter
		change bool
		says   string
	}{
		{LetterFilter{}, false, ""},
		{LetterFilter{}, true, "say which"},
		{LetterFilter{All: true}, true, ""},
		{LetterFilter{All: true, Sink: "a"}, true, "not both"},
		{LetterFilter{Reason: "a"}, true, ""},
		{LetterFilter{IDs: []uint64{0}}, true, "ids begin with 1"},
		{LetterFilter{IDs: make([]uint64, maxLetterIDs+1)}, true, "at most 10000"},
		{LetterFilter{Since: now, Until: now}, true, "must be before"},
		{LetterFilter{Sink: strings.Repeat("x", 513)}, false, "at most 512 bytes"},
	} {
		if err := c.q.Check(c.change); (err == nil) != (c.says == "") || err != nil && (!errors.Is(err, ErrLetterRequest) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%+.100v: %v", c.q, err)
		}
	}
	s := openShelf(t, t.TempDir())
	ls := NewLetters(s, SystemClock(), nil)
	if err := ls.Put([][]byte{mustLetter("a", 1, "Too Large"), mustLetter("b", 2, "no topic"), mustLetter("a", 3, "no topic"), []byte("junk")}); err != nil {
		t.Fatal(err)
	}
	for want, q := range map[string]LetterFilter{"[1 2 3 4]": {}, "[1 3]": {Sink: "a"}, "[2]": {Sink: "?", Reason: "TOPIC", Device: "d2"}, "[3]": {IDs: []uint64{3, 9}},
		"[]": {Until: now}, "[1 2 3]": {Source: "d*"}, "[1]": {IDs: []uint64{1, 2}, Sink: "a"}} {
		got := []uint64{}
		for _, l := range all(t, ls, q) {
			got = append(got, l.ID)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%+v: %v, want %s", q, got, want)
		}
	}
	if _, err := ls.Get(9); !errors.Is(err, ErrNoLetter) {
		t.Error(err)
	}
	if l, err := ls.Get(2); err != nil || l.Sink != "b" || l.ID != 2 {
		t.Errorf("%+v, %v", l, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
