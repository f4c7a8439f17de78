package buffer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// roomSlack is what a commit may add to the files beyond its blocks: the step
// by which bbolt grows a file, a new segment, and pages copied on write.
func (l *Log) roomSlack() int64 { return min(1<<20, l.o.SegmentBytes/4) + 256<<10 }

// errBudget marks an ErrFull that comes from the budget, not from the disk.
var errBudget = errors.New("over the budget")

// makeRoom deletes segments that were set aside, then the oldest segments of
// the lowest lane first, until a commit of n bytes keeps the queue below its
// budget. Nothing is deleted for a commit that would not fit even then.
func (l *Log) makeRoom(n int64) error {
	need := n + n/4 + l.roomSlack()
	total, least := l.reserve.Load(), l.reserve.Load()
	for _, ln := range l.lanes {
		total += ln.bytes()
		ln.mu.RLock()
		if k := len(ln.segs); k > 0 {
			least += ln.segs[k-1].size.Load()
		}
		ln.mu.RUnlock()
	}
	if total+need <= l.o.MaxBytes {
		return nil
	}
	if need+l.reserve.Load() > l.o.MaxBytes {
		return fmt.Errorf("make room for %d bytes in a budget of %d: %w", n, l.o.MaxBytes, ErrRecordTooLarge)
	}
	if least+need > l.o.MaxBytes {
		return fmt.Errorf("make room for %d bytes in a budget of %d: %w: %w", n, l.o.MaxBytes, errBudget, ErrFull)
	}
	for total+need > l.o.MaxBytes {
		freed := l.dropBad()
		if freed == 0 {
			freed = l.evictOne()
		}
		if freed == 0 {
			return fmt.Errorf("make room for %d bytes in a budget of %d: %w: %w", n, l.o.MaxBytes, errBudget, ErrFull)
		}
		total -= freed
	}
	return nil
}

// dropBad deletes the oldest segment that was set aside, of the lowest lane
// first, and returns its size.
func (l *Log) dropBad() int64 {
	for _, ln := range slices.Backward(l.lanes) {
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

// evictOne deletes the oldest segment of the lowest lane that has more than
// one and returns its size.
func (l *Log) evictOne() int64 {
	for _, ln := range slices.Backward(l.lanes) {
		ln.mu.RLock()
		if len(ln.segs) < 2 {
			ln.mu.RUnlock()
			continue
		}
		s, end, start := ln.segs[0], ln.segs[1].first, ln.first
		ln.mu.RUnlock()
		loss := Loss{First: start, Last: end - 1, Reason: ReasonEvicted, Exact: true}
		loss.From, loss.To = s.span()
		freed := max(s.size.Load(), 1)
		l.dropHead(ln, s, end, &loss)
		return freed
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

// reclaim deletes segments that every cursor has released, on disk.
func (l *Log) reclaim() {
	freed := false
	for num, ln := range l.lanes {
		freed = l.dropReleased(ln, l.releasedOnDisk(num)) || freed
	}
	if freed {
		l.keepReserve()
	}
}

// dropReleased deletes the segments of a lane that lie wholly below low, but
// never the newest.
func (l *Log) dropReleased(ln *lane, low uint64) (freed bool) {
	for low != noCursor {
		ln.mu.RLock()
		if len(ln.segs) < 2 || ln.segs[1].first > low {
			ln.mu.RUnlock()
			break
		}
		s, end := ln.segs[0], ln.segs[1].first
		ln.mu.RUnlock()
		l.dropHead(ln, s, end, nil)
		freed = true
	}
	return freed
}

// span returns when the first and the last block of the segment were
// committed, zero when that cannot be read.
func (s *segment) span() (from, to time.Time) {
	_ = s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketBlocks))
		if b == nil {
			return nil
		}
		c := b.Cursor()
		if _, v := c.First(); len(v) >= blockHeader {
			from = blockTime(v)
		}
		k, _ := c.Last()
		if first, _, ok := splitKey(k); ok {
			if v := b.Get(pieceKey(first, 0)); len(v) >= blockHeader {
				to = blockTime(v)
			}
		}
		return nil
	})
	return from, to
}
