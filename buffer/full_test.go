package buffer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk mounts a file system of n bytes. Without the right to mount it
// fails: the tests with injected errors below need none.
func smallDisk(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", n)); err != nil {
		if os.Geteuid() == 0 && !errors.Is(err, syscall.EPERM) {
			t.Fatal(err)
		}
		return ""
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// stuff fills the disk with a file of somebody else and returns its name.
func stuff(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "other")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	_ = f.Close()
	return name
}

// blocker fails operations on demand, for those who may not mount.
type blocker struct{ on func(op, path string) error }

func (b *blocker) fault(op, path string) error {
	if b.on == nil {
		return nil
	}
	return b.on(op, path)
}

// TestFullDisk: what cannot be stored is answered ErrFull and shown, what is
// stored is read, and records are taken again when there is space.
func TestFullDisk(t *testing.T) {
	mnt := smallDisk(t, 6<<20)
	if mnt == "" {
		testInjectedFull(t)
		return
	}
	dir := filepath.Join(mnt, "q")
	l := mustOpen(t, small(dir))
	mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 5000, 100, 100})
	other := stuff(t, mnt)
	n, err := uint64(5001), error(nil)
	for err == nil {
		b := &Batch{}
		b.Add(record(n, 100))
		if err = appendWait(l, 0, b); err == nil {
			n++
		}
	}
	if !errors.Is(err, ErrFull) || !errors.Is(l.Stats().Err, ErrFull) {
		t.Fatalf("append on a full disk: %v, state %v", err, l.Stats().Err)
	}
	mustClose(t, l)
	l = mustOpen(t, small(dir)) // starting needs no space, reading neither
	c := mustCursor(t, l, "x")
	if r := drain(t, c, 0, 100); r.got != n-1 || len(r.losses) != 0 {
		t.Fatalf("read %+v of %d", r, n-1)
	}
	if l.Stats().Lanes[0].Segments == 0 {
		t.Fatal("no segment")
	}
	fill(t, l, lot{0, n, 100, 10, 100}) // drained: takes records by itself, thanks to the reserve
	if l.Stats().Err != nil {
		t.Fatal(l.Stats().Err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	fill(t, l, lot{0, n + 100, 1000, 100, 100})
	if r := drain(t, c, 0, 100); r.got != 1100 || len(r.losses) != 0 {
		t.Fatalf("read %+v", r)
	}
	balanced(t, c)
	fill(t, l, lot{1, 1, 1, 1, 100}) // a new segment makes the reserve again
	if st, err := os.Stat(filepath.Join(dir, reserveName)); err != nil || st.Size() != reserveBytes {
		t.Fatalf("reserve: %v", err)
	}
}

// TestFullDiskNotDrained: while a record waits nothing is deleted, and the
// records are taken again when somebody makes space.
func TestFullDiskNotDrained(t *testing.T) {
	mnt := smallDisk(t, 4<<20)
	if mnt == "" {
		testInjectedFull(t)
		return
	}
	dir := filepath.Join(mnt, "q")
	l := mustOpen(t, small(dir))
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 1000, 100, 100})
	other := stuff(t, mnt)
	next := uint64(1001)
	add := func() error {
		b := &Batch{}
		b.Add(record(next, 2000))
		err := appendWait(l, 1, b)
		return err
	}
	if err := add(); !errors.Is(err, ErrFull) {
		t.Fatalf("lane without a segment: %v", err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	next = 1
	if err := add(); err != nil || l.Stats().Err != nil {
		t.Fatalf("with space again: %v, state %v", err, l.Stats().Err)
	}
	if r := drain(t, c, 0, 100); r.got != 1000 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
}

// testInjectedFull is TestFullDisk with errors that are made up.
func testInjectedFull(t *testing.T) {
	t.Helper()
	dir := fastDir(t)
	b := &blocker{}
	l, err := open(small(dir), b.fault)
	if err != nil {
		t.Fatal(err)
	}
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 5000, 100, 100})
	b.on = func(op, _ string) error { // no space unless the reserve is gone
		if _, err := os.Stat(filepath.Join(dir, reserveName)); err == nil || op == "reserve" {
			return fmt.Errorf("write: %w", syscall.ENOSPC)
		}
		return nil
	}
	batch := &Batch{}
	batch.Add(record(5001, 100))
	if err := appendWait(l, 0, batch); !errors.Is(err, ErrFull) || !errors.Is(l.Stats().Err, ErrFull) {
		t.Fatalf("append on a full disk: %v, state %v", err, l.Stats().Err)
	}
	if r := drain(t, c, 0, 100); r.got != 5000 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
	fill(t, l, lot{0, 5001, 10, 10, 100})
	if err := l.Stats().Err; err != nil {
		t.Fatal(err)
	}
	if n := l.Stats().Lanes[0].Segments; n != 1 {
		t.Fatalf("%d segments left", n)
	}
	if r := drain(t, c, 0, 100); r.got != 10 {
		t.Fatalf("%+v", r)
	}
	b.on = nil
	mustClose(t, l)
}

