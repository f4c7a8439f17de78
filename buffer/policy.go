package buffer

import (
	"fmt"
	"slices"
)

// minLaneBytes is the smallest budget of a lane: it leaves room for two
// segments and a commit.
const minLaneBytes = 1 << 20

// known reports whether p is one of the policies.
func (p Policy) known() bool {
	return slices.Contains([]Policy{LowestLane, Oldest, Reject, Thin}, p)
}

// outcome says what p does at the budget.
func (p Policy) outcome() string {
	switch p {
	case Oldest:
		return "the oldest segment of all lanes is deleted"
	case Reject:
		return "nothing is taken until the sinks have released something"
	case Thin:
		return "a part of the oldest records is deleted"
	}
	return "the oldest segment of the lowest lane is deleted"
}

// checkPolicies says what is wrong with the options of budgets and retention.
func (o *Options) checkPolicies() error {
	check := func(what string, p Policy) error {
		switch {
		case !p.known():
			return fmt.Errorf("%s: unknown policy %q: use %s, %s, %s or %s", what, p, LowestLane, Oldest, Reject, Thin)
		case p == Thin && o.Thin == nil:
			return fmt.Errorf("%s: policy %s needs something that picks the records to keep (Options.Thin)", what, Thin)
		}
		return nil
	}
	if err := check("budget", o.Policy); err != nil {
		return err
	}
	if o.HighWater < 1 || o.HighWater > 100 {
		return fmt.Errorf("high-water mark of %d percent: use 1 to 100", o.HighWater)
	}
	if o.Retain.For < 0 || o.Retain.Bytes < 0 {
		return fmt.Errorf("retention of %v, %d bytes: a limit is not negative", o.Retain.For, o.Retain.Bytes)
	}
	for _, ln := range o.Lanes {
		if ln.Policy != "" {
			if err := check("lane "+ln.Name, ln.Policy); err != nil {
				return err
			}
			if ln.MaxBytes == 0 {
				return fmt.Errorf("lane %s: policy %s without a budget of its own: give it bytes too", ln.Name, ln.Policy)
			}
		}
		if ln.MaxBytes != 0 && ln.MaxBytes < minLaneBytes {
			return fmt.Errorf("lane %s: budget of %d bytes is too small for two segments: need at least %d", ln.Name, ln.MaxBytes, minLaneBytes)
		}
	}
	return nil
}

// giveUp makes room in b at the cost of what was not sent, as its policy says,
// or begins to. It reports whether it did.
func (l *Log) giveUp(b *budget) bool {
	switch b.policy {
	case Reject:
		return false
	case Thin:
		if l.closing() { // not now: who appended is told that it is full
			return false
		}
		if l.startThin(b) {
			return true
		}
	case Oldest:
		return l.evict(oldestHead(b.lanes)) > 0
	}
	return l.evict(lowestHead(b.lanes)) > 0
}

// lowestHead returns the lowest lane that has more than one segment, nil when
// none has.
func lowestHead(lanes []*lane) *lane {
	for _, ln := range slices.Backward(lanes) {
		if ln.segments() > 1 {
			return ln
		}
	}
	return nil
}

// oldestHead returns the lane, of those with more than one segment, whose
// first segment's last block was committed before that of the others. Among
// equal times, and where one is not known, the lower lane.
func oldestHead(lanes []*lane) (oldest *lane) {
	var when int64
	for _, ln := range slices.Backward(lanes) {
		s, _ := ln.head2()
		if s == nil {
			continue
		}
		_, to, _ := s.about()
		if oldest == nil || to != 0 && when != 0 && to < when {
			oldest, when = ln, to
		}
	}
	return oldest
}

// head2 returns the first segment of a lane that has more than one, and the
// seq at which the second begins.
func (ln *lane) head2() (s *segment, end uint64) {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	if len(ln.segs) < 2 {
		return nil, 0
	}
	return ln.segs[0], ln.segs[1].first
}

// evict deletes the oldest segment of a lane and returns its size.
func (l *Log) evict(ln *lane) int64 {
	if ln == nil {
		return 0
	}
	s, end := ln.head2()
	if s == nil {
		return 0
	}
	ln.mu.RLock()
	start := ln.first
	ln.mu.RUnlock()
	loss := Loss{First: start, Last: end - 1, Reason: ReasonEvicted, Exact: true}
	loss.From, loss.To = s.span()
	freed := max(s.size.Load(), 1)
	l.dropHead(ln, s, end, &loss)
	return freed
}
