package buffer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// move renames a directory.
func move(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// listing names every file and directory below dir with its size.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil {
			fmt.Fprintln(&b, path[len(dir):], st.Size(), st.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// appendOne appends the record of a seq.
func appendOne(l *Log, lane int, n uint64) error {
	b := &Batch{}
	b.Add(record(n, 100))
	return appendWait(l, lane, b)
}

// expectGone checks that a queue whose directory is gone takes nothing, gives
// nothing, and says why.
func expectGone(t *testing.T, l *Log, c *Cursor, why string) {
	t.Helper()
	for lane := range 2 {
		err := appendOne(l, lane, 1)
		if !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), l.o.Dir) {
			t.Fatalf("append: %v, want %q", err, why)
		}
		var ch Chunk
		if err := c.Read(lane, Limit{Records: 10, Bytes: 1 << 20}, &ch); !errors.Is(err, ErrGone) || ch.Loss != nil || len(ch.Records) != 0 {
			t.Fatalf("read: %v, %+v", err, ch)
		}
	}
	if err := l.Stats().Err; !errors.Is(err, ErrGone) {
		t.Fatalf("state %v", err)
	}
}

// goneQueue is a queue of several segments in lane 0 and one in lane 1, read
// and released in part: what is released last is not on disk.
func goneQueue(t *testing.T, fault func(op, path string) error) (l *Log, c *Cursor, dir string) {
	t.Helper()
	dir = filepath.Join(fastDir(t), "q")
	l, err := open(small(dir), fault)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, l) })
	c = mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 3000, 100, 100})
	fill(t, l, lot{1, 1, 50, 10, 100})
	c.Release(0, 11, Released{Sent: 10})
	mustSync(t, c)
	c.Release(0, 21, Released{Sent: 7, Dead: 3})
	return l, c, dir
}

// expectBack checks that the queue goes on with what it had: n records of lane
// 0 and 50 of lane 1 so far, also after a restart.
func expectBack(t *testing.T, l *Log, c *Cursor, n uint64) {
	t.Helper()
	fill(t, l, lot{0, n + 1, 100, 10, 100})
	fill(t, l, lot{1, 51, 10, 10, 100})
	s := l.Stats()
	if s.Err != nil || s.Lanes[0].Next != n+101 || s.Lanes[1].Next != 61 || s.Quarantined != 0 {
		t.Fatalf("%+v", s)
	}
	if p := c.Stats()[0]; p.Next != 21 || p.Sent != 17 || p.Dead != 3 || p.Lost != 0 {
		t.Fatalf("%+v", p)
	}
	balanced(t, c)
	mustClose(t, l)
	l = mustOpen(t, l.o)
	c = mustCursor(t, l, "x")
	if p := c.Stats()[0]; p.Next != 21 || p.Sent != 17 || p.Dead != 3 {
		t.Fatalf("after a restart %+v", p)
	}
	if r := drain(t, c, 0, 100); r.got != n+80 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
	if r := drain(t, c, 1, 100); r.got != 60 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
}

