package buffer

import (
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

// Chunk is what one Read returns: consecutive records, or one loss. It may be
// used again for the next Read, which overwrites what its Records point to.
type Chunk struct {
	First   uint64   // seq of Records[0], or of the loss
	Records [][]byte // consecutive from First
	Loss    *Loss    // set instead of Records when the next seqs can no longer be read

	stored []byte    // blocks as stored
	places []encoded // where each begins and ends in stored
	follow uint64    // seq at which what follows the last place begins
	raw    []byte    // expanded records
}

// Next returns the seq after the chunk.
func (c *Chunk) Next() uint64 {
	if c.Loss != nil {
		return c.Loss.Last + 1
	}
	return c.First + uint64(len(c.Records))
}

// Limit bounds a Read. Whole blocks are read: a chunk may exceed the limit by
// one block.
type Limit struct {
	Records int // stop once so many records were read
	Bytes   int // or so many bytes, framed
}

// errMoved says that the segment went away while it was read.
var errMoved = errors.New("segment was removed")

// Read fills ch with the next records of a lane and moves the cursor's reading
// place behind them. ch is empty when there are none. What cannot be read is
// returned as a Loss, once, in its place.
func (c *Cursor) Read(lane int, lim Limit, ch *Chunk) error {
	ch.First, ch.Records, ch.Loss = 0, ch.Records[:0], nil
	ch.stored, ch.places, ch.raw = ch.stored[:0], ch.places[:0], ch.raw[:0]
	c.mu.Lock()
	pos := c.lanes[lane].read
	c.mu.Unlock()
	ln := c.l.lanes[lane]
	for range 8 { // each pass but the last sets one segment aside or finds it gone
		err := c.l.readAt(ln, pos, lim, ch)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read queue lane %s at %d: %w", ln.name, pos, err)
		}
		if next := ch.Next(); next > pos && (len(ch.Records) > 0 || ch.Loss != nil) {
			c.mu.Lock()
			c.lanes[lane].read = next
			c.mu.Unlock()
		}
		return nil
	}
	return fmt.Errorf("read queue lane %s at %d: segments keep going away", ln.name, pos)
}

// readAt reads at pos once.
func (l *Log) readAt(ln *lane, pos uint64, lim Limit, ch *Chunk) error {
	ln.mu.RLock()
	next, first := ln.next, ln.first
	s, end := ln.segmentFor(max(pos, first))
	isLast := len(ln.segs) > 0 && s == ln.segs[len(ln.segs)-1]
	if pos < next && (pos < first || s == nil) {
		loss := findLoss(ln.journal, pos, min(first, next)-1)
		ln.mu.RUnlock()
		ch.First, ch.Loss = loss.First, &loss
		return nil
	}
	ln.mu.RUnlock()
	if pos >= next {
		return nil
	}
	found, err := l.gather(s, pos, end, lim, ch)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errMoved
	case err != nil && (errors.Is(err, ErrNewerFormat) || classify(err) != nil || errors.Is(err, bolt.ErrTimeout)):
		return err
	case err != nil:
		l.readFailed(ln, s, err)
		return errMoved
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
		return nil
	}
	l.expandChunk(pos, ch)
	return nil
}

// readFailed sets a segment aside that cannot be read. The active one is first
// taken from the committer; it goes at the next try.
func (l *Log) readFailed(ln *lane, s *segment, cause error) {
	ln.mu.Lock()
	active := ln.active == s
	if active {
		ln.retire = true
	} else {
		_, end := ln.segmentFor(s.first)
		l.setAside(ln, s, end, cause)
	}
	ln.mu.Unlock()
	if active {
		done := make(chan struct{})
		l.submit(request{done: func(error) { close(done) }})
		<-done
		return
	}
	l.saveDue.Store(true) // a newest segment carried the cursors: write them again
	l.kick()
}

// gather copies the stored blocks from the one that holds pos on. It returns
// the seq at which the first of them begins to matter: pos, or the first seq
// after it that is there (end when there is none).
func (l *Log) gather(s *segment, pos, end uint64, lim Limit, ch *Chunk) (found uint64, err error) {
	found, ch.follow = end, end
	err = s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketBlocks))
		if b == nil {
			return fmt.Errorf("%w: no block bucket", errDamaged)
		}
		c := b.Cursor()
		k, v := seekBlock(b, c, pos)
		records, size := 0, 0
		for k != nil {
			first, piece, ok := splitKey(k)
			if !ok || piece != 0 {
				return fmt.Errorf("%w: stray piece of block %d", errDamaged, first)
			}
			if len(ch.places) == 0 {
				found = max(pos, first)
			} else if records >= lim.Records || size >= lim.Bytes {
				ch.follow = first
				break
			}
			place := encoded{first: first, from: len(ch.stored)}
			if _, blockEnd, ok := blockEnd(v); ok {
				records += int(blockEnd - first)
				size += int(rawLength(v))
			}
			for k != nil {
				f, _, ok := splitKey(k)
				if !ok || f != first {
					break
				}
				ch.stored = append(ch.stored, v...)
				k, v = c.Next()
			}
			place.to = len(ch.stored)
			ch.places = append(ch.places, place)
		}
		return nil
	})
	return found, err
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
// from pos on. It stops at the first that is damaged; when that is the very
// first, the chunk becomes a loss up to the next block.
func (l *Log) expandChunk(pos uint64, ch *Chunk) {
	at := pos
	ch.First = pos
	for i, p := range ch.places {
		var b block
		var err error
		from := len(ch.raw)
		ch.raw, b, err = l.coder.decode(ch.raw, ch.stored[p.from:p.to])
		if err == nil && (b.first != p.first || b.first+uint64(b.count) <= at) {
			err = fmt.Errorf("%w: block %d under key %d", errDamaged, b.first, p.first)
		}
		if err != nil || b.first > at {
			if i == 0 {
				last := ch.follow - 1
				if len(ch.places) > 1 {
					last = ch.places[1].first - 1
				}
				ch.Loss = &Loss{First: pos, Last: last, Reason: ReasonDamaged, Exact: true}
				l.o.Log.Error("damaged block in the queue is skipped", "first_seq", pos, "last_seq", last, "error", err)
			}
			ch.raw = ch.raw[:from]
			break
		}
		at = b.first + uint64(b.count)
	}
	l.frame(pos, ch)
}

// frame cuts the expanded records of a chunk, leaving out those below pos.
func (l *Log) frame(pos uint64, ch *Chunk) {
	if ch.Loss != nil {
		return
	}
	seq := ch.places[0].first
	for rest := ch.raw; len(rest) > 0; seq++ {
		var rec []byte
		rec, rest, _ = nextFramed(rest)
		if seq >= pos {
			ch.Records = append(ch.Records, rec)
		}
	}
}
