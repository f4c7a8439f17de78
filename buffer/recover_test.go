package buffer

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// A head segment that cannot be read while the queue runs is set aside and
// reported once; what follows is read.
func TestDamagedHeadWhileRunning(t *testing.T) {
	dir := fastDir(t)
	l := mustOpen(t, small(dir))
	fill(t, l, lot{0, 1, 4000, 100, 100})
	files := segmentFiles(t, dir, "a")
	if len(files) < 4 {
		t.Fatalf("%d segments", len(files))
	}
	second, _, _ := parseSegmentName(filepath.Base(files[1]))
	for _, f := range files[:1] {
		overwrite(t, f, 0, make([]byte, 32<<10))
	}
	c := mustCursor(t, l, "x")
	r := drain(t, c, 0, 100)
	if len(r.losses) != 1 || r.losses[0].First != 1 || r.losses[0].Last != second-1 || r.losses[0].Reason != ReasonQuarantined {
		t.Fatalf("losses %+v, want 1..%d", r.losses, second-1)
	}
	if r.got != 4000-(second-1) {
		t.Fatalf("read %d", r.got)
	}
	balanced(t, c)
	if _, err := os.Stat(files[0] + ".bad"); err != nil {
		t.Fatal(err)
	}
}

// When the only segment of a lane cannot be read, its seqs are never given
// again, also not after restarts before anything is appended, and a reader is
// told.
func TestOnlySegmentDamaged(t *testing.T) {
	dir := fastDir(t)
	l := mustOpen(t, small(dir))
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 100, 10, 100})
	c.Release(0, 11, Released{Sent: 10})
	mustSync(t, c)
	mustClose(t, l)
	for _, f := range segmentFiles(t, dir, "a") {
		overwrite(t, f, 0, make([]byte, 16<<10))
	}
	for range 3 {
		l = mustOpen(t, small(dir))
		if got := l.Stats().Lanes[0].Next; got <= 101 {
			t.Fatalf("next seq %d after a segment of unknown end", got)
		}
		lockFiles(l)
		mustAbandon(t, l)
	}
	l = mustOpen(t, small(dir))
	c = mustCursor(t, l, "x")
	next := l.Stats().Lanes[0].Next
	fill(t, l, lot{0, next, 50, 10, 100})
	r := drain(t, c, 0, 100)
	if len(r.losses) != 1 || r.losses[0].Reason != ReasonQuarantined || r.losses[0].Exact || r.got != 50 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
}

// lockFiles makes Close write nothing, as after a kill.
func lockFiles(l *Log) { l.fault = func(string, string) error { return os.ErrDeadlineExceeded } }

