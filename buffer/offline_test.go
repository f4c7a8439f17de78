package buffer

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// month is 30 days without a link on a clock of its own: devices report, the
// gateway restarts every day, and the clock is wrong at times.
type month struct {
	t     *testing.T
	o     Options
	now   atomic.Int64 // seconds
	min   int64        // range of the clock so far
	max   int64
	l     *Log
	next  [2]uint64
	most  int64  // bytes on disk
	heap  uint64 // most of it, after a collection, at the end of a day
	heap1 uint64 // the same on the second day
}

// offlineRecord is one report of one of 100 devices.
func offlineRecord(lane int, seq uint64) []byte {
	return fmt.Appendf(nil, `{"device":"pump-%02d","lane":%d,"n":%d,"pressure":%d.%02d,"state":"running","unit":"bar"}`,
		seq%100, lane, seq, seq*7919%40, seq*104729%100)
}

// day appends a day's records, n in the lower lane and a tenth of it in the
// higher, and restarts.
func (m *month) day(d, n int) {
	r := rand.New(rand.NewPCG(uint64(d), 1))
	for done := 0; done < n; {
		per := min(n-done, 200+r.IntN(400))
		m.add(1, per)
		m.add(0, per/10)
		done += per
		m.tick(int64(86400 * per / n))
		if m.l.Stats().Bytes > m.o.MaxBytes {
			m.t.Fatalf("day %d: the queue counts %d bytes", d, m.l.Stats().Bytes)
		}
		size := dirBytes(m.t, m.o.Dir)
		if m.most = max(m.most, size); size > m.o.MaxBytes {
			m.t.Fatalf("day %d: %d bytes on disk, budget %d", d, size, m.o.MaxBytes)
		}
	}
	switch d % 7 { // the clock is wrong for some hours, then set right
	case 2:
		m.jump(0) // 1970
	case 3:
		m.jump(1_800_000_000 + int64(d)*86400)
	case 4:
		m.jump(m.now.Load() - 600)
	case 5:
		m.jump(m.now.Load() + 86400*365)
	case 6:
		m.jump(1_800_000_000 + int64(d)*86400)
	}
	mustClose(m.t, m.l)
	m.open()
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	m.heap = max(m.heap, s.HeapAlloc)
	if d == 1 {
		m.heap1 = m.heap
	}
}

func (m *month) tick(seconds int64) { m.jump(m.now.Load() + seconds) }

func (m *month) jump(to int64) {
	m.now.Store(to)
	m.min, m.max = min(m.min, to), max(m.max, to)
}

func (m *month) open() {
	l, err := Open(m.o)
	must(m.t, err)
	m.l = l
	mustCursor(m.t, l, "shore")
	for i, ln := range l.Stats().Lanes {
		if ln.Next != m.next[i] {
			m.t.Fatalf("lane %s: next seq %d after a restart, want %d", ln.Name, ln.Next, m.next[i])
		}
	}
}

func (m *month) add(lane, n int) {
	b := &Batch{}
	for range n {
		b.Add(offlineRecord(lane, m.next[lane]))
		m.next[lane]++
	}
	must(m.t, appendWait(m.l, lane, b))
}

// newMonth runs 30 days of records in all.
func newMonth(t *testing.T, v variant, budget int64, records int) *month {
	t.Helper()
	m := &month{t: t, min: 1_800_000_000, max: 1_800_000_000, next: [2]uint64{1, 1}}
	m.now.Store(m.min)
	m.o = Options{Dir: fastDir(t) + "/q", Lanes: NamedLanes("alarm", "telemetry"), MaxBytes: budget, CursorDelay: time.Hour,
		Now: func() time.Time { return time.Unix(m.now.Load(), 0) }}
	v.set(&m.o)
	m.open()
	t.Cleanup(func() { mustClose(t, m.l) })
	for d := range 30 {
		m.day(d, records/30)
	}
	if m.heap > m.heap1+(4<<20) {
		t.Errorf("heap grew from %d on the second day to %d bytes", m.heap1, m.heap)
	}
	return m
}

// land reads everything when the link is back, and returns how many records
// were read and lost.
func (m *month) land() (read, lost uint64) {
	c := mustCursor(m.t, m.l, "shore")
	for lane := range 2 {
		s := follow(m.t, c, lane, offlineRecord)
		if s.from != firstSeq || s.end != m.next[lane] {
			m.t.Fatalf("lane %d: read %d..%d of %d", lane, s.from, s.end, m.next[lane])
		}
		first := m.l.Stats().Lanes[lane].First
		was := uint64(0)
		for _, x := range s.losses {
			if x.Reason != ReasonThinned && (x.Reason != ReasonEvicted || x.Last >= first) || !x.Exact {
				m.t.Fatalf("lane %d from %d: loss %+v", lane, first, x)
			}
			if x.From.Unix() < m.min || x.To.Unix() > m.max || x.From.IsZero() && m.min > 0 {
				m.t.Fatalf("lane %d: loss %+v is not within the clock's %d..%d", lane, x, m.min, m.max)
			}
			was += x.Count()
		}
		if uint64(len(s.seen))+was != m.next[lane]-1 {
			m.t.Fatalf("lane %d: %d read and %d lost of %d", lane, len(s.seen), was, m.next[lane]-1)
		}
		c.Release(lane, s.end, Released{Sent: uint64(len(s.seen)), Lost: was})
		read, lost = read+uint64(len(s.seen)), lost+was
	}
	balanced(m.t, c)
	mustSync(m.t, c)
	return read, lost
}

// TestOfflineMonth: with a budget that suffices every record of 30 days is
// delivered in order; with one that does not, what is missing is what the
// losses say, the disk never holds more than the budget, and memory does not
// grow. WAYSTATION_OFFLINE sets the number of records.
func TestOfflineMonth(t *testing.T) {
	n := times(t, "WAYSTATION_OFFLINE", 120_000)
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			m := newMonth(t, v, 1<<30, n)
			if read, lost := m.land(); lost != 0 || read != m.next[0]+m.next[1]-2 {
				t.Fatalf("%d read, %d lost", read, lost)
			}
			enough := m.most
			m.add(1, 1)
			if left := dirBytes(t, m.o.Dir); left > enough/2 && left > 8<<20 {
				t.Fatalf("%d bytes left of %d after everything was delivered", left, enough)
			}
			small := newMonth(t, v, MinBytes, n)
			read, lost := small.land()
			if lost == 0 && !testing.Short() || read == 0 {
				t.Fatalf("%d read, %d lost under a budget of %d", read, lost, small.o.MaxBytes)
			}
			t.Logf("%d records: %d MiB in all; under %d MiB %d read, %d lost; at most %d bytes on disk; heap %d KiB, %d on the second day",
				m.next[0]+m.next[1]-2, enough>>20, small.o.MaxBytes>>20, read, lost, small.most, small.heap>>10, small.heap1>>10)
		})
	}
}
