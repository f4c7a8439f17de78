package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// fuzzSegment makes a segment of six blocks of 50 records, every second one
// thinned, with a journal and a cursor, and returns its bytes.
func fuzzSegment(tb testing.TB, k *coder, of scope) []byte {
	tb.Helper()
	m := &meta{generation: of.generation, first: 1, next: 601, cursors: map[string]position{"shore": {next: 51, from: 1, sent: 50}},
		journal: []Loss{{First: 1, Last: 9, Reason: ReasonEvicted}}}
	s, err := createSegment(tb.TempDir(), 64<<10, m)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range uint64(6) { // a commit each, so that pages are left behind
		b := block{first: 1 + i*100, count: 50, span: 50, when: 7}
		raw := &Batch{}
		for n := range uint64(50) {
			seq := b.first + n
			if i%2 == 1 {
				seq, b.span = b.first+2*n, 100
				b.seqs = append(b.seqs, seq)
			}
			raw.Add(record(seq, 20))
		}
		b.raw = raw.buf
		p, err := k.encode(nil, of, b)
		if err != nil {
			tb.Fatal(err)
		}
		if err := s.db.Update(func(tx *bolt.Tx) error { return putPieces(tx.Bucket([]byte(bucketBlocks)), b.first, p) }); err != nil {
			tb.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		tb.Fatal(err)
	}
	p, err := os.ReadFile(s.path)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// unaltered decodes a block and checks that its records are those that were
// stored under their seqs.
func unaltered(t *testing.T, k *coder, of scope, p []byte) (n int) {
	t.Helper()
	_, b, err := k.decode(nil, p, of)
	if err != nil {
		return 0
	}
	for rec := range (&Batch{buf: b.raw}).Records() {
		seq := b.first + uint64(n)
		if b.seqs != nil {
			seq = b.seqs[n]
		}
		if string(rec) != string(record(seq, 20)) {
			t.Fatalf("altered record %d: %x", seq, rec)
		}
		n++
	}
	return n
}

// FuzzSalvage scans a segment in which up to three runs of bytes were
// changed, and which was cut off: no panic, no altered record, no next seq
// below one that is there.
func FuzzSalvage(f *testing.F) {
	of := scope{generation: Generation{1}, lane: "a"}
	k := newCoder(Zstd, testKey(1))
	bases := [][]byte{fuzzSegment(f, newCoder(None), of), fuzzSegment(f, newCoder(Zstd), of), fuzzSegment(f, k, of)}
	for i := range bases {
		f.Add(byte(i), uint32(0), []byte(nil), uint32(0), []byte(nil), uint32(math.MaxUint32))
		f.Add(byte(i), uint32(0), make([]byte, 4096), uint32(3*4096+8), []byte{2, 0, 255, 255}, uint32(20000))
		for page := range len(bases[i]) / pageBytes {
			f.Add(byte(i), uint32(page*pageBytes+3000), []byte{1, 2, 3}, uint32(page*pageBytes+pageHeader+4), []byte{255, 255, 255, 255}, uint32(math.MaxUint32))
			f.Add(byte(i), uint32(page*pageBytes+3000), []byte{1, 2, 3}, uint32(page*pageBytes+3500), []byte{1, 2, 3}, uint32(math.MaxUint32))
		}
		f.Add(byte(i), uint32(4096+32), []byte{3, 0, 0, 0}, uint32(4*4096+24), []byte{255, 255, 255, 255}, uint32(math.MaxUint32))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, base byte, at1 uint32, p1 []byte, at2 uint32, p2 []byte, size uint32) {
		p := bytes.Clone(bases[int(base)%len(bases)])
		copy(p[int(at1%uint32(len(p))):], p1)
		copy(p[int(at2%uint32(len(p))):], p2)
		p = p[:min(uint64(size), uint64(len(p)))]
		scan(t, scanOf{k, of, dir}, p)
	})
}

// FuzzSalvageAnything scans arbitrary bytes whose meta page is made right.
func FuzzSalvageAnything(f *testing.F) {
	of := scope{generation: Generation{1}, lane: "a"}
	k := newCoder(Zstd, testKey(1))
	f.Add(fuzzSegment(f, newCoder(Zstd), of)[2*pageBytes:], uint64(3))
	f.Add(fuzzSegment(f, k, of)[2*pageBytes:], uint64(2))
	f.Add([]byte{}, uint64(0))
	loop := make([]byte, pageBytes) // a branch page that refers to itself, everywhere
	binary.NativeEndian.PutUint64(loop, 2)
	binary.NativeEndian.PutUint16(loop[8:], pageBranch)
	binary.NativeEndian.PutUint16(loop[10:], 250)
	for e := range 250 {
		binary.NativeEndian.PutUint64(loop[pageHeader+e*elementSize+8:], 2)
	}
	f.Add(loop, uint64(2))
	meta := fuzzSegment(f, k, of)[:2*pageBytes]
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, pages []byte, root uint64) {
		p := append(bytes.Clone(meta), pages...)
		for id := range 2 {
			setRoot(p[id*pageBytes:], root)
		}
		scan(t, scanOf{k, of, dir}, p)
	})
}

