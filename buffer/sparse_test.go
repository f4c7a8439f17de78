package buffer

import (
	"errors"
	"fmt"
	"os"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// picked is a Thinner that keeps what fn says.
type picked struct {
	fn   func(i int) bool
	keep []bool
}

func (p *picked) Observe(i int, _ []byte) { p.keep = append(p.keep, p.fn(i)) }
func (p *picked) Keep() []bool            { return p.keep }

// thinFirst thins the first segment of lane 0 whatever the budget says.
func thinFirst(t *testing.T, l *Log, fn func(i int) bool) *rewrite {
	t.Helper()
	r := &rewrite{l: l, room: 0, coder: newCoder(None), done: make(chan struct{})}
	onCommitter(l, func() {
		ln := l.lanes[0]
		r.ln, r.s, r.end = ln, ln.segs[0], ln.segs[1].first
		_, _, r.level = r.s.about()
		l.o.Thin = func() Thinner { return &picked{fn: fn} }
		r.err = r.build()
		close(r.done)
		l.thin.run = r
		l.takeThinned()
	})
	return r
}

// twoSegments returns a queue whose first segment holds the first records of
// lane 0, and how many.
func twoSegments(t *testing.T, dir string) (*Log, uint64) {
	t.Helper()
	o := small(dir)
	o.SegmentBytes = 512 << 10
	l := mustOpen(t, o)
	next := uint64(1)
	for l.Stats().Lanes[0].Segments < 2 {
		fill(t, l, lot{0, next, 50, 50, 200})
		next += 50
	}
	return l, l.lanes[0].segs[1].first - 1
}

// TestSparseReads reads a thinned segment from every seq on, with limits below
// and above a block: each seq is a record or a loss.
func TestSparseReads(t *testing.T) {
	for name, fn := range map[string]func(i int) bool{
		"every third":  func(i int) bool { return i%3 == 0 },
		"none at ends": func(i int) bool { return i > 300 && i < 700 && i%2 == 1 },
		"one":          func(i int) bool { return i == 500 },
		"none":         func(int) bool { return false },
		"runs":         func(i int) bool { return i/90%2 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			l, n := twoSegments(t, fastDir(t))
			if r := thinFirst(t, l, fn); r.err != nil {
				t.Fatal(r.err)
			}
			end := l.Stats().Lanes[0].Next
			var ch Chunk
			for at := uint64(1); at < end; at += 7 {
				for _, lim := range []Limit{{1, 1}, {300, 1 << 20}, {100000, 64 << 20}} {
					x := &covered{next: at}
					if err := l.ReadAt(0, at, lim, &ch); err != nil {
						t.Fatal(err)
					}
					x.take(t, &ch, 200)
					for i := range ch.Records {
						if seq := ch.Seq(i); seq <= n && !fn(int(seq-1)) {
							t.Fatalf("seq %d is still there", seq)
						}
					}
				}
			}
			x := readAll(t, mustCursor(t, l, "x"), 0, 200)
			want := uint64(0)
			for i := range n {
				if !fn(int(i)) {
					want++
				}
			}
			if x.thinned != want || x.lost != want || x.got != end-1-want || l.Stats().Thinned != int64(want) {
				t.Fatalf("%+v, %d of %d to be missing", x, want, n)
			}
		})
	}
}

