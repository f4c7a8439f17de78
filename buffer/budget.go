package buffer

import (
	"errors"
	"fmt"
	"slices"
)

// budget is a limit in bytes for the files of some lanes, and what makes room
// when it is reached.
type budget struct {
	name   string // for the log and for errors
	max    int64
	policy Policy
	lanes  []*lane
	whole  bool // the queue's: the reserve counts
	high   bool // the committer's: above the high-water mark, and the log says so
}

// errBudget marks an ErrFull that comes from a budget, not from the disk.
var errBudget = errors.New("over the budget")

// setBudgets makes the budgets of the queue and of the lanes that have one.
func (l *Log) setBudgets() {
	l.budgets = []*budget{{name: "queue", max: l.o.MaxBytes, policy: l.o.Policy, lanes: l.lanes, whole: true}}
	for _, ln := range l.lanes {
		if ln.o.MaxBytes == 0 {
			continue
		}
		ln.own = &budget{name: "lane " + ln.label, max: ln.o.MaxBytes, policy: ln.o.Policy, lanes: []*lane{ln}}
		if ln.own.policy == "" {
			ln.own.policy = l.o.Policy
		}
		l.budgets = append(l.budgets, ln.own)
	}
}

// roomSlack is what a commit may add to the files beyond its blocks: the step
// by which bbolt grows a file, a new segment, and pages copied on write.
func (l *Log) roomSlack() int64 { return min(1<<20, l.o.SegmentBytes/4) + 256<<10 }

// total returns the size of the files that count in b, and what is set aside
// for the file of a rewrite.
func (l *Log) total(b *budget) (n int64) {
	if b.whole {
		n = l.reserve.Load()
	}
	for _, ln := range b.lanes {
		n += ln.bytes()
	}
	if r := l.thin.run; r != nil {
		n += r.room
	}
	return n
}

// least returns what no policy can free: the newest segment of each lane, the
// reserve.
func (l *Log) least(b *budget) (n int64) {
	if b.whole {
		n = l.reserve.Load()
	}
	for _, ln := range b.lanes {
		ln.mu.RLock()
		if k := len(ln.segs); k > 0 {
			n += ln.segs[k-1].size.Load()
		}
		ln.mu.RUnlock()
	}
	return n
}

// unsent returns the size of the files that count in b, less what goes before
// anything unsent does: segments kept for replay and segments set aside.
func (l *Log) unsent(b *budget) (n int64) {
	if b.whole {
		n = l.reserve.Load()
	}
	for _, ln := range b.lanes {
		n += ln.bytes() - l.retained(ln)
		ln.mu.RLock()
		n -= ln.badBytes()
		ln.mu.RUnlock()
	}
	return n
}

// makeRoom sees to it that a commit of n bytes to a lane keeps every budget,
// or says why that cannot be.
func (l *Log) makeRoom(ln *lane, n int64) error {
	if n > 0 {
		ln.lacks = n
	}
	if ln.own != nil {
		if err := l.fit(ln.own, n); err != nil {
			return err
		}
	}
	return l.fit(l.budgets[0], n)
}

// need returns what a commit of n bytes takes at most. Where nothing may be
// deleted for them, room stays for the cursors of every lane, so that releases
// reach the disk.
func (l *Log) need(b *budget, n int64) int64 {
	need := n + n/4 + l.roomSlack()
	if (b.policy == Reject || b.policy == Thin) && n > 0 {
		need += min(int64(len(b.lanes))*l.roomSlack(), b.max/8)
	}
	return need
}

// hasRoom reports whether b has room for n bytes, or can make it.
func (l *Log) hasRoom(b *budget, n int64) bool {
	if b == nil || l.total(b)+l.need(b, n) <= b.max {
		return true
	}
	return b.policy != Reject && l.least(b)+l.need(b, n) <= b.max
}

