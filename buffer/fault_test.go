package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// TestUnknownOutcome: after the sync of a commit fails the records are in the
// file though nobody may acknowledge them. They count as queued, no seq is
// given twice, and writing goes on in a new segment.
func TestUnknownOutcome(t *testing.T) {
	for _, op := range []string{"sync", "commit"} { // visible, and not visible
		t.Run(op, func(t *testing.T) {
			dir := fastDir(t)
			b := &blocker{}
			l, err := open(small(dir), b.fault)
			if err != nil {
				t.Fatal(err)
			}
			mustCursor(t, l, "x")
			fill(t, l, lot{0, 1, 30, 10, 100})
			b.on = func(got, path string) error {
				if got != op {
					return nil
				}
				return fmt.Errorf("fdatasync %s: %w", path, syscall.EIO)
			}
			batch := &Batch{}
			for n := uint64(31); n <= 40; n++ {
				batch.Add(record(n, 100))
			}
			err = appendWait(l, 0, batch)
			if !errors.Is(err, syscall.EIO) || !errors.Is(l.Stats().Err, syscall.EIO) {
				t.Fatalf("append: %v, state %v", err, l.Stats().Err)
			}
			b.on = nil
			next := uint64(31)
			if op == "sync" {
				next = 41
			}
			if got := l.Stats().Lanes[0].Next; got != next {
				t.Fatalf("next %d, want %d", got, next)
			}
			fill(t, l, lot{0, next, 10, 10, 100})
			if n := len(segmentFiles(t, dir, "a")); n != 2 {
				t.Fatalf("%d segments, want a new one", n)
			}
			mustClose(t, l)
			l = mustOpen(t, small(dir))
			c := mustCursor(t, l, "x")
			if r := drain(t, c, 0, 100); r.got != next+9 || len(r.losses) != 0 {
				t.Fatalf("%+v", r)
			}
			balanced(t, c)
		})
	}
}

// TestUnsyncedIsNotRead: bbolt shows a commit to readers between the write of
// its meta page and the sync. A record that is read then, and forwarded, would
// share its seq with another after a power cut.
func TestUnsyncedIsNotRead(t *testing.T) {
	dir := fastDir(t)
	var l *Log
	var c *Cursor
	var during atomic.Uint64
	fault := func(op, _ string) error {
		if op == "sync" && c != nil { // the transaction is visible, the queue does not know yet
			var ch Chunk
			if err := c.Read(0, Limit{Records: 1000, Bytes: 1 << 20}, &ch); err != nil {
				return err
			}
			during.Store(ch.First + uint64(len(ch.Records)))
		}
		return nil
	}
	l, err := open(small(dir), fault)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, l)
	fill(t, l, lot{0, 1, 10, 10, 100})
	c = mustCursor(t, l, "x")
	fill(t, l, lot{0, 11, 10, 10, 100})
	if got := during.Load(); got != 11 {
		t.Fatalf("read up to %d during a commit that was not synced", got)
	}
}

// TestOverlapIsCut: blocks at the end of a segment that a later one holds
// again (written after a commit of unknown outcome) are not read.
func TestOverlapIsCut(t *testing.T) {
	dir := fastDir(t)
	l := mustOpen(t, small(dir))
	fill(t, l, lot{0, 1, 20, 10, 100})
	mustClose(t, l)
	l = mustOpen(t, small(dir))
	fill(t, l, lot{0, 21, 20, 10, 100})
	mustClose(t, l)
	db, err := bolt.Open(segmentFiles(t, dir, "a")[0], 0o600, boltOptions(64<<10, false))
	if err != nil {
		t.Fatal(err)
	}
	raw := &Batch{}
	for range 15 {
		raw.Add([]byte("never acknowledged"))
	}
	enc, err := newCoder(None).encode(nil, scope{}, block{first: 21, count: 15, span: 15, raw: raw.buf})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { return putPieces(tx.Bucket([]byte(bucketBlocks)), 21, enc) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, small(dir))
	if r := drain(t, mustCursor(t, l, "x"), 0, 100); r.got != 40 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
}

// TestTransientErrorsSetNothingAside: too many open files or no memory for a
// map are not damage.
func TestTransientErrorsSetNothingAside(t *testing.T) {
	for err, want := range map[error]bool{
		syscall.EMFILE: false, syscall.ENOMEM: false, syscall.EACCES: false, syscall.EIO: true, syscall.EUCLEAN: true,
		bolterrors.ErrTimeout: false, bolterrors.ErrChecksum: true, bolterrors.ErrInvalid: true, errDamaged: true, ErrNewerFormat: false, ErrClosed: false,
	} {
		if got := isDamage(fmt.Errorf("open segment x: %w", err)); got != want {
			t.Errorf("%v: damage %v, want %v", err, got, want)
		}
	}
	dir := fastDir(t)
	l := mustOpen(t, small(dir))
	fill(t, l, lot{0, 1, 2000, 100, 100})
	c := mustCursor(t, l, "x")
	var old, lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	used, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	lim = syscall.Rlimit{Cur: uint64(len(used) - 1), Max: old.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	var ch Chunk
	err = c.Read(0, Limit{Records: 10, Bytes: 1 << 20}, &ch)
	if err2 := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err2 != nil {
		t.Fatal(err2)
	}
	if !errors.Is(err, syscall.EMFILE) {
		t.Fatalf("read without a free file descriptor: %v", err)
	}
	if r := drain(t, c, 0, 100); r.got != 2000 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
}

// TestNoHandleLeft: files of deleted, replaced and old segments are closed.
func TestNoHandleLeft(t *testing.T) {
	dir := fastDir(t)
	l := mustOpen(t, small(dir))
	c, slow := mustCursor(t, l, "x"), mustCursor(t, l, "slow")
	fill(t, l, lot{0, 1, 6000, 100, 100})
	head := l.lanes[0].segs[0]
	drain(t, c, 0, 100)
	mustSync(t, c)
	drain(t, slow, 0, 100)
	mustSync(t, slow)
	eventually(t, "old segments are deleted", func() bool {
		fill(t, l, lot{0, l.Stats().Lanes[0].Next, 1, 1, 100})
		return l.Stats().Lanes[0].Segments <= 2
	})
	if err := head.view(func(*bolt.Tx) error { return nil }); !errors.Is(err, errMoved) {
		t.Fatalf("a reader opens a deleted segment again: %v", err)
	}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, f := range links {
		if to, err := os.Readlink(f); err == nil && len(to) > len(dir) && to[:len(dir)] == dir {
			open = append(open, to[len(dir):])
		}
	}
	slices.Sort(open)
	if len(open) > 3 { // lock, active, at most one old
		t.Fatalf("open files %v", open)
	}
	mustClose(t, l)
	var ch Chunk
	if err := c.Read(0, Limit{Records: 1, Bytes: 1}, &ch); err != nil && !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := slow.l.lanes[0].segs[0].view(func(*bolt.Tx) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Fatalf("view after close: %v", err)
	}
}
