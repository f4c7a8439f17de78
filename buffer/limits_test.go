package buffer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// limits is a queue under a small budget with everything that can happen to
// it, and what must be true of it all the same.
type limits struct {
	t       *rapid.T
	base    string
	dirs    int
	o       Options
	now     time.Time
	full    bool // the disk has no space
	l       *Log
	serial  int
	names   []string                     // cursors in use
	next    map[string]uint64            // by lane: seq of the next record
	stored  map[string]map[uint64]bool   // by lane: acknowledged
	freed   map[string]map[string]uint64 // by cursor and lane: released below
	unsaved map[string]map[string]bool   // by cursor and lane: new, and no commit of the lane since
	crashed bool                         // since then an eviction may have no reason
	damaged bool                         // since then anything may be lost, with a reason
}

// limitRecord is what is stored under a seq: of about 2 KB, so that the budget
// is soon reached.
func limitRecord(lane string, seq uint64) []byte {
	return record(seq<<8|uint64(lane[0]), 1500+int(seq%1000))
}

func (m *limits) open() {
	l, err := open(m.o, func(string, string) error {
		if m.full {
			return fmt.Errorf("write: %w", syscall.ENOSPC)
		}
		return nil
	})
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	m.l = l
	for _, ln := range l.Lanes() {
		next := m.lane(ln.Name).Next
		if next < m.next[ln.Name] || next > m.next[ln.Name] && !m.damaged {
			m.t.Fatalf("lane %s: next seq %d, want %d", ln.Name, next, m.next[ln.Name])
		}
		m.next[ln.Name] = next
	}
	for _, name := range m.names {
		m.cursor(name)
	}
}

// cursor opens a cursor: it stands where it was or before.
func (m *limits) cursor(name string) *Cursor {
	c, err := m.l.Cursor(name)
	if err != nil {
		m.t.Fatalf("cursor: %v", err)
	}
	if m.freed[name] == nil {
		m.freed[name] = map[string]uint64{}
		m.unsaved[name] = map[string]bool{"a": true, "b": true}
	}
	return c
}

// num returns the number of a lane, which changes when it is retired.
func (m *limits) num(lane string) int {
	return slices.IndexFunc(m.l.Lanes(), func(x LaneInfo) bool { return x.Name == lane })
}

func (m *limits) lane(lane string) LaneStats { return m.l.Stats().Lanes[m.num(lane)] }

func (m *limits) close() {
	if err := m.l.Close(context.Background()); err != nil {
		m.t.Fatalf("close: %v", err)
	}
	clear(m.unsaved)
}

// newest returns the bytes of the newest segments.
func (m *limits) newest() (n int64) {
	for _, ln := range m.l.lanes {
		ln.mu.RLock()
		if k := len(ln.segs); k > 0 {
			n += ln.segs[k-1].size.Load()
		}
		ln.mu.RUnlock()
	}
	return n
}

func (m *limits) draw(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "lane")
}

// append appends a batch; on a full disk nothing is acknowledged.
func (m *limits) append(t *rapid.T) {
	lane := m.draw(t)
	num := m.num(lane)
	if num < 0 || m.l.Lanes()[num].Retired {
		return
	}
	b, from := &Batch{}, m.next[lane]
	for i := range uint64(rapid.SampledFrom([]int{1, 30, 300, 500}).Draw(t, "n")) {
		b.Add(limitRecord(lane, from+i))
	}
	err := appendWait(m.l, num, b)
	if errors.Is(err, ErrFull) && (m.full || int64(b.Size()) > m.o.SegmentBytes && m.newest() > m.o.MaxBytes/2) {
		return // the newest segments, which stay, leave no room for a batch larger than a segment
	}
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	for seq := from; seq < from+uint64(b.Len()); seq++ {
		if m.stored[lane][seq] {
			t.Fatalf("lane %s: seq %d is given twice", lane, seq)
		}
		m.stored[lane][seq] = true
	}
	for _, of := range m.unsaved {
		delete(of, lane)
	}
	m.next[lane] = from + uint64(b.Len())
	if got := m.lane(lane).Next; got != m.next[lane] {
		t.Fatalf("lane %s: next seq %d, want %d", lane, got, m.next[lane])
	}
}

// audit reads a lane with a cursor: everything from where it stands is handed
// out as it was stored, or covered once by a loss whose reason fits.
func (m *limits) audit(t *rapid.T) {
	lane, name := m.draw(t), rapid.SampledFrom(m.names).Draw(t, "cursor")
	num := m.num(lane)
	if num < 0 {
		return
	}
	c := m.cursor(name)
	s := follow(t, c, num, func(_ int, seq uint64) []byte {
		if !m.stored[lane][seq] {
			t.Fatalf("lane %s: record %d was never acknowledged", lane, seq)
		}
		return limitRecord(lane, seq)
	})
	if s.end != m.next[lane] {
		t.Fatalf("lane %s: read up to %d of %d", lane, s.end, m.next[lane])
	}
	first := m.lane(lane).First
	// A cursor whose only copy went with a damaged segment begins at the oldest record.
	if freed := max(m.freed[name][lane], firstSeq); s.from > freed && m.freed[name][lane] != 0 && (!m.damaged || s.from > first) {
		t.Fatalf("lane %s: cursor %s at %d, released %d, oldest %d", lane, name, s.from, freed, first)
	}
	for _, x := range s.losses {
		switch fits := x.Last < first; {
		case m.damaged:
		case x.Reason == ReasonThinned:
		case x.Reason == ReasonEvicted && fits && x.Exact && !x.From.IsZero() && !x.To.Before(x.From):
		case x.Reason == ReasonUnknown && fits && m.crashed:
		default:
			t.Fatalf("lane %s from %d: loss %+v does not fit", lane, first, x)
		}
	}
	balancedAll(t, c)
	if to := rapid.Uint64Range(s.from, s.end).Draw(t, "to"); to > s.from {
		m.release(c, num, s, to)
		m.freed[name][lane] = to
	}
	if rapid.Bool().Draw(t, "sync") && !m.full {
		if err := c.Sync(context.Background()); err != nil {
			t.Fatalf("sync: %v", err)
		}
		clear(m.unsaved)
	}
}

