package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// Options say what a gateway is made of.
type Options struct {
	ID              string
	Version         string
	Queue           *buffer.Log
	Dead            *buffer.Shelf
	Sources         []SourceSpec
	Sinks           []SinkSpec
	Shares          []int         // percent of the bytes to each sink that a lane gets though a higher one has more; by lane; missing = 0, 10, then 5
	Large           Size          // stored size from which on a record goes to the lowest lane, whatever its source says; 0 = none does
	FlashEndurance  Size          // bytes that may be written to the medium over its life; 0 = not known
	ShutdownTimeout time.Duration // for the whole orderly shutdown; 0 = 10 s
	Log             *slog.Logger  // nil = discard
	Clock           *Clock        // nil = SystemClock

	history history // tests only: what replays read; nil = Queue
}

// SourceSpec is one configured source.
type SourceSpec struct {
	Name, Type string
	Lane       Lane
	Tags       []Tag
	Transform  Transform // nil = none
	Source     Source
}

// SinkSpec is one configured sink.
type SinkSpec struct {
	Name, Type string
	Sink       Sink
	Filter     *Filter     // which records it is sent; nil = all
	Batch      BatchLimits // zero = the gateway decides
}

// Gateway moves records from its sources through the queue to its sinks.
type Gateway struct {
	o       Options
	started time.Time
	intakes []*Intake
	forward []*forwarder
	cursors []*buffer.Cursor
	lanes   []buffer.LaneInfo
	history history // what replays read
	replays *replayStore
	letters *Letters
	watch   *watch
}

// New prepares a gateway. It starts nothing and opens no connection.
func New(o Options) (*Gateway, error) {
	if o.Queue == nil || o.Dead == nil {
		return nil, errors.New("make gateway: no queue or no dead letters given")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = SystemClock()
	}
	if o.ShutdownTimeout <= 0 {
		o.ShutdownTimeout = 10 * time.Second
	}
	g := &Gateway{o: o, started: o.Clock.Now()}
	g.watch = newWatch(&g.o)
	for _, s := range o.Sources {
		in := NewIntake(s, o.Queue, o.Clock)
		in.link = newLink(o.Log.With("source", s.Name), o.Clock)
		in.lowest, in.large = lowestLane(o.Queue), int(min(o.Large, buffer.MaxRecordBytes+1))
		g.intakes = append(g.intakes, in)
	}
	names := make([]string, 0, len(o.Sinks))
	for _, s := range o.Sinks {
		if slices.Contains(names, s.Name) {
			return nil, fmt.Errorf("sink %s: two sinks have this name, and would share one place in the queue", s.Name)
		}
		names = append(names, s.Name)
	}
	for _, name := range o.Queue.Forget(names) {
		o.Log.Warn("the queue had a place for a sink that is no longer configured; it is dropped", "sink", name)
	}
	g.lanes = o.Queue.Lanes()
	if g.history = o.history; g.history == nil {
		g.history = o.Queue
	}
	g.replays = openReplays(o.Queue.Stats().Dir, o.Log, o.Clock)
	g.letters = NewLetters(o.Dead, o.Clock, o.Log)
	for _, s := range o.Sinks {
		if err := g.addSink(s); err != nil {
			return nil, fmt.Errorf("sink %s: %w", s.Name, err)
		}
	}
	g.adoptReplays()
	g.openLetters()
	return g, nil
}

