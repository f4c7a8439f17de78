package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
