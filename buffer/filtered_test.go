package buffer

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// filteredQueue makes a queue of 500 records of which "shore" has released 300,
// 180 of them filtered, and "other" 100.
func filteredQueue(t *testing.T, dir string) {
	t.Helper()
	l := mustOpen(t, Options{Dir: dir, Lanes: NamedLanes("a"), MaxBytes: MinBytes, SegmentBytes: 512 << 10})
	l.generation = Generation{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
	c, other := mustCursor(t, l, "s"), mustCursor(t, l, "other")
	for n := 1; n <= 500; {
		b := &Batch{}
		for range 50 {
			b.Add(goldenRecord(n))
			n++
		}
		must(t, appendWait(l, 0, b))
	}
	c.Release(0, 101, Released{Sent: 20, Filtered: 80})
	mustSync(t, c)
	c.Release(0, 301, Released{Sent: 90, Dead: 10, Filtered: 100})
	other.Release(0, 101, Released{Sent: 100})
	mustSync(t, other)
	mustClose(t, l)
}

var wantFiltered = CursorStats{From: 1, End: 501, Next: 301, Sent: 110, Dead: 10, Filtered: 180, Waiting: 200}

// What was filtered is counted over restarts, and goes with the cursor.
func TestFilteredIsDurable(t *testing.T) {
	dir := fastDir(t)
	filteredQueue(t, dir)
	q, err := Examine(dir, ExamineOptions{})
	must(t, err)
	if got := q.Lanes[0].Cursors[1]; got.CursorStats != wantFiltered || got.Name != "s" {
		t.Fatalf("examined %+v", got)
	}
	l := mustOpen(t, Options{Dir: dir, Lanes: NamedLanes("a"), MaxBytes: MinBytes})
	if s := mustCursor(t, l, "s").Stats()[0]; s != wantFiltered {
		t.Fatalf("cursor %+v", s)
	}
	c := mustCursor(t, l, "s")
	c.Release(0, 311, Released{Sent: 10})
	mustSync(t, c)
	stored := func() (v []byte) {
		must(t, l.lanes[0].segs[len(l.lanes[0].segs)-1].view(func(tx *bolt.Tx) error {
			v = bytes.Clone(tx.Bucket([]byte(bucketMeta)).Get([]byte(filterPrefix + "s")))
			return nil
		}))
		return v
	}
	if stored() == nil {
		t.Error("a new segment does not know what was filtered")
	}
	l.Forget([]string{"other"})
	mustSync(t, mustCursor(t, l, "other"))
	if v := stored(); v != nil {
		t.Errorf("a forgotten cursor left %x", v)
	}
	mustClose(t, l)
	l = mustOpen(t, Options{Dir: dir, Lanes: NamedLanes("a"), MaxBytes: MinBytes})
	if s := mustCursor(t, l, "s").Stats()[0]; s.Filtered != 0 || s.From+s.Sent+s.Waiting != s.End {
		t.Fatalf("a cursor of the same name begins with %+v", s)
	}
	mustClose(t, l)
}

// A version that knows no filters reads the position and finds its books
// balanced; what it goes on to write is read in turn.
func TestOlderVersionReadsFiltered(t *testing.T) {
	p := position{next: 301, from: 1, sent: 110, dead: 10, filtered: 180}
	old, ok := decodePosition(encodePosition(p))
	if !ok || old != (position{next: 301, from: 1, sent: 290, dead: 10}) {
		t.Fatalf("an older version reads %+v", old)
	}
	count := seal([]byte{0, 0, 0, 0, 0, 0, 0, 180})
	old.next, old.sent = 311, old.sent+10 // it goes on and leaves our count as it was
	if got := old.apart(count); got != (position{next: 311, from: 1, sent: 120, dead: 10, filtered: 180}) {
		t.Errorf("after an older version: %+v", got)
	}
	if got := (position{next: 6, from: 1, sent: 5}).apart(count); got.sent+got.filtered != 5 {
		t.Errorf("a count that is too large: %+v", got)
	}
	count[3]++
	if got := old.apart(count); got != old {
		t.Errorf("a damaged count: %+v", got)
	}
}

// A damaged segment is rebuilt with what its cursors filtered.
func TestFilteredIsSalvaged(t *testing.T) {
	dir := fastDir(t)
	filteredQueue(t, dir)
	s, err := newCoder(None).salvageSegment(segmentPath(filepath.Join(dir, "a"), 1), 1)
	must(t, err)
	if p := s.m.cursors["s"]; p != (position{next: 301, from: 1, sent: 110, dead: 10, filtered: 180}) || len(s.firsts) == 0 {
		t.Fatalf("salvaged %+v", p)
	}
}

// The golden segment with a count of filtered records must be readable for
// ever, as those of TestGolden.
func TestGoldenFiltered(t *testing.T) {
	golden := filepath.Join("testdata", "segment-v1-filtered.gz")
	if os.Getenv("WAYSTATION_GOLDEN") == "write" {
		dir := fastDir(t)
		filteredQueue(t, dir)
		p, err := os.ReadFile(segmentPath(filepath.Join(dir, "a"), 1))
		must(t, err)
		var z bytes.Buffer
		w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
		must(t, err)
		_, err = w.Write(p)
		must(t, err)
		must(t, w.Close())
		must(t, os.WriteFile(golden, z.Bytes(), 0o644))
	}
	dir := fastDir(t)
	unpackGoldenFile(t, dir, "segment-v1-filtered.gz")
	l := mustOpen(t, Options{Dir: dir, Lanes: NamedLanes("a"), MaxBytes: MinBytes})
	if s := mustCursor(t, l, "s").Stats()[0]; s != wantFiltered {
		t.Fatalf("cursor %+v", s)
	}
	mustClose(t, l)
}