// release releases what was read below to.
func (m *limits) release(c *Cursor, num int, s span, to uint64) {
	r := Released{}
	for seq := s.from; seq < to; seq++ {
		if s.seen[seq] {
			r.Sent++
		}
	}
	r.Lost = to - s.from - r.Sent
	c.Release(num, to, r)
}

func balancedAll(t tester, c *Cursor) {
	for i, s := range c.Stats() {
		if s.From+s.Sent+s.Dead+s.Lost+s.Waiting != s.End {
			t.Fatalf("books of lane %d do not balance: %+v", i, s)
		}
	}
}

// settle waits until the committer is idle.
func (m *limits) settle() { m.l.Forget(m.names) }

// crash goes on with a copy of the files, as a kill at this moment leaves them.
func (m *limits) crash(t *rapid.T) {
	m.settle()
	for name, of := range m.unsaved { // it is new again, and begins at the oldest record
		for lane := range of {
			delete(m.freed[name], lane)
		}
	}
	m.dirs++
	to := fmt.Sprintf("%s/%d", m.base, m.dirs)
	if err := os.CopyFS(to, os.DirFS(m.o.Dir)); err != nil {
		t.Fatal(err)
	}
	unsaved := maps.Clone(m.unsaved)
	m.close()
	m.unsaved = unsaved
	if err := os.RemoveAll(m.o.Dir); err != nil {
		t.Fatal(err)
	}
	m.o.Dir, m.crashed, m.full = to, true, false
	m.open()
}

// restart closes and opens, with another choice of lanes.
func (m *limits) restart(t *rapid.T) {
	m.full = false
	m.close()
	m.o.Lanes = NamedLanes(rapid.SampledFrom([][]string{{"a", "b"}, {"a"}, {"b"}, {"b", "a"}}).Draw(t, "lanes")...)
	m.open()
}

// spoil flips a bit in a closed segment.
func (m *limits) spoil(t *rapid.T) {
	m.full = false
	m.close()
	var files []string
	_ = filepath.WalkDir(m.o.Dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, segSuffix) {
			files = append(files, path)
		}
		return err
	})
	if len(files) > 0 {
		path := rapid.SampledFrom(files).Draw(t, "file")
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p[rapid.IntRange(0, len(p)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		m.damaged = true
	}
	m.open()
}

// fill makes the disk full, or gives its space back.
func (m *limits) fill(*rapid.T) {
	m.settle()
	m.full = !m.full
	if m.full {
		m.crashed = true // released segments may go before the cursors are on disk
	}
}

// renew makes a new cursor, or forgets one.
func (m *limits) renew(t *rapid.T) {
	if len(m.names) < 4 {
		m.serial++
		name := fmt.Sprintf("new-%d", m.serial)
		m.names = append(m.names, name)
		m.cursor(name)
		return
	}
	gone := m.names[2]
	m.names = slices.Delete(m.names, 2, 3)
	delete(m.freed, gone)
	if !m.full {
		if dropped := m.l.Forget(m.names); !slices.Contains(dropped, gone) {
			t.Fatalf("forgot %v, not %s", dropped, gone)
		}
	}
}

// jump changes the clock.
func (m *limits) jump(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 3600).Draw(t, "seconds")) * time.Second)
}

// within holds the budget at every step.
func (m *limits) within(t *rapid.T) {
	m.settle()
	if n := m.l.Stats().Bytes; n > m.o.MaxBytes {
		t.Fatalf("%d bytes, budget %d", n, m.o.MaxBytes)
	}
}

// TestModelLimits does to a queue of a small budget what can be done to it, at
// random: appends, reads, releases, new and forgotten cursors, kills, restarts
// with other lanes, full disks, damaged bytes.
func TestModelLimits(t *testing.T) {
	base := fastDir(t)
	runs := 0
	seen := map[string]int{}
	fewChecks(t, 15)
	rapid.Check(t, func(t *rapid.T) {
		runs++
		v := rapid.SampledFrom(variants()).Draw(t, "variant")
		m := &limits{t: t, base: fmt.Sprintf("%s/%d", base, runs), names: []string{"x", "y"}, now: time.Unix(1_800_000_000, 0),
			next: map[string]uint64{"a": 1, "b": 1}, stored: map[string]map[uint64]bool{"a": {}, "b": {}}, freed: map[string]map[string]uint64{},
			unsaved: map[string]map[string]bool{}}
		m.o = Options{Dir: m.base + "/0", Lanes: NamedLanes("a", "b"), MaxBytes: MinBytes, SegmentBytes: 256 << 10, CursorDelay: time.Hour,
			Compression: None, Now: func() time.Time { return m.now }}
		v.set(&m.o)
		m.open()
		defer func() {
			if s := m.l.Stats(); s.Evictions > 0 {
				seen["runs with evictions"]++
			}
			m.close()
			_ = os.RemoveAll(m.base)
		}()
		t.Repeat(map[string]func(*rapid.T){
			"append": m.append, "append more": m.append, "append and more": m.append, "audit": m.audit, "audit again": m.audit, "crash": m.crash,
			"restart": m.restart, "spoil": m.spoil, "fill": m.fill, "renew": m.renew, "jump": m.jump, "": m.within,
		})
	})
	t.Logf("%d runs, %v", runs, maps.Collect(maps.All(seen)))
}
