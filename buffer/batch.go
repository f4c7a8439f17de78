package buffer

import (
	"encoding/binary"
	"iter"
)

// Batch is records framed for one Append: each as an unsigned varint of its
// length and its bytes. Reset lets it be filled again once done was called.
type Batch struct {
	// Lazy says that nobody waits for the batch: its commit may come up to the
	// lane's MaxDelay later, to spare the medium. Reset clears it.
	Lazy bool

	buf     []byte
	n       int
	largest int
}

// Add frames rec at the end of the batch. rec may be reused.
func (b *Batch) Add(rec []byte) {
	b.buf = binary.AppendUvarint(b.buf, uint64(len(rec)))
	b.buf = append(b.buf, rec...)
	b.n++
	b.largest = max(b.largest, len(rec))
}

// Len returns the number of records.
func (b *Batch) Len() int { return b.n }

// Size returns the framed size in bytes.
func (b *Batch) Size() int { return len(b.buf) }

// Reset empties the batch and keeps its memory, up to 1 MiB of it.
func (b *Batch) Reset() {
	if cap(b.buf) > 1<<20 {
		b.buf = nil
	}
	b.buf, b.n, b.largest, b.Lazy = b.buf[:0], 0, 0, false
}

// Records yields the records in the order they were added. They point into
// the batch.
func (b *Batch) Records() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rec, rest, ok := nextFramed(b.buf); ok && yield(rec); {
			rec, rest, ok = nextFramed(rest)
		}
	}
}

// nextFramed cuts the first record off framed bytes.
func nextFramed(p []byte) (rec, rest []byte, ok bool) {
	l, k := binary.Uvarint(p)
	if k <= 0 || l > uint64(len(p)-k) {
		return nil, nil, false
	}
	end := k + int(l)
	return p[k:end:end], p[end:], true
}
