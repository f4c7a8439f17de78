package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

// Bounds of one commit.
const (
	commitBytes  = 4 << 20   // framed bytes taken into one round
	batchRecords = 64 << 10  // records of one batch, and after which a round takes no further batch
	blockBytes   = 128 << 10 // framed bytes after which a block is closed
	blockRecords = 2048      // records after which a block is closed
)

// committer is the state of the one goroutine that writes.
type committer struct {
	reqs    []request // of this round
	results []error   // per lane
	raw     []byte    // framed records of the block being built
	enc     []byte    // encoded blocks of a transaction
	blocks  []encoded // their places in enc
	doom    [][]byte  // keys to delete
}

// encoded is one block in committer.enc.
type encoded struct {
	first    uint64
	from, to int
}

// run commits whatever waits as soon as the commit before is done, with no
// delay of its own, until Close.
func (l *Log) run() {
	defer close(l.finished)
	defer l.closeFiles()
	defer l.timer.Stop()
	for {
		select {
		case <-l.wake:
			l.round(false)
		case <-l.quit:
			for l.round(true) {
			}
			return
		}
	}
}

// round commits what waits, up to commitBytes, and answers it in order. It
// reports whether more is waiting.
func (l *Log) round(closing bool) bool {
	more := l.take()
	l.saveDue.Store(l.saveDue.Load() || closing)
	save := l.saveDue.Swap(false)
	l.c.results = l.c.results[:0]
	var firstErr error
	wrote := false
	for i, ln := range l.lanes {
		n, force := 0, save
		for _, r := range l.c.reqs {
			if r.batch == nil {
				force = true
			} else if r.lane == i && r.err == nil {
				n += r.batch.n
			}
		}
		err := l.commitLane(i, n, force)
		l.c.results = append(l.c.results, err)
		if err != nil {
			firstErr = errors.Join(firstErr, fmt.Errorf("lane %s: %w", ln.name, err))
		}
		wrote = wrote || n > 0
	}
	if wrote || firstErr != nil {
		l.fail(firstErr)
	}
	for _, r := range l.c.reqs {
		switch {
		case r.err != nil:
			r.done(r.err)
		case r.batch == nil:
			r.done(firstErr)
		default:
			r.done(l.c.results[r.lane])
		}
	}
	clear(l.c.reqs)
	l.reclaim()
	if more {
		l.kick()
	}
	return more
}

// take moves pending requests of up to commitBytes into the round.
func (l *Log) take() (more bool) {
	l.pendMu.Lock()
	defer l.pendMu.Unlock()
	size, records, n := 0, 0, 0
	for n < len(l.pending) && (n == 0 || size < commitBytes && records < batchRecords) {
		if b := l.pending[n].batch; b != nil {
			size += len(b.buf)
			records += b.n
		}
		n++
	}
	l.c.reqs = append(l.c.reqs[:0], l.pending[:n]...)
	left := copy(l.pending, l.pending[n:])
	clear(l.pending[left:])
	l.pending = l.pending[:left]
	return left > 0
}

// commitLane writes the round's n records of a lane, and the cursors with
// them; without records it writes the cursors when force is set and they
// changed.
func (l *Log) commitLane(num, n int, force bool) error {
	ln := l.lanes[num]
	cursors, changed := l.cursorsOf(num)
	journal, lossy := ln.losses()
	if n == 0 && (!force || !(changed || lossy)) {
		return nil
	}
	end, payload, err := l.encodeLane(num)
	if err != nil {
		return err
	}
	if err := l.makeRoom(int64(len(l.c.enc))); err != nil {
		return err
	}
	if err := l.ensureActive(ln, cursors, journal); err != nil {
		return err
	}
	err = guard(func() error {
		return ln.active.db.Update(func(tx *bolt.Tx) error { return l.write(ln, tx, cursors, journal) })
	})
	if err != nil {
		return l.commitFailed(ln, err)
	}
	l.committed(ln, num, end, cursors)
	l.counts.commits.Add(1)
	l.counts.records.Add(int64(n))
	l.counts.payload.Add(int64(payload))
	l.counts.stored.Add(int64(len(l.c.enc)))
	return nil
}

// encodeLane builds the blocks for the round's records of a lane and returns
// the seq after the last of them.
func (l *Log) encodeLane(num int) (end uint64, payload int, err error) {
	c := &l.c
	c.enc, c.blocks, c.raw = c.enc[:0], c.blocks[:0], c.raw[:0]
	end = l.lanes[num].next
	count := 0
	flush := func() error {
		if count == 0 {
			return nil
		}
		from := len(c.enc)
		c.enc, err = l.coder.encode(c.enc, block{first: end, count: count, when: l.o.Now().UnixMilli(), raw: c.raw})
		if err != nil {
			return err
		}
		c.blocks = append(c.blocks, encoded{first: end, from: from, to: len(c.enc)})
		end += uint64(count)
		payload += len(c.raw)
		c.raw, count = c.raw[:0], 0
		return nil
	}
	for _, r := range c.reqs {
		if r.batch == nil || r.err != nil || r.lane != num {
			continue
		}
		for rest := r.batch.buf; len(rest) > 0; {
			_, after, ok := nextFramed(rest)
			if !ok {
				return end, payload, fmt.Errorf("append: batch is not framed")
			}
			n := len(rest) - len(after)
			if count > 0 && (len(c.raw)+n > blockBytes || count >= blockRecords) {
				if err := flush(); err != nil {
					return end, payload, err
				}
			}
			c.raw = append(c.raw, rest[:n]...)
			rest = after
			count++
		}
	}
	return end, payload, flush()
}

