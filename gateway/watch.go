package gateway

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// How the queue is watched.
const (
	watchEvery  = 5 * time.Second
	sampleEvery = 15 * time.Second
	sampleCount = 60               // a quarter of an hour
	rateAfter   = 2 * time.Minute  // a rate is told from so long on
	lowFor      = time.Minute      // below the high-water mark so long, it is said to be over
	wearAfter   = 10 * time.Minute // the mean of what is written is told from so long on
)

// watch looks at the queue now and then: it tells the far side, by a record in
// the most urgent lane, when a budget is above its high-water mark and when it
// is below again, and remembers how the queue grew.
type watch struct {
	o       *Options
	stats   func() buffer.Stats
	in      *Intake
	started time.Time // monotonic

	marks map[string]*mark // by lane, "" = the queue; of the goroutine of run

	mu      sync.Mutex // guards samples
	samples []sample
}

// mark is what was told of one budget.
type mark struct {
	above bool
	low   time.Time // since when it is below again; zero when it is not
}

// sample is the size of the queue at a moment, without what is retained.
type sample struct {
	at    time.Time // monotonic
	bytes int64
}

// budget is how much of a budget is taken.
type budget struct {
	lane       string // "" = the queue
	bytes, max int64
	above      bool
}

func newWatch(o *Options) *watch {
	in := NewIntake(SourceSpec{Name: NoticeSource, Lane: LaneAlarm}, o.Queue, o.Clock)
	return &watch{o: o, stats: o.Queue.Stats, in: in, started: time.Now(), marks: map[string]*mark{}}
}

// run looks until ctx ends.
func (w *watch) run(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		w.look(time.Now(), w.stats())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look takes in the state of the queue at now.
func (w *watch) look(now time.Time, s buffer.Stats) {
	w.sample(now, s.Bytes-s.Retained)
	budgets := []budget{{"", s.Bytes, s.MaxBytes, s.HighWater}}
	for _, ln := range s.Lanes {
		if ln.MaxBytes > 0 && !ln.Retired {
			budgets = append(budgets, budget{ln.Name, ln.Bytes, ln.MaxBytes, ln.HighWater})
		}
	}
	for _, b := range budgets {
		m := w.marks[b.lane]
		if m == nil {
			m = &mark{}
			w.marks[b.lane] = m
		}
		if m.changed(now, b.above) {
			w.tell(b)
		}
	}
}

// changed takes in whether a budget is above its mark and reports whether that
// is news. Around the mark it is news only once: "below" must last.
func (m *mark) changed(now time.Time, above bool) bool {
	switch {
	case above == m.above:
		m.low = time.Time{}
		return false
	case above:
		m.above = true
		return true
	case m.low.IsZero():
		m.low = now
		return false
	case now.Sub(m.low) < lowFor:
		return false
	}
	m.above, m.low = false, time.Time{}
	return true
}

// tell logs that a budget has crossed its mark and queues a record that says so.
func (w *watch) tell(b budget) {
	percent := float64(b.bytes) / float64(max(1, b.max)) * 100
	attrs := []any{"bytes", b.bytes, "max_bytes", b.max, "percent", int(percent)}
	values := []Value{BoolValue("above", b.above), IntValue("bytes", b.bytes), IntValue("max_bytes", b.max), FloatValue("percent", percent)}
	if b.lane != "" {
		attrs, values = append(attrs, "lane", b.lane), append(values, StringValue("lane", b.lane))
	}
	if b.above {
		w.o.Log.Warn("the queue is above its high-water mark; at max_bytes its policy makes room", attrs...)
	} else {
		w.o.Log.Info("the queue is below its high-water mark again", attrs...)
	}
	w.in.Deliver([]Record{{Device: w.o.ID, Name: "queue-high-water", Values: values}}, nil)
}

// sample remembers the size of the queue.
func (w *watch) sample(now time.Time, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.samples); n > 0 && now.Sub(w.samples[n-1].at) < sampleEvery {
		return
	}
	if len(w.samples) == sampleCount {
		w.samples = slices.Delete(w.samples, 0, 1)
	}
	w.samples = append(w.samples, sample{now, bytes})
}

// complete adds to the status what is only known over time.
func (w *watch) complete(q *QueueStatus) { w.completeAt(time.Now(), q) }

func (w *watch) completeAt(now time.Time, q *QueueStatus) {
	w.mu.Lock()
	var first sample
	if len(w.samples) > 0 {
		first = w.samples[0]
	}
	w.mu.Unlock()
	if past := now.Sub(first.at); !first.at.IsZero() && past >= rateAfter {
		rate := float64(q.Bytes-q.Retained-first.bytes) / past.Hours()
		q.Growth = &rate
		if left := q.MaxBytes - q.Bytes + q.Retained; rate > 0 && left > 0 {
			hours := float64(left) / rate
			q.FullIn = &hours
		}
	}
	if up := now.Sub(w.started); q.Device > 0 && up >= wearAfter {
		perDay := float64(q.Device) / up.Hours() * 24
		q.Flash = &FlashStatus{PerDay: int64(perDay), Endurance: int64(w.o.FlashEndurance)}
		if q.Flash.Endurance > 0 {
			days := float64(q.Flash.Endurance) / perDay
			q.Flash.Days = &days
		}
	}
}

// lowestLane is the last lane that records can be put in.
func lowestLane(q *buffer.Log) Lane {
	n := 0
	for _, ln := range q.Lanes() {
		if !ln.Retired {
			n++
		}
	}
	return Lane(max(1, n) - 1)
}
