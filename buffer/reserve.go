package buffer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The reserve is a file of really written bytes, deleted when the disk is full
// to make room for a new segment of a lane whose records were all released:
// the old segment can then be deleted, and the queue takes records again
// without help.
const (
	reserveName  = "reserve"
	reserveBytes = 256 << 10
)

func (l *Log) reservePath() string { return filepath.Join(l.o.Dir, reserveName) }

// findReserve notes the reserve of an earlier run.
func (l *Log) findReserve() {
	if st, err := os.Stat(l.reservePath()); err == nil {
		l.reserve.Store(st.Size())
	}
}

// keepReserve makes the reserve when it is missing and the budget has room.
// When that fails it is tried again at the next new or deleted segment.
func (l *Log) keepReserve() {
	total := l.total(l.budgets[0]) - l.reserve.Load()
	if l.reserve.Load() == reserveBytes || total+reserveBytes+2*int64(len(l.c.enc))+l.roomSlack() > l.o.MaxBytes {
		return
	}
	if l.atHome() != nil {
		return
	}
	if err := l.writeReserve(); err != nil {
		l.reserve.Store(0)
		_ = os.Remove(l.reservePath())
		l.o.Log.Debug("make the reserve of the queue", "error", err)
	}
}

// writeReserve writes bytes that no file system makes smaller.
func (l *Log) writeReserve() error {
	if err := l.inject("reserve", l.reservePath()); err != nil {
		return err
	}
	f, err := os.OpenFile(l.reservePath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	l.reserve.Store(reserveBytes)
	p := make([]byte, 64<<10)
	for n := 0; n < reserveBytes; n += len(p) {
		_, _ = rand.Read(p)
		if _, err := f.Write(p); err != nil {
			return errors.Join(fmt.Errorf("write reserve: %w", err), f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// dropReserve deletes the reserve.
func (l *Log) dropReserve() {
	_ = os.Remove(l.reservePath())
	l.reserve.Store(0)
}

// relieve makes space on a full disk, or in a budget whose policy deletes
// nothing: it deletes the segment that was kept for replay longest, or when
// there is none, in every lane that has segments which
// all cursors released in memory, it deletes the reserve, begins a segment
// that carries the cursors, and deletes the released ones. Without space even
// for that it deletes them all the same: a crash then reports records as lost
// that were delivered. It reports whether it deleted anything.
func (l *Log) relieve() bool {
	if l.dropRetained(l.lanes) > 0 {
		return true
	}
	freed := false
	for num, ln := range l.lanes {
		cursors, _ := l.cursorsOf(num)
		low := lowest(cursors)
		if !ln.droppable(low) {
			continue
		}
		l.dropReserve()
		err := l.rotate(ln, cursors)
		if err != nil {
			l.o.Log.Warn("write cursors on a full disk", "lane", ln.name, "error", err)
		}
		freed = l.dropReleased(ln, low) || freed
	}
	if freed {
		l.keepReserve()
	}
	return freed
}

// droppable reports whether segments of the lane lie wholly below low, when
// need be after a new one is begun.
func (ln *lane) droppable(low uint64) bool {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	n := len(ln.segs)
	if n == 0 || low == noCursor {
		return false
	}
	return n > 1 && ln.segs[1].first <= low || low >= ln.next && ln.segs[n-1].first < ln.next
}
