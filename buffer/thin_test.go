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

	"pgregory.net/rapid"
)

// nth is a Thinner that keeps one record of n.
type nth struct {
	n    int
	seen int
	wait <-chan struct{} // observing goes on when it is closed
	in   chan<- struct{} // told when observing begins
}

func (x *nth) Observe(i int, rec []byte) {
	if i == 0 && x.in != nil {
		select {
		case x.in <- struct{}{}:
		default:
		}
		<-x.wait
	}
	if i != x.seen || len(rec) == 0 {
		panic(fmt.Sprintf("record %d observed as %d", x.seen, i))
	}
	x.seen++
}

func (x *nth) Keep() []bool {
	keep := make([]bool, x.seen)
	for i := 0; i < x.seen; i += x.n {
		keep[i] = true
	}
	return keep
}

// thinning returns options of a small queue that keeps every second record.
func thinning(dir string) Options {
	o := small(dir)
	o.MaxBytes, o.Policy = MinBytes, Thin
	o.SegmentBytes = 256 << 10
	o.Thin = func() Thinner { return &nth{n: 2} }
	return o
}

// covered is what a reader learned of each seq.
type covered struct {
	got, thinned, lost uint64
	next               uint64
}

// take checks one chunk read at c.next: each seq is a record as it was stored
// or in the loss, once.
func (c *covered) take(t rapid.TB, ch *Chunk, size int) Released {
	t.Helper()
	if ch.First < c.next || ch.Next() <= ch.First {
		t.Fatalf("chunk %d..%d read at %d", ch.First, ch.Next(), c.next)
	}
	var rel Released
	for i, rec := range ch.Records {
		seq := ch.Seq(i)
		if seq < c.next || seq >= ch.Next() || i > 0 && seq <= ch.Seq(i-1) || !bytes.Equal(rec, record(seq, size)) {
			t.Fatalf("seq %d in chunk %d..%d: %x", seq, ch.First, ch.Next(), rec[:8])
		}
		rel.Sent++
	}
	if l := ch.Loss; l != nil {
		if l.First < c.next || l.Last >= ch.Next() || l.Last < l.First || l.Count() > l.Last-l.First+1 {
			t.Fatalf("loss %+v in chunk %d..%d", *l, ch.First, ch.Next())
		}
		rel.Lost = l.Count()
		if l.Reason == ReasonThinned {
			c.thinned += rel.Lost
			if !l.Exact {
				t.Fatalf("loss %+v", *l)
			}
		}
	}
	if rel.Sent+rel.Lost != ch.Next()-c.next {
		t.Fatalf("chunk %d..%d: %d records, %d lost, read at %d", ch.First, ch.Next(), rel.Sent, rel.Lost, c.next)
	}
	c.got, c.lost, c.next = c.got+rel.Sent, c.lost+rel.Lost, ch.Next()
	return rel
}

