package buffer

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// harm changes a file in one of the ways of bad storage.
func harm(t *rapid.T, path string) {
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(p))
	var from, to int64
	if size < pageBytes { // cut short before
		return
	}
	at := rapid.Int64Range(0, size-1).Draw(t, "at")
	switch rapid.SampledFrom([]string{"flip", "zero page", "garbage", "truncate", "swap pages"}).Draw(t, "how") {
	case "flip":
		p[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		from = at
	case "zero page":
		from = at &^ (pageBytes - 1)
		to = min(from+pageBytes, size)
		clear(p[from:to])
	case "garbage":
		from, to = at, min(at+rapid.Int64Range(1, 64<<10).Draw(t, "n"), size)
		copy(p[from:to], record(uint64(at), int(to-from)))
	case "truncate":
		p = p[:at]
	case "swap pages": // a misdirected write
		from = at &^ (pageBytes - 1)
		other := rapid.Int64Range(0, size/pageBytes-1).Draw(t, "page") * pageBytes
		to = min(from+pageBytes, size)
		copy(p[from:to], p[other:])
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDamage harms closed segments, also the newest: the queue opens, no
// altered record is handed out, what is missing is reported, all of every
// other segment is delivered, and the queue takes records under new seqs.
func TestDamage(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testDamage(t) })
	t.Run("encrypted", func(t *testing.T) { testDamage(t, testKey(1)) })
}

