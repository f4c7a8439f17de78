package buffer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// retains reports whether delivered segments are kept.
func (l *Log) retains() bool { return l.o.Retain != Retention{} }

// retained returns the size of a lane's segments that are kept only for replay.
func (l *Log) retained(ln *lane) (n int64) {
	if !l.retains() {
		return 0
	}
	below := l.delivered(l.numberOf(ln))
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	for i := 0; i+1 < len(ln.segs) && ln.segs[i+1].first <= below; i++ {
		n += ln.segs[i].size.Load()
	}
	return n
}

// noteDelivered moves the place where a new cursor begins past the segments of
// a lane that are kept for replay.
func (l *Log) noteDelivered(num int) {
	if !l.retains() {
		return
	}
	below := l.delivered(num)
	ln := l.lanes[num]
	ln.mu.Lock()
	defer ln.mu.Unlock()
	for i := 1; i < len(ln.segs) && ln.segs[i].first <= below; i++ {
		ln.head = max(ln.head, ln.segs[i].first)
	}
}

// beginning returns where a new cursor of a lane begins: at the oldest record
// when there is no other, else where no other has released everything. curMu
// and the lane's mu are held.
func (l *Log) beginning(num int) uint64 {
	ln := l.lanes[num]
	if len(ln.onDisk)+len(l.cursors) == 0 {
		return ln.first
	}
	low := lowest(ln.onDisk)
	for _, c := range l.cursors {
		c.mu.Lock()
		low = min(low, c.lanes[num].pos.next)
		c.mu.Unlock()
	}
	return max(ln.first, min(ln.head, low))
}

// lastCommit returns when the last block of the segment was committed; when
// its file does not tell, when that was last written.
func (s *segment) lastCommit() time.Time {
	if _, to, _ := s.about(); to != 0 {
		return fromMilli(to)
	}
	if st, err := os.Stat(s.path); err == nil {
		return st.ModTime()
	}
	return time.Time{}
}

// expired reports whether a delivered segment is older than it is to be kept.
func (l *Log) expired(s *segment) bool {
	return l.o.Retain.For > 0 && l.o.Now().Sub(s.lastCommit()) >= l.o.Retain.For
}

// ripe reports whether a segment being written is to end because of its age,
// so that what is in it can be deleted in time.
func (l *Log) ripe(s *segment) bool {
	from, _, _ := s.about()
	return l.o.Retain.For > 0 && from != 0 && l.o.Now().Sub(fromMilli(from)) >= max(l.o.Retain.For/8, time.Minute)
}

// dropRetained deletes the segment, of these lanes, that was kept for replay
// longest, and returns its size.
func (l *Log) dropRetained(lanes []*lane) int64 {
	if !l.retains() {
		return 0
	}
	var oldest *lane
	var when time.Time
	for _, ln := range slices.Backward(lanes) {
		s, end := ln.head2()
		if s == nil || end > l.delivered(l.numberOf(ln)) {
			continue
		}
		if at := s.lastCommit(); oldest == nil || at.Before(when) {
			oldest, when = ln, at
		}
	}
	if oldest == nil {
		return 0
	}
	s, _ := oldest.head2()
	if !l.dropDelivered(l.numberOf(oldest)) {
		return 0
	}
	return max(s.size.Load(), 1)
}

// trimRetained deletes delivered segments, those kept longest first, until the
// rest takes no more than Retention.Bytes.
func (l *Log) trimRetained() (freed bool) {
	if l.o.Retain.Bytes == 0 {
		return false
	}
	for {
		n := int64(0)
		for _, ln := range l.lanes {
			n += l.retained(ln)
		}
		if n <= l.o.Retain.Bytes || l.dropRetained(l.lanes) == 0 {
			return freed
		}
		freed = true
	}
}

// armAging wakes the committer when the next segment kept for replay is too
// old, and after a minute at most, since the clock may jump.
func (l *Log) armAging() {
	if l.o.Retain.For == 0 {
		return
	}
	wait := time.Duration(-1)
	for num, ln := range l.lanes {
		s, end := ln.head2()
		if s == nil || end > l.delivered(num) {
			continue
		}
		left := l.o.Retain.For - l.o.Now().Sub(s.lastCommit())
		left = min(max(left, time.Second), time.Minute)
		if wait < 0 || left < wait {
			wait = left
		}
	}
	if wait < 0 {
		l.aging.Stop()
		return
	}
	l.aging.Reset(wait)
}

