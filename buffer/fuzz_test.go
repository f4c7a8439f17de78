package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// reseal makes the checksum of a changed block right.
func reseal(p []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.BigEndian.PutUint32(p[32:], crc32.Update(crc32.Checksum(p[:32], table), table, p[blockHeader:]))
}

// FuzzBlockDecode: no bytes make the decoder panic, also with a right
// checksum; what is accepted gives the same records when encoded again, and
// what is accepted as sealed is what was sealed.
func FuzzBlockDecode(f *testing.F) {
	names := slices.Concat(slices.Collect(maps.Keys(goldenBlocks)), slices.Collect(maps.Keys(goldenSeconds())))
	for _, name := range names {
		p, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p, false)
		f.Add(p, true)
		p = bytes.Clone(p)
		p[7] ^= 1 // count
		f.Add(p, true)
	}
	f.Add(sealedBlock(f, newCoder(Zstd, testKey(2)), goldenScope(), true), false) // a key that is missing
	f.Add([]byte(blockMagic), true)
	addSparse(f)
	k := newCoder(Zstd, testKey(1))
	coders := []*coder{newCoder(None), newCoder(S2), newCoder(Zstd), newCoder(None, testKey(1))}
	was := &Batch{}
	for n := range 40 {
		was.Add(goldenRecord(n))
	}
	f.Fuzz(func(t *testing.T, p []byte, right bool) {
		if right && len(p) >= blockHeader {
			p = bytes.Clone(p)
			reseal(p)
		}
		dst := []byte("kept")
		out, b, err := k.decode(dst, p, goldenScope())
		if string(out[:4]) != "kept" {
			t.Fatal("what was before is gone")
		}
		if err != nil {
			if len(out) != 4 {
				t.Fatalf("%d bytes of a block that is refused", len(out)-4)
			}
			if !errors.Is(err, errDamaged) && !errors.Is(err, errTampered) && !errors.Is(err, ErrNewerFormat) && !errors.Is(err, ErrNoKey) {
				t.Fatalf("unknown error %v", err)
			}
			return
		}
		if b.sealed && (b.first != 4711 || !bytes.Equal(b.raw, was.buf)) {
			t.Fatalf("what nobody sealed is accepted: %+v", b)
		}
		sameAgain(t, p, b, append(coders, k))
	})
}

// addSparse adds sparse blocks to the corpus.
func addSparse(f *testing.F) {
	f.Helper()
	for _, seqs := range [][]uint64{{}, {4711, 4720, 4799}} {
		var raw Batch
		for n := range seqs {
			raw.Add(goldenRecord(n))
		}
		p, err := newCoder(None).encode(nil, goldenScope(), block{first: 4711, count: len(seqs), span: 100, when: 1, until: 2, seqs: seqs, raw: raw.buf})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p, true)
	}
}

// sameAgain checks what was decoded of p against its header, and that every
// coder gives the same when it is encoded again. The last one reads all.
func sameAgain(t *testing.T, p []byte, b block, coders []*coder) {
	t.Helper()
	first, end, ok := blockEnd(p)
	if !ok || first != b.first || end != b.end() || b.span < uint64(b.count) || b.seqs == nil && b.span != uint64(b.count) || b.seqs == nil && b.count == 0 {
		t.Fatalf("block %d..%d, decoded %+v", first, end, b)
	}
	for _, c := range coders {
		enc, err := c.encode(nil, goldenScope(), b)
		if err != nil {
			t.Fatal(err)
		}
		_, again, err := coders[len(coders)-1].decode(nil, enc, goldenScope())
		if err != nil || again.first != b.first || again.count != b.count || again.when != b.when || again.until != b.until || again.span != b.span || !slices.Equal(again.seqs, b.seqs) || !bytes.Equal(again.raw, b.raw) {
			t.Fatalf("codec %d: %v, %+v", c.codec, err, again)
		}
	}
}

// FuzzJournal: no panic, and what is accepted is written back the same.
func FuzzJournal(f *testing.F) {
	f.Add(encodeJournal(nil))
	f.Add(encodeJournal([]Loss{{First: 1, Last: 9, From: fromMilli(7), Reason: ReasonEvicted, Exact: true}, {First: 20, Last: 20, Reason: "?"}}))
	f.Fuzz(func(t *testing.T, p []byte) {
		j, err := decodeJournal(p)
		if err != nil {
			return
		}
		again, err := decodeJournal(encodeJournal(j))
		if err != nil || !slices.Equal(j, again) {
			t.Fatalf("%v: %+v, then %+v", err, j, again)
		}
		for _, l := range j {
			if got := findLoss(j, l.First, l.Last); got.First != l.First || got.Last < got.First || got.Last > l.Last {
				t.Fatalf("%+v described as %+v", l, got)
			}
		}
	})
}

// FuzzBatchFrame: framed bytes are cut without a panic and put together again.
func FuzzBatchFrame(f *testing.F) {
	b := &Batch{}
	for _, r := range []string{"", "a", "record", string(make([]byte, 300))} {
		b.Add([]byte(r))
	}
	f.Add(b.buf)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, p []byte) {
		again := &Batch{}
		rest := p
		for len(rest) > 0 {
			rec, after, ok := nextFramed(rest)
			if !ok {
				break
			}
			if len(after) >= len(rest) {
				t.Fatal("no progress")
			}
			again.Add(rec)
			rest = after
		}
		n := 0
		var recs [][]byte
		for r := range again.Records() {
			recs = append(recs, r)
			n++
		}
		if n != again.Len() || again.Size() > len(p) {
			t.Fatalf("%d records of %d, %d bytes of %d", n, again.Len(), again.Size(), len(p))
		}
		twice := &Batch{}
		for _, r := range recs {
			twice.Add(r)
		}
		if !bytes.Equal(again.buf, twice.buf) {
			t.Fatal("records differ")
		}
	})
}