func testDamage(t *testing.T, keys ...Key) {
	const size, records = 60, 6000
	master := filepath.Join(fastDir(t), "master")
	o := keyed(master, keys...)
	o.SegmentBytes = 96 << 10
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, records, 25, size})
	mustSync(t, c)
	mustClose(t, l)
	files := segmentFiles(t, master, "a")
	if len(files) < 4 {
		t.Fatalf("%d segments", len(files))
	}
	firsts := make([]uint64, 0, len(files)+1)
	for _, f := range files {
		first, _, _ := parseSegmentName(filepath.Base(f))
		firsts = append(firsts, first)
	}
	firsts = append(firsts, records+1)
	base := fastDir(t)
	n, salvaged, total := 0, uint64(0), uint64(0)
	rapid.Check(t, func(t *rapid.T) {
		n++
		o.Dir = fmt.Sprintf("%s/%d", base, n)
		if err := os.CopyFS(o.Dir, os.DirFS(master)); err != nil {
			t.Fatal(err)
		}
		harmed := map[int]bool{}
		for range rapid.IntRange(1, 3).Draw(t, "harms") {
			i := rapid.IntRange(0, len(files)-1).Draw(t, "segment")
			harmed[i] = true
			harm(t, filepath.Join(o.Dir, "a", filepath.Base(files[i])))
		}
		d := damaged{o: o, firsts: firsts, harmed: harmed, size: size}
		salvaged += d.check(t)
		total += d.records()
		if err := os.RemoveAll(o.Dir); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d damaged queues of %d segments, %d of %d records of damaged segments read", n, len(files), salvaged, total)
}

// damaged is a queue some of whose segments were harmed; segment i holds the
// records from firsts[i] to firsts[i+1]-1, each of size bytes.
type damaged struct {
	o      Options
	firsts []uint64
	harmed map[int]bool
	size   int
}

// records returns how many records the harmed segments held.
func (d *damaged) records() (n uint64) {
	for i := range d.harmed {
		n += d.firsts[i+1] - d.firsts[i]
	}
	return n
}

// check opens and reads the queue, and returns how many records of harmed
// segments were read.
func (d *damaged) check(t *rapid.T) (salvaged uint64) {
	l, err := Open(d.o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer func() {
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}()
	last := len(d.firsts) - 2
	next := l.Stats().Lanes[0].Next
	if next < d.firsts[last+1] || next > d.firsts[last+1] && !d.harmed[last] {
		t.Fatalf("next seq %d, want %d or more", next, d.firsts[last+1])
	}
	c, err := l.Cursor("x")
	if err != nil {
		t.Fatal(err)
	}
	seen := d.read(t, c, next)
	for i := range last + 1 {
		for seq := d.firsts[i]; seq < d.firsts[i+1]; seq++ {
			if !d.harmed[i] && !seen[seq] {
				t.Fatalf("record %d of segment %d, which was not harmed, is lost", seq, i)
			}
			if d.harmed[i] && seen[seq] {
				salvaged++
			}
		}
	}
	b := &Batch{}
	b.Add(record(next, d.size))
	if err := appendWait(l, 0, b); err != nil {
		t.Fatalf("append: %v", err)
	}
	var ch Chunk
	if err := c.Read(0, Limit{Records: 200, Bytes: 1 << 20}, &ch); err != nil || ch.First != next || len(ch.Records) != 1 {
		t.Fatalf("read %d of the new record at %d: %v", ch.First, next, err)
	}
	return salvaged
}

// read reads and releases everything up to next.
func (d *damaged) read(t *rapid.T, c *Cursor, next uint64) map[uint64]bool {
	at, seen := c.Stats()[0].Next, map[uint64]bool{}
	var ch Chunk
	for {
		if err := c.Read(0, Limit{Records: 200, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatalf("read: %v", err)
		}
		if ch.Loss == nil && len(ch.Records) == 0 {
			break
		}
		if ch.First != at || ch.Next() <= at {
			t.Fatalf("read %d..%d at %d, loss %v", ch.First, ch.Next(), at, ch.Loss)
		}
		for i, rec := range ch.Records {
			seq := ch.First + uint64(i)
			if string(rec) != string(record(seq, d.size)) {
				t.Fatalf("altered record %d: %x", seq, rec)
			}
			seen[seq] = true
		}
		at = ch.Next()
		if ch.Loss != nil {
			c.Release(0, at, Released{Lost: ch.Loss.Count()})
		} else {
			c.Release(0, at, Released{Sent: uint64(len(ch.Records))})
		}
	}
	if s := c.Stats()[0]; at != next || s.From+s.Sent+s.Dead+s.Lost+s.Waiting != s.End {
		t.Fatalf("read up to %d of %d, books %+v", at, next, s)
	}
	return seen
}

// TestTreeLoop: a branch page that refers to itself would have bbolt recurse
// until the process dies.
func TestTreeLoop(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 5000, 500, 100})
	mustClose(t, l)
	l = mustOpen(t, o)
	fill(t, l, lot{0, 5001, 100, 100, 100})
	mustClose(t, l)
	path := segmentFiles(t, o.Dir, "a")[0]
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	loops := 0
	for at := 2 * pageBytes; at < len(p); at += pageBytes {
		if ne := binary.NativeEndian; ne.Uint16(p[at+8:]) == pageBranch {
			for e := range int(ne.Uint16(p[at+10:])) {
				ne.PutUint64(p[at+pageHeader+e*elementSize+8:], uint64(at/pageBytes))
			}
			loops++
		}
	}
	if loops == 0 {
		t.Fatal("no branch page")
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, o)
	if r := drain(t, mustCursor(t, l, "x"), 0, 100); r.got != 100 || len(r.losses) != 1 || r.losses[0].Reason != ReasonQuarantined {
		t.Fatalf("%+v", r)
	}
}

// TestTruncatedWhileOpen: a page fault on a map is an error, not the end.
func TestTruncatedWhileOpen(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 5000, 100, 100})
	mustClose(t, l)
	l = mustOpen(t, o)
	fill(t, l, lot{0, 5001, 100, 100, 100})
	c := mustCursor(t, l, "x")
	var ch Chunk
	if err := c.Read(0, Limit{Records: 100, Bytes: 1 << 20}, &ch); err != nil || len(ch.Records) != 100 {
		t.Fatalf("%d records, %v", len(ch.Records), err)
	}
	c.Release(0, 101, Released{Sent: 100})
	if err := os.Truncate(segmentFiles(t, o.Dir, "a")[0], 64<<10); err != nil {
		t.Fatal(err)
	}
	if r := drain(t, c, 0, 100); r.got < 100 || len(r.losses) == 0 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
}