// ensureActive makes a new segment when there is none to write to or the
// active one is full. The old one is closed; readers open it read-only.
func (l *Log) ensureActive(ln *lane, cursors map[string]position, journal []Loss) error {
	if ln.active != nil && ln.active.size.Load() < l.o.SegmentBytes &&
		ln.next-ln.active.first < maxSegmentRecords-2*batchRecords {
		return nil
	}
	m := &meta{generation: l.generation, first: ln.next, cursors: cursors, journal: journal}
	if err := os.MkdirAll(ln.dir, 0o700); err != nil {
		return wrapSpace("make lane directory", err)
	}
	ln.mu.RLock()
	last := len(ln.segs) - 1
	replaced := last >= 0 && ln.segs[last].first == ln.next
	ln.mu.RUnlock()
	if replaced { // an empty segment of an earlier run gives way; close it before its file goes
		_ = ln.segs[last].close()
	}
	s, err := createSegment(ln.dir, l.o.SegmentBytes, m)
	if err != nil {
		return wrapSpace("begin segment", err)
	}
	ln.mu.Lock()
	if replaced {
		ln.segs = ln.segs[:last]
	}
	ln.segs = append(ln.segs, s)
	old := ln.active
	ln.active = s
	ln.mu.Unlock()
	if old != nil {
		_ = old.close()
	}
	return nil
}

// write stores the round's blocks, the cursors and the journal, and gives back
// pages of records that every cursor has released while the lane is one
// segment short.
func (l *Log) write(ln *lane, tx *bolt.Tx, cursors map[string]position, journal []Loss) error {
	b, m := tx.Bucket([]byte(bucketBlocks)), tx.Bucket([]byte(bucketMeta))
	b.FillPercent = 1 // keys only ascend
	for _, e := range l.c.blocks {
		if err := putPieces(b, e.first, l.c.enc[e.from:e.to]); err != nil {
			return err
		}
	}
	for name, p := range cursors {
		if old, ok := ln.onDisk[name]; !ok || old != p {
			if err := m.Put([]byte(cursorPrefix+name), encodePosition(p)); err != nil {
				return err
			}
		}
	}
	if err := forgetCursors(m, cursors); err != nil {
		return err
	}
	if err := m.Put([]byte(keyJournal), encodeJournal(journal)); err != nil {
		return err
	}
	if ln.segments() == 1 && len(l.c.blocks) > 0 && len(cursors) > 0 {
		return l.recycle(b, lowest(cursors))
	}
	return nil
}

// forgetCursors deletes the stored cursors that are not among cursors.
func forgetCursors(m *bolt.Bucket, cursors map[string]position) error {
	c := m.Cursor()
	for k, _ := c.Seek([]byte(cursorPrefix)); bytes.HasPrefix(k, []byte(cursorPrefix)); k, _ = c.Next() {
		if _, ok := cursors[string(k[len(cursorPrefix):])]; !ok {
			return m.Delete(bytes.Clone(k)) // the others go with later commits
		}
	}
	return nil
}

// recycle deletes the pieces of blocks that lie wholly below seq, about twice
// as many as the transaction adds, so that their pages are used again.
func (l *Log) recycle(b *bolt.Bucket, below uint64) error {
	budget := 16 + 2*(len(l.c.enc)/pieceBytes+len(l.c.blocks))
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
		l.c.doom = append(l.c.doom, bytes.Clone(k))
	}
	for _, k := range l.c.doom {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// committed makes the committed records visible to readers.
func (l *Log) committed(ln *lane, num int, end uint64, cursors map[string]position) {
	ln.active.updateSize()
	ln.mu.Lock()
	ln.next = end
	ln.onDisk = cursors
	ln.lossy = false
	ln.mu.Unlock()
	l.saved(num, cursors)
	if len(l.c.blocks) > 0 {
		l.notifyAll()
	}
}

// commitFailed decides what a failed commit means. A full or read-only disk
// fails before the meta page is written: the segment is as it was. After
// anything else, or when the records are visible all the same, the outcome is
// unknown: the segment is closed and what can be read back counts as queued.
func (l *Log) commitFailed(ln *lane, cause error) error {
	end, ok := ln.next, false
	err := ln.active.view(func(tx *bolt.Tx) (err error) {
		end, ok, err = lastEnd(tx)
		return err
	})
	if known := classify(cause); known != nil && err == nil && (!ok || end <= ln.next) {
		return wrapSpace("commit", cause)
	}
	_ = ln.active.close()
	if err := ln.active.view(func(tx *bolt.Tx) (err error) {
		end, ok, err = lastEnd(tx)
		return err
	}); err != nil {
		end, ok = strideAfter(ln.active.first), true
	}
	ln.mu.Lock()
	if ok && end > ln.next {
		ln.next = end
	}
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