// mustAbandon ends a queue whose commits fail.
func mustAbandon(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// The last block's header decides the next seq: when it is damaged no seq of
// it is given again.
func TestDamagedTailGivesNoSeqTwice(t *testing.T) {
	dir := fastDir(t)
	l := mustOpen(t, small(dir))
	fill(t, l, lot{0, 1, 100, 50, 100})
	mustClose(t, l)
	path := segmentFiles(t, dir, "a")[0]
	db, err := bolt.Open(path, 0o600, boltOptions(64<<10, false))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { // count of the last block: 50 becomes 1
		b := tx.Bucket([]byte(bucketBlocks))
		k, _ := b.Cursor().Last()
		first, _, _ := splitKey(k)
		v := append([]byte(nil), b.Get(pieceKey(first, 0))...)
		v[7] = 1
		return b.Put(pieceKey(first, 0), v)
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, small(dir))
	next := l.Stats().Lanes[0].Next
	if next != 101 { // the meta bucket says so
		t.Fatalf("next seq %d", next)
	}
	fill(t, l, lot{0, next, 10, 10, 100})
	c := mustCursor(t, l, "x")
	r := drain(t, c, 0, 100)
	if r.got != 60 || len(r.losses) != 1 || r.losses[0].First != 51 || r.losses[0].Last != 100 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
}

// A damaged meta page makes bbolt show the commit before the last one: its
// seqs are not given again.
func TestDamagedMetaPageGivesNoSeqTwice(t *testing.T) {
	for page := range int64(2) {
		dir := fastDir(t)
		l := mustOpen(t, small(dir))
		fill(t, l, lot{0, 1, 100, 20, 100})
		mustClose(t, l)
		overwrite(t, segmentFiles(t, dir, "a")[0], page*pageBytes+60, []byte{0xff, 0xff})
		l = mustOpen(t, small(dir))
		next := l.Stats().Lanes[0].Next
		if next <= 100 {
			t.Fatalf("meta page %d: seq %d is given twice", page, next)
		}
		fill(t, l, lot{0, next, 10, 10, 100})
		r := drain(t, mustCursor(t, l, "x"), 0, 100)
		if r.got < 90 || len(r.losses) != 1 || r.losses[0].Exact {
			t.Fatalf("%+v", r)
		}
	}
}

// A damaged cursor begins again at the oldest record: repeated, not lost.
func TestDamagedCursorRepeats(t *testing.T) {
	dir := fastDir(t)
	l := mustOpen(t, small(dir))
	c, keep := mustCursor(t, l, "x"), mustCursor(t, l, "y")
	fill(t, l, lot{0, 1, 100, 50, 100})
	c.Release(0, 31, Released{Sent: 30})
	mustSync(t, c)
	mustSync(t, keep)
	mustClose(t, l)
	path := segmentFiles(t, dir, "a")[0]
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := 0; i+60 < len(p); i++ { // every copy of the key, also superseded ones
		if string(p[i:i+8]) == "cursor:x" {
			p[i+8+7] ^= 0x40
			n++
		}
	}
	if n == 0 {
		t.Fatal("no cursor in the file")
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, small(dir))
	c, keep = mustCursor(t, l, "x"), mustCursor(t, l, "y")
	if r := drain(t, c, 0, 100); r.got != 100 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
	if r := drain(t, keep, 0, 100); r.got != 100 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
}

// A process that only starts and stops must not fill the lane with segments,
// and half-made ones are removed.
func TestRepeatedRestarts(t *testing.T) {
	dir := fastDir(t)
	for i := range 20 {
		l := mustOpen(t, small(dir))
		mustCursor(t, l, "x")
		if i == 3 {
			fill(t, l, lot{0, 1, 5, 5, 10})
		}
		mustClose(t, l)
		if err := os.WriteFile(filepath.Join(dir, "a", newName), []byte("half made"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(segmentFiles(t, dir, "a")); n > 2 {
		t.Fatalf("%d segments after 20 restarts", n)
	}
	l := mustOpen(t, small(dir))
	fill(t, l, lot{0, 6, 5, 5, 10})
	if _, err := os.Stat(filepath.Join(dir, "a", newName)); !os.IsNotExist(err) {
		t.Fatalf("new.tmp: %v", err)
	}
	if r := drain(t, mustCursor(t, l, "x"), 0, 10); r.got != 10 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
}

// While the lane is short, pages of released blocks are used again: a cursor
// made later begins after them and is not told of a loss.
func TestCursorAfterRecycling(t *testing.T) {
	dir := fastDir(t)
	o := small(dir)
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	for n := uint64(1); n < 2000; n += 20 {
		fill(t, l, lot{0, n, 20, 20, 100})
		drain(t, c, 0, 100)
	}
	if st, err := os.Stat(segmentFiles(t, dir, "a")[0]); err != nil || st.Size() > 128<<10 {
		t.Fatalf("pages are not used again: %d bytes, %v", st.Size(), err)
	}
	late := mustCursor(t, l, "late")
	fill(t, l, lot{0, 2001, 20, 20, 100})
	if r := drain(t, late, 0, 100); len(r.losses) != 0 || r.got < 20 {
		t.Fatalf("%+v", r)
	}
	balanced(t, late)
}

// What was not released by a cursor that is not on disk yet is never recycled.
func TestRecyclingWaitsForEveryCursor(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	fast, slow := mustCursor(t, l, "fast"), mustCursor(t, l, "slow")
	for n := uint64(1); n < 2000; n += 20 {
		fill(t, l, lot{0, n, 20, 20, 100})
		drain(t, fast, 0, 100)
	}
	if r := drain(t, slow, 0, 100); r.got != 2000 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
}

// A damaged leaf page costs the blocks in it and no others, in an old segment
// and in the newest, where also the cursors stay.
func TestDamagedLeafIsCutOut(t *testing.T) {
	for _, newest := range []bool{false, true} {
		dir := fastDir(t)
		o := small(dir)
		o.SegmentBytes = 1 << 20
		l := mustOpen(t, o)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1, 4000, 10, 100})
		c.Release(0, 101, Released{Sent: 100})
		mustSync(t, c)
		mustClose(t, l)
		if !newest {
			l = mustOpen(t, o)
			fill(t, l, lot{0, 4001, 1, 1, 100})
			mustClose(t, l)
		}
		path := segmentFiles(t, dir, "a")[0]
		overwrite(t, path, damagedLeaf(t, path, 2000)*pageBytes, make([]byte, pageBytes))
		l = mustOpen(t, o)
		c = mustCursor(t, l, "x")
		r := drain(t, c, 0, 100)
		if r.got < 3850 || len(r.losses) != 1 || r.losses[0].Count() > 50 || !r.losses[0].Exact {
			t.Fatalf("newest %v: %+v", newest, r)
		}
		if s := c.Stats()[0]; s.From != 1 || s.Sent != 100+r.got {
			t.Fatalf("newest %v: books %+v", newest, s)
		}
		balanced(t, c)
	}
}

// damagedLeaf finds the page of a leaf that holds a block near seq.
func damagedLeaf(t *testing.T, path string, seq uint64) int64 {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var page int64
	db, err := bolt.Open(path, 0o600, boltOptions(1<<20, true))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bolt.Tx) error {
		_, v := tx.Bucket([]byte(bucketBlocks)).Cursor().Seek(pieceKey(seq, 0))
		page = int64(bytes.Index(p, v) / pageBytes)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return page
}