// TestSparseAgain thins a segment twice and reads it after a restart; blocks
// are as small as dense ones and follow each other without a hole.
func TestSparseAgain(t *testing.T) {
	dir := fastDir(t)
	l, n := twoSegments(t, dir)
	half, quarter := func(i int) bool { return i%2 == 0 }, func(i int) bool { return i%2 == 1 }
	for i, fn := range []func(int) bool{half, quarter} {
		if r := thinFirst(t, l, fn); r.err != nil || r.level != uint32(i) {
			t.Fatalf("level %d: %v", r.level, r.err)
		}
	}
	err := l.lanes[0].segs[0].view(func(tx *bolt.Tx) error {
		at, c := uint64(1), tx.Bucket([]byte(bucketBlocks)).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			first, piece, _ := splitKey(k)
			if piece != 0 {
				continue
			}
			h, err := parseHeader(v)
			if err != nil || first != at || h.rawLen > blockBytes+3*blockRecords || h.count > blockRecords || h.flags != flagSparse {
				return fmt.Errorf("block %d at %d: %+v %w", first, at, h, err)
			}
			at = h.first + h.span
		}
		if at != n+1 {
			return fmt.Errorf("blocks end at %d of %d", at, n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	o := small(dir)
	o.SegmentBytes = 512 << 10
	l = mustOpen(t, o)
	x := readAll(t, mustCursor(t, l, "x"), 0, 200)
	if x.got != l.Stats().Lanes[0].Next-1-x.thinned || x.thinned != n-n/4 || x.lost != x.thinned {
		t.Fatalf("%+v of %d", x, n)
	}
	if lv := levels(l, 0); lv[0] != 2 {
		t.Fatalf("thinned %v", lv)
	}
}

// TestSparseRebuilt: of a thinned segment that is damaged the other blocks are
// kept, and it counts as thinned as often as before. A hole of a rebuilt
// segment stays one, with its own reason, when it is thinned.
func TestSparseRebuilt(t *testing.T) {
	for _, thinFirstly := range []bool{true, false} {
		dir := fastDir(t)
		l, n := twoSegments(t, dir)
		if thinFirstly {
			if r := thinFirst(t, l, func(i int) bool { return i%3 == 0 }); r.err != nil {
				t.Fatal(r.err)
			}
		}
		path := l.lanes[0].segs[0].path
		mustClose(t, l)
		overwrite(t, path, damagedLeaf(t, path, nearest(t, path, n/2))*pageBytes, make([]byte, pageBytes))
		o := small(dir)
		o.SegmentBytes = 512 << 10
		l = mustOpen(t, o)
		x := readStored(t, l, 200) // rebuilds it
		if l.Stats().BadBytes == 0 || x.lost == x.thinned {
			t.Fatalf("not rebuilt: %+v", x)
		}
		if !thinFirstly {
			if r := thinFirst(t, l, func(i int) bool { return i%3 == 0 }); r.err != nil {
				t.Fatal(r.err)
			}
		}
		if lv := levels(l, 0); lv[0] != 1 {
			t.Fatalf("thinned first %v: thinned %v", thinFirstly, lv)
		}
		y := readStored(t, l, 200)
		if damaged := x.lost - x.thinned; y.lost-y.thinned != damaged || y.thinned == 0 {
			t.Fatalf("thinned first %v: %+v, then %+v", thinFirstly, x, y)
		}
	}
}

// readStored reads lane 0 without a cursor.
func readStored(t *testing.T, l *Log, size int) *covered {
	t.Helper()
	x := &covered{next: 1}
	var ch Chunk
	for x.next < l.Stats().Lanes[0].Next {
		if err := l.ReadAt(0, x.next, Limit{Records: 500, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatal(err)
		}
		x.take(t, &ch, size)
		if ch.Loss != nil && ch.Loss.Reason != ReasonThinned && ch.Loss.Reason != ReasonDamaged {
			t.Fatalf("%+v", *ch.Loss)
		}
	}
	return x
}

// nearest returns the first seq of the block that holds seq.
func nearest(t *testing.T, path string, seq uint64) (first uint64) {
	t.Helper()
	edit(t, path, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketBlocks))
		k, _ := seekBlock(b, b.Cursor(), seq)
		first, _, _ = splitKey(k)
		return nil
	})
	return first
}

// TestThinnerAnswersWrong: an answer for another number of records, or a
// panic, leaves the segment as it is.
func TestThinnerAnswersWrong(t *testing.T) {
	for name, fn := range map[string]func() Thinner{
		"short": func() Thinner { return &nth{n: 2, seen: -1} },
		"panic": func() Thinner { return nil },
	} {
		o := thinning(fastDir(t))
		o.Thin = fn
		l := mustOpen(t, o)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1, 5400, 100, 400})
		settle(t, l)
		if x := readAll(t, c, 0, 400); x.got != 5400 || l.Stats().Thinned != 0 {
			t.Fatalf("%s: %+v", name, x)
		}
	}
}

// TestThinWithoutSpace: a full disk ends a rewrite and not the segment.
func TestThinWithoutSpace(t *testing.T) {
	l, n := twoSegments(t, fastDir(t))
	if err := os.MkdirAll(l.lanes[0].dir+"/"+thinName+"/x", 0o700); err != nil { // the file cannot be made
		t.Fatal(err)
	}
	if r := thinFirst(t, l, func(i int) bool { return i == 0 }); r.err == nil || errors.Is(r.err, errNoGain) {
		t.Fatalf("%v", r.err)
	}
	if x := readStored(t, l, 200); x.lost != 0 || x.got < n {
		t.Fatalf("%+v", x)
	}
}

// TestThinOfSegmentThatWent: a rewrite of a segment that was deleted meanwhile,
// or that Close comes before, is thrown away.
func TestThinOfSegmentThatWent(t *testing.T) {
	for _, closing := range []bool{false, true} {
		l, n := twoSegments(t, fastDir(t))
		onCommitter(l, func() {
			ln := l.lanes[0]
			r := &rewrite{l: l, coder: newCoder(None), done: make(chan struct{}), ln: ln, s: ln.segs[0], end: ln.segs[1].first}
			l.o.Thin = func() Thinner { return &nth{n: 2} }
			r.err = r.build()
			close(r.done)
			if r.err != nil || r.made == nil {
				t.Errorf("build: %v", r.err)
			}
			l.thin.run = r
			if closing {
				l.abandonThin()
			} else {
				l.evict(ln)
				l.takeThinned()
			}
		})
		if _, err := os.Stat(l.lanes[0].dir + "/" + thinName); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("closing %v: %v", closing, err)
		}
		if _, err := os.Stat(segmentPath(l.lanes[0].dir, 1)); errors.Is(err, os.ErrNotExist) == closing {
			t.Fatalf("closing %v: first segment of %d: %v", closing, n, err)
		}
		if s := l.Stats(); s.Thinned != 0 || l.thin.bytes.Load() != 0 {
			t.Fatalf("closing %v: %+v", closing, s)
		}
	}
}
