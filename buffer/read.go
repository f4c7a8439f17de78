package buffer

import (
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

// Chunk is what one Read returns: consecutive records, or one loss, or what
// thinning left of a run of records together with the loss of the others. It
// may be used again for the next Read, which overwrites what its Records point to.
type Chunk struct {
	First   uint64   // seq that was read at: of Records[0] when they are consecutive
	Records [][]byte // consecutive from First, or of the seqs in Seqs
	Seqs    []uint64 // of Records, when they were thinned; else nil
	Loss    *Loss    // seqs that can no longer be read: instead of Records, or among them

	lim    Limit     // of this Read
	stored []byte    // blocks as stored
	places []encoded // where each begins and ends in stored
	path   string    // of the segment they are in
	follow uint64    // seq at which what follows the last place begins
	next   uint64    // seq after the chunk; 0 = its records and its loss tell
	raw    []byte    // expanded records
}

// Next returns the seq after the chunk.
func (c *Chunk) Next() uint64 {
	if len(c.Records) == 0 && c.Loss != nil {
		return c.Loss.Last + 1
	}
	if c.next == 0 {
		next := c.First + uint64(len(c.Records))
		if c.Loss != nil {
			next += c.Loss.Count()
		}
		return next
	}
	return c.next
}

// Seq returns the seq of Records[i].
func (c *Chunk) Seq(i int) uint64 {
	if c.Seqs != nil {
		return c.Seqs[i]
	}
	return c.First + uint64(i)
}

// reset empties the chunk for a Read with a limit.
func (c *Chunk) reset(lim Limit) {
	c.lim, c.First, c.Records, c.Seqs, c.Loss, c.next = lim, 0, c.Records[:0], nil, nil, 0
	c.stored, c.places, c.raw = c.stored[:0], c.places[:0], c.raw[:0]
}

// Limit bounds a Read. Blocks are read whole, and at least one: only a first
// block that is larger than the limit exceeds it.
type Limit struct {
	Records int // at most so many records
	Bytes   int // and so many bytes, framed
}

// errMoved says that the segment went away while it was read.
var errMoved = errors.New("segment was removed")

// Read fills ch with the next records of a lane and moves the cursor's reading
// place behind them. ch is empty when there are none. What cannot be read is
// returned as a Loss, once, in its place.
func (c *Cursor) Read(lane int, lim Limit, ch *Chunk) error {
	c.mu.Lock()
	pos := c.lanes[lane].read
	c.mu.Unlock()
	if err := c.l.ReadAt(lane, pos, lim, ch); err != nil {
		return err
	}
	if next := ch.Next(); next > pos && (len(ch.Records) > 0 || ch.Loss != nil) {
		c.mu.Lock()
		if c.lanes[lane].read == pos { // else it was rewound meanwhile
			c.lanes[lane].read = next
		}
		c.mu.Unlock()
	}
	return nil
}

// ReadAt fills ch with the records of a lane from seq on, as Read does, for a
// reader that has no cursor: what is stored is not kept for it. What was
// deleted is returned as a Loss. It may run beside any other call.
func (l *Log) ReadAt(lane int, seq uint64, lim Limit, ch *Chunk) error {
	ln := l.lanes[lane]
	for range 8 { // each pass but the last sets one segment aside or finds it gone
		ch.reset(lim)
		err := l.atHome()
		if err == nil {
			err = l.readAt(ln, seq, ch)
		}
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read queue lane %s at %d: %w", ln.name, seq, err)
		}
		return nil
	}
	return fmt.Errorf("read queue lane %s at %d: segments keep going away", ln.name, seq)
}

