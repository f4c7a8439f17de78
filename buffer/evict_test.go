package buffer

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// TestEviction fills a queue far beyond its budget with two cursors at
// different places: the budget holds after every commit, the lowest lane goes
// first, oldest first, and each cursor is told once what it lost.
func TestEviction(t *testing.T) {
	dir := fastDir(t)
	o := small(dir)
	o.MaxBytes, o.SegmentBytes = MinBytes, 128<<10
	var now atomic.Int64
	now.Store(1_800_000_000)
	o.Now = func() time.Time { return time.Unix(now.Add(1), 0) }
	l := mustOpen(t, o)
	ahead, behind := mustCursor(t, l, "ahead"), mustCursor(t, l, "behind")
	const size, per = evictSize, 40
	next := [2]uint64{1, 1}
	add := func(lane int) {
		fill(t, l, lot{lane, next[lane], per, per, size})
		next[lane] += per
		if n := dirBytes(t, dir); n > o.MaxBytes {
			t.Fatalf("%d bytes on disk, budget %d", n, o.MaxBytes)
		}
		balanced(t, ahead)
		balanced(t, behind)
	}
	for range 20 {
		add(0)
		add(1)
	}
	if r := drain(t, ahead, 1, size); r.got != 20*per || len(r.losses) != 0 {
		t.Fatalf("ahead read %+v", r)
	}
	mustSync(t, ahead)
	for range 600 {
		add(1)
	}
	s := l.Stats()
	if s.Lanes[0].First != 1 || s.Lanes[1].First == 1 || s.Evictions == 0 || s.Bytes != dirBytes(t, dir)-lockBytes(t, dir) {
		t.Fatalf("stats %+v, %d bytes on disk", s, dirBytes(t, dir))
	}
	for i, c := range []*Cursor{ahead, behind} {
		toldOnce(t, c, []uint64{20*per + 1, 1}[i], s.Lanes[1].First)
	}
	for range 600 { // the lower lane is empty now: the higher one must go
		add(0)
	}
	if l.Stats().Lanes[0].First == 1 {
		t.Fatal("nothing of the higher lane was evicted")
	}
	for i, c := range []*Cursor{ahead, behind} {
		r := drain(t, c, 0, size)
		if len(r.losses) != 1 || r.losses[0].Reason != ReasonEvicted || r.got+r.losses[0].Count() != next[0]-1 {
			t.Fatalf("cursor %d: %+v", i, r)
		}
		mustSync(t, c)
	}
	add(0)
	if n := dirBytes(t, dir); n > 1<<20 {
		t.Fatalf("%d bytes left of a drained queue", n)
	}
}

// toldOnce checks that a cursor which stood at from in lane 1 is told once that
// everything below first was evicted, and reads the rest.
func toldOnce(t *testing.T, c *Cursor, from, first uint64) {
	t.Helper()
	r := drain(t, c, 1, evictSize)
	var lost uint64
	for _, x := range r.losses {
		if x.Reason != ReasonEvicted || !x.Exact || x.From.IsZero() || x.To.Before(x.From) || x.First != from+lost {
			t.Fatalf("cursor at %d: loss %+v", from, x)
		}
		lost += x.Count()
	}
	if end := c.Stats()[1].End; lost != first-from || r.got+lost != end-from {
		t.Fatalf("cursor at %d: lost %d, got %d, first %d, end %d", from, lost, r.got, first, end)
	}
	if again := drain(t, c, 1, evictSize); again.got != 0 || len(again.losses) != 0 {
		t.Fatalf("told twice: %+v", again)
	}
	balanced(t, c)
	mustSync(t, c)
}

const evictSize = 500 // bytes of a record in TestEviction

func lockBytes(t *testing.T, dir string) int64 { return dirBytes(t, dir+"/lock") }

// TestEvictionSurvivesRestart: the journal is on disk.
func TestEvictionSurvivesRestart(t *testing.T) {
	dir := fastDir(t)
	o := small(dir)
	o.MaxBytes = MinBytes
	l := mustOpen(t, o)
	mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 12000, 50, 500})
	mustClose(t, l)
	l = mustOpen(t, o)
	c := mustCursor(t, l, "x")
	balanced(t, c)
	r := drain(t, c, 0, 500)
	if len(r.losses) != 1 || r.losses[0].Reason != ReasonEvicted || r.losses[0].From.IsZero() || r.got+r.losses[0].Count() != 12000 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
}

// TestHugeRecordEvictsNothing: a record that never fits must not push others
// out on its way to being refused, nor stop those that come with it.
func TestHugeRecordEvictsNothing(t *testing.T) {
	o := small(fastDir(t))
	o.MaxBytes = MinBytes
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 2000, 50, 500})
	answers := make(chan error, 3)
	for i, size := range []int{500, 5 << 20, 500} {
		b := &Batch{}
		b.Add(record(2001+uint64(i+1)/2, size))
		l.Append(0, b, func(err error) { answers <- err })
	}
	for i := range 3 {
		if err := <-answers; errors.Is(err, ErrRecordTooLarge) != (i == 1) || i != 1 && err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
	}
	if err := l.Stats().Err; err != nil {
		t.Fatalf("state %v", err)
	}
	if r := drain(t, c, 0, 500); r.got != 2002 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
}

// TestBadFilesCount: what was set aside counts in the budget and goes first.
func TestBadFilesCount(t *testing.T) {
	dir := fastDir(t)
	o := small(dir)
	o.MaxBytes = MinBytes
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 1000, 50, 500})
	overwrite(t, segmentFiles(t, dir, "a")[0], 0, make([]byte, 32<<10))
	r := drain(t, c, 0, 500)
	if len(r.losses) != 1 || l.Stats().BadBytes == 0 {
		t.Fatalf("%+v, %d bytes set aside", r, l.Stats().BadBytes)
	}
	for n := uint64(1); n < 12000; n += 50 {
		fill(t, l, lot{1, n, 50, 50, 500})
		if got := dirBytes(t, dir); got > o.MaxBytes {
			t.Fatalf("%d bytes on disk", got)
		}
	}
	if s := l.Stats(); s.BadBytes != 0 || s.Evictions == 0 {
		t.Fatalf("%+v", s)
	}
}
