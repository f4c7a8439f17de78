package buffer

import (
	"bytes"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// clock is what Options.Now reads.
type clock struct{ ms atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ms.Store(1_800_000_000_000)
	return c
}

func (c *clock) now() time.Time      { return time.UnixMilli(c.ms.Load()) }
func (c *clock) add(d time.Duration) { c.ms.Add(d.Milliseconds()) }

// idle lets the committer look at the queue once.
func idle(l *Log) {
	l.nudge()
	onCommitter(l, func() {})
	onCommitter(l, func() {})
}

// retaining returns a queue that keeps what was delivered, its clock and a cursor.
func retaining(t *testing.T, r Retention) (*Log, Options, *clock, *Cursor) {
	t.Helper()
	o := small(fastDir(t))
	c := newClock()
	o.Now, o.Retain = c.now, r
	l := mustOpen(t, o)
	return l, o, c, mustCursor(t, l, "x")
}

// TestRetainFor: delivered segments go when their last record is too old, not
// before; also when nobody appends; never one that was not delivered, and
// never the newest. Meanwhile they can be read and are in no cursor's books.
func TestRetainFor(t *testing.T) {
	l, o, now, c := retaining(t, Retention{For: time.Hour})
	fill(t, l, lot{0, 1, 2000, 100, 500})
	if x := readAll(t, c, 0, 500); x.got != 2000 {
		t.Fatalf("%+v", x)
	}
	mustSync(t, c)
	idle(l)
	s := l.Stats()
	if s.Retained == 0 || s.Lanes[0].First != 1 || s.Lanes[0].Segments < 10 || s.Retained >= s.Bytes {
		t.Fatalf("%+v", s)
	}
	if cs := c.Stats()[0]; cs.Waiting != 0 || cs.Lost != 0 || cs.Sent != 2000 {
		t.Fatalf("%+v", cs)
	}
	balanced(t, c)
	var ch Chunk
	if err := l.ReadAt(0, 1, Limit{Records: 10, Bytes: 1 << 20}, &ch); err != nil || ch.First != 1 || len(ch.Records) == 0 {
		t.Fatalf("replay: %v %+v", err, ch.Loss)
	}
	now.add(30 * time.Minute)
	fill(t, l, lot{0, 2001, 1000, 100, 500}) // not delivered
	held := l.Stats().Lanes[0].Segments
	now.add(29 * time.Minute)
	idle(l)
	if n := l.Stats().Lanes[0].Segments; n != held {
		t.Fatalf("%d segments of %d before the hour is over", n, held)
	}
	now.add(-2 * time.Hour) // a clock that jumps back keeps things longer
	idle(l)
	now.add(2 * time.Hour)
	now.add(time.Minute)
	idle(l)
	s = l.Stats()
	if s.Retained != 0 || s.Lanes[0].First <= 1900 || s.Lanes[0].First > 2001 {
		t.Fatalf("after the hour: %+v", s)
	}
	now.add(1000 * time.Hour) // and one that jumps forward deletes nothing undelivered
	idle(l)
	if x := readAll(t, c, 0, 500); x.got != 1000 || x.lost != 0 {
		t.Fatalf("%+v", x)
	}
	mustSync(t, c)
	idle(l)
	if n := l.Stats().Lanes[0].Segments; n != 1 {
		t.Fatalf("%d segments", n)
	}
	mustClose(t, l)
	l = mustOpen(t, o)
	balanced(t, mustCursor(t, l, "x"))
}

// TestRetainBytes: the segments kept together take no more than Bytes, those
// kept longest go first, whatever their lane.
func TestRetainBytes(t *testing.T) {
	l, _, now, c := retaining(t, Retention{Bytes: 1 << 20})
	next := [2]uint64{1, 1}
	for i := range 81 {
		lane := i / 5 % 2
		fill(t, l, lot{lane, next[lane], 100, 100, 500})
		next[lane] += 100
		now.add(time.Second)
		readAll(t, c, lane, 500)
		mustSync(t, c)
		idle(l)
		if s := l.Stats(); s.Retained > 1<<20 {
			t.Fatalf("%d bytes kept", s.Retained)
		}
	}
	s := l.Stats()
	a, _, _ := l.lanes[0].segs[0].about()
	b, _, _ := l.lanes[1].segs[0].about()
	if s.Retained < 900<<10 || s.Lanes[0].First == 1 || s.Lanes[1].First == 1 || a-b > 30_000 || b-a > 30_000 || s.Evictions != 0 {
		t.Fatalf("oldest kept %d and %d, %+v", a, b, s)
	}
}

// TestRetainedGoFirst: what was delivered makes room before anything unsent,
// of whatever lane, and is no loss.
func TestRetainedGoFirst(t *testing.T) {
	o := small(fastDir(t))
	o.MaxBytes, o.Retain = MinBytes, Retention{For: 1000 * time.Hour}
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 4000, 100, 500})
	readAll(t, c, 0, 500)
	mustSync(t, c)
	idle(l)
	kept := l.Stats().Retained
	if kept < 1<<20 || l.Stats().HighWater {
		t.Fatalf("%+v", l.Stats())
	}
	fill(t, l, lot{1, 1, 4000, 100, 500}) // the lower lane, not delivered
	s := l.Stats()
	if s.Retained >= kept || s.Evictions != 0 || s.Lanes[1].First != 1 || s.Lanes[0].First == 1 || s.Bytes > o.MaxBytes {
		t.Fatalf("%+v", s)
	}
	if x := readAll(t, c, 1, 500); x.got != 4000 || x.lost != 0 {
		t.Fatalf("%+v", x)
	}
	if len(l.lanes[0].losses()) != 0 {
		t.Fatalf("%+v", l.lanes[0].losses())
	}
	balanced(t, c)
}

