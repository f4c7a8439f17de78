package buffer

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestArchiveLosses: what the ship lost is a loss on shore, with its reason,
// also when it is longer than a segment may be; a sparse block stays sparse.
func TestArchiveLosses(t *testing.T) {
	from := small(fastDir(t))
	from.Lanes = NamedLanes("a")
	l := mustOpen(t, from)
	mustSync(t, mustCursor(t, l, "shore"))
	fill(t, l, lot{0, 1, 200, 50, 100})
	mustClose(t, l)
	lane := filepath.Join(from.Dir, "a")
	gen := mustExamine(t, from.Dir).Lanes[0].scope.generation
	far := uint64(3 << 20)
	raw := &Batch{}
	raw.Add(record(far+3, 100))
	raw.Add(record(far+9, 100))
	p, err := newCoder(None).encode(nil, scope{}, block{first: far, count: 2, span: 10, when: 1800000000000, seqs: []uint64{far + 3, far + 9}, raw: raw.buf})
	if err != nil {
		t.Fatal(err)
	}
	m := &meta{generation: gen, first: far, next: far + 10, cursors: map[string]position{"shore": {next: 1, from: 1}},
		journal: []Loss{{First: 201, Last: far - 1, Reason: ReasonEvicted, Exact: true}}}
	s, err := fillSegment(lane, m, func(yield func(found, error) bool) { yield(found{first: far, end: far + 10, block: p}, nil) })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.install(lane); err != nil {
		t.Fatal(err)
	}
	file, man := archive(t, from.Dir, ArchiveOptions{Release: true})
	if ln := man.Lanes[0]; ln.Records != 202 || len(ln.Losses) != 1 || ln.Losses[0].Reason != ReasonEvicted {
		t.Fatalf("%+v", ln)
	}
	if c := mustExamine(t, from.Dir).Lanes[0].Cursors[0]; c.Next != far+10 || c.Sent != 202 || c.From+c.Sent+c.Dead+c.Lost != c.End {
		t.Fatalf("%+v", c)
	}
	to := small(fastDir(t))
	mustImport(t, to.Dir, file)
	l = mustOpen(t, to)
	a := guestNumber(t, l, "a")
	c := mustCursor(t, l, "far")
	got, lost, at := readSparse(t, c, a)
	if got != 202 || at != far+10 || len(lost) != 2 || lost[0].Reason != ReasonEvicted || lost[0].First != 201 || lost[0].Last != far-1 || lost[1].Missing != 8 {
		t.Fatalf("%d records up to %d, losses %+v", got, at, lost)
	}
}

