package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestPolicyOptions: what is wrong with budgets and policies is said at Open.
func TestPolicyOptions(t *testing.T) {
	with := func(fn func(o *Options)) Options {
		o := small(fastDir(t))
		fn(&o)
		return o
	}
	for want, o := range map[string]Options{
		"use lowest-lane, oldest, reject or thin": with(func(o *Options) { o.Policy = "newest" }),
		"policy thin needs":                       with(func(o *Options) { o.Policy = Thin }),
		"lane b: unknown policy":                  with(func(o *Options) { o.Lanes[1].MaxBytes, o.Lanes[1].Policy = MinBytes, "x" }),
		"lane b: policy thin needs":               with(func(o *Options) { o.Lanes[1].MaxBytes, o.Lanes[1].Policy = MinBytes, Thin }),
		"without a budget of its own":             with(func(o *Options) { o.Lanes[0].Policy = Reject }),
		"lane a: budget of 1048575 bytes":         with(func(o *Options) { o.Lanes[0].MaxBytes = 1<<20 - 1 }),
		"lane a: budget of -1 bytes":              with(func(o *Options) { o.Lanes[0].MaxBytes = -1 }),
		"high-water mark of 101":                  with(func(o *Options) { o.HighWater = 101 }),
		"high-water mark of -1":                   with(func(o *Options) { o.HighWater = -1 }),
		"retention of -1s":                        with(func(o *Options) { o.Retain.For = -time.Second }),
	} {
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestOldestPolicy: of all lanes the segment goes whose last record is oldest,
// the other lane's when the clock jumps, and the lower lane when times are equal.
func TestOldestPolicy(t *testing.T) {
	for name, step := range map[string]time.Duration{"on": time.Hour, "stopped": 0, "back": -time.Hour} {
		o := small(fastDir(t))
		now := newClock()
		o.MaxBytes, o.Policy, o.Now = MinBytes, Oldest, now.now
		l := mustOpen(t, o)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1, 2000, 100, 500})
		now.add(step)
		fill(t, l, lot{1, 1, 3900, 100, 500})
		s := l.Stats()
		upper, lower := s.Lanes[0].First, s.Lanes[1].First
		if s.Evictions == 0 || s.Bytes > o.MaxBytes {
			t.Fatalf("%s: %+v", name, s)
		}
		if ok := map[string]bool{"on": upper > 1 && lower == 1, "stopped": upper == 1 && lower > 1, "back": upper == 1 && lower > 1}[name]; !ok {
			t.Fatalf("%s: lanes begin at %d and %d", name, upper, lower)
		}
		for lane, n := range []uint64{2000, 3900} {
			if x := readAll(t, c, lane, 500); x.got+x.lost != n {
				t.Fatalf("%s: %+v", name, x)
			}
		}
		balanced(t, c)
	}
}

// fillUp appends until a lane is full and returns how many records were taken.
func fillUp(t *testing.T, l *Log, lane int, from uint64) (next uint64) {
	t.Helper()
	for next = from; next < from+100000; {
		b := &Batch{}
		for k := range uint64(50) {
			b.Add(record(next+k, 500))
		}
		err := appendWait(l, lane, b)
		if errors.Is(err, ErrFull) {
			return next
		}
		if err != nil {
			t.Fatal(err)
		}
		next += 50
	}
	t.Fatal("never full")
	return 0
}

// TestRejectPolicy: nothing is deleted, nothing acknowledged that is not
// stored, releases reach the disk, and records are taken again when there is
// room: also when the full queue is opened again, under another policy before.
func TestRejectPolicy(t *testing.T) {
	for _, before := range []Policy{Reject, LowestLane} {
		dir := fastDir(t)
		o := small(dir)
		o.MaxBytes, o.Policy = MinBytes, before
		l := mustOpen(t, o)
		mustCursor(t, l, "x")
		end := uint64(6001)
		if before == Reject {
			end = fillUp(t, l, 0, 1)
		} else {
			fill(t, l, lot{0, 1, end - 1, 50, 500})
		}
		if (l.Stats().Err != nil) != (before == Reject) {
			t.Fatalf("%s: state %v", before, l.Stats().Err)
		}
		mustClose(t, l)
		o.Policy = Reject
		l = mustOpen(t, o)
		c := mustCursor(t, l, "x")
		if again := fillUp(t, l, 0, end); again != end {
			t.Fatalf("%s: %d more are taken after a restart", before, again-end)
		}
		evicted := l.Stats().Lanes[0].First - 1
		if before == Reject && evicted != 0 {
			t.Fatalf("%d evicted", evicted)
		}
		var ch Chunk
		for x := (&covered{next: 1}); x.next < end*3/4; {
			if err := c.Read(0, Limit{Records: 100, Bytes: 1 << 20}, &ch); err != nil {
				t.Fatal(err)
			}
			c.Release(0, ch.Next(), x.take(t, &ch, 500))
			mustSync(t, c)
			if n := dirBytes(t, dir); n > o.MaxBytes {
				t.Fatalf("%d bytes", n)
			}
		}
		idle(l)
		if err := l.Stats().Err; err != nil {
			t.Fatalf("%s: there is room, state %v", before, err)
		}
		fill(t, l, lot{0, end, 500, 50, 500})
		if x := readAll(t, c, 0, 500); l.Stats().Lanes[0].Next != end+500 || x.lost != 0 {
			t.Fatalf("%s: %+v", before, x)
		}
		balanced(t, c)
		if l.Stats().Evictions != 0 {
			t.Fatal("something was evicted")
		}
	}
}