// TestRetainIdle: an idle queue looks at the age of what it keeps.
func TestRetainIdle(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		o := small(dir)
		o.Retain, o.CursorDelay = Retention{For: time.Hour}, 100*time.Hour
		l := mustOpen(t, o)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1, 2000, 100, 500})
		readAll(t, c, 0, 500)
		mustSync(t, c)
		synctest.Wait()
		time.Sleep(59 * time.Minute) // in the bubble: no time passes
		synctest.Wait()
		if l.Stats().Retained == 0 {
			t.Fatal("gone before the hour is over")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := l.Stats(); s.Retained != 0 || s.Lanes[0].Segments != 1 {
			t.Fatalf("%+v", s)
		}
	})
}

// TestRetainEndsSegments: a segment ends by its age, so that at a low rate it
// can be deleted in time; without a time limit it does not.
func TestRetainEndsSegments(t *testing.T) {
	for _, r := range []Retention{{For: 8 * time.Hour}, {Bytes: 1 << 20}} {
		l, _, now, c := retaining(t, r)
		for n := range uint64(48) {
			fill(t, l, lot{0, n + 1, 1, 1, 100})
			readAll(t, c, 0, 100)
			mustSync(t, c)
			now.add(30 * time.Minute)
		}
		idle(l)
		s := l.Stats().Lanes[0]
		if r.For > 0 && (s.Segments < 7 || s.Segments > 10 || s.First < 28 || s.First > 34) || r.For == 0 && s.Segments != 1 {
			t.Fatalf("%+v: %+v", r, s)
		}
		if r.For == 0 && s.First != 1 { // pages of what is kept are not used again
			t.Fatalf("%+v", s)
		}
	}
}