// addSink makes the forwarder of a sink.
func (g *Gateway) addSink(s SinkSpec) error {
	o := &g.o
	if err := s.Batch.check(); err != nil {
		return err
	}
	cur, err := o.Queue.Cursor(s.Name)
	if err != nil {
		return err
	}
	configured := 0
	for _, ln := range g.lanes {
		if !ln.Retired {
			configured++
		}
	}
	shares, err := newShares(o.Shares, configured, len(g.lanes))
	if err != nil {
		return err
	}
	again := newReplayer(g.replays, s.Name, g.history, g.lanes)
	again.filter = s.Filter
	g.cursors = append(g.cursors, cur)
	g.forward = append(g.forward, &forwarder{name: s.Name, typ: s.Type, sink: s.Sink, queue: cur, peek: cur, lanes: g.lanes, shares: shares,
		replay: again, past: queuePast{o.Queue, cur}, letterbox: newLetterRunner(g.letters, s.Name, s.Sink),
		filter: s.Filter, pace: pacing{max: s.Batch}, rewind: cur.Rewind,
		dead: g.letters, gateway: o.ID, log: o.Log, clock: o.Clock,
		link: newLink(o.Log.With("sink", s.Name), o.Clock), wait: backoff{min: retryMin, max: retryMax}})
	return nil
}

// Run works until ctx ends and then shuts down in order: the sources stop and
// get their last acknowledgements, the forwarders finish the batch they are
// sending, the queue commits and closes. Every step has a deadline; what is not
// done by then is repeated after the next start, nothing is lost.
func (g *Gateway) Run(ctx context.Context) error {
	// The two contexts outlive ctx: each step of the shutdown ends its own.
	sourcesCtx, stopSources := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSources()
	forwardCtx, stopForward := context.WithCancel(context.WithoutCancel(ctx))
	defer stopForward()
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()

	var sources, forwarders sync.WaitGroup
	for i, s := range g.o.Sources {
		sources.Go(func() { supervise(sourcesCtx, s.Name, s.Source, g.intakes[i]) })
	}
	for _, f := range g.forward {
		forwarders.Go(func() { f.run(forwardCtx, hard) })
	}
	sources.Go(func() { g.watch.run(sourcesCtx) })
	<-ctx.Done()

	g.o.Log.Info("shutting down", "timeout", g.o.ShutdownTimeout)
	step := g.o.ShutdownTimeout / 3
	stopSources()
	err := within(step, "stop sources", &sources)
	stopForward()
	t := time.AfterFunc(step*3/4, cut) // and a quarter for the sinks to notice and close
	defer t.Stop()
	err = errors.Join(err, within(step, "stop forwarders", &forwarders))
	cut()
	g.replays.close()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), step)
	defer cancel()
	return errors.Join(err, g.o.Queue.Close(closing), g.o.Dead.Close())
}

// within waits for wg, but not longer than d.
func within(d time.Duration, what string, wg *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
		return fmt.Errorf("%s: not done after %s; going on", what, d)
	}
}

// Status returns the state of everything.
func (g *Gateway) Status() Status {
	s := Status{Gateway: g.o.ID, Version: g.o.Version, PID: os.Getpid(), Started: g.started, Now: g.o.Clock.Now(),
		ClockTrusted: g.o.Clock.Trusted(), Queue: queueStatus(g.o.Queue.Stats())}
	g.watch.complete(&s.Queue)
	s.Books.Balanced = true
	for i, in := range g.intakes {
		src := in.Status(g.o.Sources[i].Type)
		src.Facts = factsOf(g.o.Sources[i].Source)
		src.Measures = measuresOf(g.o.Sources[i].Source)
		s.Books.In += src.Received
		s.Books.Filtered += src.Filtered
		s.Books.Balanced = s.Books.Balanced && src.Balanced
		s.Sources = append(s.Sources, src)
	}
	s.DeadLetters = g.letters.status()
	for _, ln := range s.Queue.Lanes {
		if ln.Origin == "" { // a guest's were queued elsewhere
			s.Books.Queued += ln.Next - 1
		}
	}
	for i, f := range g.forward {
		s.Sinks = append(s.Sinks, f.status(g.cursors[i].Stats()))
	}
	for i := range s.Sinks {
		s.Books.Balanced = s.Books.Balanced && s.Sinks[i].Balanced
	}
	s.Ready = s.Queue.State == "ok"
	return s
}
