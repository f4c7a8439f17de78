package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// ensureActive makes a new segment when there is none to write to or the
// active one is full.
func (l *Log) ensureActive(ln *lane, cursors map[string]position) error {
	if ln.active != nil && ln.active.size.Load() < l.o.SegmentBytes &&
		ln.next-ln.active.first < maxSegmentRecords-2*batchRecords && !l.ripe(ln.active) {
		return nil
	}
	if err := l.rotate(ln, cursors); err != nil {
		return err
	}
	l.keepReserve()
	return nil
}

// rotate begins a new segment. The old one is closed; readers open it
// read-only. An empty one of the same first seq gives way.
func (l *Log) rotate(ln *lane, cursors map[string]position) error {
	if err := l.atHome(); err != nil {
		return err
	}
	if err := makeDir(ln.dir); err != nil {
		return wrapSpace("make lane directory", err)
	}
	if err := l.inject("create", ln.dir); err != nil {
		return wrapSpace("begin segment", err)
	}
	m := &meta{generation: l.generationOf(ln), origin: ln.origin, mark: ln.mark, first: ln.next, next: ln.next, cursors: cursors, journal: ln.losses(), delivered: ln.head}
	s, err := createSegment(ln.dir, l.o.SegmentBytes, m)
	if err != nil {
		return wrapSpace("begin segment", err)
	}
	s.brief.know(0, 0, 0)
	ln.mu.Lock()
	var old *segment
	if n := len(ln.segs); n > 0 {
		old = ln.segs[n-1]
		if old.first == ln.next {
			ln.segs = ln.segs[:n-1]
		}
	}
	ln.segs = append(ln.segs, s)
	ln.active = s
	ln.mu.Unlock()
	switch {
	case old == nil:
	case old.first == s.first:
		old.end(errMoved)
	default:
		_ = old.close()
	}
	return nil
}

// write stores the round's blocks, the cursors and the journal, and gives back
// pages of records below released while the lane is one segment short.
func (l *Log) write(ln *lane, tx *bolt.Tx, cursors map[string]position, released uint64) error {
	b, m := tx.Bucket([]byte(bucketBlocks)), tx.Bucket([]byte(bucketMeta))
	b.FillPercent = 1 // keys only ascend
	for _, e := range l.c.blocks {
		if err := putPieces(b, e.first, l.c.enc[e.from:e.to]); err != nil {
			return err
		}
	}
	if n := len(l.c.blocks); n > 0 {
		_, end, _ := blockEnd(l.c.enc[l.c.blocks[n-1].from:])
		if err := putNext(m, end); err != nil {
			return err
		}
	}
	for name, p := range cursors {
		if old, ok := ln.onDisk[name]; !ok || old != p || ln.stale {
			if err := putPosition(m, name, p); err != nil {
				return err
			}
		}
	}
	if ln.stale {
		if err := forgetCursors(m, cursors); err != nil {
			return err
		}
		if err := m.Put([]byte(keyJournal), seal(encodeJournal(ln.losses()))); err != nil {
			return err
		}
	}
	if err := putDelivered(m, ln.head); err != nil {
		return err
	}
	if released > 0 {
		return l.recycle(b, released)
	}
	return nil
}

