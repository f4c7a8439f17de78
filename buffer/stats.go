package buffer

import "time"

// Stats is the state of the queue.
type Stats struct {
	Dir         string
	Generation  string
	Err         error // why the last commit failed; nil when records are taken
	Bytes       int64 // size of all files, with the reserve and what was set aside
	BadBytes    int64 // size of the segments set aside
	MaxBytes    int64
	Commits     int64 // since the queue was opened, as are the following
	Records     int64 // records committed
	Payload     int64 // framed bytes of them
	Stored      int64 // compressed bytes of them
	Evictions   int64 // segments deleted before they were sent
	Thinned     int64 // records that policy Thin took out
	Quarantined int64 // segments set aside
	Device      int64 // bytes this process gave to block devices, /proc/self/io; 0 when not known
	CommitTimes Histogram
	Retained    int64 // bytes of delivered segments that are kept for replay
	HighWater   bool  // files not counting those and what was set aside take more than Options.HighWater percent of the budget
	Lanes       []LaneStats
}

// Histogram counts durations. Counts[i] are those of at most Bounds[i] seconds
// and above the bound before; the last of Counts has no bound.
type Histogram struct {
	Bounds []float64
	Counts []int64
	Sum    float64 // seconds
}

// LaneStats is the state of one lane.
type LaneStats struct {
	Name        string
	First, Next uint64
	Segments    int
	Bytes       int64
	MaxBytes    int64     // the lane's own budget; 0 = none
	HighWater   bool      // of that budget
	Oldest      time.Time // when the oldest record that some cursor waits for was committed; zero when there is none or it is not known
	Generation  string
	Origin      string // who a guest's queue belonged to
	Retired     bool
}

// CursorStats is a cursor's state in one lane, taken at one moment. The books
// balance when From + Sent + Dead + Lost + Waiting is End.
type CursorStats struct {
	From    uint64 // where the cursor began
	End     uint64 // seq of the lane's next record
	Next    uint64 // released below this
	Sent    uint64
	Dead    uint64
	Lost    uint64 // evicted or unreadable, including what Read has not reached yet
	Waiting uint64

	Filtered uint64 // not wanted by this reader
}

// Stats returns the state of the queue.
func (l *Log) Stats() Stats {
	s := Stats{Dir: l.o.Dir, Generation: l.Generation(), MaxBytes: l.o.MaxBytes, Commits: l.counts.commits.Load(),
		Records: l.counts.records.Load(), Payload: l.counts.payload.Load(), Stored: l.counts.stored.Load(),
		Evictions: l.counts.evicted.Load(), Bytes: l.reserve.Load(), CommitTimes: l.times.histogram()}
	if n, ok := deviceBytes(); ok {
		s.Device = n - l.base
	}
	l.stateMu.Lock()
	s.Err = l.state
	l.stateMu.Unlock()
	for _, ln := range l.lanes {
		ls := LaneStats{Name: ln.label, Bytes: ln.bytes(), MaxBytes: ln.o.MaxBytes, Generation: l.generationOf(ln).String(), Origin: ln.origin, Retired: ln.retired}
		ln.mu.RLock()
		ls.First, ls.Next, ls.Segments = ln.first, ln.next, len(ln.segs)
		s.Quarantined += ln.quarantined
		s.BadBytes += ln.badBytes()
		ln.mu.RUnlock()
		s.Bytes += ls.Bytes
		s.Lanes = append(s.Lanes, ls)
	}
	l.stress(&s)
	return s
}

// Stats returns the cursor's state per lane.
func (c *Cursor) Stats() []CursorStats {
	out := make([]CursorStats, len(c.l.lanes))
	for i, ln := range c.l.lanes {
		ln.mu.RLock()
		c.mu.Lock()
		p := c.lanes[i].pos
		c.mu.Unlock()
		hole := uint64(0)
		if ln.first > p.next {
			hole = ln.first - p.next
		}
		out[i] = CursorStats{From: p.from, End: ln.next, Next: p.next, Sent: p.sent, Dead: p.dead, Lost: p.lost + hole, Waiting: ln.next - max(p.next, ln.first),
			Filtered: p.filtered}
		ln.mu.RUnlock()
	}
	return out
}
