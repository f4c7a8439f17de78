package buffer

import (
	"context"
	"fmt"
	"os"
	"testing"

	"pgregory.net/rapid"
)

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
	for range rapid.IntRange(4, 16).Draw(t, "batches") {
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
	fewChecks(t, 15)
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
		t.Repeat(map[string]func(*rapid.T){"append": m.append, "read": m.read, "release": m.release, "reopen": m.reopen, "": m.check})
		m.end()
	})
	t.Logf("%d runs, %d records thinned, %d segments evicted", n, thinned, evicted)
	if n >= 50 && (thinned == 0 || evicted == 0) { // few runs may happen to try neither
		t.Fatal("nothing was tried")
	}
}
