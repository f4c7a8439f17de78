package gatewaytest

import (
	"slices"
	"strings"
	"time"

	"go.uber.org/goleak"
)

// halt ends the context of Run and waits until it has returned.
func (b *bench) halt() {
	b.Helper()
	if b.halted {
		return
	}
	b.halted = true
	b.cancel()
	if !b.begun {
		return
	}
	t := time.NewTimer(stopWithin)
	defer t.Stop()
	select {
	case <-b.ended:
	case <-t.C:
		state := ""
		b.q.look(func() { state = b.q.state() })
		b.Fatalf("Run has not returned %s after its context ended: %s", stopWithin, state)
	}
}

// tearDown answers what is open and ends queue and device.
func (b *bench) tearDown() {
	b.Helper()
	b.q.close()
	if !b.over(b.q.ended) {
		b.fail("the last done to return")
	}
	if !b.stopDevice() {
		b.fail("Device.Stop to return")
	}
}

// stopDevice calls Device.Stop once and reports whether it returned.
func (b *bench) stopDevice() bool {
	if b.dev == nil || b.stopped {
		return true
	}
	b.stopped = true
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		b.dev.Stop()
	}()
	return b.over(returned)
}

// over waits for ch to be closed.
func (b *bench) over(ch <-chan struct{}) bool {
	t := time.NewTimer(b.h.patience())
	defer t.Stop()
	select {
	case <-ch:
		return true
	case <-t.C:
		return false
	}
}

// abandon cleans up as far as it goes after a check has failed half-way.
func (b *bench) abandon() {
	b.cancel()
	b.q.close()
	if b.begun {
		b.over(b.ended)
	}
	b.stopDevice()
	b.report()
}

// report passes on what was noted on the way.
func (b *bench) report() {
	b.Helper()
	var problems []string
	b.q.look(func() { problems = b.q.problems })
	for i, p := range problems {
		if i == 5 {
			b.Errorf("and %d more", len(problems)-i)
			break
		}
		b.Errorf("%s", p)
	}
}

// hangUp waits until the device sees that the source has closed what it opened.
func (b *bench) hangUp() {
	b.Helper()
	if b.dev.Conns == nil {
		return
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(b.h.patience())
	defer deadline.Stop()
	for b.dev.Conns() > 0 {
		select {
		case <-tick.C:
		case <-deadline.C:
			b.Errorf("%d connections are open after Run has returned: it closes what it opened", b.dev.Conns())
			return
		}
	}
}

// verify checks what holds for every check.
func (b *bench) verify() {
	b.Helper()
	b.report()
	if n := b.in.Status("").Panics; n > 0 {
		b.Errorf("done panicked %d times", n)
	}
	q := b.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.most > b.h.inFlight() {
		b.Errorf("%d records were delivered and unanswered at one time: the source is bounded to %d", q.most, b.h.inFlight())
	}
	b.verifyOrder(q)
	if b.h.keeps() && q.runs == 1 && !q.inTurn(q.acked) {
		b.Errorf("observations were acknowledged out of order: %s", excerpt(q.acked))
	}
}

// verifyOrder checks the order of the stored records. q.mu is held.
func (b *bench) verifyOrder(q *queue) {
	b.Helper()
	switch {
	case b.h.Latest:
		if !slices.IsSorted(q.stored) {
			b.Errorf("records are out of order: %s", excerpt(q.stored))
		}
		return
	case len(q.sent) > 0:
		if !q.inTurn(q.stored) {
			b.Errorf("records are not in the order in which the device sent them: stored %s, sent %s", excerpt(q.stored), excerpt(q.sent))
		}
		return
	}
	if !q.inTurn(firsts(q.stored)) {
		b.Errorf("records are out of order: %s", excerpt(q.stored))
	}
	if q.runs == 1 && len(firsts(q.stored)) != len(q.stored) {
		b.Errorf("records arrived more than once although the line held: %s", excerpt(q.stored))
	}
}

// inTurn reports whether got is a subsequence of what the device sent: the
// ascending numbers when it did not say. q.mu is held.
func (q *queue) inTurn(got []int) bool {
	if len(q.sent) == 0 {
		return slices.IsSorted(got)
	}
	rest := q.sent
	for _, n := range got {
		i := slices.Index(rest, n)
		if i < 0 {
			return false
		}
		rest = rest[i+1:]
	}
	return true
}

// firsts returns the first of each number.
func firsts(ns []int) []int {
	seen := make(map[int]bool, len(ns))
	var out []int
	for _, n := range ns {
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

// excerpt is the part of ns around the first step back, for messages.
func excerpt(ns []int) string {
	at := 0
	for i := 1; i < len(ns) && at == 0; i++ {
		if ns[i] <= ns[i-1] {
			at = i
		}
	}
	var s strings.Builder
	from, to := max(0, at-5), min(len(ns), at+15)
	s.WriteString(join(ns[from:to]))
	if from > 0 {
		return "… " + s.String()
	}
	return s.String()
}

// leaks checks that every goroutine begun since before has ended.
func (b *bench) leaks(before goleak.Option) {
	b.Helper()
	options := []goleak.Option{before}
	for _, f := range b.h.Ignore {
		options = append(options, goleak.IgnoreTopFunction(f))
	}
	deadline := time.Now().Add(min(b.h.patience(), 5*time.Second))
	for {
		err := goleak.Find(options...) // tries for about half a second
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.Errorf("goroutines are left after Run has returned and the device has stopped: %v", err)
			return
		}
	}
}
