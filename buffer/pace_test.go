package buffer

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace: when a commit is due, as a function of what is pending.
func TestPace(t *testing.T) {
	t0 := time.Now()
	of := func(n, size int) *Batch { return &Batch{n: n, buf: make([]byte, size)} }
	after := func(d time.Duration) time.Time { return t0.Add(d) }
	for _, x := range []struct {
		name string
		feed func(p *pace)
		due  time.Duration // when it becomes ready by time; -1 = never, 0 = at once
	}{
		{"nothing", func(*pace) {}, -1},
		{"somebody waits", func(p *pace) { p.urgent = true }, 0},
		{"one lazy batch", func(p *pace) { p.add(t0, time.Second, of(1, 10)) }, time.Second},
		{"the first decides", func(p *pace) {
			p.add(t0, time.Second, of(1, 10))
			p.add(after(900*time.Millisecond), time.Second, of(1, 10))
		}, time.Second},
		{"the more urgent lane decides", func(p *pace) {
			p.add(t0, time.Minute, of(1, 10))
			p.add(after(time.Second), time.Second, of(1, 10))
		}, 2 * time.Second},
		{"bytes", func(p *pace) { p.add(t0, time.Hour, of(1, lazyBytes-1)); p.add(t0, time.Hour, of(1, 1)) }, 0},
		{"almost bytes", func(p *pace) { p.add(t0, time.Hour, of(1, lazyBytes-1)) }, time.Hour},
		{"records", func(p *pace) { p.add(t0, time.Hour, of(lazyRecords, 1)) }, 0},
		{"cursors", func(p *pace) { p.save = after(time.Second) }, time.Second},
		{"cursors first", func(p *pace) { p.save = after(time.Second); p.add(t0, time.Hour, of(1, 1)) }, time.Second},
		{"cursors last", func(p *pace) { p.save = after(time.Hour); p.add(t0, time.Second, of(1, 1)) }, time.Second},
		{"taken", func(p *pace) { p.urgent = true; p.add(t0, time.Second, of(1, lazyBytes)); p.taken(false) }, -1},
		{"left over", func(p *pace) { p.add(t0, time.Second, of(1, lazyBytes)); p.taken(true) }, 0},
	} {
		var p pace
		x.feed(&p)
		if got := p.ready(t0); got != (x.due == 0) {
			t.Errorf("%s: ready %v", x.name, got)
		}
		if x.due < 0 && (!p.next().IsZero() || p.ready(after(1000*time.Hour))) {
			t.Errorf("%s: ready without cause, next %v", x.name, p.next().Sub(t0))
		}
		if x.due > 0 && (!p.next().Equal(after(x.due)) || p.ready(after(x.due-1)) || !p.ready(after(x.due))) {
			t.Errorf("%s: next %v", x.name, p.next().Sub(t0))
		}
	}
}

// lazyLog is a queue whose lanes may wait a second and a minute.
func lazyLog(t *testing.T, dir string) *Log {
	o := small(dir)
	o.SegmentBytes = 1 << 20
	o.Lanes[0].MaxDelay, o.Lanes[1].MaxDelay = time.Second, time.Minute
	o.CursorDelay = time.Second
	return mustOpen(t, o)
}

// lazily appends one record of a lane that nobody waits for.
func lazily(l *Log, lane int, n uint64, done func(error)) {
	b := &Batch{Lazy: true}
	b.Add(record(n, 100))
	l.Append(lane, b, done)
}

// TestLazyCommit: what nobody waits for is committed when the oldest of it has
// waited its lane's delay, and no later.
func TestLazyCommit(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		l := lazyLog(t, dir)
		var mu sync.Mutex // guards answers
		var answers []time.Duration
		start := time.Now()
		done := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			answers = append(answers, time.Since(start))
		}
		take := func() []time.Duration {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(answers)
		}
		for n := range uint64(25) { // twelve in a delay
			lazily(l, 0, n+1, done)
			time.Sleep(90 * time.Millisecond)
		}
		at := take()
		if c := l.Stats().Commits; c != 2 || len(at) != 24 || at[11] != time.Second || at[12] != 2080*time.Millisecond {
			t.Fatalf("%d commits, answers at %v", c, at)
		}
		time.Sleep(time.Hour)
		at = take()
		if c := l.Stats().Commits; c != 3 || at[24] != 3160*time.Millisecond {
			t.Fatalf("%d commits, answers at %v", c, at)
		}
		mu.Lock()
		answers, start = nil, time.Now()
		mu.Unlock()
		lazily(l, 1, 1, done)
		time.Sleep(59 * time.Second)
		if at = take(); len(at) != 0 {
			t.Fatalf("answers at %v", at)
		}
		lazily(l, 0, 26, done) // a lane of a shorter delay takes it along
		time.Sleep(time.Hour)
		if at = take(); len(at) != 2 || at[0] != time.Minute || at[1] != time.Minute {
			t.Fatalf("answers at %v", at)
		}
	})
}