// waited remembers when the block was committed that a lane's last cursor
// waits for, so that Stats reads no file while the cursor does not move.
type waited struct {
	mu         sync.Mutex // guards what follows
	first, end uint64     // where it holds
	when       int64      // Unix ms
}

// oldest returns when the oldest record of a lane that some cursor waits for
// was committed, zero when there is none or it cannot be read.
func (l *Log) oldest(ln *lane) time.Time {
	cursors, _ := l.cursorsOf(l.numberOf(ln))
	low := lowest(cursors)
	ln.mu.RLock()
	if low == noCursor || low >= ln.next {
		ln.mu.RUnlock()
		return time.Time{}
	}
	low = max(low, ln.first)
	s, end := ln.segmentFor(low)
	ln.mu.RUnlock()
	w := &ln.waited
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first <= low && low < w.end {
		return fromMilli(w.when)
	}
	if s == nil {
		return time.Time{}
	}
	found := false
	_ = s.peek(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketBlocks))
		if b == nil {
			return errDamaged
		}
		_, v := seekBlock(b, b.Cursor(), low)
		if _, blockEnd, ok := blockEnd(v); ok && blockEnd <= end {
			w.when, _, found = blockTimes(v)
			w.first, w.end = low, blockEnd
		}
		return nil
	})
	if !found {
		return time.Time{}
	}
	return fromMilli(w.when)
}

// peek is view for a look in passing: a file that was closed is closed again.
func (s *segment) peek(fn func(*bolt.Tx) error) error {
	s.mu.Lock()
	wasOpen := s.db != nil
	s.mu.Unlock()
	err := s.view(fn)
	if !wasOpen {
		_ = s.close()
	}
	return err
}

// SeqAt returns the first seq of a lane whose block was committed at or after
// t: the lane's next when there is none, the oldest that is stored when all
// are later. Where the clock jumped it may be another one, but where the clock
// was monotone none before it is of t or later.
func (l *Log) SeqAt(lane int, t time.Time) (uint64, error) {
	if lane < 0 || lane >= len(l.lanes) {
		return 0, fmt.Errorf("find %s in the queue: no lane %d", t.Format(time.RFC3339), lane)
	}
	ln := l.lanes[lane]
	for range 8 {
		seq, err := ln.seqAt(t.UnixMilli())
		if errors.Is(err, errMoved) || errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("find %s in queue lane %s: %w", t.Format(time.RFC3339), ln.name, err)
		}
		return seq, nil
	}
	return 0, fmt.Errorf("find %s in queue lane %s: segments keep going away", t.Format(time.RFC3339), ln.name)
}

// seqAt searches the segments, then the blocks of one, by halving. A segment
// that cannot be read, or is empty, counts as later: the search goes on before it.
func (ln *lane) seqAt(at int64) (uint64, error) {
	ln.mu.RLock()
	segs, first, next := slices.Clone(ln.segs), ln.first, ln.next
	ln.mu.RUnlock()
	i := sort.Search(len(segs), func(i int) bool {
		from, _, _ := segs[i].about()
		return from == 0 || from >= at
	})
	if i == 0 {
		return first, nil
	}
	end := next
	if i < len(segs) {
		end = segs[i].first
	}
	seq, err := segs[i-1].seqAt(at, end)
	if isDamage(err) {
		return max(segs[i-1].first, first), nil
	}
	return max(seq, first), err
}

// seqAt returns the first seq, below end, of the first block with a seq that
// was committed at at or later, else end.
func (s *segment) seqAt(at int64, end uint64) (seq uint64, err error) {
	err = s.peek(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketBlocks))
		if b == nil {
			return fmt.Errorf("%w: no block bucket", errDamaged)
		}
		low, high := s.first, end
		for low < high {
			mid := low + (high-low)/2
			_, v := seekBlock(b, b.Cursor(), mid)
			first, blockEnd, ok := blockEnd(v)
			_, until, _ := blockTimes(v)
			switch {
			case v == nil || ok && first >= high: // a hole up to high
				high = mid
			case !ok || blockEnd <= mid:
				return fmt.Errorf("%w: block at %d", errDamaged, mid)
			case until >= at && first > low:
				high = first
			case until >= at:
				low, high = first, first
			default:
				low = blockEnd
			}
		}
		seq = min(low, end)
		return nil
	})
	return seq, err
}