// readAt reads at pos once.
func (l *Log) readAt(ln *lane, pos uint64, ch *Chunk) error {
	ln.mu.RLock()
	next, first := ln.next, ln.first
	s, end := ln.segmentFor(max(pos, first))
	isLast := len(ln.segs) > 0 && s == ln.segs[len(ln.segs)-1]
	if pos < next && (pos < first || s == nil) {
		loss := findLoss(ln.journal, pos, max(min(first, next), pos+1)-1)
		ln.mu.RUnlock()
		ch.First, ch.Loss = loss.First, &loss
		return nil
	}
	ln.mu.RUnlock()
	if pos >= next {
		return nil
	}
	found, err := l.gather(s, pos, end, ch)
	if err == nil && found == pos {
		err = l.expandChunk(l.scopeOf(ln), pos, end, ch)
	}
	if err == nil && !s.rebuilt && (found > pos || ch.Loss != nil && ch.Loss.Reason == ReasonDamaged) {
		err = s.checkKeys() // a damaged key hides whole blocks
	}
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, errMoved):
		return errMoved
	case isDamage(err):
		return l.readFailed(ln, s, err)
	case err != nil:
		return err
	}
	if !isLast {
		ln.touch(s)
	}
	if found > pos { // nothing at pos: a hole up to the next block or segment
		ln.mu.RLock()
		loss := findLoss(ln.journal, pos, found-1)
		ln.mu.RUnlock()
		if loss.Reason == ReasonUnknown {
			loss.Reason = ReasonDamaged
		}
		ch.First, ch.Loss = pos, &loss
	}
	return nil
}

// readFailed has a segment set aside that cannot be read. The committer does
// it, as every change to the list of segments. It returns errMoved when the
// lane is to be looked at again, or an ErrGone.
func (l *Log) readFailed(ln *lane, s *segment, cause error) error {
	done := make(chan error, 1)
	l.submit(request{lane: l.numberOf(ln), broken: s, err: cause, done: func(err error) { done <- err }})
	if err := <-done; errors.Is(err, ErrGone) {
		return err
	}
	return errMoved
}

// gather copies the stored blocks from the one that holds pos on, but none
// that begins at end or later: those are in the next segment, or in a commit
// that is visible before it is synced. It returns the seq at which the first
// of them begins to matter: pos, or the first seq after it that is there (end
// when there is none).
func (l *Log) gather(s *segment, pos, end uint64, ch *Chunk) (found uint64, err error) {
	found, ch.follow, ch.path = end, end, s.path
	err = s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketBlocks))
		if b == nil {
			return fmt.Errorf("%w: no block bucket", errDamaged)
		}
		c := b.Cursor()
		k, v := seekBlock(b, c, pos)
		records, size, sparse := 0, 0, false
		for k != nil {
			first, piece, ok := splitKey(k)
			if !ok || piece != 0 || len(ch.places) > 0 && first <= ch.places[len(ch.places)-1].first {
				return fmt.Errorf("%w: stray piece of block %d", errDamaged, first)
			}
			if first >= end {
				break
			}
			if len(ch.places) == 0 {
				if found = max(pos, first); found > pos {
					return nil
				}
			}
			if _, blockEnd, ok := blockEnd(v); ok {
				records += int(min(blockEnd-first, maxSegmentRecords))
				size += int(min(rawLength(v), maxRawBlock))
			}
			sparse = sparse || isSparse(v) // comes alone
			if len(ch.places) > 0 && (sparse || records > ch.lim.Records || size > ch.lim.Bytes) {
				ch.follow = first
				break
			}
			if k, v, err = ch.takeBlock(c, first, v); err != nil {
				return err
			}
		}
		return nil
	})
	return found, err
}

// takeBlock copies the pieces of the block at which c stands, v being the
// first, and returns what follows it.
func (ch *Chunk) takeBlock(c *bolt.Cursor, first uint64, v []byte) (k, next []byte, err error) {
	place := encoded{first: first, from: len(ch.stored)}
	for f, ok := first, true; ok && f == first; f, _, ok = splitKey(k) {
		if len(v) > pieceBytes {
			return nil, nil, fmt.Errorf("%w: piece of %d bytes in block %d", errDamaged, len(v), first)
		}
		ch.stored = append(ch.stored, v...)
		k, v = c.Next()
	}
	place.to = len(ch.stored)
	ch.places = append(ch.places, place)
	return k, v, nil
}