// TestDirectoryGone: while an empty directory is where the queue was nothing
// is written into it; with the queue back, in its old directory or in a copy
// of it, everything goes on.
func TestDirectoryGone(t *testing.T) {
	for _, copied := range []bool{false, true} {
		t.Run(fmt.Sprintf("copied=%v", copied), func(t *testing.T) {
			l, c, dir := goneQueue(t, nil)
			move(t, dir, dir+".away")
			expectGone(t, l, c, "no such file")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			expectGone(t, l, c, errOtherDir.Error())
			if err := c.Sync(t.Context()); !errors.Is(err, ErrGone) {
				t.Fatalf("sync: %v", err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
				t.Fatalf("written into the empty directory: %v, %v", entries, err)
			}
			if err := os.Remove(dir); err != nil { // fails when it is not empty
				t.Fatal(err)
			}
			if copied {
				if err := os.CopyFS(dir, os.DirFS(dir+".away")); err != nil {
					t.Fatal(err)
				}
			} else {
				move(t, dir+".away", dir)
			}
			expectBack(t, l, c, 3000)
		})
	}
}

// TestDirectoryGoneUnnoticed: a stick that was pulled out and put back in
// between two appends.
func TestDirectoryGoneUnnoticed(t *testing.T) {
	l, c, dir := goneQueue(t, nil)
	move(t, dir, dir+".away")
	if err := os.CopyFS(dir, os.DirFS(dir+".away")); err != nil {
		t.Fatal(err)
	}
	at := listing(t, dir+".away")
	expectBack(t, l, c, 3000)
	if got := listing(t, dir+".away"); got != at {
		t.Fatalf("the old directory was written:\n%s\n%s", at, got)
	}
}

// TestAnotherQueueInItsPlace: nothing of it is read, written or locked.
func TestAnotherQueueInItsPlace(t *testing.T) {
	l, c, dir := goneQueue(t, nil)
	move(t, dir, dir+".away")
	other := mustOpen(t, small(dir))
	fill(t, other, lot{0, 1, 3000, 100, 100})
	fill(t, other, lot{1, 1, 50, 10, 100})
	mustClose(t, other)
	at := listing(t, dir)
	expectGone(t, l, c, "another queue")
	l.Forget([]string{"x"})
	if got := listing(t, dir); got != at {
		t.Fatalf("the other queue was written:\n%s\n%s", at, got)
	}
	mustClose(t, mustOpen(t, small(dir)))
	move(t, dir, dir+".other")
	move(t, dir+".away", dir)
	expectBack(t, l, c, 3000)
}

// TestIncompleteCopy: a copy without one of the lanes is not gone on with.
func TestIncompleteCopy(t *testing.T) {
	l, c, dir := goneQueue(t, nil)
	move(t, dir, dir+".away")
	if err := os.CopyFS(filepath.Join(dir, "a"), os.DirFS(filepath.Join(dir+".away", "a"))); err != nil {
		t.Fatal(err)
	}
	expectGone(t, l, c, "no lane b")
	if _, err := os.Stat(filepath.Join(dir, lockName)); err == nil {
		t.Fatal("locked")
	}
	if err := os.CopyFS(filepath.Join(dir, "b"), os.DirFS(filepath.Join(dir+".away", "b"))); err != nil {
		t.Fatal(err)
	}
	expectBack(t, l, c, 3000)
}

// TestGoneDuringCommit: what a commit of unknown outcome has stored counts as
// queued when the directory is back, and its seqs are not given again.
func TestGoneDuringCommit(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		b := &blocker{}
		l, c, dir := goneQueue(t, b.fault)
		c.Release(0, 2001, Released{Sent: 1980}) // of what is released a full disk would make room
		had := l.lanes[0].segments()
		b.on = func(op, _ string) error {
			if op != "sync" {
				return nil
			}
			b.on = nil
			move(t, dir, dir+".away")
			return cause
		}
		if err := appendOne(l, 0, 3001); !errors.Is(err, ErrGone) || !errors.Is(err, cause) {
			t.Fatalf("append: %v", err)
		}
		expectGone(t, l, c, "no such file")
		if n := l.lanes[0].segments(); n != had {
			t.Fatalf("%d segments, had %d", n, had)
		}
		move(t, dir+".away", dir)
		fill(t, l, lot{0, 3002, 10, 10, 100})
		if r := drain(t, c, 0, 100); r.got != 1011 || len(r.losses) != 0 {
			t.Fatalf("%+v", r)
		}
		balanced(t, c)
	}
}

// TestGoneWhileIdle: with a release waiting to be written the state shows it
// within CursorDelay, and clears by itself; the release is then on disk.
func TestGoneWhileIdle(t *testing.T) {
	dir := filepath.Join(fastDir(t), "q")
	synctest.Test(t, func(t *testing.T) {
		o := small(dir)
		o.CursorDelay = time.Second
		l := mustOpen(t, o)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1, 100, 100, 100})
		move(t, dir, dir+".away")
		c.Release(0, 51, Released{Sent: 50})
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if err := l.Stats().Err; !errors.Is(err, ErrGone) {
			t.Fatalf("state %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		move(t, dir+".away", dir)
		time.Sleep(2100 * time.Millisecond)
		synctest.Wait()
		if err := l.Stats().Err; err != nil {
			t.Fatalf("state %v", err)
		}
		if got := l.lanes[0].onDisk["x"].next; got != 51 || l.lanes[0].stale {
			t.Fatalf("on disk %d", got)
		}
	})
}

