package buffer

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// commitBounds are the bounds of Stats.CommitTimes, nanoseconds.
var commitBounds = [...]time.Duration{
	250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// durations counts how long commits took: what bbolt writes, with the sync of
// the data and the sync of the meta page.
type durations struct {
	counts [len(commitBounds) + 1]atomic.Int64
	sum    atomic.Int64 // nanoseconds
}

func (d *durations) add(took time.Duration) {
	i := 0
	for i < len(commitBounds) && took > commitBounds[i] {
		i++
	}
	d.counts[i].Add(1)
	d.sum.Add(int64(took))
}

// histogram returns what was counted. A commit that ends meanwhile may be in
// the counts and not yet in the sum.
func (d *durations) histogram() Histogram {
	h := Histogram{Sum: time.Duration(d.sum.Load()).Seconds()}
	for _, b := range commitBounds {
		h.Bounds = append(h.Bounds, b.Seconds())
	}
	for i := range d.counts {
		h.Counts = append(h.Counts, d.counts[i].Load())
	}
	return h
}

// deviceBytes returns what this process has had written to block devices since
// it started, as Linux accounts it (proc_pid_io(5): write_bytes less
// cancelled_write_bytes): pages that became dirty, without the journal of the
// file system.
func deviceBytes() (n int64, ok bool) {
	p, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(p)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		v, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
		case key == "write_bytes":
			n, ok = n+v, true
		case key == "cancelled_write_bytes":
			n -= v
		}
	}
	return max(n, 0), ok
}