// TestNobodyWaitsForTheLazy: whatever somebody waits for is committed at once,
// and takes along what is lazy; done keeps its order over all lanes.
func TestNobodyWaitsForTheLazy(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		l := lazyLog(t, dir)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1, 10, 10, 100})
		mustSync(t, c)
		var order []int
		next := uint64(11)
		for name, wait := range map[string]func(){
			"append": func() { fill(t, l, lot{1, next, 1, 1, 100}) },
			"sync":   func() { c.Release(0, 5+next-11, Released{Sent: 1}); mustSync(t, c) },
			"forget": func() { l.Forget([]string{"x"}) },
		} {
			order = nil
			start := time.Now()
			lazily(l, 1, 1, func(error) { order = append(order, 1) })
			lazily(l, 0, next, func(error) { order = append(order, 2) })
			lazily(l, 1, 2, func(error) { order = append(order, 3) })
			next++
			wait()
			if time.Since(start) != 0 || !slices.Equal(order, []int{1, 2, 3}) {
				t.Errorf("%s: after %v, answers %v", name, time.Since(start), order)
			}
		}
		order = nil
		start := time.Now()
		for i := range 3 { // enough of them are as good as one that somebody waits for
			b := &Batch{Lazy: true}
			b.Add(make([]byte, lazyBytes*2/5))
			l.Append(1, b, func(error) { order = append(order, i) })
		}
		synctest.Wait()
		if time.Since(start) != 0 || len(order) != 3 {
			t.Errorf("%d lazy bytes: answers %v", lazyBytes, order)
		}
		lazily(l, 1, 3, func(error) { order = append(order, 9) })
		mustClose(t, l)
		if time.Since(start) != 0 || !slices.Equal(order, []int{0, 1, 2, 9}) {
			t.Errorf("close: after %v, answers %v", time.Since(start), order)
		}
	})
}

// TestCursorsRide: with lazy appends and releases in a steady flow the cursors
// cost no commits of their own, and are written after the delay all the same
// when the flow ends.
func TestCursorsRide(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		l := lazyLog(t, dir)
		c := mustCursor(t, l, "x")
		from := l.Stats().Commits
		for n := range uint64(600) { // 54 s
			lazily(l, 0, n+1, func(error) {})
			time.Sleep(90 * time.Millisecond)
			synctest.Wait()
			if s := c.Stats()[0]; s.Waiting > 0 {
				c.Release(0, s.End, Released{Sent: s.Waiting})
			}
		}
		if got := l.Stats().Commits - from; got > 50 { // one in 1.08 s
			t.Errorf("%d commits", got)
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		c.Release(0, 601, Released{Sent: c.Stats()[0].Waiting})
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if got := l.lanes[0].onDisk["x"].next; got != 601 {
			t.Errorf("on disk %d", got)
		}
		at := l.Stats().Commits
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := l.Stats().Commits - at; got != 0 {
			t.Errorf("%d commits while idle", got)
		}
	})
}

// TestDisarm: once a commit has carried every release the cursors are not due
// any more, and what is lazy is not committed early for them; a release that
// it did not carry, being of another lane, stays due. A wake-up without cause
// commits nothing.
func TestDisarm(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		l := lazyLog(t, dir)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1, 10, 10, 100})
		fill(t, l, lot{1, 1, 10, 10, 100})
		mustSync(t, c)
		c.Release(0, 3, Released{Sent: 2})
		time.Sleep(500 * time.Millisecond)
		fill(t, l, lot{0, 11, 1, 1, 100})
		start := time.Now()
		var took time.Duration
		lazily(l, 0, 12, func(error) { took = time.Since(start) })
		l.kick()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if took != time.Second {
			t.Errorf("committed after %v", took)
		}
		c.Release(1, 3, Released{Sent: 2})
		time.Sleep(500 * time.Millisecond)
		fill(t, l, lot{0, 13, 1, 1, 100})
		time.Sleep(600 * time.Millisecond)
		synctest.Wait()
		if got := l.lanes[1].onDisk["x"].next; got != 3 {
			t.Errorf("on disk %d", got)
		}
	})
}

// TestNegativeDelay: a delay below zero is refused.
func TestNegativeDelay(t *testing.T) {
	o := small(fastDir(t))
	o.Lanes[1].MaxDelay = -1
	if _, err := Open(o); err == nil {
		t.Fatal("opened")
	}
}