// TestNewCursorSkipsRetained: a cursor that is made later does not begin at
// records kept for replay, also after a restart, but loses none that another
// has not released; without any other it begins at the oldest.
func TestNewCursorSkipsRetained(t *testing.T) {
	l, o, _, c := retaining(t, Retention{For: 1000 * time.Hour})
	fill(t, l, lot{0, 1, 3000, 100, 500})
	c.Release(0, 2001, Released{Sent: 2000})
	mustSync(t, c)
	idle(l)
	late := mustCursor(t, l, "late")
	from := late.Stats()[0].From
	if from <= 1800 || from > 2001 {
		t.Fatalf("begins at %d", from)
	}
	balanced(t, late)
	fill(t, l, lot{0, 3001, 100, 100, 500})
	mustClose(t, l)
	l = mustOpen(t, o)
	if at := mustCursor(t, l, "later").Stats()[0].From; at <= 1800 || at > 2001 {
		t.Fatalf("after a restart begins at %d", at)
	}
	mustCursor(t, l, "x")
	l.Forget(nil)
	first := mustCursor(t, l, "first")
	if at := first.Stats()[0].From; at != 1 {
		t.Fatalf("without others begins at %d", at)
	}
	mustSync(t, first)
	onCommitter(l, func() {
		if l.dropRetained(l.lanes) != 0 || l.dropDelivered(0) {
			t.Error("deleted what a new cursor waits for")
		}
	})
	if x := readAll(t, first, 0, 500); x.got != 3100 || x.lost != 0 {
		t.Fatalf("%+v", x)
	}
}

// TestRetainDamagedCursor: a cursor that was damaged begins at the oldest
// record that was not delivered: repeated, not lost, and not all that is kept.
func TestRetainDamagedCursor(t *testing.T) {
	l, o, _, c := retaining(t, Retention{For: 1000 * time.Hour})
	fast := mustCursor(t, l, "fast")
	fill(t, l, lot{0, 1, 3000, 100, 500})
	c.Release(0, 1001, Released{Sent: 1000})
	fast.Release(0, 3001, Released{Sent: 3000})
	mustSync(t, c)
	idle(l)
	fill(t, l, lot{0, 3001, 10, 10, 500})
	mustClose(t, l)
	files := segmentFiles(t, o.Dir, "a")
	spoilCursor(t, files[len(files)-1], "x")
	l = mustOpen(t, o)
	mustCursor(t, l, "fast")
	c = mustCursor(t, l, "x")
	if at := c.Stats()[0].From; at <= 800 || at > 1001 {
		t.Fatalf("begins at %d", at)
	}
}

// spoilCursor damages every copy of a cursor in a file.
func spoilCursor(t *testing.T, path, name string) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key := []byte(cursorPrefix + name)
	n := 0
	for at := bytes.Index(p, key); at >= 0; at = bytes.Index(p, key) {
		p[at+len(key)+7] ^= 0x40
		p[at] = '!' // found
		n++
	}
	for at := bytes.Index(p, []byte("!"+string(key[1:]))); at >= 0; at = bytes.Index(p, []byte("!"+string(key[1:]))) {
		p[at] = key[0]
	}
	if n == 0 {
		t.Fatal("no cursor in the file")
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOldestWaiting: Stats tells when the oldest record that waits was committed.
func TestOldestWaiting(t *testing.T) {
	l, _, now, c := retaining(t, Retention{})
	if at := l.Stats().Lanes[0].Oldest; !at.IsZero() {
		t.Fatalf("empty: %v", at)
	}
	start := now.now()
	for n := range uint64(20) {
		fill(t, l, lot{0, n*100 + 1, 100, 100, 50})
		now.add(time.Minute)
	}
	for n := range uint64(20) {
		if at := l.Stats().Lanes[0].Oldest; !at.Equal(start.Add(time.Duration(n) * time.Minute)) {
			t.Fatalf("%d released: %v", n*100, at.Sub(start))
		}
		c.Release(0, n*100+51, Released{Sent: 50})
		if at := l.Stats().Lanes[0].Oldest; !at.Equal(start.Add(time.Duration(n) * time.Minute)) {
			t.Fatalf("in the middle of block %d: %v", n, at.Sub(start))
		}
		c.Release(0, n*100+101, Released{Sent: 50})
	}
	if at := l.Stats().Lanes[0].Oldest; !at.IsZero() {
		t.Fatalf("drained: %v", at)
	}
}
