package buffer

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestDeviceGone: a device that was pulled out and is still mounted: what
// cannot be read while nothing can be written is not damage.
func TestDeviceGone(t *testing.T) {
	b := &blocker{}
	l, c, dir := goneQueue(t, b.fault)
	b.on = func(op, _ string) error {
		if op == "probe" {
			return syscall.EIO
		}
		return nil
	}
	at := listing(t, dir)
	var kept [][]byte
	for _, name := range segmentFiles(t, dir, "a") { // bytes that are not there: as a page fault
		p, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, p)
		if err := os.Truncate(name, pageBytes); err != nil {
			t.Fatal(err)
		}
	}
	var ch Chunk
	for range 2 {
		if err := c.Read(0, Limit{Records: 10, Bytes: 1 << 20}, &ch); !errors.Is(err, ErrGone) || !errors.Is(err, syscall.EIO) || ch.Loss != nil {
			t.Fatalf("read: %v, %+v", err, ch.Loss)
		}
	}
	if err := appendOne(l, 1, 1); !errors.Is(err, ErrGone) {
		t.Fatalf("append: %v", err)
	}
	for i, name := range segmentFiles(t, dir, "a") {
		overwrite(t, name, 0, kept[i])
	}
	if got := listing(t, dir); strings.Count(got, "\n") != strings.Count(at, "\n") {
		t.Fatalf("files were made or deleted:\n%s\n%s", at, got)
	}
	b.on = nil
	expectBack(t, l, c, 3000)
}

// TestFailedCommitFollowsNoPages: after a commit that fails bbolt would follow
// every page in a goroutine, where one that cannot be read ends the process.
func TestFailedCommitFollowsNoPages(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 4 << 20
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 3000, 100, 100})
	s := l.lanes[0].active
	bad := make([]byte, pageBytes)
	for i := range bad {
		bad[i] = 0xff
	}
	old := make([]byte, pageBytes)
	f, err := os.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const page = 30
	if _, err := f.ReadAt(old, page*pageBytes); err != nil || binary.NativeEndian.Uint64(old) != page {
		t.Fatal(err, "not a page of the tree")
	}
	overwrite(t, s.path, page*pageBytes, bad)
	if err := s.file.Close(); err != nil { // every write fails
		t.Fatal(err)
	}
	if err := appendOne(l, 0, 3001); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("append: %v", err)
	}
	overwrite(t, s.path, page*pageBytes, old)
	fill(t, l, lot{0, 3001, 10, 10, 100})
	if r := drain(t, c, 0, 100); r.got != 3010 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
}
