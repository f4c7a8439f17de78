package buffer

import (
	"errors"
	"fmt"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// roomSlack is what a commit may add to the files beyond its blocks: the step
// by which bbolt grows a file, a new segment, and pages copied on write.
func (l *Log) roomSlack() int64 { return min(1<<20, l.o.SegmentBytes/4) + 256<<10 }

// makeRoom deletes the oldest segments, of the lowest lane first, until a
// commit of n bytes keeps the queue below its budget.
func (l *Log) makeRoom(n int64) error {
	for {
		total := int64(0)
		for _, ln := range l.lanes {
			total += ln.bytes()
		}
		if total+2*n+l.roomSlack() <= l.o.MaxBytes {
			return nil
		}
		if !l.evictOne() {
			return fmt.Errorf("make room for %d bytes in a budget of %d: %w", n, l.o.MaxBytes, ErrFull)
		}
	}
}

// evictOne deletes the oldest segment of the lowest lane that has more than one.
func (l *Log) evictOne() bool {
	for i := len(l.lanes) - 1; i >= 0; i-- {
		ln := l.lanes[i]
		ln.mu.RLock()
		n := len(ln.segs)
		ln.mu.RUnlock()
		if n < 2 {
			continue
		}
		ln.mu.RLock()
		s, end := ln.segs[0], ln.segs[1].first
		start := ln.first
		ln.mu.RUnlock()
		loss := Loss{First: start, Last: end - 1, Reason: ReasonEvicted, Exact: true}
		loss.From, loss.To = s.span()
		l.dropHead(ln, s, end, &loss)
		return true
	}
	return false
}

// dropHead deletes the first segment of a lane. loss is nil when all of it was
// released.
func (l *Log) dropHead(ln *lane, s *segment, end uint64, loss *Loss) {
	l.curMu.RLock()
	unread := len(l.cursors) == 0
	for _, c := range l.cursors {
		c.mu.Lock()
		unread = unread || c.lanes[l.numberOf(ln)].pos.next < end
		c.mu.Unlock()
	}
	l.curMu.RUnlock()
	ln.mu.Lock()
	ln.segs = append(ln.segs[:0], ln.segs[1:]...)
	ln.first = end
	if loss != nil && unread && loss.Last >= loss.First {
		ln.journal = addLoss(ln.journal, *loss)
		ln.lossy = true
	}
	ln.mu.Unlock()
	_ = s.close()
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		l.o.Log.Error("delete segment", "segment", s.path, "error", err)
	}
	if loss != nil && unread {
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

// reclaim deletes segments that every cursor has released, on disk; on a full
// disk, where the cursors cannot be written, those released in memory, since
// deleting is what makes room to write the cursors.
func (l *Log) reclaim() {
	l.stateMu.Lock()
	full := l.state != nil
	l.stateMu.Unlock()
	for num, ln := range l.lanes {
		l.retireDamaged(ln)
		low := l.releasedOnDisk(num)
		if full {
			released, _ := l.cursorsOf(num)
			low = lowest(released)
		}
		for low != noCursor {
			ln.mu.RLock()
			ok := len(ln.segs) > 1 && ln.segs[1].first <= low
			var s *segment
			var end uint64
			if ok {
				s, end = ln.segs[0], ln.segs[1].first
			}
			ln.mu.RUnlock()
			if !ok {
				break
			}
			l.dropHead(ln, s, end, nil)
		}
	}
}

// retireDamaged stops writing to an active segment that a reader found
// damaged; the reader then sets it aside as any other.
func (l *Log) retireDamaged(ln *lane) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if !ln.retire {
		return
	}
	ln.retire = false
	if ln.active != nil {
		_ = ln.active.close()
		ln.active = nil
	}
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