// noteRefused keeps in mind which lanes a budget has no room for: cursors are
// written all the same, which must not look as if records were taken again.
func (l *Log) noteRefused() {
	if len(l.c.refused) != len(l.lanes) {
		l.c.refused = make([]error, len(l.lanes))
	}
	for i, res := range l.c.results {
		switch {
		case errors.Is(res.err, errBudget):
			l.c.refused[i] = res.err
		case res.err != nil, res.wrote && slices.ContainsFunc(l.c.reqs, func(r request) bool { return r.lane == i && r.batch != nil && r.err == nil }):
			l.c.refused[i] = nil
		}
	}
}

// stillRefused returns err, or without one why a lane has no room.
func (l *Log) stillRefused(err error) error {
	if err != nil {
		return err
	}
	return errors.Join(l.c.refused...)
}

// readmit notes that there is room again.
func (l *Log) readmit() {
	was, is := false, false
	for i, ln := range l.lanes {
		if i >= len(l.c.refused) || l.c.refused[i] == nil {
			continue
		}
		was = true
		n := ln.lacks
		if l.hasRoom(ln.own, n) && l.hasRoom(l.budgets[0], n) {
			l.c.refused[i] = nil
		}
		is = is || l.c.refused[i] != nil
	}
	l.stateMu.Lock()
	was = was && errors.Is(l.state, errBudget)
	l.stateMu.Unlock()
	if was && !is {
		l.fail(nil)
	}
}

// fit deletes what b's policy says until a commit of n bytes keeps b: first
// segments that were set aside, then those kept for replay. While a segment is
// being thinned it waits for that instead. Nothing is deleted for a commit
// that would not fit even then.
func (l *Log) fit(b *budget, n int64) error {
	need := l.need(b, n)
	if l.total(b)+need <= b.max {
		return nil
	}
	fixed := int64(0)
	if b.whole {
		fixed = l.reserve.Load()
	}
	if need+fixed > b.max {
		return fmt.Errorf("make room for %d bytes in the %s's budget of %d: %w", n, b.name, b.max, ErrRecordTooLarge)
	}
	full := fmt.Errorf("make room for %d bytes in the %s's budget of %d: %w: %w", n, b.name, b.max, errBudget, ErrFull)
	if l.least(b)+need > b.max {
		return full
	}
	for l.total(b)+need > b.max {
		if l.thin.run != nil {
			l.awaitThin()
			continue
		}
		if l.dropBad(b.lanes) > 0 || l.dropRetained(b.lanes) > 0 {
			continue
		}
		if !l.giveUp(b) {
			return full
		}
	}
	return nil
}

// watchBudgets says in the log when the files pass the high-water mark and
// when they are well below it again, and starts to thin above it.
func (l *Log) watchBudgets(closing bool) {
	l.readmit()
	for _, b := range l.budgets {
		used := l.unsent(b)
		mark := l.highWater(b)
		switch {
		case !b.high && used > mark:
			b.high = true
			l.o.Log.Warn("queue has passed its high-water mark: bring the sinks back or give it more bytes",
				"of", b.name, "bytes", used, "max_bytes", b.max, "percent", l.o.HighWater, "at_the_budget", b.policy.outcome())
		case b.high && used <= mark-b.max/20:
			b.high = false
			l.o.Log.Info("queue is below its high-water mark again", "of", b.name, "bytes", used, "max_bytes", b.max)
		}
		if b.policy == Thin && !closing && used > l.thinMark(b) {
			l.startThin(b)
		}
	}
}

// highWater returns the bytes above which b is to be warned of.
func (l *Log) highWater(b *budget) int64 { return b.max / 100 * int64(l.o.HighWater) }

// stress fills in what Stats tells of the budgets.
func (l *Log) stress(s *Stats) {
	s.Thinned = l.counts.thinned.Load()
	s.Bytes += l.thin.bytes.Load()
	s.HighWater = l.unsent(l.budgets[0]) > l.highWater(l.budgets[0])
	for i, ln := range l.lanes {
		s.Retained += l.retained(ln)
		s.Lanes[i].Oldest = l.oldest(ln)
		s.Lanes[i].HighWater = ln.own != nil && l.unsent(ln.own) > l.highWater(ln.own)
	}
}