// readAll reads a lane with a cursor to its end and releases it.
func readAll(t rapid.TB, c *Cursor, lane, size int) *covered {
	t.Helper()
	x := &covered{next: c.Stats()[lane].Next}
	var ch Chunk
	for {
		if err := c.Read(lane, Limit{Records: 300, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatal(err)
		}
		if len(ch.Records) == 0 && ch.Loss == nil {
			return x
		}
		c.Release(lane, ch.Next(), x.take(t, &ch, size))
	}
}

// settle returns when no rewrite is under way and none is wanted: the
// committer answers requests between them.
func settle(t testing.TB, l *Log) {
	t.Helper()
	for range 1000 {
		busy := false
		onCommitter(l, func() {
			if busy = l.thin.run != nil; busy {
				<-l.thin.run.done
			}
		})
		if !busy {
			return
		}
	}
	t.Fatal("thinning does not end")
}

// onCommitter runs fn on the committer's goroutine.
func onCommitter(l *Log, fn func()) {
	done := make(chan struct{})
	l.submit(request{err: errors.New("nothing to commit"), done: func(error) { fn(); close(done) }})
	<-done
}

// levels returns how often each segment of a lane was thinned.
func levels(l *Log, lane int) (out []uint32) {
	l.lanes[lane].mu.RLock()
	segs := append([]*segment(nil), l.lanes[lane].segs...)
	l.lanes[lane].mu.RUnlock()
	for _, s := range segs {
		_, _, level := s.about()
		out = append(out, level)
	}
	return out
}

// TestThin fills a queue with more than twice its budget: the files stay below it,
// the whole span is still there in part, what is missing is told exactly, and
// all of that also after a restart.
func TestThin(t *testing.T) {
	dir := fastDir(t)
	o := thinning(dir)
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
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
	if lv[len(lv)-1] != 0 {
		t.Fatalf("the newest was thinned: %v", lv)
	}
	mustClose(t, l)
	l = mustOpen(t, o)
	c = mustCursor(t, l, "x")
	balanced(t, c)
	if again := levels(l, 0); fmt.Sprint(again) != fmt.Sprint(lv) {
		t.Fatalf("thinned %v, after a restart %v", lv, again)
	}
	x := readAll(t, c, 0, size)
	if x.got+x.lost != n || x.lost != uint64(s.Thinned+l.Stats().Thinned) || x.thinned != x.lost || x.got < n/10 {
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

const thinSize = 1500 // bytes of a record in TestThinModel

// thinModel is the queue under policy Thin with a small budget, against what
// was appended.
type thinModel struct {
	t    *rapid.T
	o    Options
	l    *Log
	c    [2]*Cursor
	next [2]uint64
	x    [2][2]covered // [cursor][lane]: released
	held [2][2]*Chunk  // read and not released
}

func (m *thinModel) open() {
	l, err := Open(m.o)
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	m.l = l
	for i := range m.c {
		if m.c[i], err = l.Cursor(fmt.Sprintf("sink-%d", i)); err != nil {
			m.t.Fatalf("cursor: %v", err)
		}
		m.held[i] = [2]*Chunk{}
	}
}

func (m *thinModel) append(t *rapid.T) {
	lane := rapid.IntRange(0, 1).Draw(t, "lane")
	for range rapid.IntRange(1, 12).Draw(t, "batches") {
		b := &Batch{}
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			b.Add(record(m.next[lane], thinSize))
			m.next[lane]++
		}
		if err := appendWait(m.l, lane, b); err != nil {
			t.Fatalf("append: %v", err)
		}
	}
	if n := m.l.Stats().Bytes; n > m.o.MaxBytes {
		t.Fatalf("%d bytes, budget %d", n, m.o.MaxBytes)
	}
}

func (m *thinModel) read(t *rapid.T) {
	lane, c := rapid.IntRange(0, 1).Draw(t, "lane"), rapid.IntRange(0, 1).Draw(t, "cursor")
	if m.held[c][lane] != nil {
		return
	}
	ch := &Chunk{}
	if err := m.c[c].Read(lane, Limit{Records: rapid.IntRange(1, 4000).Draw(t, "records"), Bytes: 1 << 20}, ch); err != nil {
		t.Fatalf("read: %v", err)
	}
	if len(ch.Records) > 0 || ch.Loss != nil {
		m.held[c][lane] = ch
	} else if at := m.x[c][lane].next; at != m.next[lane] {
		t.Fatalf("lane %d: nothing at %d of %d", lane, at, m.next[lane])
	}
}

func (m *thinModel) release(t *rapid.T) {
	lane, c := rapid.IntRange(0, 1).Draw(t, "lane"), rapid.IntRange(0, 1).Draw(t, "cursor")
	if ch := m.held[c][lane]; ch != nil {
		m.c[c].Release(lane, ch.Next(), m.x[c][lane].take(t, ch, thinSize))
		m.held[c][lane] = nil
	}
	if rapid.Bool().Draw(t, "sync") {
		if err := m.c[c].Sync(context.Background()); err != nil {
			t.Fatalf("sync: %v", err)
		}
	}
}

func (m *thinModel) reopen(*rapid.T) {
	if err := m.l.Close(context.Background()); err != nil {
		m.t.Fatalf("close: %v", err)
	}
	m.open()
}

func (m *thinModel) check(t *rapid.T) {
	for c := range m.c {
		for lane, s := range m.c[c].Stats() {
			x := m.x[c][lane]
			if s.From+s.Sent+s.Dead+s.Lost+s.Waiting != s.End || s.End != m.next[lane] || s.Next != x.next || s.Sent != x.got || s.Lost < x.lost {
				t.Fatalf("cursor %d lane %d: books %+v, model %+v of %d", c, lane, s, x, m.next[lane])
			}
		}
	}
}

// end drains everything: each seq was read unchanged or told lost, once.
func (m *thinModel) end() {
	for c := range m.c {
		for lane := range m.held[c] {
			if ch := m.held[c][lane]; ch != nil {
				m.c[c].Release(lane, ch.Next(), m.x[c][lane].take(m.t, ch, thinSize))
			}
			rest := readAll(m.t, m.c[c], lane, thinSize)
			x := m.x[c][lane]
			if s := m.c[c].Stats()[lane]; x.got+rest.got+x.lost+rest.lost != m.next[lane]-1 || s.Lost != x.lost+rest.lost || s.Sent != x.got+rest.got || s.Waiting != 0 {
				m.t.Fatalf("cursor %d lane %d: %+v and %+v of %d, books %+v", c, lane, x, rest, m.next[lane]-1, s)
			}
		}
	}
}

// TestThinModel thins, evicts, reads, releases and reopens at random.
func TestThinModel(t *testing.T) {
	base := fastDir(t)
	n := 0
	var thinned, evicted int64
	rapid.Check(t, func(t *rapid.T) {
		n++
		o := thinning(fmt.Sprintf("%s/%d", base, n))
		o.SegmentBytes = 64 << 10
		every := rapid.IntRange(1, 4).Draw(t, "every")
		o.Thin = func() Thinner { return &nth{n: every} }
		m := &thinModel{t: t, o: o, next: [2]uint64{1, 1}}
		for c := range m.x {
			m.x[c] = [2]covered{{next: 1}, {next: 1}}
		}
		m.open()
		defer func() {
			s := m.l.Stats()
			thinned, evicted = thinned+s.Thinned, evicted+s.Evictions
			if err := m.l.Close(context.Background()); err != nil {
				m.t.Fatalf("close: %v", err)
			}
			_ = os.RemoveAll(o.Dir)
		}()
		t.Repeat(map[string]func(*rapid.T){"append": m.append, "more": m.append, "read": m.read, "release": m.release, "reopen": m.reopen, "": m.check})
		m.end()
	})
	if thinned == 0 || evicted == 0 {
		t.Fatalf("%d records thinned, %d segments evicted: nothing was tried", thinned, evicted)
	}
}
