package buffer

import (
	"errors"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// thinWriter writes sparse blocks to the file of a rewrite.
type thinWriter struct {
	r      *rewrite
	s      *segment // its file, open; path is the one it gets later
	of     scope
	open   bool  // b is begun
	b      block // being filled; its span grows
	enc    []byte
	blocks []encoded // of enc, not stored yet
	kept   int
}

// newThinWriter makes the file, with a copy of what the segment says of its lane.
func (r *rewrite) newThinWriter() (*thinWriter, error) {
	var m *meta
	if err := r.s.view(func(tx *bolt.Tx) (err error) { m, err = readMeta(tx); return err }); err != nil {
		return nil, err
	}
	m.first, m.thinned = r.s.first, r.level+1
	tmp := filepath.Join(r.ln.dir, thinName)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	w := &thinWriter{r: r, of: r.l.scopeOf(r.ln), s: &segment{path: r.s.path, first: r.s.first, bytes: r.s.bytes}}
	err := guard(func() error { return w.s.openWriting(tmp) })
	if err == nil {
		w.s.db.AllocSize = 8 * pageBytes
		w.s.db.NoSync = true // it counts only after finish
		_, err = w.s.update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucket([]byte(bucketMeta))
			if err != nil {
				return err
			}
			_, err = tx.CreateBucket([]byte(bucketBlocks))
			return errors.Join(err, m.putAll(b))
		})
	}
	if err != nil {
		_ = w.s.close()
	}
	return w, err
}

// add takes a block, of whose records those stay that keep names.
func (w *thinWriter) add(b *block, keep []bool) error {
	if w.open && w.b.end() != b.first { // a hole: of that the next block does not speak
		if err := w.flush(); err != nil {
			return err
		}
	}
	if !w.open {
		w.begin(b.first, b.when)
	}
	for i, rest := 0, b.raw; len(rest) > 0; i++ {
		_, after, _ := nextFramed(rest)
		framed := rest[:len(rest)-len(after)]
		rest = after
		if !keep[i] {
			continue
		}
		seq := b.seq(i)
		if w.b.count > 0 && (len(w.b.raw)+len(framed) > blockBytes || w.b.count >= blockRecords) {
			if seq > b.first {
				w.b.until = b.until
			}
			w.b.span = seq - w.b.first
			if err := w.flush(); err != nil {
				return err
			}
			w.begin(seq, b.when)
		}
		w.b.seqs = append(w.b.seqs, seq)
		w.b.raw = append(w.b.raw, framed...)
		w.b.count++
		w.kept++
	}
	w.b.span, w.b.until = b.end()-w.b.first, b.until
	return nil
}

// begin begins a block at first.
func (w *thinWriter) begin(first uint64, when int64) {
	w.open = true
	w.b = block{first: first, when: when, until: when, seqs: w.b.seqs[:0], raw: w.b.raw[:0]}
	if w.b.seqs == nil {
		w.b.seqs = []uint64{}
	}
}

// flush ends the block, and stores what was encoded when it is enough.
func (w *thinWriter) flush() (err error) {
	from := len(w.enc)
	if w.enc, err = w.r.coder.encode(w.enc, w.of, w.b); err != nil {
		return err
	}
	w.blocks = append(w.blocks, encoded{first: w.b.first, from: from, to: len(w.enc)})
	w.open = false
	if len(w.enc) < thinStep {
		return nil
	}
	return w.store()
}

// store commits what was encoded. A file that is not much smaller than the
// segment is given up.
func (w *thinWriter) store() error {
	if _, err := w.s.update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketBlocks))
		b.FillPercent = 1 // keys only ascend
		for _, e := range w.blocks {
			if err := putPieces(b, e.first, w.enc[e.from:e.to]); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	w.enc, w.blocks = w.enc[:0], w.blocks[:0]
	st, err := os.Stat(w.s.db.Path())
	if err != nil {
		return err
	}
	w.s.size.Store(st.Size())
	w.r.l.thin.bytes.Store(st.Size())
	if size := w.r.s.size.Load(); st.Size() > size-size/4 {
		return errNoGain
	}
	return nil
}

// finish stores the rest and syncs, when all went well, and closes the file.
func (w *thinWriter) finish(well bool) (err error) {
	if well && w.open {
		err = w.flush()
	}
	if well && err == nil {
		err = w.store()
	}
	if well && err == nil {
		err = guard(w.s.db.Sync)
	}
	return errors.Join(err, w.s.close())
}
