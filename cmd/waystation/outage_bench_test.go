//go:build bench

package main

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waystation-iot/waystation/gateway"
)

// BenchmarkBacklog states how much memory an outage takes and how fast the
// backlog drains. Environment BACKLOG=n sets the records of the outage.
func BenchmarkBacklog(b *testing.B) {
	n := 300_000
	if s := os.Getenv("BACKLOG"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	n = n / 800 * 800
	r := newRig(b)
	p := r.gateway(b)
	const warm = 80_000
	if err := load(r.mosquitto.Addr, warm, 5000); err != nil {
		b.Fatal(err)
	}
	p.await("warm-up sent", time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Sent >= warm })
	if err := r.kafka.Stop(); err != nil {
		b.Fatal(err)
	}
	before := p.rss()
	start := time.Now()
	if err := load(r.mosquitto.Addr, n, 5000*min(4, max(1, n/300_000))); err != nil {
		b.Fatal(err)
	}
	s := p.await("queued", 2*time.Minute, func(s *gateway.Status) bool { return s.Sources[0].Queued >= int64(warm+n) })
	took := time.Since(start)
	queued, disk := p.rss(), s.Queue.Bytes
	if err := r.kafka.Start(); err != nil {
		b.Fatal(err)
	}
	first := p.await("drain begins", time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Sent > warm })
	begin, cpu := time.Now(), p.cpu()
	p.await("drained", 10*time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 })
	drain := time.Since(begin)
	left := float64(uint64(warm+n) - first.Sinks[0].Sent)
	b.ReportMetric(float64(n), "backlog")
	b.ReportMetric(float64(n)/took.Seconds(), "in-rec/s")
	b.ReportMetric(float64(before)/(1<<20), "before-MiB")
	b.ReportMetric(float64(queued-before)/(1<<20), "growth-MiB")
	b.ReportMetric(float64(p.rss()-before)/(1<<20), "drained-growth-MiB")
	b.ReportMetric(float64(disk)/(1<<20), "disk-MiB")
	b.ReportMetric(left/drain.Seconds(), "drain-rec/s")
	b.ReportMetric((p.cpu()-cpu).Seconds()/left*1e6, "drain-cpu-s/Mrec")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkOutage sends 5,000 records/s through an outage of 60 s, kills the
// gateway in it and again in the drain, and states what was lost, repeated and
// out of order.
func BenchmarkOutage(b *testing.B) {
	r := newRig(b)
	p := r.gateway(b)
	const rate, total = 5000, 5000 * 100 / 800 * 800
	sent := make(chan error, 1)
	go func() { sent <- load(r.mosquitto.Addr, total, rate) }()
	wait(b, 15*time.Second)
	if err := r.kafka.Stop(); err != nil {
		b.Fatal(err)
	}
	wait(b, 30*time.Second)
	p.kill()
	p = startGateway(b, p.config)
	wait(b, 30*time.Second)
	if err := r.kafka.Start(); err != nil {
		b.Fatal(err)
	}
	p.await("in the drain", time.Minute, func(s *gateway.Status) bool {
		return s.Sinks[0].State == gateway.Up && s.Sinks[0].Waiting > 20_000
	})
	p.kill()
	p = startGateway(b, p.config)
	if err := <-sent; err != nil {
		b.Fatal(err)
	}
	p.await("drained", 5*time.Minute, func(s *gateway.Status) bool {
		return s.Sinks[0].Waiting == 0 && s.Books.Queued >= total
	})
	v := judge(b, r.kafka.Addr, total)
	b.ReportMetric(float64(v.lost), "lost")
	b.ReportMetric(float64(v.disorder), "out-of-order")
	b.ReportMetric(float64(v.resent), "resent-same-seq")
	b.ReportMetric(float64(v.again), "redelivered-by-mosquitto")
	b.ReportMetric(float64(v.arrived), "arrived")
	b.ReportMetric(0, "ns/op")
}

// wait lets the scenario's time pass.
func wait(b *testing.B, d time.Duration) {
	b.Helper()
	time.Sleep(d)
}

// findings is what judge found in the test topic.
type findings struct{ arrived, lost, disorder, resent, again int }

// judge reads the whole topic and compares it with what 100 devices sent: total
// messages, each device counting from 1. A repeat is one whose number its
// device has sent before; anything else that goes back is disorder.
func judge(b *testing.B, addr string, total int) findings {
	b.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("test.plant"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	var v findings
	highest := map[string]int{} // n per device
	seen := map[string][]bool{} // n that arrived
	seqs := map[string]bool{}   // queue positions
	for idle := 0; idle < 3; {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		fetches := cl.PollFetches(ctx)
		cancel()
		if fetches.NumRecords() == 0 {
			idle++
			continue
		}
		fetches.EachRecord(func(r *kgo.Record) { v.take(r, highest, seen, seqs) })
	}
	distinct := 0
	for _, s := range seen {
		for _, ok := range s {
			if ok {
				distinct++
			}
		}
	}
	v.lost = total - distinct
	return v
}

// take counts one record.
func (v *findings) take(r *kgo.Record, highest map[string]int, seen map[string][]bool, seqs map[string]bool) {
	v.arrived++
	device, n := string(r.Key), numberOf(r.Value)
	var seq string
	for _, h := range r.Headers {
		if h.Key == "seq" {
			seq = string(h.Value)
		}
	}
	for len(seen[device]) <= n {
		seen[device] = append(seen[device], false)
	}
	switch {
	case seqs[seq]:
		v.resent++
	case seen[device][n]:
		v.again++
	case n < highest[device]:
		v.disorder++
	}
	seqs[seq], seen[device][n] = true, true
	highest[device] = max(highest[device], n)
}

// numberOf reads the running number of a telemetry payload.
func numberOf(payload []byte) int {
	_, rest, _ := bytes.Cut(payload, []byte(`"n":`))
	digits, _, _ := bytes.Cut(rest, []byte(","))
	n, _ := strconv.Atoi(string(digits))
	return n
}