// setRoot makes a meta page refer to a root page.
func setRoot(p []byte, root uint64) {
	binary.NativeEndian.PutUint64(p[32:], root)
	sum := fnv.New64a()
	_, _ = sum.Write(p[16:72])
	binary.NativeEndian.PutUint64(p[72:], sum.Sum64())
}

// scanOf is what a fuzzed segment belongs to, and the directory for it.
type scanOf struct {
	k   *coder
	of  scope
	dir string
}

// scan writes p as a segment and salvages it.
func scan(t *testing.T, x scanOf, p []byte) {
	t.Helper()
	path := filepath.Join(x.dir, "fuzzed.seg")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = checkTree(path)
	s, err := x.k.salvageSegment(path, 1)
	if err != nil {
		if !isDamage(err) {
			t.Fatalf("%v is not called damage", err)
		}
		return
	}
	if len(s.firsts) != len(s.blocks) || len(s.firsts) == 0 || !slices.IsSorted(s.firsts) || s.m.next == 0 {
		t.Fatalf("%d blocks of seqs %v, next %d", len(s.blocks), s.firsts, s.m.next)
	}
	for first, b := range s.blocks {
		if _, _, ok := blockEnd(b); !ok || x.k.check(b) != nil {
			t.Fatalf("block %d is not whole", first)
		}
		unaltered(t, x.k, x.of, b)
	}
}

// FuzzPosition: what is read as a position is written back the same.
func FuzzPosition(f *testing.F) {
	f.Add(encodePosition(position{1, 2, 3, 4, 5, 0}), false)
	f.Add(make([]byte, 40), true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, p []byte, right bool) {
		if right {
			p = seal(bytes.Clone(p))
		}
		if at, ok := decodePosition(p); ok && !bytes.Equal(encodePosition(at), p) {
			t.Fatalf("%x is read as %+v", p, at)
		}
	})
}

// FuzzMark: a mark that nobody sealed is not believed.
func FuzzMark(f *testing.F) {
	k := newCoder(None, testKey(1))
	v, err := k.mark(goldenScope(), 4711)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(v)
	f.Add(v[:markBytes-1])
	f.Fuzz(func(t *testing.T, p []byte) {
		if g, from, err := k.readMark(p, "telemetry"); err == nil && (g != goldenScope().generation || from != 4711) {
			t.Fatalf("%x is a mark of %s from %d", p, g, from)
		}
	})
}

// FuzzShelfEntry: no stored bytes make reading an entry panic; what is read
// has the right checksum, and as encrypted only what was encrypted.
func FuzzShelfEntry(f *testing.F) {
	dir := f.TempDir()
	s, plain := mustShelf(f, dir, 1<<20, testKey(1)), mustShelf(f, dir, 1<<20)
	other := mustShelf(f, dir, 1<<20, testKey(2))
	for _, x := range []*Shelf{s, plain, other} {
		k, v, err := x.encode(7, []byte("letter"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(k, v, false)
		f.Add(k, v[:20%len(v)], true)
	}
	f.Add([]byte("12345678\x02"), []byte("abcdef"), true)
	f.Fuzz(func(t *testing.T, k, v []byte, right bool) {
		if len(k) < 8 {
			return
		}
		if v = bytes.Clone(v); right && len(v) >= 4 {
			binary.BigEndian.PutUint32(v, s.sum(k, v[4:]))
		}
		e := s.decode(k, v)
		if (e.Err == nil) == (e.Data == nil) || e.ID != binary.BigEndian.Uint64(k) {
			t.Fatalf("%+v", e)
		}
		switch {
		case e.Err == nil && len(k) == 8 && !bytes.Equal(e.Data, v[4:]):
			t.Fatalf("altered: %x", e.Data)
		case e.Err == nil && len(k) != 8 && (e.ID != 7 || string(e.Data) != "letter"):
			t.Fatalf("what nobody encrypted is accepted: %+v", e)
		case e.Err != nil && !errors.Is(e.Err, errDamaged) && !errors.Is(e.Err, errTampered) && !errors.Is(e.Err, ErrNoKey) && !errors.Is(e.Err, ErrNewerFormat):
			t.Fatalf("unknown error %v", e.Err)
		}
	})
}
