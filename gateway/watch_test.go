package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// newTestWatch is a watch whose notices go to q.
func newTestWatch(t *testing.T, log *logText) (*watch, *taken) {
	q := &taken{t: t}
	w := &watch{o: &Options{ID: "ship-042", FlashEndurance: 20e12, Log: log.logger()}, started: sampleTime, marks: map[string]*mark{}}
	w.in = NewIntake(SourceSpec{Name: NoticeSource}, AppenderFunc(q.append), NewClock(func() time.Time { return sampleTime }, nil))
	return w, q
}

// Crossing a high-water mark is told once each way; around it nothing flaps.
func TestHighWaterIsTold(t *testing.T) {
	var log logText
	w, q := newTestWatch(t, &log)
	now := sampleTime
	look := func(queue, lane bool) {
		now = now.Add(watchEvery)
		w.look(now, buffer.Stats{Bytes: 85, MaxBytes: 100, HighWater: queue, Lanes: []buffer.LaneStats{
			{Name: "alarm"}, {Name: "bulk", Bytes: 9, MaxBytes: 10, HighWater: lane}, {Name: "old", MaxBytes: 10, HighWater: true, Retired: true}}})
	}
	told := func(want ...string) {
		t.Helper()
		var got []string
		for _, r := range q.records {
			text := r.Source + " " + r.Device + " " + r.Name
			for i := range r.Values {
				text += " " + r.Values[i].Name + "=" + r.Values[i].String()
			}
			got = append(got, text)
		}
		q.records = nil
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("told %q, want %q", got, want)
		}
	}
	const above = "waystation ship-042 queue-high-water above=true bytes=85 max_bytes=100 percent=85"
	look(false, false)
	told()
	look(true, false)
	told(above)
	for range 100 { // up and down, each shorter than lowFor
		look(true, false)
		look(false, false)
		look(false, false)
	}
	told()
	for range lowFor / watchEvery {
		look(false, false)
	}
	told("waystation ship-042 queue-high-water above=false bytes=85 max_bytes=100 percent=85")
	look(true, true)
	told(above, "waystation ship-042 queue-high-water above=true bytes=9 max_bytes=10 percent=90 lane=bulk")
	if log.count("above its high-water mark") != 3 || log.count("below its high-water mark again") != 1 {
		t.Errorf("logged:\n%s", log.buf.String())
	}
}

// The notice goes into the most urgent lane of a real queue.
func TestNoticeIsQueued(t *testing.T) {
	l := openQueue(t, t.TempDir(), buffer.MinBytes)
	w := newWatch(&Options{ID: "g", Queue: l, Clock: SystemClock(), Log: (&logText{}).logger()})
	w.look(time.Now(), buffer.Stats{MaxBytes: 1, HighWater: true})
	stored := make(chan error, 1)
	w.in.Deliver(nil, func(err error) { stored <- err })
	if err := <-stored; err != nil || l.Stats().Lanes[LaneAlarm].Next != 2 {
		t.Errorf("%v, %+v", err, l.Stats().Lanes[LaneAlarm])
	}
}

// The rate of growth, when the queue is full, and the life of the medium.
func TestGrowthAndFlash(t *testing.T) {
	w, _ := newTestWatch(t, &logText{})
	at := func(since time.Duration) QueueStatus {
		q := queueStatus(buffer.Stats{Bytes: int64(1000 + since/time.Second), Retained: 500, MaxBytes: 10_000, Device: int64(since/time.Second) * 20, Payload: 100})
		w.completeAt(sampleTime.Add(since), &q)
		return q
	}
	if q := at(time.Hour); q.Growth != nil || q.FullIn != nil {
		t.Error("a rate is told without a sample")
	}
	for since := time.Duration(0); since <= time.Hour; since += watchEvery {
		w.look(sampleTime.Add(since), buffer.Stats{Bytes: int64(1000 + since/time.Second), Retained: 500, MaxBytes: 10_000})
		if since == time.Minute {
			if q := at(since); q.Growth != nil || q.Flash != nil {
				t.Errorf("told after a minute: %+v", q)
			}
		}
	}
	if n := len(w.samples); n != sampleCount || w.samples[n-1].at.Sub(w.samples[0].at) != (sampleCount-1)*sampleEvery {
		t.Errorf("%d samples from %s to %s", n, w.samples[0].at, w.samples[n-1].at)
	}
	q := at(time.Hour)
	if q.Growth == nil || fmt.Sprintf("%.0f", *q.Growth) != "3600" { // a byte a second
		t.Fatalf("grows by %v", q.Growth)
	}
	if want := (10_000 - 4600 + 500) / 3600.0; q.FullIn == nil || fmt.Sprintf("%.6f", *q.FullIn) != fmt.Sprintf("%.6f", want) {
		t.Errorf("full in %v hours, want %v", q.FullIn, want)
	}
	if q.Flash == nil || q.Flash.PerDay != 20*86400 || q.Flash.Days == nil || fmt.Sprintf("%.0f", *q.Flash.Days) != "11574074" {
		t.Errorf("flash %+v", q.Flash)
	}
	if q.WriteAmp == nil || *q.WriteAmp != 720 {
		t.Errorf("amplified by %v", q.WriteAmp)
	}
	shrunk := queueStatus(buffer.Stats{Bytes: 600, MaxBytes: 10_000})
	if w.completeAt(sampleTime.Add(time.Hour), &shrunk); shrunk.Growth == nil || *shrunk.Growth >= 0 || shrunk.FullIn != nil || shrunk.Flash != nil || shrunk.WriteAmp != nil {
		t.Errorf("%+v", shrunk)
	}
}
