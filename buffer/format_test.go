package buffer

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// goldenRecord is record n of the golden files: telemetry as it is in the field.
func goldenRecord(n int) []byte {
	return fmt.Appendf(nil, `{"device":"pump-%d","t":%d,"values":{"pressure":%d.%d,"ok":true}}`, n%7, 1800000000+n, n%13, n%10)
}

// goldenBlocks are the blocks of version 1, by file.
var goldenBlocks = map[string]Compression{"block-v1-none": None, "block-v1-s2": S2, "block-v1-zstd": Zstd}

// TestGolden reads a block of each codec and a whole segment as version 1
// wrote them. They must be readable for ever: never write these files anew
// (WAYSTATION_GOLDEN=write made them) unless no gateway is in the field yet.
func TestGolden(t *testing.T) {
	if os.Getenv("WAYSTATION_GOLDEN") == "write" {
		writeGolden(t)
	}
	for name := range goldenBlocks {
		p, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		_, b, err := newCoder(Zstd).decode(nil, p, scope{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if b.first != 4711 || b.count != 100 || !fromMilli(b.when).Equal(time.Unix(1800000000, 0)) {
			t.Fatalf("%s: %+v", name, b)
		}
		n := 0
		for r := range (&Batch{buf: b.raw}).Records() {
			if !bytes.Equal(r, goldenRecord(n)) {
				t.Fatalf("%s: record %d: %q", name, n, r)
			}
			n++
		}
	}
	dir := fastDir(t)
	unpackGolden(t, dir)
	l := mustOpen(t, Options{Dir: dir, Lanes: NamedLanes("a"), MaxBytes: MinBytes})
	if got := l.Generation(); got != "0123456789abcdef" {
		t.Fatalf("generation %s", got)
	}
	c := mustCursor(t, l, "shore")
	if s := c.Stats()[0]; s != (CursorStats{From: 1, End: 501, Next: 151, Sent: 140, Dead: 10, Waiting: 350}) {
		t.Fatalf("cursor %+v", s)
	}
	var ch Chunk
	for n := uint64(151); n < 501; n = ch.Next() {
		if err := c.Read(0, Limit{Records: 100, Bytes: 1 << 20}, &ch); err != nil || ch.First != n || len(ch.Records) == 0 {
			t.Fatalf("read at %d: %v, %d records, loss %v", n, err, len(ch.Records), ch.Loss)
		}
		for i, r := range ch.Records {
			if !bytes.Equal(r, goldenRecord(int(n)+i)) {
				t.Fatalf("seq %d: %q", n+uint64(i), r)
			}
		}
	}
	if j := l.lanes[0].journal; len(j) != 1 || j[0].First != 9000 || j[0].Reason != ReasonEvicted || !j[0].From.Equal(time.Unix(1700000000, 0)) {
		t.Fatalf("journal %+v", j)
	}
}

func unpackGolden(t *testing.T, dir string) {
	t.Helper()
	unpackGoldenFile(t, dir, "segment-v1.gz")
}

func unpackGoldenFile(t *testing.T, dir, name string) {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(segmentPath(filepath.Join(dir, "a"), 1), p, 0o600); err != nil {
		t.Fatal(err)
	}
}

func writeGolden(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll("testdata", 0o755))
	raw := &Batch{}
	for n := range 100 {
		raw.Add(goldenRecord(n))
	}
	for name, codec := range goldenBlocks {
		p, err := newCoder(codec).encode(nil, scope{}, block{first: 4711, count: 100, span: 100, when: 1800000000000, raw: raw.buf})
		must(err)
		must(os.WriteFile(filepath.Join("testdata", name), p, 0o644))
	}
	dir := fastDir(t)
	l, err := Open(Options{Dir: dir, Lanes: NamedLanes("a"), MaxBytes: MinBytes, SegmentBytes: 512 << 10})
	must(err)
	l.generation = Generation{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
	l.lanes[0].journal = []Loss{{First: 9000, Last: 9999, From: time.Unix(1700000000, 0), To: time.Unix(1700000100, 0), Reason: ReasonEvicted, Exact: true}}
	c := mustCursor(t, l, "shore")
	for n := 1; n <= 500; {
		b := &Batch{}
		for range 50 {
			b.Add(goldenRecord(n))
			n++
		}
		must(appendWait(l, 0, b))
	}
	c.Release(0, 151, Released{Sent: 140, Dead: 10})
	mustSync(t, c)
	mustClose(t, l)
	p, err := os.ReadFile(segmentPath(filepath.Join(dir, "a"), 1))
	must(err)
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	must(err)
	_, err = w.Write(p)
	must(err)
	must(w.Close())
	must(os.WriteFile(filepath.Join("testdata", "segment-v1.gz"), z.Bytes(), 0o644))
}

// snapshot returns every file below dir with its content.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" {
			return err
		}
		p, err := os.ReadFile(path)
		out[path] = string(p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// edit changes a closed segment.
func edit(t *testing.T, path string, fn func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, boltOptions(64<<10, false))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(fn); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// newer makes the newest block of a segment one of a version after this one,
// as a newer program would write it.
func newer(tx *bolt.Tx) error {
	return lastBlock(tx, func(p []byte) { p[2], p[blockHeader] = blockVersion2+1, 0 })
}

// newerFlag makes it one with a flag that this version does not know.
func newerFlag(tx *bolt.Tx) error {
	return lastBlock(tx, func(p []byte) { p[2], p[blockHeader] = blockVersion2, 0x80 })
}

// lastBlock replaces the newest block of a segment by one that was changed.
func lastBlock(tx *bolt.Tx, change func([]byte)) error {
	b := tx.Bucket([]byte(bucketBlocks))
	k, _ := b.Cursor().Last()
	first, _, _ := splitKey(k)
	raw := &Batch{}
	raw.Add([]byte("from the future"))
	p, err := newCoder(None).encode(nil, scope{}, block{first: first, count: 1, span: 1, raw: raw.buf})
	if err != nil {
		return err
	}
	change(p)
	reseal(p)
	for k, _ := b.Cursor().Seek(pieceKey(first, 0)); k != nil; k, _ = b.Cursor().Seek(pieceKey(first, 0)) {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return putPieces(b, first, p)
}

// TestNewerFormat: what a newer version wrote is refused and left alone.
func TestNewerFormat(t *testing.T) {
	for name, change := range map[string]func(*bolt.Tx) error{
		"segment": func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyFormat), seal([]byte{0, 0, 0, markedFormat + 1}))
		},
		"journal": func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyJournal), seal([]byte{2}))
		},
		"block": newer,
		"flag":  newerFlag,
	} {
		t.Run(name, func(t *testing.T) {
			dir := fastDir(t)
			l := mustOpen(t, small(dir))
			fill(t, l, lot{0, 1, 100, 50, 100})
			mustClose(t, l)
			edit(t, segmentFiles(t, dir, "a")[0], change)
			before := snapshot(t, dir)
			for range 2 {
				if _, err := Open(small(dir)); !errors.Is(err, ErrNewerFormat) {
					t.Fatalf("open: %v", err)
				}
			}
			after := snapshot(t, dir)
			if len(before) != len(after) {
				t.Fatalf("%d files, then %d", len(before), len(after))
			}
			for f, p := range before {
				if after[f] != p {
					t.Fatalf("%s was touched", f)
				}
			}
		})
	}
}

