package buffer

import (
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Bounds of one commit.
const (
	commitBytes  = 4 << 20   // framed bytes taken into one round, at most
	batchRecords = 64 << 10  // records of one batch, and after which a round takes no further batch
	blockBytes   = 128 << 10 // framed bytes after which a block is closed
	blockRecords = 2048      // records after which a block is closed
)

// committer is the state of the one goroutine that writes.
type committer struct {
	roundBytes int       // framed bytes taken into one round
	reqs       []request // of this round
	again      bool      // the round is tried again, in the lanes that failed
	results    []result  // per lane
	refused    []error   // per lane: a budget had no room for its records, and has none since
	raw        []byte    // framed records of the block being built
	enc        []byte    // encoded blocks of a transaction
	blocks     []encoded // their places in enc
	doom       []byte    // keys to delete, keyBytes each
}

// encoded is one block in committer.enc.
type encoded struct {
	first    uint64
	from, to int
}

// run commits what waits when it is due (see pace), until Close.
func (l *Log) run() {
	defer close(l.finished)
	defer l.closeFiles()
	defer l.abandonThin()
	defer l.aging.Stop()
	defer l.timer.Stop()
	for {
		select {
		case <-l.wake:
			if l.ready() {
				l.round(false)
			} else if l.chores.Swap(false) && l.atHome() == nil {
				l.takeThinned()
				l.tend(false)
			}
		case <-l.quit:
			for l.round(true) || !l.last() {
			}
			return
		}
	}
}

// last reports whether nothing is pending, and if so that nothing will be.
func (l *Log) last() bool {
	l.pendMu.Lock()
	defer l.pendMu.Unlock()
	l.ended = len(l.pending) == 0
	return l.ended
}

// round commits what waits, up to roundBytes, and answers it in order. It
// reports whether more is waiting.
func (l *Log) round(closing bool) bool {
	more := l.take()
	save := l.saveDue.Swap(false) || closing
	wrote, err := l.attempt(save)
	if wrote && err == nil || err != nil && !errors.Is(err, ErrRecordTooLarge) {
		l.fail(l.stillRefused(err))
	}
	if err != nil && !closing {
		l.arm() // tries to write the cursors again, also when nobody appends
	}
	for _, r := range l.c.reqs {
		switch {
		case r.err != nil:
			r.done(r.err)
		case r.batch == nil:
			r.done(err)
		default:
			r.done(l.c.results[r.lane].err)
		}
	}
	clear(l.c.reqs)
	if err == nil {
		l.disarm()
	}
	if !errors.Is(err, ErrGone) {
		l.tend(closing)
		l.fillAhead()
	}
	if more {
		l.kick()
	}
	return more
}

// attempt does what the round asks for.
func (l *Log) attempt(save bool) (wrote bool, err error) {
	gone := l.stayHome()
	for i := range l.c.reqs {
		if err := l.prepare(&l.c.reqs[i], gone); err != nil {
			gone = err
			l.leave(gone)
		}
	}
	if gone != nil {
		return false, l.refuse(gone)
	}
	l.takeThinned()
	wrote, err = l.commitLanes(save)
	for isFull(err) && l.atHome() == nil && l.relieve() {
		wrote, err = l.commitLanes(save)
	}
	l.noteRefused()
	return wrote, err
}

// tend deletes what is not needed any more and looks at the budgets.
func (l *Log) tend(closing bool) {
	l.reclaim()
	l.watchBudgets(closing)
}

// prepare does what a request asks for besides a commit, gone being why it may
// not touch the directory. It returns an ErrGone when it finds that out.
func (l *Log) prepare(r *request, gone error) error {
	switch {
	case r.broken != nil && gone != nil:
		r.err = gone
	case r.broken != nil:
		if dead := l.answers(); dead != nil {
			r.err = l.goneError(dead)
			return r.err
		}
		ln := l.lanes[r.lane]
		ln.mu.Lock()
		_, end := ln.segmentFor(r.broken.first)
		known := slices.Contains(ln.segs, r.broken)
		if ln.active == r.broken {
			ln.active = nil
		}
		ln.mu.Unlock()
		if known { // else another reader was first
			l.setAside(ln, r.broken, end, r.err)
		}
	case r.keep != nil:
		*r.gone = l.forget(r.keep)
	}
	return nil
}

// result is what a round did in one lane.
type result struct {
	err   error
	wrote bool
}

// commitLanes commits the round in every lane that has not been in an earlier try.
func (l *Log) commitLanes(save bool) (wrote bool, err error) {
	if len(l.c.results) != len(l.lanes) {
		l.c.results = make([]result, len(l.lanes))
	}
	for i, ln := range l.lanes {
		n, force := 0, save
		for _, r := range l.c.reqs {
			if r.batch == nil {
				force = true
			} else if r.lane == i && r.err == nil {
				n += r.batch.n
			}
		}
		res := l.c.results[i]
		if !l.c.again || res.err != nil {
			res.wrote, res.err = l.commitLane(i, n, force)
			l.c.results[i] = res
		}
		if res.err != nil {
			err = errors.Join(err, fmt.Errorf("lane %s: %w", ln.name, res.err))
		}
		wrote = wrote || res.wrote
	}
	l.c.again = isFull(err)
	return wrote, err
}

// take moves pending requests of up to roundBytes into the round.
func (l *Log) take() (more bool) {
	l.pendMu.Lock()
	defer l.pendMu.Unlock()
	l.c.again = false
	size, records, n := 0, 0, 0
	for _, r := range l.pending {
		if b := r.batch; b != nil {
			if n > 0 && (size+len(b.buf) > l.c.roundBytes || records >= batchRecords) {
				break // a batch beyond roundBytes gets a round of its own
			}
			size += len(b.buf)
			records += b.n
		}
		n++
	}
	l.c.reqs = append(l.c.reqs[:0], l.pending[:n]...)
	left := copy(l.pending, l.pending[n:])
	clear(l.pending[left:])
	l.pending = l.pending[:left]
	l.pace.taken(left > 0)
	return left > 0
}

// commitLane writes the round's n records of a lane, and the cursors with
// them; without records it writes the cursors when force is set and they
// changed. It reports whether it wrote.
func (l *Log) commitLane(num, n int, force bool) (bool, error) {
	ln := l.lanes[num]
	cursors, changed := l.cursorsOf(num)
	if n == 0 && !(force && changed) {
		return false, nil
	}
	end, payload, err := l.encodeLane(num)
	if err != nil {
		return false, err
	}
	if err := l.makeRoom(ln, int64(len(l.c.enc))); err != nil {
		return false, err
	}
	if err := l.ensureActive(ln, cursors); err != nil {
		return false, err
	}
	released := l.announce(ln, cursors)
	err = l.inject("commit", ln.active.path)
	if err == nil {
		ln.active.db.AllocSize = ln.active.step()
		var took time.Duration
		took, err = ln.active.update(func(tx *bolt.Tx) error { return l.write(ln, tx, cursors, released) })
		l.times.add(took)
	}
	if err == nil {
		err = l.inject("sync", ln.active.path)
	}
	if err != nil {
		return false, l.commitFailed(ln, err)
	}
	l.committed(ln, num, end, cursors)
	l.counts.commits.Add(1)
	l.counts.records.Add(int64(n))
	l.counts.payload.Add(int64(payload))
	l.counts.stored.Add(int64(len(l.c.enc)))
	if cap(l.c.enc) > 8<<20 { // after one huge record
		l.c.enc, l.c.raw = nil, nil
	}
	return true, nil
}

// encodeLane builds the blocks for the round's records of a lane and returns
// the seq after the last of them.
func (l *Log) encodeLane(num int) (end uint64, payload int, err error) {
	c := &l.c
	c.enc, c.blocks, c.raw = c.enc[:0], c.blocks[:0], c.raw[:0]
	end = l.lanes[num].next
	of := l.scopeOf(l.lanes[num])
	count := 0
	flush := func() error {
		if count == 0 {
			return nil
		}
		from := len(c.enc)
		c.enc, err = l.coder.encode(c.enc, of, block{first: end, count: count, span: uint64(count), when: l.o.Now().UnixMilli(), raw: c.raw})
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
	err = flush()
	return end, payload, err
}