// TestGoneFreshQueue: a queue that holds nothing yet tells its directory by
// that alone.
func TestGoneFreshQueue(t *testing.T) {
	dir := filepath.Join(fastDir(t), "q")
	l := mustOpen(t, small(dir))
	c := mustCursor(t, l, "x")
	move(t, dir, dir+".away")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	expectGone(t, l, c, errOtherDir.Error())
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	move(t, dir+".away", dir)
	l.Forget([]string{"x"})
	if err := l.Stats().Err; err != nil {
		t.Fatalf("state %v", err)
	}
	fill(t, l, lot{0, 1, 10, 10, 100})
}

// TestGoneWithinRound: no segment is begun in what is in the queue's place
// since the round began.
func TestGoneWithinRound(t *testing.T) {
	dir := filepath.Join(fastDir(t), "q")
	b := &blocker{}
	o := small(dir)
	o.Lanes[0].MaxDelay = time.Hour
	l, err := open(o, b.fault)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, l)
	fill(t, l, lot{0, 1, 10, 10, 100})
	b.on = func(op, _ string) error {
		if op == "commit" {
			b.on = nil
			move(t, dir, dir+".away")
			return os.Mkdir(dir, 0o700)
		}
		return nil
	}
	first := make(chan error, 1)
	lazily(l, 0, 11, func(err error) { first <- err }) // goes with the next
	if err := appendOne(l, 1, 1); !errors.Is(err, ErrGone) {
		t.Fatalf("append: %v", err)
	}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	move(t, dir+".away", dir)
	fill(t, l, lot{0, 12, 1, 1, 100})
	if r := drain(t, mustCursor(t, l, "x"), 0, 100); r.got != 12 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
}

// TestOlderCopy: with a copy made before the last release in its place the
// cursors are written again: segments are deleted only below what is on disk.
func TestOlderCopy(t *testing.T) {
	l, c, dir := goneQueue(t, nil)
	if err := os.CopyFS(dir+".copy", os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	mustSync(t, c)
	move(t, dir, dir+".away")
	move(t, dir+".copy", dir)
	l.Forget([]string{"x"}) // any request
	mustClose(t, l)
	l = mustOpen(t, l.o)
	c = mustCursor(t, l, "x")
	expectBack(t, l, c, 3000)
}

// TestDeviceGoneInCommit: a commit that fails on a device which answers
// nothing any more does not move the lane's next seq.
func TestDeviceGoneInCommit(t *testing.T) {
	b := &blocker{}
	l, c, _ := goneQueue(t, b.fault)
	var kept []byte
	var name string
	b.on = func(op, path string) (err error) {
		switch op {
		case "sync":
			if kept, err = os.ReadFile(path); err != nil {
				return err
			}
			name = path
			return errors.Join(syscall.EIO, os.Truncate(path, pageBytes))
		case "probe":
			return syscall.EIO
		}
		return nil
	}
	if err := appendOne(l, 0, 3001); !errors.Is(err, ErrGone) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("append: %v", err)
	}
	overwrite(t, name, 0, kept)
	b.on = nil
	expectBack(t, l, c, 3001)
}

// TestLockDeleted: the lock is taken again.
func TestLockDeleted(t *testing.T) {
	l, c, dir := goneQueue(t, nil)
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	fill(t, l, lot{0, 3001, 1, 1, 100})
	if _, err := Open(small(dir)); !errors.Is(err, ErrInUse) {
		t.Fatalf("open beside it: %v", err)
	}
	expectBack(t, l, c, 3001)
}

// TestTakenMeanwhile: another process that has the queue open keeps it; what it
// adds counts as queued, and what it released is only sent again.
func TestTakenMeanwhile(t *testing.T) {
	l, c, dir := goneQueue(t, nil)
	move(t, dir, dir+".away")
	expectGone(t, l, c, "no such file")
	if err := os.CopyFS(dir, os.DirFS(dir+".away")); err != nil {
		t.Fatal(err)
	}
	other := mustOpen(t, small(dir))
	expectGone(t, l, c, ErrInUse.Error())
	fill(t, other, lot{0, 3001, 10, 10, 100})
	mustClose(t, other)
	expectBack(t, l, c, 3010)
}
