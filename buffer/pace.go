package buffer

import "time"

// Bounds above which lazy batches are committed before their delay is over.
const (
	lazyBytes   = 256 << 10 // framed: two full blocks, for which a commit pays whatever the rate
	lazyRecords = 2 * blockRecords
)

// pace decides when the committer commits: at once when somebody waits, else
// when the batch that has waited longest is due, or enough of them wait, or
// the cursors are due. It is fed with times of the monotonic clock.
type pace struct {
	urgent  bool      // somebody waits for what is pending
	bytes   int       // pending lazily, framed
	records int       // pending lazily
	due     time.Time // when the lazy batches must be committed; zero = none pending
	save    time.Time // when the cursors must be written; zero = they need not
}

// add notes a lazy batch. It reports whether what is due first has changed.
func (p *pace) add(now time.Time, delay time.Duration, b *Batch) bool {
	p.bytes += len(b.buf)
	p.records += b.n
	if at := now.Add(delay); p.due.IsZero() || at.Before(p.due) {
		p.due = at
		return true
	}
	return false
}

// ready reports whether there is something to commit now.
func (p *pace) ready(now time.Time) bool {
	return p.urgent || p.bytes >= lazyBytes || p.records >= lazyRecords ||
		!p.due.IsZero() && !now.Before(p.due) || p.saving(now)
}

// saving reports whether the cursors are due.
func (p *pace) saving(now time.Time) bool { return !p.save.IsZero() && !now.Before(p.save) }

// taken notes that the committer took what was pending. What it left, because
// one round cannot hold it, has waited long enough.
func (p *pace) taken(left bool) {
	p.urgent, p.bytes, p.records, p.due = left, 0, 0, time.Time{}
}

// next returns when ready becomes true by time alone; zero = never.
func (p *pace) next() time.Time {
	if p.due.IsZero() || !p.save.IsZero() && p.save.Before(p.due) {
		return p.save
	}
	return p.due
}

// setTimer has the committer woken when something is due. l.pendMu is held.
func (l *Log) setTimer(now time.Time) {
	if at := l.pace.next(); at.IsZero() {
		l.timer.Stop()
	} else {
		l.timer.Reset(at.Sub(now))
	}
}

// ready reports whether there is something to commit, and sets the timer again
// when there is not yet.
func (l *Log) ready() bool {
	l.pendMu.Lock()
	defer l.pendMu.Unlock()
	now := time.Now()
	if l.pace.saving(now) {
		l.pace.save = time.Time{}
		l.armed.Store(false)
		l.saveDue.Store(true)
		return true
	}
	if l.pace.ready(now) {
		return true
	}
	l.setTimer(now)
	return false
}

// arm has the cursors written after CursorDelay, or with a commit before that.
func (l *Log) arm() {
	if l.armed.Swap(true) {
		return
	}
	l.pendMu.Lock()
	defer l.pendMu.Unlock()
	if l.pace.save.IsZero() {
		now := time.Now()
		l.pace.save = now.Add(l.o.CursorDelay)
		l.setTimer(now)
	}
}

// disarm takes back what arm asked for when commits have written every cursor
// meanwhile. A release that comes at the same time is seen here or arms again.
func (l *Log) disarm() {
	if !l.armed.Load() {
		return
	}
	l.armed.Store(false)
	if l.dirty() {
		l.armed.Store(true) // the time stays as it was set
		return
	}
	l.pendMu.Lock()
	defer l.pendMu.Unlock()
	if !l.armed.Load() {
		l.pace.save = time.Time{}
	}
}

// dirty reports whether a commit for the cursors' sake would write something.
func (l *Log) dirty() bool {
	l.curMu.RLock()
	defer l.curMu.RUnlock()
	for num, ln := range l.lanes {
		ln.mu.RLock()
		onDisk, stale, empty := ln.onDisk, ln.stale, len(ln.segs) == 0
		ln.mu.RUnlock()
		if stale {
			return true
		}
		for name, c := range l.cursors {
			if _, write := c.unsaved(num, onDisk[name], empty); write {
				return true
			}
		}
	}
	return false
}

// unsaved returns what the cursor has released in a lane and whether that is
// worth a commit, old being what is on disk, zero when nothing is. A new cursor
// is once there is something to read.
func (c *Cursor) unsaved(num int, old position, empty bool) (p position, write bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p = c.lanes[num].pos
	return p, p != old && (old != position{} || !empty || p != position{next: p.next, from: p.from})
}
