package buffer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestThin fills a queue with more than twice its budget: the files stay below it,
// the whole span is still there in part, what is missing is told exactly, and
// all of that also after a restart.
func TestThin(t *testing.T) {
	dir := fastDir(t)
	o := thinning(dir)
	l := mustOpen(t, o)
	mustCursor(t, l, "x")
	const size, n, per = 400, 18000, 100
	for at := uint64(1); at < n; at += per {
		fill(t, l, lot{0, at, per, per, size})
		if got := dirBytes(t, dir); got > o.MaxBytes {
			t.Fatalf("%d bytes on disk, budget %d", got, o.MaxBytes)
		}
	}
	settle(t, l)
	s := l.Stats()
	if s.Evictions != 0 || s.Thinned == 0 || s.Lanes[0].First != 1 {
		t.Fatalf("%+v", s)
	}
	lv := levels(l, 0)
	for i := 1; i < len(lv); i++ {
		if lv[i] > lv[i-1] {
			t.Fatalf("thinned %v: the oldest should be thinnest", lv)
		}
	}
	if lv[0] > lv[len(lv)/2]+1 {
		t.Fatalf("thinned %v: those thinned least should be next", lv)
	}
	if lv[len(lv)-1] != 0 {
		t.Fatalf("the newest was thinned: %v", lv)
	}
	mustClose(t, l)
	o.MaxBytes *= 4 // nothing more is to be thinned
	l = mustOpen(t, o)
	c := mustCursor(t, l, "x")
	balanced(t, c)
	if again := levels(l, 0); fmt.Sprint(again) != fmt.Sprint(lv) {
		t.Fatalf("thinned %v, after a restart %v", lv, again)
	}
	x := readAll(t, c, 0, size)
	if x.got+x.lost != n || x.lost != uint64(s.Thinned) || x.thinned != x.lost || x.got < n/10 {
		t.Fatalf("%+v of %d, stats %+v", x, n, s)
	}
	balanced(t, c)
	if cs := c.Stats()[0]; cs.Lost != x.lost || cs.Sent != x.got {
		t.Fatalf("%+v, read %+v", cs, x)
	}
}

// TestThinThenEvict: when nothing can be thinned any more the oldest go.
func TestThinThenEvict(t *testing.T) {
	dir := fastDir(t)
	o := thinning(dir)
	o.Thin = func() Thinner { return &nth{n: 1} } // keeps all: nothing is gained
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	const n = 30000
	fill(t, l, lot{0, 1, n, 100, 400})
	settle(t, l)
	if s := l.Stats(); s.Evictions == 0 || s.Thinned != 0 || s.Bytes > o.MaxBytes {
		t.Fatalf("%+v", s)
	}
	for _, level := range levels(l, 0) {
		if level != 0 {
			t.Fatalf("thinned %d times for nothing", level)
		}
	}
	x := readAll(t, c, 0, 400)
	if x.got+x.lost != n || x.thinned != 0 {
		t.Fatalf("%+v", x)
	}
	balanced(t, c)
}

// TestThinEvictsThinned: a thinned segment that is evicted is one loss of all
// its seqs, with its time range.
func TestThinEvictsThinned(t *testing.T) {
	dir := fastDir(t)
	o := thinning(dir)
	tick := time.Unix(1_800_000_000, 0)
	o.Now = func() time.Time { tick = tick.Add(time.Second); return tick } // the committer's alone
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 12000, 100, 400})
	settle(t, l)
	var s *segment
	var from, to, level = int64(0), int64(0), uint32(0)
	onCommitter(l, func() {
		s = l.lanes[0].segs[0]
		from, to, level = s.about()
		l.evict(l.lanes[0])
	})
	if level == 0 || to <= from {
		t.Fatalf("first segment thinned %d times, %d..%d", level, from, to)
	}
	var ch Chunk
	if err := c.Read(0, Limit{Records: 100, Bytes: 1 << 20}, &ch); err != nil || ch.Loss == nil {
		t.Fatalf("%v %+v", err, ch.Loss)
	}
	if x := *ch.Loss; x.First != 1 || x.Count() != l.Stats().Lanes[0].First-1 || x.Reason != ReasonEvicted || !x.Exact ||
		x.From.UnixMilli() != from || x.To.UnixMilli() != to || from != 1_800_000_001_000 {
		t.Fatalf("%+v, segment %d..%d", x, from, to)
	}
}

// blocked returns options whose Thinner waits for a channel to be closed, and
// one that tells when it does.
func blocked(dir string) (o Options, in chan struct{}, goOn func()) {
	o = thinning(dir)
	wait := make(chan struct{})
	in = make(chan struct{}, 1)
	o.Thin = func() Thinner { return &nth{n: 2, wait: wait, in: in} }
	return o, in, func() { close(wait) }
}

