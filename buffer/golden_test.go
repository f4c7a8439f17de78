package buffer

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// goldenScope is what the sealed golden files belong to; their key is
// testKey(1) and their nonce that of sealer.fixed.
func goldenScope() scope {
	return scope{generation: Generation{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}, lane: "telemetry"}
}

// goldenSecond is a block of version 2 in a file.
type goldenSecond struct {
	codec          Compression
	sparse, sealed bool
}

// goldenSeconds are the blocks of version 2, by file.
func goldenSeconds() map[string]goldenSecond {
	return map[string]goldenSecond{
		"block-v2-sparse-none":        {None, true, false},
		"block-v2-sparse-zstd":        {Zstd, true, false},
		"block-v2-sealed-none":        {None, false, true},
		"block-v2-sealed-zstd":        {Zstd, false, true},
		"block-v2-sealed-sparse-none": {None, true, true},
		"block-v2-sealed-sparse-s2":   {S2, true, true},
	}
}

// coder returns the coder that writes the block.
func (g goldenSecond) coder() *coder {
	k := newCoder(g.codec)
	if g.sealed {
		k = newCoder(g.codec, testKey(1))
		k.fixed()
	}
	return k
}

// goldenFile returns the content of a golden file, which is written when it is
// missing and WAYSTATION_GOLDEN=write. One that is there is never written anew.
func goldenFile(t *testing.T, name string, now []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if _, err := os.Stat(path); os.IsNotExist(err) && os.Getenv("WAYSTATION_GOLDEN") == "write" {
		if err := os.WriteFile(path, now, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestGoldenSecond reads blocks of version 2, which must be readable for ever,
// and shows that those that no library's progress changes are still written so.
func TestGoldenSecond(t *testing.T) {
	for name, g := range goldenSeconds() {
		k := g.coder()
		now := sealedBlock(t, k, goldenScope(), g.sparse)
		p := goldenFile(t, name, now)
		if g.codec == None && !bytes.Equal(p, now) {
			t.Errorf("%s: is now written as %x", name, now)
		}
		_, b, err := newCoder(Zstd, testKey(9), testKey(1)).decode(nil, p, goldenScope())
		if err != nil || b.first != 4711 || b.count != 40 || b.when != 1800000000000 || b.sealed != g.sealed {
			t.Fatalf("%s: %+v, %v", name, b, err)
		}
		n := 0
		for r := range (&Batch{buf: b.raw}).Records() {
			if !bytes.Equal(r, goldenRecord(n)) {
				t.Fatalf("%s: record %d: %q", name, n, r)
			}
			n++
		}
		if g.sparse != slices.Contains(b.seqs, 4711+3*39) || g.sparse != (b.span == 120) {
			t.Fatalf("%s: seqs %v of %d", name, b.seqs, b.span)
		}
	}
}

// TestGoldenSealed reads a mark and an entry of the shelf.
func TestGoldenSealed(t *testing.T) {
	k := newCoder(None, testKey(1))
	k.fixed()
	now, err := k.mark(goldenScope(), 4711)
	if err != nil {
		t.Fatal(err)
	}
	mark := goldenFile(t, "mark", now)
	if g, from, err := k.readMark(mark, "telemetry"); err != nil || g != goldenScope().generation || from != 4711 || !bytes.Equal(mark, now) {
		t.Errorf("mark of %s from %d, %v; now %x", g, from, err, now)
	}
	s := mustShelf(t, t.TempDir(), 1<<20, testKey(1))
	s.sealer.fixed()
	key, v, err := s.encode(4711, goldenRecord(1))
	if err != nil {
		t.Fatal(err)
	}
	entry := goldenFile(t, "shelf-sealed", v)
	if e := s.decode(key, entry); e.ID != 4711 || !bytes.Equal(e.Data, goldenRecord(1)) || e.Err != nil || !bytes.Equal(entry, v) {
		t.Errorf("%+v; now %x", e, v)
	}
	if !bytes.Equal(key, append(binary.BigEndian.AppendUint64(nil, 4711), 1)) {
		t.Errorf("key %x", key)
	}
}
