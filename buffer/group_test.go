package buffer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestGroupCommit: with 200 producers that each wait, done is called in the
// order of the Append calls over all lanes.
func TestGroupCommit(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 4 << 20
	l := mustOpen(t, o)
	const producers, each = 200, 20
	var order sync.Mutex // guards asked, and that Append is called in its order
	var asked, answered []int
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				id := p*each + i
				b := &Batch{}
				b.Add(record(uint64(id), 100))
				done := make(chan error, 1)
				order.Lock()
				asked = append(asked, id)
				l.Append(p%2, b, func(err error) {
					answered = append(answered, id) // on the committer, one at a time
					done <- err
				})
				order.Unlock()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mustClose(t, l)
	if !slices.Equal(asked, answered) {
		t.Fatal("done is not called in the order of the Append calls")
	}
	if s := l.Stats(); s.Records != producers*each {
		t.Fatalf("%d records", s.Records)
	}
}

// TestCommitTakesAllThatWaits: what is appended while a commit is under way is
// in the next one, a transaction per lane.
func TestCommitTakesAllThatWaits(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 4 << 20
	begun, goOn := make(chan struct{}), make(chan struct{})
	var first sync.Once
	l, err := open(o, func(op, _ string) error {
		if op == "commit" {
			first.Do(func() { close(begun); <-goOn })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	add := func(n int) {
		b := &Batch{}
		b.Add(record(uint64(n), 100))
		wg.Add(1)
		l.Append(n%2, b, func(err error) {
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		})
	}
	add(0)
	<-begun
	for n := range 200 {
		add(n)
	}
	close(goOn)
	wg.Wait()
	mustClose(t, l)
	if s := l.Stats(); s.Records != 201 || s.Commits != 3 {
		t.Fatalf("%d records in %d commits", s.Records, s.Commits)
	}
}

// TestCloseAnswersEverything: what is pending is committed, what comes during
// Close is refused, all of it once and in order.
func TestCloseAnswersEverything(t *testing.T) {
	o := small(fastDir(t))
	var mu sync.Mutex // guards answers
	var answers []int
	var stored int
	hold, started := make(chan struct{}), make(chan struct{}, 100)
	l, err := open(o, func(op, _ string) error {
		if op == "commit" {
			started <- struct{}{}
			<-hold
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	put := func(i int) {
		b := &Batch{}
		b.Add(record(uint64(i), 50))
		l.Append(i%2, b, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, i)
			if err == nil {
				stored++
			} else if !errors.Is(err, ErrClosed) || i < 50 {
				t.Errorf("append %d: %v", i, err)
			}
		})
	}
	put(0)
	<-started // a commit is under way
	for i := 1; i < 50; i++ {
		put(i)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("close: %v", err)
	}
	for i := 50; i < 60; i++ {
		put(i)
	}
	close(hold)
	mustClose(t, l)
	put(60)
	if len(answers) != 61 || !slices.IsSorted(answers) || stored != 50 {
		t.Fatalf("%d stored, answers %v", stored, answers)
	}
	if err := mustErr(l.Cursor("x")).Sync(context.Background()); err != nil && !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if gone := l.Forget(nil); len(gone) != 0 {
		t.Fatalf("forgot %v after close", gone)
	}
}

func mustErr(c *Cursor, _ error) *Cursor { return c }

// TestIdle: nothing happens, nothing is written; a release is written after
// CursorDelay, once; Sync writes it at once and only when there is something.
func TestIdle(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		o := small(dir)
		o.CursorDelay = 2 * time.Second
		l := mustOpen(t, o)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1, 100, 100, 100})
		time.Sleep(time.Minute) // in the bubble: no time passes
		synctest.Wait()
		at := l.Stats().Commits
		expect := func(what string, commits int64) {
			t.Helper()
			synctest.Wait()
			if got := l.Stats().Commits - at; got != commits {
				t.Fatalf("%s: %d commits, want %d", what, got, commits)
			}
		}
		time.Sleep(time.Hour)
		expect("idle", 0)
		for i := range uint64(10) {
			c.Release(0, 2+i, Released{Sent: 1})
		}
		time.Sleep(1900 * time.Millisecond)
		expect("before the delay", 0)
		time.Sleep(200 * time.Millisecond)
		expect("after the delay", 1)
		time.Sleep(time.Hour)
		expect("idle again", 1)
		mustSync(t, c)
		expect("sync of nothing", 1)
		c.Release(0, 20, Released{Sent: 9})
		mustSync(t, c)
		expect("sync", 2)
		time.Sleep(time.Hour)
		expect("the delay after a sync", 2)
	})
}