// forgetCursors deletes the stored cursors that are not among cursors.
func forgetCursors(m *bolt.Bucket, cursors map[string]position) error {
	var gone [][]byte
	c := m.Cursor()
	for k, _ := c.Seek([]byte(cursorPrefix)); bytes.HasPrefix(k, []byte(cursorPrefix)); k, _ = c.Next() {
		if _, ok := cursors[string(k[len(cursorPrefix):])]; !ok {
			gone = append(gone, bytes.Clone(k), append([]byte(filterPrefix), k[len(cursorPrefix):]...))
		}
	}
	for _, k := range gone {
		if err := m.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// announce decides up to which seq a commit may give back pages, 0 for none:
// while a lane has one segment, what every cursor has released. With retention
// nothing: it is kept. A cursor that
// is made from now on begins there.
func (l *Log) announce(ln *lane, cursors map[string]position) uint64 {
	if len(l.c.blocks) == 0 || len(cursors) == 0 || ln.segments() != 1 || l.retains() {
		return 0
	}
	l.curMu.Lock()
	defer l.curMu.Unlock()
	low := lowest(cursors)
	num := l.numberOf(ln)
	for _, c := range l.cursors { // also one made since cursors were listed
		c.mu.Lock()
		low = min(low, c.lanes[num].pos.next)
		c.mu.Unlock()
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	low = min(low, ln.next)
	ln.first = max(ln.first, low)
	return low
}

// recycle deletes the pieces of blocks that lie wholly below seq, about twice
// as many as the transaction adds, so that their pages are used again.
func (l *Log) recycle(b *bolt.Bucket, below uint64) error {
	budget := keyBytes * (16 + 2*(len(l.c.enc)/pieceBytes+len(l.c.blocks)))
	l.c.doom = l.c.doom[:0]
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		_, piece, ok := splitKey(k)
		if !ok {
			return fmt.Errorf("%w: key of %d bytes", errDamaged, len(k))
		}
		if piece == 0 { // blocks go whole
			if _, end, ok := blockEnd(v); !ok || end > below || len(l.c.doom) >= budget {
				break
			}
		}
		l.c.doom = append(l.c.doom, k...)
	}
	for d := l.c.doom; len(d) > 0; d = d[keyBytes:] {
		if err := b.Delete(d[:keyBytes]); err != nil {
			return err
		}
	}
	return nil
}

// committed makes the committed records visible to readers.
func (l *Log) committed(ln *lane, num int, end uint64, cursors map[string]position) {
	ln.active.updateSize()
	ln.active.average(len(l.c.enc))
	ln.active.dropPages()
	ln.mu.Lock()
	ln.next = end
	ln.onDisk = cursors
	ln.stale = false
	ln.mu.Unlock()
	l.saved(num, cursors)
	if n := len(l.c.blocks); n > 0 {
		from, to, _ := blockTimes(l.c.enc[l.c.blocks[0].from:])
		if n > 1 {
			_, to, _ = blockTimes(l.c.enc[l.c.blocks[n-1].from:])
		}
		ln.active.brief.extend(from, to)
		l.notifyAll()
	}
}

// commitFailed decides what a failed commit means. A full or read-only disk
// fails before the meta page is written: the segment is as it was. After
// anything else, or when the records are visible all the same, the outcome is
// unknown: the segment is closed and what can be read back counts as queued.
func (l *Log) commitFailed(ln *lane, cause error) error {
	var end uint64
	readBack := func(tx *bolt.Tx) error {
		m, err := readMeta(tx)
		if err == nil {
			end = m.next
		}
		return err
	}
	if gone := l.atHome(); gone != nil { // the outcome shows when it is back
		l.leave(gone)
		return fmt.Errorf("%w (%w)", gone, cause)
	}
	err := ln.active.view(readBack)
	if known := classify(cause); known != nil && err == nil && end == ln.next && ln.active.log != nil {
		return wrapSpace("commit", cause)
	}
	_ = ln.active.close()
	if err := ln.active.view(readBack); err != nil || end < ln.next {
		if dead := l.answers(); dead != nil {
			gone := l.goneError(dead)
			l.leave(gone)
			return fmt.Errorf("%w (%w)", gone, cause)
		}
		end = strideAfter(ln.active.first)
	}
	ln.mu.Lock()
	ln.next = max(ln.next, end)
	ln.active.brief.forget()
	ln.active = nil
	ln.mu.Unlock()
	l.notifyAll()
	return fmt.Errorf("commit with unknown outcome, going on in a new segment: %w", cause)
}

// wrapSpace adds ErrFull or ErrReadOnly to err when that is its cause.
func wrapSpace(what string, err error) error {
	if known := classify(err); known != nil && !errors.Is(err, known) {
		return fmt.Errorf("%s: %w: %w", what, known, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// classify returns ErrFull or ErrReadOnly when that is what err comes from.
// bbolt passes some errors on as text only.
func classify(err error) error {
	if err == nil {
		return nil
	}
	is := func(e syscall.Errno) bool { return errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) }
	switch {
	case errors.Is(err, ErrFull), is(syscall.ENOSPC), is(syscall.EDQUOT):
		return ErrFull
	case errors.Is(err, ErrReadOnly), is(syscall.EROFS):
		return ErrReadOnly
	}
	return nil
}

// isFull says that there is no space left, on the disk or in a budget.
func isFull(err error) bool { return classify(err) == ErrFull }