// TestRejectState: a release that is written while the queue is full does not
// look as if records were taken again; another lane that has room goes on.
func TestRejectState(t *testing.T) {
	o := small(fastDir(t))
	o.Lanes[1].MaxBytes, o.Lanes[1].Policy = 1<<20, Reject
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	end := fillUp(t, l, 1, 1)
	c.Release(1, 2, Released{Sent: 1})
	mustSync(t, c)
	idle(l)
	fill(t, l, lot{0, 1, 100, 100, 500})
	if err := l.Stats().Err; !errors.Is(err, ErrFull) {
		t.Fatalf("state %v", err)
	}
	c.Release(1, end, Released{Sent: end - 2})
	mustSync(t, c)
	idle(l)
	if err := l.Stats().Err; err != nil {
		t.Fatalf("state %v", err)
	}
	fill(t, l, lot{1, end, 100, 100, 500})
}

// TestLaneBudget: a lane over its own budget touches only itself, whatever the
// policy, and the queue's budget still holds for all.
func TestLaneBudget(t *testing.T) {
	for _, p := range []Policy{"", LowestLane, Oldest, Reject, Thin} {
		o := small(fastDir(t))
		o.Lanes = NamedLanes("a", "b", "c")
		o.Lanes[0].MaxBytes, o.Lanes[0].Policy = 1<<20, p
		o.Thin = func() Thinner { return &nth{n: 2} }
		l := mustOpen(t, o)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{1, 1, 4000, 100, 500})
		fill(t, l, lot{2, 1, 4000, 100, 500})
		end := uint64(6001)
		if p == Reject {
			end = fillUp(t, l, 0, 1)
		} else {
			fill(t, l, lot{0, 1, end - 1, 50, 500})
		}
		settle(t, l)
		s := l.Stats()
		if s.Lanes[0].Bytes > 1<<20 || s.Lanes[0].Bytes < 300<<10 || s.Lanes[0].MaxBytes != 1<<20 || s.Lanes[1].First != 1 || s.Lanes[2].First != 1 || s.HighWater {
			t.Fatalf("%q: %+v", p, s)
		}
		if (s.Evictions > 0) != (p != Reject && p != Thin) && p != Thin || (s.Thinned > 0) != (p == Thin) || (s.Lanes[0].First == 1) != (p == Reject) && p != Thin {
			t.Fatalf("%q: %+v", p, s)
		}
		if x := readAll(t, c, 0, 500); x.got+x.lost != end-1 {
			t.Fatalf("%q: %+v of %d", p, x, end-1)
		}
		balanced(t, c)
	}
}

// TestSpaceIsGivenBack: a queue filled to its budget and drained takes less than
// a tenth of it, in the same run, with the default size of segments too.
func TestSpaceIsGivenBack(t *testing.T) {
	for _, segment := range []int64{0, 64 << 10} {
		for _, p := range []Policy{LowestLane, Oldest, Reject} {
			dir := fastDir(t)
			o := small(dir)
			o.MaxBytes, o.SegmentBytes, o.Policy = 2*MinBytes, segment, p
			l := mustOpen(t, o)
			c := mustCursor(t, l, "x")
			for lane := range 2 {
				for n := uint64(1); n < 14000; n += 50 {
					b := &Batch{}
					for k := range uint64(50) {
						b.Add(record(n+k, 500))
					}
					if err := appendWait(l, lane, b); err != nil && p != Reject {
						t.Fatal(err)
					} else if err != nil {
						break
					}
				}
			}
			if n := l.Stats().Bytes; n < o.MaxBytes*3/4 {
				t.Fatalf("%d bytes: not filled", n)
			}
			for lane := range 2 {
				readAll(t, c, lane, 500)
			}
			mustSync(t, c)
			idle(l)
			if n := dirBytes(t, dir); n > o.MaxBytes/10 {
				t.Fatalf("%s, segments of %d: %d bytes left of %d", p, segment, n, o.MaxBytes)
			}
			balanced(t, c)
			if x := readAll(t, mustCursor(t, l, "late"), 0, 500); x.lost != 0 {
				t.Fatalf("a new cursor is told of %+v", x)
			}
		}
	}
}

