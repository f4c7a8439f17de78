package buffer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// maxRereads is how often a place of a segment that is being written is read
// again before it counts as damaged. Each time a newer commit must have come
// and overwritten just what was being read.
const maxRereads = 64

// blockReader reads the blocks of one segment in order, without bbolt and
// without a lock. What does not fit the state it was read from is read again
// from a newer one, if there is one, before it is called damaged.
type blockReader struct {
	k     *coder
	f     *os.File
	t     *pageTree
	m     *meta // nil when it cannot be read
	metaE error // why
	w     *walker
	pos   uint64 // seq to be read next
	end   uint64 // what is here and beyond is not read
	low   uint64 // below it every cursor of the lane has released, as far as is known
	tries int    // since pos last moved
	cause error  // of what is missing at pos
	stuck error  // why the walker stands nowhere
	held  found  // a block behind a hole, to be returned next
	key   []byte // read ahead: first piece of the next block
	val   []byte
	buf   []byte
}

// found is a whole block whose checksum is right, or seqs that cannot be read.
type found struct {
	first, end uint64
	block      []byte // as stored; valid until the next call
	err        error  // instead of block
}

// errMissing says that no block holds some seqs.
var errMissing = errors.New("no block holds them")

// openBlocks opens a segment to be read from seq pos up to end; 0 = up to what
// its newest commit says.
func openBlocks(k *coder, path string, pos, end uint64) (*blockReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := &blockReader{k: k, f: f, pos: pos, end: end}
	if r.t, err = newestTree(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	for r.readMeta(); r.metaE != nil && r.newer(); r.readMeta() {
	}
	if end == 0 && r.m != nil {
		r.end = r.m.next
	}
	r.place()
	return r, nil
}

func (r *blockReader) close() { _ = r.f.Close() }

// readMeta reads the meta bucket of the state.
func (r *blockReader) readMeta() {
	var v *values
	r.m = nil
	if v, r.metaE = r.t.values(bucketMeta); r.metaE == nil {
		r.m, r.metaE = readMetaFrom(v)
		if r.metaE == nil && len(r.m.damaged) > 0 && v.err != nil {
			r.metaE = v.err
		}
	}
}

// newer takes the newest state when there is a newer one.
func (r *blockReader) newer() bool {
	if r.tries++; r.tries > maxRereads {
		return false
	}
	t, err := newestTree(r.f)
	if err != nil || t.txid == r.t.txid {
		return false
	}
	t.read = r.t.read
	r.t = t
	return true
}

// again reads from pos in a newer state, if there is one.
func (r *blockReader) again() bool {
	if !r.newer() {
		return false
	}
	if r.readMeta(); r.m == nil {
		return r.again()
	}
	r.place()
	return true
}

// place moves the walker before the block that holds pos or is the first after it.
func (r *blockReader) place() {
	r.key, r.val, r.cause, r.held = nil, nil, nil, found{}
	r.w, r.stuck = r.t.bucket(bucketBlocks)
	if r.stuck != nil {
		return
	}
	if r.stuck = r.w.seek(pieceKey(r.pos, 0), false); r.stuck != nil {
		return
	}
	if first, piece, ok := splitKey(r.w.before()); ok && piece >= 0 {
		r.stuck = r.w.seek(pieceKey(first, 0), false)
	}
}

// next returns the next block or hole; ok is false at the end.
func (r *blockReader) next() (out found, ok bool) {
	for {
		if r.held.block != nil {
			out, r.held = r.held, found{}
			return r.passed(out), true
		}
		b, err := r.take()
		switch {
		case err != nil:
			if !r.again() && r.cause == nil {
				r.cause = err
			}
		case b.block != nil && b.end <= r.pos: // holds nothing from pos on
		case b.block != nil && b.first <= r.pos && b.end > r.pos && b.first < r.end:
			return r.passed(b), true
		case r.pos >= r.end:
			return found{}, false
		case b.block == nil || b.first > r.pos: // a hole, up to b or to the end
			to := r.end
			if b.block != nil {
				to = min(to, b.first)
			}
			if r.again() {
				continue
			}
			out = found{first: r.pos, end: to, err: r.cause}
			known := r.cause == nil && r.released() >= to
			if r.cause == nil {
				out.err = errMissing
			}
			r.cause, r.tries, r.pos = nil, 0, to
			if b.block != nil && b.first < r.end {
				r.held = b
			}
			if !known { // else its pages were given back
				return out, true
			}
		}
	}
}

// released returns the seq below which every cursor has released.
func (r *blockReader) released() uint64 {
	if r.m == nil || len(r.m.cursors) == 0 {
		return r.low
	}
	return max(r.low, lowest(r.m.cursors))
}

// passed notes that a block was read.
func (r *blockReader) passed(b found) found {
	b.first, b.end = max(b.first, r.pos), min(b.end, r.end)
	r.pos, r.tries, r.cause = b.end, 0, nil
	return b
}

// take puts the next block together, whatever its seqs: neither block nor error
// at the end.
func (r *blockReader) take() (b found, err error) {
	if r.stuck != nil {
		err, r.stuck = r.stuck, nil
		return b, err
	}
	if r.w == nil {
		return b, nil
	}
	if r.key == nil {
		if r.key, r.val, err = r.w.next(); r.key == nil || err != nil {
			r.key = nil
			return b, err
		}
	}
	first, piece, ok := splitKey(r.key)
	if !ok || piece != 0 || len(r.val) > pieceBytes {
		key := r.key
		r.key = nil
		return b, fmt.Errorf("%w: stray piece %x", errDamaged, key)
	}
	r.buf = r.buf[:0]
	for want := 0; ; want++ {
		r.buf = append(r.buf, r.val...)
		r.key, r.val, err = r.w.next()
		f, piece, ok := splitKey(r.key)
		if r.key == nil || err != nil || !ok || f != first || piece != want+1 || len(r.val) > pieceBytes {
			break
		}
	}
	r.stuck = err // of what follows, once this block is taken
	return r.whole(first)
}

// whole checks the block that was put together under the key first.
func (r *blockReader) whole(first uint64) (b found, err error) {
	if err := r.k.check(r.buf); err != nil {
		return b, fmt.Errorf("block %d: %w", first, err)
	}
	h, err := parseHeader(r.buf)
	if err != nil {
		return b, err
	}
	b = found{first: h.first, end: h.first + h.span, block: r.buf}
	if h.first != first || b.end <= b.first || h.span > maxSegmentRecords {
		return found{}, fmt.Errorf("%w: block %d under key %d", errDamaged, h.first, first)
	}
	return b, nil
}

// isGone reports whether a file was deleted or renamed since it was listed.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
