package modbus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// bus is one open line and those who work on it: one worker, or with pipelining
// several, each doing a whole job. It lives from the opening of the line until
// it is lost.
type bus struct {
	s      *source
	in     *gateway.Intake
	line   line
	urgent chan *errand
	closed chan struct{} // the line is not worked on any more
	many   bool          // several workers
	wake   chan struct{} // capacity 1: there is something to do sooner than a sleeping worker believes

	// Guarded by source.mu.
	over    bool          // what the line dropped is added up
	answers int           // good ones, exceptions counted
	mute    int           // silences since the last of them that speak against the line
	heardAt time.Duration // of the last of them, or of the opening
	active  int           // requests under way
	busyAt  time.Duration // when the first of them began
}

// errand is something that goes before all polls.
type errand struct {
	do   func(context.Context, line) error
	done chan error // capacity 1
}

// errClosed says that the line was lost before an errand was done.
var errClosed = errors.New("the line is not open")

// do runs fn with the line as soon as the request under way is over, before any
// poll, and returns what it returned. ctx bounds the wait for the line; what was
// begun is brought to its end, so that the line stays in step.
func (b *bus) do(ctx context.Context, fn func(context.Context, line) error) error {
	e := &errand{fn, make(chan error, 1)}
	select {
	case b.urgent <- e:
	case <-b.closed:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-e.done
}

// errInterrupted says that a job was not brought to its end because ctx ended:
// Run ends, or another worker has lost the line.
var errInterrupted = errors.New("interrupted")

// worker does jobs on the line, one after the other.
type worker struct {
	*bus
	first  bool // the one that also looks after what is to be done now and then
	timer  *time.Timer
	j      *job          // being done
	rested time.Duration // when the last answer came, for pause
	values []gateway.Value
	rec    [1]gateway.Record
}

// work does jobs until ctx ends or the line is lost.
func (b *bus) work(ctx context.Context, first bool) error {
	w := &worker{bus: b, first: first, timer: time.NewTimer(never)}
	defer w.timer.Stop()
	for ctx.Err() == nil {
		if err := w.errand(ctx); err != nil {
			return err
		}
		if first {
			if err := b.s.look(b.s.now()); err != nil {
				return err
			}
		}
		b.s.mu.Lock()
		j, wait := b.s.take(b.s.now())
		b.s.mu.Unlock()
		var err error
		if j == nil {
			err = w.idle(ctx, wait)
		} else {
			err = w.job(ctx, j)
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// idle waits, and does errands meanwhile.
func (w *worker) idle(ctx context.Context, wait time.Duration) error {
	if w.first {
		wait = min(wait, lookWait)
	}
	w.timer.Reset(wait)
	select {
	case e := <-w.urgent:
		return w.run(ctx, e)
	case <-w.timer.C:
	case <-w.wake:
	case <-ctx.Done():
	}
	return nil
}

// errand does one errand if there is one. It is called between any two requests.
func (w *worker) errand(ctx context.Context) error {
	select {
	case e := <-w.urgent:
		return w.run(ctx, e)
	default:
		return nil
	}
}

// run does e.
func (w *worker) run(ctx context.Context, e *errand) error {
	if !w.rest(ctx) {
		e.done <- errClosed
		return context.Cause(ctx)
	}
	w.begin()
	err := e.do(ctx, w.line)
	w.end()
	e.done <- err
	if err == nil || exception(err) != 0 || isSilence(err) || ctx.Err() != nil {
		return nil
	}
	return &lostLine{fmt.Errorf("do an urgent request: %w", err)}
}

// rest keeps the pause between an answer and the next request. It reports
// whether ctx did not end before.
func (w *worker) rest(ctx context.Context) bool {
	pause := w.s.cfg.Pause
	if pause <= 0 || w.rested == 0 {
		return ctx.Err() == nil
	}
	return w.sleep(ctx, w.rested+pause-w.s.now())
}

// sleep waits for d and reports whether ctx did not end before.
func (w *worker) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	w.timer.Reset(d)
	select {
	case <-w.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// begin and end say that the line is used.
func (w *worker) begin() time.Duration {
	s := w.s
	now := s.now()
	s.mu.Lock()
	if w.active++; w.active == 1 {
		w.busyAt = now
	}
	s.mu.Unlock()
	return now
}

func (w *worker) end() time.Duration {
	s := w.s
	now := s.now()
	s.mu.Lock()
	if w.active--; w.active == 0 {
		s.used(w.busyAt, now)
	}
	s.mu.Unlock()
	w.rested = now
	return now
}

// exchange makes one request of the job and notes what its answer says about
// unit and line. It is where another unit's turn, urgent things and pauses are
// kept between requests.
func (w *worker) exchange(ctx context.Context, u *unit, q *request) ([]byte, error) {
	if err := w.errand(ctx); err != nil {
		return nil, err
	}
	if !w.rest(ctx) {
		return nil, errInterrupted
	}
	w.s.mu.Lock()
	q.unit, q.timeout = u.number, w.s.limit(w.j)
	w.s.mu.Unlock()
	start := w.begin()
	data, err := w.line.Ask(ctx, q)
	took := w.end() - start
	if err == nil {
		w.good(u, took)
		return data, nil
	}
	return nil, w.wrong(ctx, q, took, err)
}

// good notes an answer.
func (w *worker) good(u *unit, took time.Duration) {
	s := w.s
	s.count.answers.Add(1)
	s.count.answerTime.Add(int64(took))
	s.mu.Lock()
	w.answers++
	w.mute, w.heardAt = 0, s.now()
	s.answered(u, took)
	up := s.up
	s.up = true
	s.mu.Unlock()
	if !up {
		w.in.Up()
	}
}

// wrong notes that a request of the job got no data, and returns what that
// means.
func (w *worker) wrong(ctx context.Context, q *request, took time.Duration, err error) error {
	s, u := w.s, w.j.u
	switch code := exception(err); {
	case code == 10 || code == 11:
		s.count.exceptions.Add(1)
		err = &unreachable{code}
		s.mu.Lock()
		w.answers++ // of the gateway: the line is well
		w.mute, w.heardAt = 0, s.now()
		s.observe(u, took)
		s.silent(w.j, took)
		s.mu.Unlock()
		return err
	case code != 0:
		s.count.exceptions.Add(1)
		w.good(u, took)
		return err
	case isSilence(err):
		s.count.silences.Add(1)
		if q.function == encapsulated {
			return err // many do not know it: it says nothing
		}
		return w.deaf(took, err)
	case ctx.Err() != nil:
		return errInterrupted
	case errors.As(err, new(*lengthError)): // an answer all the same: the line is well, although it must be closed
		s.mu.Lock()
		w.answers++
		s.line.heard = true
		s.mu.Unlock()
	}
	return &lostLine{fmt.Errorf("read unit %d (%s) %s: %w", u.number, u.Name, q, err)}
}

// deaf notes a silence, and finds out when the whole line is silent: a TCP
// connection may lead nowhere although it is open.
func (w *worker) deaf(took time.Duration, err error) error {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent(w.j, took)
	if w.j.u.well() || s.line.well == 0 {
		w.mute++
	}
	quiet := s.now() - w.heardAt
	if !s.stream || w.mute < strikesDead || quiet < strikesDead*s.longest {
		return err
	}
	return &lostLine{fmt.Errorf("no device has answered for %s (%d requests): %w", quiet.Round(time.Millisecond), w.mute, err)}
}

// via is the line as the job of a worker sees it.
type via struct{ w *worker }

// Ask implements line.
func (v via) Ask(ctx context.Context, q *request) ([]byte, error) {
	return v.w.exchange(ctx, v.w.j.u, q)
}

// Close implements line.
func (v via) Close() error { return nil }

// session opens the line and works on it until ctx ends or the line is lost.
func (s *source) session(ctx context.Context, in *gateway.Intake) (answered bool, err error) {
	l, err := s.open(ctx)
	if err != nil {
		return false, err
	}
	b := &bus{s: s, in: in, line: l, urgent: make(chan *errand), closed: make(chan struct{}), wake: make(chan struct{}, 1)}
	s.current.Store(b)
	defer func() {
		close(b.closed)
		s.leave(b)
		_ = l.Close() // what matters has been said
	}()
	if !settled(ctx, s.cfg.Settle) {
		return false, context.Cause(ctx)
	}
	s.mu.Lock()
	b.heardAt = s.now()
	s.opened(b.heardAt)
	s.mu.Unlock()
	if n := s.workers(); n > 1 {
		b.many = true
		err = b.share(ctx, n)
	} else {
		err = b.work(ctx, true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return b.answers > 0, err
}

// share has n workers on one line. The first that loses it ends all. A panic of
// one is that of the caller, who knows what to do about it.
func (b *bus) share(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var panicked atomic.Pointer[any]
	for i := range n {
		wg.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					panicked.Store(&r)
					cancel(errClosed)
				}
			}()
			cancel(b.work(ctx, i == 0))
		})
	}
	wg.Wait()
	if r := panicked.Load(); r != nil {
		panic(*r)
	}
	return context.Cause(ctx)
}

// settled leaves the device alone for d. It reports whether ctx did not end before.
func settled(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