// logged collects what a queue logs.
type logged struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (x *logged) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.buf.Write(p)
}

func (x *logged) count(s string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return strings.Count(x.buf.String(), s)
}

// TestHighWater: crossing the mark is said once, also when it goes up and down
// around it; the state is that of the files.
func TestHighWater(t *testing.T) {
	o := small(fastDir(t))
	var log logged
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	o.MaxBytes, o.HighWater = 8<<20, 50
	o.Lanes[1].MaxBytes = 2 << 20
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	expect := func(what string, queue, lane bool, warned, below int) {
		t.Helper()
		idle(l)
		s := l.Stats()
		if s.HighWater != queue || s.Lanes[1].HighWater != lane || s.Lanes[0].HighWater ||
			log.count("has passed its high-water mark") != warned || log.count("below its high-water mark again") != below {
			t.Fatalf("%s: %v %v, %d warnings, %d below", what, s.HighWater, s.Lanes[1].HighWater, log.count("has passed"), log.count("mark again"))
		}
	}
	expect("empty", false, false, 0, 0)
	next := uint64(1)
	for !l.Stats().HighWater {
		fill(t, l, lot{0, next, 20, 20, 500})
		next += 20
	}
	expect("above", true, false, 1, 0)
	var ch Chunk
	for l.Stats().HighWater { // just below
		if err := c.Read(0, Limit{Records: 50, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatal(err)
		}
		c.Release(0, ch.Next(), Released{Sent: uint64(len(ch.Records))})
		mustSync(t, c)
		idle(l)
	}
	expect("just below", false, false, 1, 0)
	for !l.Stats().HighWater {
		fill(t, l, lot{0, next, 20, 20, 500})
		next += 20
	}
	expect("above again", true, false, 1, 0)
	readAll(t, c, 0, 500)
	mustSync(t, c)
	expect("drained", false, false, 1, 1)
	fill(t, l, lot{1, 1, 2200, 20, 500})
	expect("lane", false, true, 2, 1)
	if log.count("of=\"lane b\"") != 1 || log.count("max_bytes=2097152") != 1 {
		t.Fatal("the warning does not name the lane and its budget")
	}
}

// TestJournalTotals: however losses are joined, and when the journal is full
// the oldest forgotten, a reader is told of each seq of a hole once.
func TestJournalTotals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var j []Loss
		at := uint64(1)
		for range rapid.IntRange(0, 200).Draw(t, "losses") {
			at += uint64(rapid.IntRange(0, 2).Draw(t, "gap") * 1000)
			n := uint64(rapid.IntRange(1, 100000).Draw(t, "n"))
			reason := []string{ReasonEvicted, ReasonQuarantined}[rapid.IntRange(0, 1).Draw(t, "reason")]
			j = addLoss(j, Loss{First: at, Last: at + n - 1, Reason: reason, Exact: rapid.Bool().Draw(t, "exact")})
			at += n
		}
		if len(j) > journalCap {
			t.Fatalf("%d entries", len(j))
		}
		p := encodeJournal(j)
		again, err := decodeJournal(p)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(j) {
			t.Fatalf("%v, %v, %v", err, again, j)
		}
		from := rapid.Uint64Range(1, at).Draw(t, "from")
		total := uint64(0)
		for pos := from; pos < at; {
			l := findLoss(j, pos, at-1)
			if l.First != pos || l.Last < pos || l.Last >= at {
				t.Fatalf("at %d of %d: %+v", pos, at, l)
			}
			total, pos = total+l.Count(), l.Last+1
		}
		if total != at-from {
			t.Fatalf("%d of %d", total, at-from)
		}
	})
}

// TestRejectLoweredBudget: a queue that holds more than a budget that was
// lowered cannot write its cursors; it deletes what they have released in
// memory, and takes records again.
func TestRejectLoweredBudget(t *testing.T) {
	o := small(fastDir(t))
	o.MaxBytes, o.Policy = 2*MinBytes, Reject
	l := mustOpen(t, o)
	mustCursor(t, l, "x")
	end := fillUp(t, l, 0, 1)
	mustClose(t, l)
	o.MaxBytes = MinBytes
	l = mustOpen(t, o)
	c := mustCursor(t, l, "x")
	if again := fillUp(t, l, 0, end); again != end {
		t.Fatalf("%d records are taken beyond the budget", again-end)
	}
	if x := readAll(t, c, 0, 500); x.got != end-1 {
		t.Fatalf("%+v of %d", x, end-1)
	}
	mustSync(t, c)
	fill(t, l, lot{0, end, 1000, 50, 500})
	if s := l.Stats(); s.Bytes > o.MaxBytes || s.Evictions != 0 || s.Err != nil {
		t.Fatalf("%+v", s)
	}
	balanced(t, c)
}
