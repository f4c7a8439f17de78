package gatewaytest

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waystation-iot/waystation/gateway"
)

// stopWithin is how soon Run returns after its context has ended.
const stopWithin = 2 * time.Second

// still is how long nothing must happen for the suite to believe that nothing
// will.
const still = 250 * time.Millisecond

// bench is one device, one source and one queue, for one check.
type bench struct {
	testing.TB
	h     Harness
	dev   *Device
	q     *queue
	in    *gateway.Intake
	clock atomic.Int64 // what the gateway's clock shows, ns; 0 = the time it is

	ctx     context.Context
	cancel  context.CancelFunc
	ended   chan struct{} // closed when Run is not called any more
	begun   bool
	halted  bool
	stopped bool
	next    int   // last number published
	must    []int // numbers that must be stored in the end
}

// conduct runs one check on a fresh bench.
func conduct(tb testing.TB, h Harness, fn func(*bench)) {
	tb.Helper()
	before := goleak.IgnoreCurrent()
	q := newQueue(h.Number)
	b := &bench{TB: tb, h: h, q: q, ended: make(chan struct{})}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.in = gateway.NewIntake(gateway.SourceSpec{Name: "conform", Lane: gateway.LaneTelemetry}, gateway.AppenderFunc(q.append),
		gateway.NewClock(b.now, func() bool { return true }))
	good := false
	defer func() {
		if !good {
			b.abandon()
		}
	}()
	b.dev = h.Start(tb, &Witness{q})
	fn(b)
	b.halt()
	b.hangUp()
	b.tearDown()
	b.verify()
	good = true
	b.leaks(before)
}

func (b *bench) now() time.Time {
	if ns := b.clock.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Now()
}

// run calls Run until ctx ends, with short pauses.
func (b *bench) run() {
	defer close(b.ended)
	pause := 2 * time.Millisecond
	for first := true; first || b.ctx.Err() == nil; first = false {
		b.q.change(func() { b.q.runs++ })
		err := b.runOnce()
		b.q.change(func() { b.q.returns, b.q.lastErr = b.q.returns+1, err })
		switch {
		case b.ctx.Err() != nil:
			return
		case err == nil:
			b.q.problem("Run returned nil although its context had not ended")
		case gateway.IsPermanent(err):
			b.q.problem("Run returned an error marked permanent: %v", err)
			return
		}
		if !b.idle(pause) {
			return
		}
		pause = min(2*pause, 200*time.Millisecond)
	}
}

func (b *bench) runOnce() (err error) {
	defer func() {
		if r := recover(); r != nil {
			b.q.problem("Run panicked: %v\n%s", r, debug.Stack())
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return b.dev.Source.Run(b.ctx, b.in)
}

// idle waits for the pause and until everything delivered is answered. It
// reports whether ctx did not end before.
func (b *bench) idle(pause time.Duration) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.ctx.Done():
		return false
	}
	for {
		idle := false
		changed := b.q.look(func() { idle = b.q.idle() })
		if idle {
			return b.ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-b.ctx.Done():
			return false
		}
	}
}

// start begins to call Run and waits until the source says that it is up.
func (b *bench) start() {
	b.Helper()
	if b.h.Latest {
		b.publish(1)
	}
	b.begun = true
	go b.run()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(b.h.patience())
	defer deadline.Stop()
	for b.in.Status("").State != gateway.Up {
		select {
		case <-tick.C:
		case <-deadline.C:
			b.fail("the source to call Intake.Up")
		}
	}
}

// publish makes the device produce the next n observations.
func (b *bench) publish(n int) {
	for range n {
		b.next++
		b.dev.Publish(b.next)
		if b.h.keeps() {
			b.must = append(b.must, b.next)
		}
	}
}

// fail ends the check: what was waited for did not come.
func (b *bench) fail(what string) {
	b.Helper()
	state := ""
	b.q.look(func() { state = b.q.state() })
	b.Fatalf("waited %s for %s: %s", b.h.patience(), what, state)
}

// await waits for cond, which is called with the queue locked.
func (b *bench) await(what string, cond func(q *queue) bool) {
	b.Helper()
	if !b.within(b.h.patience(), cond) {
		b.fail(what)
	}
}

// within waits for cond, but not longer than d, and reports whether it came true.
func (b *bench) within(d time.Duration, cond func(q *queue) bool) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		ok := false
		changed := b.q.look(func() { ok = cond(b.q) })
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-t.C:
			return false
		}
	}
}

// flow publishes n observations on a good line and waits until they are stored.
func (b *bench) flow(n int) {
	b.Helper()
	step := n
	if b.h.Latest {
		step = 1
	}
	for done := 0; done < n; done += step {
		from := b.next
		b.publish(step)
		b.await(fmt.Sprintf("observations %d to %d to be stored", from+1, b.next), func(q *queue) bool { return q.all(from+1, b.next) })
	}
}

// resume waits until records flow again after a fault.
func (b *bench) resume(why string) {
	b.Helper()
	if b.h.keeps() {
		b.flow(5)
		b.await("the device's kept observations to be stored "+why, func(q *queue) bool { return q.all(b.must[0], b.next) })
		b.settleAcks()
		return
	}
	deadline := time.Now().Add(b.h.patience())
	for {
		b.publish(1)
		if b.within(50*time.Millisecond, func(q *queue) bool { return q.durable[b.next] }) {
			break
		}
		if time.Now().After(deadline) {
			b.fail("records to go on " + why)
		}
	}
	b.flow(3)
}

// settleAcks waits until the device has every acknowledgement it is owed.
func (b *bench) settleAcks() {
	b.Helper()
	if !b.h.keeps() {
		return
	}
	b.await("every stored observation to be acknowledged", func(q *queue) bool {
		for _, n := range b.must {
			if q.durable[n] && !q.ackSet[n] {
				return false
			}
		}
		return true
	})
}

// all reports whether the numbers from..to are stored. q.mu is held.
func (q *queue) all(from, to int) bool {
	for n := from; n <= to; n++ {
		if !q.durable[n] {
			return false
		}
	}
	return true
}