// TestNewerSegmentNumber: the format of a segment that carries a mark is the
// newest that this version reads.
func TestNewerSegmentNumber(t *testing.T) {
	if segmentFormat != 1 || markedFormat != 2 || blockVersion != 1 || blockVersion2 != 2 {
		t.Fatal("a number of the format was changed: older versions and golden files go by them")
	}
}

// TestNewerBlockInTheMiddle: a block of a newer version in an old segment (a
// downgrade, then an upgrade) stops the reader; it is not called damaged.
func TestNewerBlockInTheMiddle(t *testing.T) {
	dir := fastDir(t)
	l := mustOpen(t, small(dir))
	fill(t, l, lot{0, 1, 100, 50, 100})
	mustClose(t, l)
	l = mustOpen(t, small(dir))
	fill(t, l, lot{0, 101, 50, 50, 100})
	mustClose(t, l)
	edit(t, segmentFiles(t, dir, "a")[0], newer)
	l = mustOpen(t, small(dir))
	c := mustCursor(t, l, "x")
	var ch Chunk
	if err := c.Read(0, Limit{Records: 1000, Bytes: 1 << 20}, &ch); err != nil || len(ch.Records) != 50 {
		t.Fatalf("before it: %d records, %v", len(ch.Records), err)
	}
	if err := c.Read(0, Limit{Records: 1000, Bytes: 1 << 20}, &ch); !errors.Is(err, ErrNewerFormat) {
		t.Fatalf("read: %v, loss %v", err, ch.Loss)
	}
	if n := l.Stats().Quarantined; n != 0 {
		t.Fatalf("%d set aside", n)
	}
}
