package buffer

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestSeqAt compares with the blocks that were committed, with a clock that
// goes on and with one that jumps, over segments of which some were thinned.
func TestSeqAt(t *testing.T) {
	base := fastDir(t)
	rapid.Check(t, func(rt *rapid.T) {
		o := small(filepath.Join(base, "q"))
		o.CursorDelay = time.Hour
		now := newClock()
		o.Now = now.now
		defer func() { _ = os.RemoveAll(o.Dir) }()
		l, err := Open(o)
		if err != nil {
			rt.Fatal(err)
		}
		defer mustClose(t, l)
		jumps := rapid.Bool().Draw(rt, "jumps")
		times := []int64{} // of blocks of 20 records
		for range rapid.IntRange(0, 60).Draw(rt, "blocks") {
			b := &Batch{}
			for range 20 {
				b.Add(make([]byte, 400))
			}
			if err := appendWait(l, 0, b); err != nil {
				rt.Fatal(err)
			}
			times = append(times, now.ms.Load())
			now.add(time.Duration(rapid.IntRange(0, 5).Draw(rt, "ms")) * time.Millisecond)
			if jumps && rapid.IntRange(0, 5).Draw(rt, "jump") == 0 {
				now.add(time.Duration(rapid.IntRange(-1000, 1000).Draw(rt, "by")) * time.Millisecond)
			}
		}
		next := l.Stats().Lanes[0].Next
		for range 20 {
			at := now.ms.Load() - int64(rapid.IntRange(-10, 400).Draw(rt, "back"))
			seq, err := l.SeqAt(0, time.UnixMilli(at))
			if err != nil || seq < 1 || seq > next {
				rt.Fatalf("%d, %v", seq, err)
			}
			i := slices.IndexFunc(times, func(x int64) bool { return x >= at })
			want := next
			if i >= 0 {
				want = uint64(i)*20 + 1
			}
			if !jumps && seq != want {
				rt.Fatalf("at %d: %d, want %d", at, seq, want)
			}
			if (seq-1)%20 != 0 {
				rt.Fatalf("%d is in the middle of a block", seq)
			}
		}
	})
}

// TestSeqAtSparse: the block that speaks for the time is found though it
// begins earlier; lanes that do not exist are refused; a damaged segment is
// not an error.
func TestSeqAtSparse(t *testing.T) {
	o := small(fastDir(t))
	now := newClock()
	o.Now, o.SegmentBytes = now.now, 512<<10
	l := mustOpen(t, o)
	start := now.now()
	for n := uint64(1); n < 6000; n += 100 {
		fill(t, l, lot{0, n, 100, 100, 200})
		now.add(time.Second)
	}
	n := l.lanes[0].segs[1].first
	if r := thinFirst(t, l, func(i int) bool { return i%50 == 0 }); r.err != nil {
		t.Fatal(r.err)
	}
	for i := range uint64(59) {
		seq, err := l.SeqAt(0, start.Add(time.Duration(i)*time.Second))
		if want := i*100 + 1; err != nil || seq > want || want >= n && seq != want {
			t.Fatalf("second %d: %d, want %d or before, %v", i, seq, want, err)
		}
	}
	if seq, err := l.SeqAt(0, now.now().Add(time.Hour)); err != nil || seq != 6001 {
		t.Fatalf("%d, %v", seq, err)
	}
	for _, lane := range []int{-1, 2} {
		if _, err := l.SeqAt(lane, start); err == nil {
			t.Fatalf("lane %d", lane)
		}
	}
	path := l.lanes[0].segs[0].path
	mustClose(t, l)
	overwrite(t, path, 0, make([]byte, 64<<10))
	l = mustOpen(t, o)
	if seq, err := l.SeqAt(0, start.Add(50*time.Second)); err != nil || seq > 5001 {
		t.Fatalf("%d, %v", seq, err)
	}
}