// seekBlock moves c to the first piece of the block that holds pos, or of the
// first block after it.
func seekBlock(b *bolt.Bucket, c *bolt.Cursor, pos uint64) (k, v []byte) {
	k, v = c.Seek(pieceKey(pos, 0))
	if first, _, ok := splitKey(k); ok && first == pos {
		return k, v
	}
	var before []byte
	if k == nil {
		before, _ = c.Last()
	} else {
		before, _ = c.Prev()
	}
	if first, _, ok := splitKey(before); ok {
		if _, end, ok := blockEnd(b.Get(pieceKey(first, 0))); ok && end > pos {
			return c.Seek(pieceKey(first, 0))
		}
	}
	return c.Seek(pieceKey(pos, 0))
}

// expandChunk checks and expands the gathered blocks and frames their records
// from pos on, up to end. It stops at the first that is damaged; when that is
// the very first, the chunk becomes a loss up to the next block. A block of a
// newer version is an error.
func (l *Log) expandChunk(of scope, pos, end uint64, ch *Chunk) error {
	at := pos
	ch.First = pos
	for i, p := range ch.places {
		var b block
		var err error
		from := len(ch.raw)
		ch.raw, b, err = l.coder.decode(ch.raw, ch.stored[p.from:p.to], of)
		if err == nil && (b.first != p.first || b.end() <= at) {
			what := errDamaged
			if b.sealed { // it is what was written, but not where
				what = errTampered
			}
			err = fmt.Errorf("%w: block %d under key %d", what, b.first, p.first)
		}
		if err == nil && i == 0 && b.seqs != nil {
			ch.frameSparse(&b, pos, end)
			return nil
		}
		if err != nil || i > 0 && (b.first != at || b.seqs != nil) {
			ch.raw = ch.raw[:from]
			if i > 0 { // the next Read begins there
				break
			}
			if errors.Is(err, ErrNewerFormat) || errors.Is(err, ErrNoKey) {
				return err
			}
			return l.skipBlock(pos, ch, err)
		}
		at = b.end()
	}
	ch.frame(pos, end)
	return nil
}

// skipBlock makes the chunk a loss from pos to the end of its first block.
func (l *Log) skipBlock(pos uint64, ch *Chunk, cause error) error {
	last := ch.follow - 1
	if len(ch.places) > 1 {
		last = ch.places[1].first - 1
	}
	if last < pos {
		return fmt.Errorf("%w: blocks out of order at %d", errDamaged, pos)
	}
	ch.Loss = &Loss{First: pos, Last: last, Reason: ReasonDamaged, Exact: last-pos < blockRecords}
	if errors.Is(cause, errTampered) {
		ch.Loss.Reason = ReasonTampered
	}
	l.o.Log.Error(ch.Loss.Reason+" block in the queue is skipped", "segment", ch.path, "first_seq", pos, "last_seq", last, "error", cause)
	return nil
}

// frame cuts the expanded records of a chunk, leaving out those below pos and
// from end on.
func (c *Chunk) frame(pos, end uint64) {
	seq := c.places[0].first
	for rest := c.raw; len(rest) > 0 && seq < end; seq++ {
		var rec []byte
		rec, rest, _ = nextFramed(rest)
		if seq >= pos {
			c.Records = append(c.Records, rec)
		}
	}
	c.next = seq
}

// frameSparse cuts the records of a thinned block from pos on, up to end, and
// notes the loss of the others.
func (c *Chunk) frameSparse(b *block, pos, end uint64) {
	c.next = min(b.end(), end)
	i := 0
	for rest := b.raw; len(rest) > 0 && b.seqs[i] < end; i++ {
		var rec []byte
		rec, rest, _ = nextFramed(rest)
		if b.seqs[i] >= pos {
			c.Records = append(c.Records, rec)
			c.Seqs = append(c.Seqs, b.seqs[i])
		}
	}
	missing := c.next - pos - uint64(len(c.Records))
	if missing == 0 {
		return
	}
	loss := Loss{First: pos, Last: c.next - 1, From: fromMilli(b.when), To: fromMilli(b.until), Reason: ReasonThinned, Exact: true, Missing: missing}
	for _, s := range c.Seqs { // the first and the last that are missing
		if s == loss.First {
			loss.First++
		}
	}
	for j := len(c.Seqs) - 1; j >= 0 && c.Seqs[j] == loss.Last; j-- {
		loss.Last--
	}
	c.Loss = &loss
}
