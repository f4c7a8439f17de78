package gatewaytest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// deliver: records arrive in order, once, and are acknowledged.
func deliver(b *bench) {
	b.start()
	b.flow(20)
	b.settleAcks()
}

// ackAfterDone: with the queue not answering, nothing is acknowledged; when it
// has answered, everything is, in order. The Witness notices the first; verify
// the second.
func ackAfterDone(b *bench) {
	b.start()
	b.flow(3)
	b.settleAcks()
	acked := 0
	b.q.look(func() { acked = len(b.q.acked) })
	b.q.setMode(stuck)
	from := b.next
	b.publish(min(50, max(1, b.h.inFlight()/2)))
	b.await("the observations to be delivered", func(q *queue) bool { return q.unsafe >= b.next-from || b.h.Latest && q.unsafe > 0 })
	if b.within(still, func(q *queue) bool { return len(q.acked) > acked }) {
		b.Errorf("an acknowledgement was sent before the queue had answered")
	}
	b.q.setMode(taking)
	b.settleAcks()
}

// cutTenTimes: records go on after each cut, also when the queue answers only
// when the connection is gone.
func cutTenTimes(b *bench) {
	b.start()
	for i := range 10 {
		why := fmt.Sprintf("after cut %d", i)
		b.resume(why)
		returns := 0
		b.q.look(func() { returns = b.q.returns })
		if i%2 == 1 {
			b.q.setMode(stuck)
			b.publishUntilDelivered(3)
		} else {
			b.publish(3) // on their way, or not, when the line is cut
		}
		if i%4 == 3 {
			b.q.setMode(taking) // acknowledgements meet the cut
		}
		b.dev.Cut()
		b.await(fmt.Sprintf("Run to return after cut %d of the line", i+1), func(q *queue) bool { return q.returns > returns })
		b.publish(2)
		b.q.setMode(taking)
		b.dev.Restore()
	}
	b.resume("after the last cut")
}

// publishUntilDelivered publishes n observations, and more if the device
// forgets them, until one reaches the stuck queue.
func (b *bench) publishUntilDelivered(n int) {
	b.Helper()
	b.publish(n)
	deadline := time.Now().Add(b.h.patience())
	for !b.within(50*time.Millisecond, func(q *queue) bool { return q.unsafe > 0 }) {
		if time.Now().After(deadline) {
			b.fail("an observation to be delivered")
		}
		if !b.h.keeps() {
			b.publish(1)
		}
	}
}

// failingQueue: a queue that refuses records loses nothing acknowledged, and
// what the device keeps arrives when it takes them again.
func failingQueue(b *bench) {
	b.start()
	b.flow(3)
	for range 3 {
		refused := 0
		b.q.look(func() { refused = b.q.refused })
		b.q.setMode(failing)
		b.publish(5)
		deadline := time.Now().Add(b.h.patience())
		for !b.within(50*time.Millisecond, func(q *queue) bool { return q.refused > refused }) {
			if time.Now().After(deadline) {
				b.fail("the queue to refuse an observation")
			}
			if !b.h.keeps() {
				b.publish(1)
			}
		}
		b.publish(5)
		b.q.setMode(taking)
		b.resume("after the queue takes records again")
	}
}

// stuckQueue: a queue that does not answer is met with a bounded number of
// records, and everything goes on when it answers.
func stuckQueue(b *bench) {
	b.start()
	b.flow(3)
	b.q.setMode(stuck)
	n := 4*b.h.inFlight() + 8
	if b.h.keeps() {
		b.publish(n)
	} else {
		for range min(n, 400) {
			appends := 0
			b.q.look(func() { appends = b.q.appends })
			b.publish(1)
			b.within(10*time.Millisecond, func(q *queue) bool { return q.appends > appends })
		}
	}
	b.await("an observation to be delivered", func(q *queue) bool { return q.unsafe > 0 })
	deadline := time.Now().Add(b.h.patience())
	for {
		appends := 0
		b.q.look(func() { appends = b.q.appends })
		if !b.within(still, func(q *queue) bool { return q.appends > appends }) {
			break
		}
		if time.Now().After(deadline) {
			b.fail("the source to stop delivering to a queue that does not answer")
		}
	}
	b.q.setMode(taking)
	b.resume("after the queue answers again")
}

// stopWhileStuck: the source can be stopped while the queue does not answer,
// and does not mind the answers that come later.
func stopWhileStuck(b *bench) {
	b.start()
	b.flow(3)
	b.q.setMode(stuck)
	b.publishUntilDelivered(5)
	b.halt()
	b.q.setMode(taking)
	b.await("the queue to answer what was delivered", (*queue).idle)
}

// stopWhileCut: the source can be stopped while the device is out of reach.
func stopWhileCut(b *bench) {
	b.start()
	b.flow(3)
	runs, returns := 0, 0
	b.q.look(func() { runs, returns = b.q.runs, b.q.returns })
	b.dev.Cut()
	b.await("Run to return after the line was cut", func(q *queue) bool { return q.returns > returns })
	b.await("Run to be tried again", func(q *queue) bool { return q.runs > runs })
	b.halt()
}

// stopAtOnce: Run returns at once when its context has ended before.
func stopAtOnce(b *bench) {
	b.cancel()
	b.begun = true
	go b.run()
	b.halt()
}

// clocks: records go on whatever the gateway's clock shows, and carry it.
func clocks(b *bench) {
	b.start()
	b.flow(2)
	for _, at := range []time.Time{
		time.Unix(42, 0), // a gateway without a battery
		time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC),        // one second past 31 bits
		time.Date(2106, 2, 7, 6, 28, 16, 0, time.UTC),        // one second past 32 bits
		time.Unix(1000, 0),                                   // a step back
		time.Date(2026, 11, 22, 12, 0, 0, 5_000, time.Local), // the time is learnt
	} {
		b.clock.Store(at.UnixNano())
		from := b.next + 1
		b.flow(3)
		var wrong []string
		b.q.look(func() {
			for n := from; n <= b.next; n++ {
				r := b.q.times[n]
				if early := at.Sub(r.Received); early < 0 || early > b.h.Earlier || r.ClockTrusted != (at.Year() > 2025) {
					wrong = append(wrong, strconv.Itoa(n)+" at "+r.Received.UTC().Format(time.RFC3339Nano)+" trusted "+strconv.FormatBool(r.ClockTrusted))
				}
			}
		})
		if wrong != nil {
			b.Errorf("records received at %s are stamped otherwise (leave Received to the Intake, or use Intake.Stamp): %s",
				at.UTC().Format(time.RFC3339Nano), strings.Join(wrong, ", "))
		}
	}
}

// join writes numbers for a message.
func join(ns []int) string {
	s := make([]string, len(ns))
	for i, n := range ns {
		s[i] = strconv.Itoa(n)
	}
	return strings.Join(s, " ")
}