// TestSyncIsOnDisk: after Sync a process that dies finds the release.
func TestSyncIsOnDisk(t *testing.T) {
	dir := fastDir(t)
	b := &blocker{}
	l, err := open(small(dir), b.fault)
	if err != nil {
		t.Fatal(err)
	}
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 100, 100, 100})
	fill(t, l, lot{1, 1, 100, 100, 100})
	c.Release(0, 51, Released{Sent: 50})
	c.Release(1, 71, Released{Sent: 60, Dead: 10})
	mustSync(t, c)
	c.Release(0, 91, Released{Sent: 40})
	b.on = func(string, string) error { return errDamaged } // nothing reaches the disk any more
	if err := c.Sync(context.Background()); err == nil {
		t.Fatal("sync succeeded without a commit")
	}
	mustClose(t, l)
	l = mustOpen(t, small(dir))
	s := mustCursor(t, l, "x").Stats()
	if s[0].Next != 51 || s[1].Next != 71 || s[1].Dead != 10 || s[1].Sent != 60 {
		t.Fatalf("%+v", s)
	}
}

// TestFailedSaveIsTriedAgain: a cursor that could not be written is written
// when the disk has space again, though nobody appends or releases, and the
// state clears.
func TestFailedSaveIsTriedAgain(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		o := small(dir)
		o.CursorDelay = time.Second
		b := &blocker{}
		l, err := open(o, b.fault)
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, l)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1, 100, 100, 100})
		b.on = func(string, string) error { return ErrReadOnly }
		c.Release(0, 51, Released{Sent: 50})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if err := l.Stats().Err; !errors.Is(err, ErrReadOnly) {
			t.Fatalf("state %v", err)
		}
		l.pendMu.Lock() // the committer takes it before each round
		b.on = nil
		l.pendMu.Unlock()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if err := l.Stats().Err; err != nil {
			t.Fatalf("state %v", err)
		}
		if got := l.lanes[0].onDisk["x"].next; got != 51 {
			t.Fatalf("on disk %d", got)
		}
	})
}

// TestForget: a dropped cursor no longer holds records, also after a restart,
// and one of the same name begins anew.
func TestForget(t *testing.T) {
	dir := fastDir(t)
	l := mustOpen(t, small(dir))
	for _, name := range []string{"keep", "old", "older"} {
		mustCursor(t, l, name)
	}
	fill(t, l, lot{0, 1, 3000, 100, 100})
	mustSync(t, mustCursor(t, l, "keep"))
	mustClose(t, l)
	l = mustOpen(t, small(dir))
	mustCursor(t, l, "keep")
	mustCursor(t, l, "old")
	if gone := l.Forget([]string{"keep"}); !slices.Equal(gone, []string{"old", "older"}) {
		t.Fatalf("forgot %v", gone)
	}
	if gone := l.Forget([]string{"keep"}); len(gone) != 0 {
		t.Fatalf("forgot %v again", gone)
	}
	mustClose(t, l)
	l = mustOpen(t, small(dir))
	if len(l.lanes[0].onDisk) != 1 {
		t.Fatalf("on disk %v", l.lanes[0].onDisk)
	}
	keep := mustCursor(t, l, "keep")
	drain(t, keep, 0, 100)
	mustSync(t, keep)
	fill(t, l, lot{0, 3001, 1, 1, 100})
	if n := l.Stats().Lanes[0].Segments; n > 2 {
		t.Fatalf("%d segments held", n)
	}
	again := mustCursor(t, l, "old")
	if s := again.Stats()[0]; s.Sent != 0 || s.From != s.Next || s.Lost != 0 {
		t.Fatalf("%+v", s)
	}
}

// TestReleaseBeyondTheEnd: no cursor gets ahead of what exists.
func TestReleaseBeyondTheEnd(t *testing.T) {
	l := mustOpen(t, small(fastDir(t)))
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 10, 10, 100})
	c.Release(0, 1000, Released{Sent: 999})
	c.Release(0, 3, Released{Sent: 2}) // backwards: no effect
	if s := c.Stats()[0]; s.Next != 11 || s.Sent != 10 || s.Waiting != 0 {
		t.Fatalf("%+v", s)
	}
	balanced(t, c)
	fill(t, l, lot{0, 11, 10, 10, 100})
	if r := drain(t, c, 0, 100); r.got != 10 {
		t.Fatalf("%+v", r)
	}
}