// readSparse reads a lane to its end, without releasing anything.
func readSparse(t *testing.T, c *Cursor, a int) (got int, lost []Loss, at uint64) {
	t.Helper()
	var ch Chunk
	for {
		if err := c.Read(a, Limit{Records: 500, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatal(err)
		}
		if len(ch.Records) == 0 && ch.Loss == nil {
			return got, lost, at
		}
		for i, r := range ch.Records {
			if !bytes.Equal(r, record(ch.Seq(i), 100)) {
				t.Fatalf("altered record %d", ch.Seq(i))
			}
			got++
		}
		if ch.Loss != nil {
			lost = append(lost, *ch.Loss)
		}
		at = ch.Next()
	}
}

// TestExportRelease: released records are sent, and do not come again.
func TestExportRelease(t *testing.T) {
	from := ship(t, 300)
	l := mustOpen(t, from)
	file := filepath.Join(fastDir(t), "x.tar")
	if _, err := ExportArchive(from.Dir, file, ArchiveOptions{Gateway: "g", Release: true}); !errors.Is(err, ErrInUse) {
		t.Fatalf("release while it runs: %v", err)
	}
	mustClose(t, l)
	archive(t, from.Dir, ArchiveOptions{Release: true})
	l = mustOpen(t, from)
	c := mustCursor(t, l, "shore")
	for i, s := range c.Stats() {
		if s.Waiting != 0 || s.Lost != 0 || s.Sent != s.End-1 {
			t.Fatalf("lane %d: %+v", i, s)
		}
	}
	balanced(t, c)
	fill(t, l, lot{0, 301, 10, 10, 100})
	if r := drain(t, c, 0, 100); r.got != 10 {
		t.Fatalf("%+v", r)
	}
}

// TestExportRunning exports a queue that is appended to and drained meanwhile:
// every archive is whole, and what it says is lost was delivered.
func TestExportRunning(t *testing.T) {
	o := small(fastDir(t))
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	finish := keepFilling(l, c)
	eventually(t, "records", func() bool { return l.Stats().Lanes[0].Next > 2000 })
	for i := range 25 {
		file := filepath.Join(fastDir(t), fmt.Sprint(i))
		m, err := ExportArchive(o.Dir, file, ArchiveOptions{Gateway: "g"})
		if err != nil {
			t.Fatal(err)
		}
		for _, ln := range m.Lanes {
			if len(ln.Losses) > 0 {
				t.Fatalf("%+v", ln.Losses)
			}
		}
	}
	if err := finish(); err != nil {
		t.Fatal(err)
	}
}

// TestGoldenArchive reads an archive of format 1. It must be readable for ever.
func TestGoldenArchive(t *testing.T) {
	golden := filepath.Join("testdata", "archive-v1.tar")
	if os.Getenv("WAYSTATION_GOLDEN") == "write" {
		dir := fastDir(t)
		unpackGolden(t, dir)
		if _, err := ExportArchive(dir, golden, ArchiveOptions{Gateway: "ship-042", Now: time.Unix(1800000000, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	m := mustManifest(t, golden)
	if ln := m.Lanes[0]; m.Gateway != "ship-042" || ln.Generation != "0123456789abcdef" || ln.First != 151 || ln.Next != 501 || ln.Records != 350 {
		t.Fatalf("%+v", m)
	}
	to := fastDir(t)
	mustImport(t, to, golden)
	n := 151
	if err := mustExamine(t, to).Scan(ScanOptions{}, func(r *Run) error {
		return r.Each(func(seq uint64, rec []byte) error {
			if seq != uint64(n) || !bytes.Equal(rec, goldenRecord(n)) {
				return fmt.Errorf("seq %d: %s", seq, rec)
			}
			n++
			return nil
		})
	}); err != nil || n != 501 {
		t.Fatalf("%d, %v", n, err)
	}
}

// FuzzArchive: no bytes make the reader panic, and what it takes holds every
// seq once.
func FuzzArchive(f *testing.F) {
	p, err := os.ReadFile(filepath.Join("testdata", "archive-v1.tar"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p, []byte(`{"format":1}`), []byte{0, 0, 0, 1, 'w'})
	for tr := tar.NewReader(bytes.NewReader(p)); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if body, err := io.ReadAll(tr); err == nil && h.Name == manifestName {
			f.Add([]byte(nil), body, []byte(nil))
		} else if err == nil && strings.HasSuffix(h.Name, partSuffix) {
			f.Add([]byte(nil), []byte(`{"format":1,"lanes":[{"dir":"a"}]}`), body)
		}
	}
	k := newCoder(None)
	f.Fuzz(func(t *testing.T, whole, manifest, part []byte) {
		if len(whole) == 0 { // put together, so that checksums of the tar are right
			var b bytes.Buffer
			x := &exporter{tar: tar.NewWriter(&b)}
			if err := errors.Join(x.file("a/0000000000000097.blocks", part), x.file(manifestName, manifest), x.tar.Close()); err != nil {
				t.Fatal(err)
			}
			whole = b.Bytes()
		}
		m, err := readArchive(k, bytes.NewReader(whole), func(string, ArchivePart, []byte) error { return nil })
		if err != nil {
			if !errors.Is(err, ErrArchive) && !errors.Is(err, ErrNewerFormat) {
				t.Fatalf("unknown error %v", err)
			}
			return
		}
		for _, ln := range m.Lanes {
			if ln.Next <= ln.First {
				t.Fatalf("%+v", ln)
			}
		}
	})
}

// TestArchivePartReplaced: a part that is whole but not the one that was
// exported is refused.
func TestArchivePartReplaced(t *testing.T) {
	from := ship(t, 100)
	file, _ := archive(t, from.Dir, ArchiveOptions{})
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	k := newCoder(None)
	var forged bytes.Buffer
	x := &exporter{tar: tar.NewWriter(&forged)}
	for tr := tar.NewReader(bytes.NewReader(whole)); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "b/") {
			_, b, err := k.decode(nil, body[4:4+binary.BigEndian.Uint32(body)], scope{})
			if err != nil {
				t.Fatal(err)
			}
			b.raw[len(b.raw)-1] ^= 1
			p, err := k.encode(nil, scope{}, b)
			if err != nil {
				t.Fatal(err)
			}
			copy(body[4:], p)
		}
		if err := x.file(h.Name, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.tar.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := readArchive(k, &forged, func(string, ArchivePart, []byte) error { return nil }); !errors.Is(err, ErrArchive) || !strings.Contains(err.Error(), "not the one") {
		t.Fatalf("a forged part: %v", err)
	}
}