// TestThinHoldsAppends: at the hard budget the committer waits for the rewrite
// that is under way, acknowledges nothing meanwhile, and evicts nothing.
func TestThinHoldsAppends(t *testing.T) {
	dir := fastDir(t)
	o, in, goOn := blocked(dir)
	waits := make(chan struct{}, 1)
	l, err := open(o, func(op, _ string) error {
		if op == "await" {
			select {
			case waits <- struct{}{}:
			default:
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, l) })
	c := mustCursor(t, l, "x")
	answers := make(chan error, 180)
	for i := range uint64(180) {
		b := &Batch{}
		for k := range uint64(100) {
			b.Add(record(1+i*100+k, 400))
		}
		l.Append(0, b, func(err error) { answers <- err })
	}
	<-in // a rewrite began
	for range 40 {
		if err := <-answers; err != nil { // goes on beside it
			t.Fatal(err)
		}
	}
	<-waits
	if s := l.Stats(); s.Records >= 18000 || s.Evictions != 0 || s.Thinned != 0 {
		t.Fatalf("%+v", s)
	}
	goOn()
	for range 140 {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	if s := l.Stats(); s.Evictions != 0 || s.Thinned == 0 || dirBytes(t, dir) > o.MaxBytes {
		t.Fatalf("%+v", s)
	}
	if x := readAll(t, c, 0, 400); x.got+x.lost != 18000 {
		t.Fatalf("%+v", x)
	}
	balanced(t, c)
}

// TestThinDoesNotStall: below the budget appends go on while a segment is thinned,
// a batch read before the swap is released after it, and the books balance.
func TestThinDoesNotStall(t *testing.T) {
	dir := fastDir(t)
	o, in, goOn := blocked(dir)
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	next := uint64(1)
	for began := false; !began; {
		fill(t, l, lot{0, next, 100, 100, 400})
		next += 100
		onCommitter(l, func() { began = l.thin.run != nil })
	}
	<-in
	onCommitter(l, func() {
		if b := l.budgets[0]; l.thin.run.room == 0 || l.total(b) != l.unsent(b)+l.thin.run.room {
			t.Errorf("%d bytes, %d without the room of the rewrite", l.total(b), l.unsent(b))
		}
	})
	x := &covered{next: 1}
	var before, ch Chunk
	if err := c.Read(0, Limit{Records: 77, Bytes: 1 << 20}, &before); err != nil || before.Loss != nil {
		t.Fatalf("%v %+v", err, before.Loss)
	}
	fill(t, l, lot{0, next, 100, 100, 400})
	next += 100
	goOn()
	settle(t, l)
	if l.Stats().Thinned == 0 {
		t.Fatal("nothing was thinned")
	}
	c.Release(0, before.Next(), x.take(t, &before, 400))
	if err := c.Read(0, Limit{Records: 77, Bytes: 1 << 20}, &ch); err != nil || ch.Loss == nil || ch.Loss.Reason != ReasonThinned {
		t.Fatalf("in the middle of a thinned block: %v %+v", err, ch.Loss)
	}
	c.Release(0, ch.Next(), x.take(t, &ch, 400))
	rest := readAll(t, c, 0, 400)
	if x.got+x.lost+rest.got+rest.lost != next-1 {
		t.Fatalf("%+v %+v of %d", x, rest, next-1)
	}
	balanced(t, c)
}

// TestThinClose: Close gives up a rewrite, and what a crash leaves of one is
// deleted at the next start and never counts as a segment.
func TestThinClose(t *testing.T) {
	dir := fastDir(t)
	o, in, goOn := blocked(dir)
	l := mustOpen(t, o)
	mustCursor(t, l, "x")
	next := uint64(1)
	for began := false; !began; {
		fill(t, l, lot{0, next, 100, 100, 400})
		next += 100
		onCommitter(l, func() { began = l.thin.run != nil })
	}
	<-in
	closed := make(chan error)
	go func() { closed <- l.Close(context.Background()) }()
	goOn()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(dir, "a", thinName)
	if _, err := os.Stat(tmp); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("after Close: %v", err)
	}
	segments := len(segmentFiles(t, dir, "a"))
	if err := os.WriteFile(tmp, []byte("half a segment"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.MaxBytes = 64 << 20
	l = mustOpen(t, o)
	if _, err := os.Stat(tmp); !errors.Is(err, os.ErrNotExist) || l.Stats().Lanes[0].Segments != segments {
		t.Fatalf("after a restart: %v, %d segments of %d", err, l.Stats().Lanes[0].Segments, segments)
	}
	if x := readAll(t, mustCursor(t, l, "x"), 0, 400); x.got+x.lost != next-1 {
		t.Fatalf("%+v of %d", x, next-1)
	}
}

// TestThinSwapFails: without the rename the old segment stays, and thinning
// pauses.
func TestThinSwapFails(t *testing.T) {
	o := thinning(fastDir(t))
	tried := 0 // the committer's
	l, err := open(o, func(op, _ string) error {
		if op == "thin" {
			tried++
			return syscall.EACCES
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, l) })
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 5400, 100, 400})
	settle(t, l)
	onCommitter(l, func() {
		if tried != 1 || l.thin.pause == 0 {
			t.Errorf("%d tries, pause %d", tried, l.thin.pause)
		}
	})
	if s := l.Stats(); s.Thinned != 0 || l.thin.bytes.Load() != 0 || s.Evictions != 0 {
		t.Fatalf("%+v", s)
	}
	if x := readAll(t, c, 0, 400); x.got != 5400 {
		t.Fatalf("%+v", x)
	}
}

// TestThinUnreadable: a segment with a damaged block is not thinned, the others are.
func TestThinUnreadable(t *testing.T) {
	dir := fastDir(t)
	o := thinning(dir)
	o.MaxBytes, o.SegmentBytes = 64<<20, 256<<10
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 6000, 100, 400})
	mustClose(t, l)
	path := segmentFiles(t, dir, "a")[0]
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(p, record(150, 400)[:40])
	overwrite(t, path, int64(at+20), []byte("damage"))
	o.MaxBytes = MinBytes
	l = mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 6001, 5400, 100, 400})
	settle(t, l)
	lv := levels(l, 0)
	if lv[0] != 0 || lv[1] == 0 {
		t.Fatalf("thinned %v", lv)
	}
	x := readAll(t, c, 0, 400)
	if x.got+x.lost != 11400 || x.lost-x.thinned != 100 {
		t.Fatalf("%+v", x)
	}
	balanced(t, c)
}
