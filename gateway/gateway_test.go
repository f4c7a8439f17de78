package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// collect is a sink that keeps what it is sent.
type collect struct {
	fakeSink
	mu     sync.Mutex // guards what follows
	names  []string
	closed int
	news   chan struct{} // capacity 1
}

func newCollect() *collect {
	c := &collect{news: make(chan struct{}, 1)}
	c.send = func(_ context.Context, b *Batch) error {
		c.mu.Lock()
		for _, it := range b.Items {
			c.names = append(c.names, it.Record.Source+"/"+it.Record.Name)
		}
		c.mu.Unlock()
		select {
		case c.news <- struct{}{}:
		default:
		}
		return nil
	}
	c.close = func() error { c.mu.Lock(); c.closed++; c.mu.Unlock(); return nil }
	return c
}

// await waits until n records have arrived and returns them.
func (c *collect) await(t *testing.T, n int) []string {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		got := append([]string(nil), c.names...)
		c.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-c.news:
		case <-deadline:
			t.Fatalf("%d of %d records arrived: %v", len(got), n, got)
		}
	}
}

// emit is a source that delivers n numbered records, and more when asked.
func emit(n int) sourceFunc {
	return func(ctx context.Context, in *Intake) error {
		in.Up()
		for i := range n {
			in.Deliver([]Record{{Device: "d", Name: fmt.Sprint(i + 1)}}, nil)
		}
		<-ctx.Done()
		return nil
	}
}

// running is a gateway that runs.
type running struct {
	*Gateway
	cancel context.CancelFunc
	ended  chan error
}

// start opens a queue in dir and runs a gateway of the sources and sinks.
func start(t *testing.T, dir string, o Options) *running {
	t.Helper()
	var err error
	if o.Queue, err = buffer.Open(buffer.Options{Dir: dir, Lanes: buffer.NamedLanes(LaneNames()...), MaxBytes: buffer.MinBytes}); err != nil {
		t.Fatal(err)
	}
	if o.Dead, err = buffer.OpenShelf(buffer.ShelfOptions{Dir: dir, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	o.ID, o.Version = "ship-042", "v0.0.0"
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Gateway: g, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- g.Run(ctx) }()
	return r
}

// stop shuts the gateway down and returns what Run says.
func (r *running) stop(t *testing.T) error {
	t.Helper()
	r.cancel()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("Run does not return")
	}
	return nil
}

// The whole way: two sources, two sinks, dead letters, books, a restart.
func TestGatewayEndToEnd(t *testing.T) {
	dir := t.TempDir()
	shore, lab := newCollect(), newCollect()
	take := lab.send
	lab.send = func(ctx context.Context, b *Batch) error {
		err := take(ctx, b)
		for i, it := range b.Items {
			if it.Record.Source == "deck" && it.Record.Name == "7" {
				return errors.Join(err, &RefusedError{[]Refusal{{i, "no such topic"}}})
			}
		}
		return err
	}
	o := Options{
		Sources: []SourceSpec{{Name: "deck", Type: "fake", Lane: LaneTelemetry, Source: emit(50)}, {Name: "bell", Type: "fake", Lane: LaneAlarm, Source: emit(3)}},
		Sinks:   []SinkSpec{{Name: "shore", Type: "fake", Sink: shore}, {Name: "lab", Type: "fake", Sink: lab}},
	}
	g := start(t, dir, o)
	for _, got := range [][]string{shore.await(t, 53), lab.await(t, 53)} {
		next := map[string]int{}
		for _, name := range got {
			source, n, _ := strings.Cut(name, "/")
			if next[source]++; fmt.Sprint(next[source]) != n {
				t.Fatalf("out of order: %v", got)
			}
		}
	}
	if err := g.stop(t); err != nil {
		t.Fatal(err)
	}
	s := g.Status()
	if s.Books.In != 53 || s.Books.Queued != 53 || !s.Books.Balanced || s.Sinks[0].Sent != 53 || s.Sinks[1].Sent != 52 || s.Sinks[1].DeadLettered != 1 || s.Sinks[0].Waiting != 0 {
		t.Errorf("books: %+v, sinks %+v", s.Books, s.Sinks)
	}
	if shore.closed != 1 || lab.closed != 1 || s.Sources[0].State != Stopped || s.Sinks[0].State != Stopped {
		t.Errorf("closed %d and %d times, source %s, sink %s", shore.closed, lab.closed, s.Sources[0].State, s.Sinks[0].State)
	}

	checkLetter(t, dir, s.Queue.Generation)

	again := newCollect() // after the restart nothing is sent twice
	g = start(t, dir, Options{Sources: o.Sources[:1], Sinks: []SinkSpec{{Name: "shore", Type: "fake", Sink: again}}})
	if got := again.await(t, 50); got[0] != "deck/1" || len(got) != 50 {
		t.Errorf("after a restart %d records came, first %s", len(got), got[0])
	}
	if s := g.Status(); s.DeadLetters.Kept != 1 || s.Books.Queued != 103 {
		t.Errorf("%+v, %+v", s.DeadLetters, s.Books)
	}
	if err := g.stop(t); err != nil {
		t.Error(err)
	}
}