// TestInjectedFullDisk runs also where TestFullDisk can mount.
func TestInjectedFullDisk(t *testing.T) { testInjectedFull(t) }

// TestReadOnly: on a file system that is mounted read-only what is there is
// read and appending says so; after a remount it goes on by itself.
func TestReadOnly(t *testing.T) {
	mnt := smallDisk(t, 6<<20)
	if mnt == "" {
		testInjectedReadOnly(t)
		return
	}
	dir := filepath.Join(mnt, "q")
	l := mustOpen(t, small(dir))
	fill(t, l, lot{0, 1, 1000, 100, 100})
	mustClose(t, l)
	remount := func(opt string) {
		t.Helper()
		if out, err := exec.Command("mount", "-o", "remount,"+opt, mnt).CombinedOutput(); err != nil {
			t.Fatalf("remount %s: %v: %s", opt, err, out)
		}
	}
	remount("ro")
	l = mustOpen(t, small(dir))
	c := mustCursor(t, l, "x")
	b := &Batch{}
	b.Add(record(1001, 100))
	if err := appendWait(l, 0, b); !errors.Is(err, ErrReadOnly) || !errors.Is(l.Stats().Err, ErrReadOnly) {
		t.Fatalf("append: %v, state %v", err, l.Stats().Err)
	}
	if r := drain(t, c, 0, 100); r.got != 1000 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
	if s, err := OpenShelf(ShelfOptions{Dir: dir, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	} else if err := s.Put([][]byte{{1}}); !errors.Is(err, ErrReadOnly) {
		t.Fatalf("put: %v", err)
	}
	remount("rw")
	fill(t, l, lot{0, 1001, 100, 10, 100})
	if err := l.Stats().Err; err != nil {
		t.Fatal(err)
	}
	if r := drain(t, c, 0, 100); r.got != 100 {
		t.Fatalf("%+v", r)
	}
	mustSync(t, c)
	balanced(t, c)
}

// testInjectedReadOnly is TestReadOnly with errors that are made up, in the
// middle of a run: the kernel does so when a disk fails.
func testInjectedReadOnly(t *testing.T) {
	t.Helper()
	b := &blocker{}
	l, err := open(small(fastDir(t)), b.fault)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, l)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 100, 10, 100})
	b.on = func(string, string) error { return syscall.EROFS }
	batch := &Batch{}
	batch.Add(record(101, 100))
	if err := appendWait(l, 0, batch); !errors.Is(err, ErrReadOnly) || !errors.Is(l.Stats().Err, ErrReadOnly) {
		t.Fatalf("append: %v, state %v", err, l.Stats().Err)
	}
	if r := drain(t, c, 0, 100); r.got != 100 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
	if err := c.Sync(t.Context()); !errors.Is(err, ErrReadOnly) {
		t.Fatalf("sync: %v", err)
	}
	b.on = nil
	mustSync(t, c)
	if err := l.Stats().Err; err != nil {
		t.Fatalf("state after a commit: %v", err)
	}
	fill(t, l, lot{0, 101, 1, 1, 100})
}

func TestInjectedReadOnly(t *testing.T) { testInjectedReadOnly(t) }

// bbolt passes the error of growing a file on as text.
func TestClassifyText(t *testing.T) {
	for text, want := range map[string]error{
		"file resize error: truncate x: no space left on device":   ErrFull,
		"file sync error: sync x: read-only file system":           ErrReadOnly,
		"file sync error: sync x: input/output error":              nil,
		"file resize error: truncate x: " + syscall.EDQUOT.Error(): ErrFull,
	} {
		if got := classify(errors.New(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if err := wrapSpace("commit", fmt.Errorf("x: %w", syscall.ENOSPC)); !strings.Contains(err.Error(), "commit: ") {
		t.Error(err)
	}
}

// TestReserve: a queue of one drained segment on a full disk has nothing else
// to delete than the reserve.
func TestReserve(t *testing.T) {
	mnt := smallDisk(t, 4<<20)
	if mnt == "" {
		testInjectedFull(t)
		return
	}
	o := small(filepath.Join(mnt, "q"))
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 1000, 100, 100})
	stuff(t, mnt)
	n, err := uint64(1001), error(nil)
	for ; err == nil; n++ {
		b := &Batch{}
		b.Add(record(n, 1000))
		err = appendWait(l, 1, b)
	}
	if r := drain(t, c, 0, 100); r.got != 1000 {
		t.Fatalf("%+v", r)
	}
	fill(t, l, lot{0, 1001, 100, 100, 100})
	if r := drain(t, c, 0, 100); r.got != 100 || l.Stats().Err != nil {
		t.Fatalf("%+v, state %v", r, l.Stats().Err)
	}
}
