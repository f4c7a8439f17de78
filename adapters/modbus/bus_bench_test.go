package modbus

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// instantLine is a line that answers at once.
type instantLine struct{ data [250]byte }

func (l *instantLine) Ask(_ context.Context, q *request) ([]byte, error) {
	return l.data[:2*q.count], nil
}
func (l *instantLine) Close() error { return nil }

// tallying is a queue that stores nothing and tells how many records there were.
func tallying(n *atomic.Int64) gateway.AppenderFunc {
	return func(_ gateway.Lane, stored iter.Seq[[]byte], done func(error)) {
		for range stored {
			n.Add(1)
		}
		done(nil)
	}
}

// BenchmarkPoll is what a poll of 125 registers costs without a line: schedule,
// decoding, record.
func BenchmarkPoll(b *testing.B) {
	c := config("tcp://127.0.0.1", time.Nanosecond)
	c.Profile.Groups[0].Points = points(0, 125)
	s, err := newSource(c, gateway.Env{Name: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	s.open = func(context.Context) (line, error) { return &instantLine{}, nil }
	ctx, cancel := context.WithCancel(context.Background())
	var n atomic.Int64
	queue := gateway.AppenderFunc(func(lane gateway.Lane, stored iter.Seq[[]byte], done func(error)) {
		tallying(&n)(lane, stored, done)
		if n.Load() == int64(b.N) {
			cancel()
		}
	})
	in := gateway.NewIntake(gateway.SourceSpec{Name: "bench"}, queue, gateway.SystemClock())
	b.ReportAllocs()
	b.ResetTimer()
	if err := s.Run(ctx, in); err != nil {
		b.Fatal(err)
	}
}

// cpu is the processor time of this process.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSources is what sources cost in their time, over loopback and with
// the simulated devices in the same process: processor time per poll, heap per
// source.
func BenchmarkSources(b *testing.B) {
	for _, x := range []struct {
		n     int
		every time.Duration
	}{{20, 100 * time.Millisecond}, {20, 10 * time.Millisecond}, {1000, time.Second}} {
		b.Run(fmt.Sprintf("%d every %s", x.n, x.every), func(b *testing.B) { sources(b, x.n, x.every) })
	}
}

func sources(b *testing.B, n int, every time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	var before, after runtime.MemStats
	var polls atomic.Int64
	all := make([]*source, n)
	p, url := simPlant(b)
	p.Unit(1)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range all {
		c := config(url, every)
		c.Profile.Groups[0].Points = points(0, 125)
		s, err := newSource(c, gateway.Env{Name: fmt.Sprintf("source-%d", i)})
		if err != nil {
			b.Fatal(err)
		}
		all[i] = s
		in := gateway.NewIntake(gateway.SourceSpec{Name: "bench"}, tallying(&polls), gateway.SystemClock())
		go func() { ended <- s.Run(ctx, in) }()
	}
	wait(2 * every)
	runtime.GC()
	runtime.ReadMemStats(&after)
	from, used, start := polls.Load(), cpu(b), time.Now()
	for range b.N {
		wait(5 * time.Second)
	}
	made := float64(polls.Load() - from)
	b.ReportMetric((cpu(b)-used).Seconds()*1e3/made, "cpu-ms/poll")
	b.ReportMetric(made/time.Since(start).Seconds()/float64(n), "polls/s/source")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n)/1024, "KiB/source")
	cancel()
	for range all {
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
}

// wait lets time go by.
func wait(d time.Duration) { <-time.After(d) }