// checkLetter: the one dead letter of the test above is listed with its record.
func checkLetter(t *testing.T, dir, generation string) {
	t.Helper()
	shelf, err := buffer.OpenShelf(buffer.ShelfOptions{Dir: dir, MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	letters, err := DeadLetters(shelf, 0, 10)
	var r Record
	if err != nil || len(letters) != 1 || letters[0].Sink != "lab" || letters[0].Reason != "no such topic" || letters[0].Lane != LaneTelemetry ||
		new(RecordDecoder).Decode(&r, letters[0].Stored) != nil || r.Name != "7" || letters[0].Seq != 7 || letters[0].Generation != generation {
		t.Errorf("dead letters %+v of record %+v, %v", letters, r, err)
	}
	if err := shelf.Close(); err != nil {
		t.Error(err)
	}
}

// A sink that takes nothing holds up neither another sink nor a source.
func TestSlowSinkHoldsNobodyUp(t *testing.T) {
	fast, slow := newCollect(), &fakeSink{send: func(ctx context.Context, _ *Batch) error { <-ctx.Done(); return ctx.Err() }}
	g := start(t, t.TempDir(), Options{ShutdownTimeout: 300 * time.Millisecond,
		Sources: []SourceSpec{{Name: "deck", Source: emit(100)}}, Sinks: []SinkSpec{{Name: "slow", Type: "fake", Sink: slow}, {Name: "fast", Type: "fake", Sink: fast}}})
	fast.await(t, 100)
	if err := g.stop(t); err != nil {
		t.Error(err)
	}
	if s := g.Status(); s.Sinks[0].Waiting != 100 || s.Sinks[1].Waiting != 0 || !s.Books.Balanced {
		t.Errorf("%+v", s.Sinks)
	}
}

// A source and a sink that do not end are left behind after the deadline; the
// queue is closed all the same.
func TestShutdownHasADeadline(t *testing.T) {
	free := make(chan struct{})
	var hung sync.WaitGroup
	hung.Add(2)
	source := sourceFunc(func(_ context.Context, in *Intake) error {
		defer hung.Done()
		in.Deliver([]Record{{Name: "1"}}, nil)
		<-free
		late := make(chan error, 1)
		in.Deliver([]Record{{Name: "late"}}, func(err error) { late <- err })
		if err := <-late; !errors.Is(err, buffer.ErrClosed) {
			t.Errorf("a record after the shutdown: %v, want ErrClosed", err)
		}
		return nil
	})
	sink := &fakeSink{send: func(context.Context, *Batch) error { <-free; return errFake }, close: func() error { hung.Done(); return nil }}
	dir := t.TempDir()
	g := start(t, dir, Options{ShutdownTimeout: 300 * time.Millisecond,
		Sources: []SourceSpec{{Name: "deck", Source: source}}, Sinks: []SinkSpec{{Name: "shore", Type: "fake", Sink: sink}}})
	at := time.Now()
	err := g.stop(t)
	if err == nil || !strings.Contains(err.Error(), "stop sources: not done after 100ms") || !strings.Contains(err.Error(), "stop forwarders: not done") {
		t.Errorf("Run says %v", err)
	}
	if took := time.Since(at); took < 200*time.Millisecond || took > 10*time.Second {
		t.Errorf("the shutdown took %s", took)
	}
	l, err := buffer.Open(buffer.Options{Dir: dir, Lanes: buffer.NamedLanes(LaneNames()...), MaxBytes: buffer.MinBytes})
	if err != nil {
		t.Fatalf("the queue is not closed: %v", err)
	}
	closeQueue(t, l)
	close(free)
	hung.Wait()
}

func TestNewRefuses(t *testing.T) {
	l := openQueue(t, t.TempDir(), buffer.MinBytes)
	shelf, err := buffer.OpenShelf(buffer.ShelfOptions{Dir: t.TempDir(), MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]Options{
		"no queue":  {},
		"two sinks": {Queue: l, Dead: shelf, Sinks: []SinkSpec{{Name: "a"}, {Name: "a"}}},
		"letters":   {Queue: l, Dead: shelf, Sinks: []SinkSpec{{Name: "no good name"}}},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v, want it to say %q", err, want)
		}
	}
}

// The shape of the status is a contract with dashboards and scripts.
func TestStatusShape(t *testing.T) {
	at := sampleTime
	s := Status{Gateway: "ship-042", Version: "v1.2.3", PID: 7, Started: at, Now: at, ClockTrusted: true, Ready: true,
		Sources: []SourceStatus{{Name: "deck", Type: "mqtt", Link: Link{State: Down, Since: at, Error: "connection refused", Retries: 3, NextTry: &at, Panics: 1},
			Received: 15, Queued: 9, Filtered: 3, Refused: 1, InFlight: 2, BadQuality: 2, Bytes: 99, Balanced: true, LastRecord: &at, Notes: []string{"QoS 0"}}},
		Queue: queueStatus(buffer.Stats{Dir: "/var/lib/waystation", Generation: "abc", Bytes: 5, MaxBytes: 9, Commits: 4, Quarantined: 1,
			Payload: 10, Stored: 3, Device: 25, Evictions: 6, Thinned: 7, Retained: 2, HighWater: true,
			CommitTimes: buffer.Histogram{Bounds: []float64{0.001, 0.01}, Counts: []int64{1, 2, 1}, Sum: 0.25},
			Err:         fmt.Errorf("commit: %w", buffer.ErrFull), Lanes: []buffer.LaneStats{{Name: "alarm", First: 1, Next: 4, Segments: 1, Bytes: 5,
				MaxBytes: 8, HighWater: true, Oldest: at, Generation: "abc"}, {Name: "bulk", Generation: "def", Origin: "ship-7", Retired: true}}}),
		Sinks: []SinkStatus{{Name: "shore", Type: "kafka", Link: Link{State: Up, Since: at}, Sent: 1, DeadLettered: 1, Lost: 1, Waiting: 0, Balanced: true, LastSent: &at}},
		DeadLetters: LetterStatus{Kept: 1, Evicted: 2, Bytes: 3, MaxBytes: 4, Retrying: 5, Delivered: 6, Dropped: 7,
			Sinks: []SinkLetters{{Sink: "shore", Gone: true, Kept: 1, Bytes: 2, Oldest: &at, Retrying: 3, Unreported: 4}}},
		Books: Books{In: 10, Filtered: 3, Queued: 3, Balanced: true}}
	days := 42.5
	s.Queue.Growth, s.Queue.FullIn, s.Queue.Flash = &days, &days, &FlashStatus{PerDay: 9, Endurance: 99, Days: &days}
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "status.golden.json")
	if _, err := os.Stat(path); *update && errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(bytes.TrimSpace(want), got) {
		t.Errorf("the status has another shape than %s, %v:\n%s", path, err, got)
	}
	for _, c := range []struct {
		err  error
		want string
	}{{nil, "ok"}, {buffer.ErrReadOnly, "read-only"}, {fmt.Errorf("x: %w", buffer.ErrNoKey), "no-key"}, {errFake, "failing"}} {
		if q := queueStatus(buffer.Stats{Err: c.err}); q.State != c.want || (q.Error == "") != (c.err == nil) {
			t.Errorf("with %v the queue is %q, %q", c.err, q.State, q.Error)
		}
	}
	unbalanced := (&forwarder{link: newLink(nil, SystemClock())}).status([]buffer.CursorStats{{From: 1, End: 4, Sent: 3}, {From: 1, End: 4, Sent: 2}})
	if unbalanced.Balanced {
		t.Error("books that do not add up are called balanced")
	}
}
