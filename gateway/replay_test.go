package gateway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// received finds places in a real queue by the time of receipt, which in these
// tests only grows.
type received struct{ *buffer.Log }

// SeqAt implements history by reading everything.
func (h received) SeqAt(lane int, t time.Time) (uint64, error) {
	var ch buffer.Chunk
	var dec RecordDecoder
	for seq := uint64(1); ; seq = ch.Next() {
		if err := h.ReadAt(lane, seq, buffer.Limit{Records: 1000, Bytes: 1 << 20}, &ch); err != nil {
			return 0, err
		}
		if len(ch.Records) == 0 && ch.Loss == nil {
			return seq, nil
		}
		for i, p := range ch.Records {
			var r Record
			if err := dec.Decode(&r, p); err != nil {
				return 0, err
			}
			if !r.Received.Before(t) {
				return ch.Seq(i), nil
			}
		}
	}
}

// again is one record that came at the sink, and how.
type again struct {
	seq      uint64
	name     string
	device   string
	lane     string
	replayed bool
	at       time.Time
	batch    int // number of the batch
}

// recorder is a sink that keeps what comes.
type recorder struct {
	fakeSink
	mu   sync.Mutex // guards what follows
	got  []again
	n    int
	each func(*Batch) error // before a batch is taken
}

func newRecorder() *recorder {
	r := &recorder{}
	r.send = func(_ context.Context, b *Batch) error {
		r.mu.Lock()
		each := r.each
		r.mu.Unlock()
		if each != nil {
			if err := each(b); err != nil {
				return err
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.n++
		for _, it := range b.Items {
			r.got = append(r.got, again{it.Seq, it.Record.Name, it.Record.Device, b.LaneName, b.Replayed, time.Now(), r.n})
		}
		return nil
	}
	return r
}

// split returns what came live and what was replayed.
func (r *recorder) split() (live, replayed []again) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.got {
		if g.replayed {
			replayed = append(replayed, g)
		} else {
			live = append(live, g)
		}
	}
	return live, replayed
}

// openReplayed opens a gateway to sink. What it has delivered stays stored,
// because of a second sink that is never there.
func openReplayed(t *testing.T, dir string, source Source, sink Sink) (*Gateway, *buffer.Log) {
	t.Helper()
	o := Options{ID: "ship-042", Sources: []SourceSpec{{Name: "deck", Lane: LaneTelemetry, Source: source}}, Sinks: []SinkSpec{{Name: "shore", Type: "fake", Sink: sink},
		{Name: "away", Type: "fake", Sink: &fakeSink{connect: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}}}}
	o.Queue = openQueue(t, dir, 64<<20)
	var err error
	if o.Dead, err = buffer.OpenShelf(buffer.ShelfOptions{Dir: dir, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	o.history = received{o.Queue}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return g, o.Queue
}

// history of the tests: one record per 720 ms, 5000 in an hour.
const pace = 720 * time.Millisecond

// emitPast delivers n records received one after the other up to now, and then
// one every so often.
func emitPast(n int, every time.Duration) sourceFunc {
	return func(ctx context.Context, in *Intake) error {
		in.Up()
		begin := time.Now().Add(-time.Duration(n) * pace)
		var recs []Record
		for i := range n {
			recs = append(recs, Record{Device: fmt.Sprint("d", i%3), Name: strconv.Itoa(i + 1), Received: begin.Add(time.Duration(i) * pace), ClockTrusted: true})
		}
		in.Deliver(recs, nil)
		for sleep(ctx, every) {
			n++
			in.Deliver([]Record{{Device: "live", Name: strconv.Itoa(n)}}, nil)
		}
		return nil
	}
}

// A replay sends exactly what was received in its time, in order and at its
// rate, while live records come each once, in order and without delay.
func TestReplayBesideLiveData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shore := newRecorder()
		shore.each = func(*Batch) error { <-time.After(5 * time.Millisecond); return nil }
		g, _ := openReplayed(t, t.TempDir(), emitPast(10_000, 20*time.Millisecond), shore)
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		wait(10 * time.Second)
		from := start.Add(-10_000 * pace).Add(time.Hour)
		r, err := g.StartReplay(ReplayRequest{From: from, To: from.Add(time.Hour), Sink: "shore", Rate: 500})
		if err != nil || r.State != ReplayWaiting || r.ID != "1" || r.Sink != "shore" {
			t.Fatalf("%+v, %v", r, err)
		}
		wait(5 * time.Second)
		if r := g.Replays()[0]; r.State != ReplayRunning || r.Sent < 2000 || r.Sent > 2625 {
			t.Errorf("after 5 s: %+v", r)
		}
		wait(10 * time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		live, replayed := shore.split()
		for i, l := range live {
			if l.seq != uint64(i+1) || l.name != strconv.Itoa(i+1) {
				t.Fatalf("live record %d is seq %d, %s", i, l.seq, l.name)
			}
		}
		if len(live) < 10_000+1200 {
			t.Errorf("%d live records", len(live))
		}
		if len(replayed) != 5000 {
			t.Fatalf("%d records replayed", len(replayed))
		}
		for i, p := range replayed {
			if p.seq != uint64(5001+i) || p.name != strconv.Itoa(5001+i) || p.lane != "telemetry" {
				t.Fatalf("replayed record %d is %+v", i, p)
			}
			if i >= 625 && p.at.Sub(replayed[i-625].at) < time.Second { // a batch may come at each end of the second
				t.Fatalf("more than 500 and one batch in a second, at record %d", i)
			}
			if i >= 256 && p.batch == replayed[i-256].batch {
				t.Fatalf("a batch of more than 256 at record %d", i)
			}
		}
		r = g.Replays()[0]
		if s := g.Status(); r.State != ReplayDone || r.Sent != 5000 || r.Gone+r.Refused != 0 || r.Ended == nil || s.Sinks[0].Sent != uint64(len(live)) || !s.Books.Balanced {
			t.Errorf("%+v, %+v", r, s.Sinks[0])
		}
	})
}

// Filters, refusals and what is gone are counted; what is refused is no dead
// letter again.
func TestReplayFiltersAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shore := newRecorder()
		g, _ := openReplayed(t, t.TempDir(), emitPast(3000, time.Hour), shore)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		wait(time.Second)
		shore.mu.Lock()
		shore.each = func(b *Batch) error {
			if b.Items[0].Seq <= 2 {
				return &RefusedError{[]Refusal{{0, "no"}, {0, "no"}}}
			}
			return nil
		}
		shore.mu.Unlock()
		if _, err := g.StartReplay(ReplayRequest{From: time.Now().Add(-99 * time.Hour), To: time.Now().Add(-98 * time.Hour), Sink: "shore"}); !errors.Is(err, ErrReplayRequest) ||
			!strings.Contains(err.Error(), "is still stored") || len(g.Replays()) != 0 {
			t.Errorf("a replay of nothing: %v", err)
		}
		all := ReplayRequest{From: time.Now().Add(-time.Hour), To: time.Now(), Rate: 10_000}
		for want, q := range map[string]ReplayRequest{
			"sent 2999 refused 1 skipped 0 gone 0":    {},
			"sent 999 refused 1 skipped 2000 gone 0":  {Device: "d1", Source: "deck"},
			"sent 1000 refused 0 skipped 2000 gone 0": {Device: "*2"},
			"sent 0 refused 0 skipped 3000 gone 0":    {Source: "engine"},
		} {
			q.From, q.To, q.Rate, q.Sink = all.From, all.To, all.Rate, "shore"
			r, err := g.StartReplay(q)
			if err != nil {
				t.Fatal(err)
			}
			wait(time.Minute)
			i := slices.IndexFunc(g.Replays(), func(x Replay) bool { return x.ID == r.ID })
			r = g.Replays()[i]
			if got := fmt.Sprintf("sent %d refused %d skipped %d gone %d", r.Sent, r.Refused, r.Skipped, r.Gone); r.State != ReplayDone || got != want {
				t.Errorf("%s: %s, want %s", r.State, got, want)
			}
		}
		if s := g.Status(); s.DeadLetters.Kept != 0 || s.Sinks[0].DeadLettered != 0 || !s.Books.Balanced {
			t.Errorf("%+v", s)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

// A replay goes on after a restart, and after a kill from what was last on
// disk: repeated, nothing left out. What the tools left is begun.
func TestReplaySurvivesRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		shore := newRecorder()
		list := filepath.Join(dir, replayFile)
		run := func(n int, d time.Duration) *Gateway {
			g, _ := openReplayed(t, dir, emitPast(n, time.Hour), shore)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- g.Run(ctx) }()
			wait(d)
			cancel()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			return g
		}
		run(3000, time.Second)
		now := time.Now()
		made, err := LeaveReplay(dir, ReplayRequest{From: now.Add(-time.Hour), To: now, Sink: "shore", Rate: 100}, now)
		if err != nil {
			t.Fatal(made, err)
		}
		g := run(0, 11*time.Second)
		_, sent := shore.split()
		if r := g.Replays()[0]; r.State != ReplayRunning || r.Sink != "shore" || r.Sent != uint64(len(sent)) || len(sent) < 1000 || len(sent) > 1200 {
			t.Fatalf("%+v, and %d came", r, len(sent))
		}
		old, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(old), fmt.Sprintf(`"sent": %d,`, len(sent))) {
			t.Fatalf("%d were sent before the stop, and the list says\n%s", len(sent), old)
		}
		run(0, 8*time.Second)
		if err := os.WriteFile(list, old, 0o600); err != nil { // as a kill leaves it
			t.Fatal(err)
		}
		g = run(0, time.Minute)
		_, sent = shore.split()
		last, repeated := uint64(0), 0
		for _, p := range sent {
			if p.seq <= last {
				repeated++
			}
			if p.seq > last+1 {
				t.Fatalf("seq %d came after %d", p.seq, last)
			}
			last = max(last, p.seq)
		}
		if r := g.Replays()[0]; r.State != ReplayDone || r.Sent != 3000 || last != 3000 || repeated < 700 || repeated > 1000 {
			t.Errorf("%+v, last seq %d, %d repeated", r, last, repeated)
		}
		g.o.Sinks, g.forward = nil, nil
		if _, err := g.StartReplay(made.ReplayRequest); !errors.Is(err, ErrReplayRequest) || !strings.Contains(err.Error(), "no sink") {
			t.Errorf("a replay for nobody: %v", err)
		}
	})
}
