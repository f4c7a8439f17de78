package buffer

import (
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// dropBad deletes the oldest segment that was set aside, of the lowest lane
// first, and returns its size.
func (l *Log) dropBad(lanes []*lane) int64 {
	for _, ln := range slices.Backward(lanes) {
		ln.mu.Lock()
		if len(ln.bad) == 0 {
			ln.mu.Unlock()
			continue
		}
		b := ln.bad[0]
		ln.bad = slices.Delete(ln.bad, 0, 1)
		ln.mu.Unlock()
		if err := os.Remove(b.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.o.Log.Error("delete damaged segment", "segment", b.path, "error", err)
		}
		l.o.Log.Warn("queue is over its budget: damaged segment deleted", "segment", b.path)
		return max(b.size, 1)
	}
	return 0
}

// dropHead deletes the first segment of a lane. loss is nil when all of it was
// released. It runs on the committer.
func (l *Log) dropHead(ln *lane, s *segment, end uint64, loss *Loss) {
	cursors, _ := l.cursorsOf(l.numberOf(ln))
	unread := loss != nil && (len(cursors) == 0 || lowest(cursors) < end) && loss.Last >= loss.First
	s.end(errMoved)
	ln.mu.Lock()
	ln.segs = append(ln.segs[:0], ln.segs[1:]...)
	ln.first = max(ln.first, end)
	if unread {
		ln.journal = addLoss(ln.journal, *loss)
		ln.stale = true
	}
	ln.mu.Unlock()
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		l.o.Log.Error("delete segment", "segment", s.path, "error", err)
	}
	if unread {
		l.counts.evicted.Add(1)
		l.o.Log.Warn("queue is over its budget: oldest segment deleted before it was sent",
			"lane", ln.name, "first_seq", loss.First, "last_seq", loss.Last)
	}
}

// numberOf returns the number of a lane.
func (l *Log) numberOf(ln *lane) int {
	for i, x := range l.lanes {
		if x == ln {
			return i
		}
	}
	return -1
}

// reclaim deletes segments that every cursor has released, on disk, as far as
// they are not kept for replay.
func (l *Log) reclaim() {
	freed := false
	for num, ln := range l.lanes {
		l.noteDelivered(num)
		for {
			s, _ := ln.head2()
			if s == nil || l.retains() && !l.expired(s) || !l.dropDelivered(num) {
				break
			}
			freed = true
		}
	}
	freed = l.trimRetained() || freed
	freed = l.shrink() || freed
	if freed {
		l.keepReserve()
	}
	l.armAging()
}

// claim takes the first segment of a lane out of the reach of cursors that are
// made from now on, when every cursor has released it on disk. It returns nil
// when it is not so.
func (l *Log) claim(num int) (s *segment, end uint64) {
	ln := l.lanes[num]
	l.curMu.RLock()
	defer l.curMu.RUnlock()
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if len(ln.segs) < 2 || ln.segs[1].first > l.deliveredLocked(num) {
		return nil, 0
	}
	s, end = ln.segs[0], ln.segs[1].first
	ln.first = max(ln.first, end)
	return s, end
}

// dropDelivered deletes the first segment of a lane when every cursor has
// released it, on disk.
func (l *Log) dropDelivered(num int) bool {
	s, end := l.claim(num)
	if s != nil {
		l.dropHead(l.lanes[num], s, end, nil)
	}
	return s != nil
}

// delivered returns the seq of a lane below which every cursor on disk has
// released everything. Without cursors that is what was delivered before.
func (l *Log) delivered(num int) uint64 {
	l.curMu.RLock()
	defer l.curMu.RUnlock()
	ln := l.lanes[num]
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	return l.deliveredLocked(num)
}

// deliveredLocked is delivered with curMu and the lane's mu held.
func (l *Log) deliveredLocked(num int) uint64 {
	ln := l.lanes[num]
	if ln.stale || len(l.expected) > 0 { // cursors went with a segment, or are to be opened: nothing is sure yet
		return 0
	}
	low := lowest(ln.onDisk)
	for _, c := range l.cursors {
		c.mu.Lock()
		low = min(low, c.lanes[num].saved.next)
		c.mu.Unlock()
	}
	if low != noCursor {
		return low
	}
	if l.retains() {
		return ln.head
	}
	return 0
}

// dropReleased deletes the segments of a lane that lie wholly below low, but
// never the newest.
func (l *Log) dropReleased(ln *lane, low uint64) (freed bool) {
	for low != noCursor {
		s, end := ln.head2()
		if s == nil || end > low {
			break
		}
		l.dropHead(ln, s, end, nil)
		freed = true
	}
	return freed
}

// shrink begins a new segment in lanes whose newest was delivered and takes
// more of the budget than an empty lane should, so that the old one goes.
func (l *Log) shrink() (freed bool) {
	if l.retains() || l.total(l.budgets[0]) < l.o.MaxBytes/16 {
		return false
	}
	for num, ln := range l.lanes {
		ln.mu.RLock()
		n := len(ln.segs)
		large := n == 1 && ln.segs[0].first < ln.next && ln.segs[0].size.Load() > max(256<<10, l.o.MaxBytes/int64(32*len(l.lanes)))
		next := ln.next
		ln.mu.RUnlock()
		if !large || l.delivered(num) < next {
			continue
		}
		cursors, _ := l.cursorsOf(num)
		if err := l.rotate(ln, cursors); err != nil {
			l.o.Log.Debug("begin a segment in place of one that was delivered", "lane", ln.name, "error", err)
			continue
		}
		ln.mu.Lock()
		ln.onDisk = cursors
		ln.mu.Unlock()
		l.saved(num, cursors)
		freed = l.dropDelivered(num) || freed
	}
	return freed
}

// brief is what the file of a segment says of itself. That of a segment being
// written is kept by the committer, that of another read once.
type brief struct {
	mu       sync.Mutex // guards what follows
	known    bool
	from, to int64  // Unix ms of the first and last commit; 0 = none, or not known
	level    uint32 // how often the segment was thinned
	unfit    bool   // thinning it would give nothing, or it cannot be read
}

func (b *brief) know(from, to int64, level uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known, b.from, b.to, b.level = true, from, to, level
}

// extend notes a commit.
func (b *brief) extend(from, to int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.from == 0 {
		b.from = from
	}
	b.to = to
}

// forget has the file read again.
func (b *brief) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known = false
}

// about returns when the first and the last block of the segment were
// committed, Unix ms, and how often it was thinned; zero what cannot be read.
func (s *segment) about() (from, to int64, level uint32) {
	s.brief.mu.Lock()
	if b := &s.brief; b.known {
		defer b.mu.Unlock()
		return b.from, b.to, b.level
	}
	s.brief.mu.Unlock()
	err := s.peek(func(tx *bolt.Tx) error {
		b, m := tx.Bucket([]byte(bucketBlocks)), meta{}
		if b == nil {
			return errDamaged
		}
		if mb := tx.Bucket([]byte(bucketMeta)); mb != nil {
			m.readOptional(mb)
			level = m.thinned
		}
		c := b.Cursor()
		if _, v := c.First(); v != nil {
			from, _, _ = blockTimes(v)
		}
		k, _ := c.Last()
		if first, _, ok := splitKey(k); ok {
			_, to, _ = blockTimes(b.Get(pieceKey(first, 0)))
		}
		return nil
	})
	if err == nil {
		s.brief.know(from, to, level)
	}
	return from, to, level
}

// span returns when the first and the last block of the segment were
// committed, zero when that cannot be read.
func (s *segment) span() (from, to time.Time) {
	a, b, _ := s.about()
	return fromMilli(a), fromMilli(b)
}
