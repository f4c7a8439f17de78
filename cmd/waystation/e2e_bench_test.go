//go:build bench

package main

import (
	"fmt"
	"os"
	"sort"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// rig is mosquitto and a real Kafka, with nothing of ours.
type rig struct {
	mosquitto *peers.Mosquitto
	kafka     *peers.Kafka
	dir       string
}

func newRig(b *testing.B) *rig {
	b.Helper()
	r := &rig{dir: b.TempDir()}
	var err error
	if r.mosquitto, err = peers.StartMosquitto(sub(b, r.dir, "mosquitto"), peers.MaxInflight(1000)); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.mosquitto.Kill() })
	if r.kafka, err = peers.StartKafka(sub(b, r.dir, "kafka")); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.kafka.Kill() })
	if err := r.kafka.CreateTopic("test.plant", 4, nil); err != nil {
		b.Fatal(err)
	}
	return r
}

func sub(b *testing.B, dir, name string) string {
	b.Helper()
	path := dir + "/" + name
	if err := os.MkdirAll(path, 0o700); err != nil {
		b.Fatal(err)
	}
	return path
}

// gateway starts the daemon between the two and waits until both links are up.
func (r *rig) gateway(b *testing.B) *proc {
	b.Helper()
	config := writeConfig(b, r.dir, r.mosquitto.Addr, r.kafka.Addr)
	if mode := os.Getenv("BENCH_DELIVERY"); mode != "" { // at-least-once; the default is exactly once
		replaceIn(b, config, `topic: "test.{source}"`, `topic: "test.{source}", delivery: `+mode)
	}
	p := startGateway(b, config)
	p.await("links up", 30*time.Second, func(s *gateway.Status) bool {
		return s.Sources[0].State == gateway.Up && s.Sinks[0].State == gateway.Up
	})
	return p
}

// BenchmarkEndToEnd sends b.N messages as fast as mosquitto passes them on and
// states the CPU time of the gateway process per million records.
func BenchmarkEndToEnd(b *testing.B) {
	r := newRig(b)
	p := r.gateway(b)
	idle := p.rss()
	if err := load(r.mosquitto.Addr, 8000, 0); err != nil { // warm-up
		b.Fatal(err)
	}
	p.await("warm-up sent", time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Sent >= 8000 })
	n := b.N / 800 * 800
	if n == 0 {
		n = 800
	}
	cpu, allocs, commits := p.cpu(), p.metric("go_memstats_mallocs_total"), p.metric("waystation_queue_commits_total")
	b.ResetTimer()
	start := time.Now()
	if err := load(r.mosquitto.Addr, n, 0); err != nil {
		b.Fatal(err)
	}
	p.await("all sent", 5*time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Sent >= uint64(8000+n) })
	took := time.Since(start)
	b.StopTimer()
	per := float64(n)
	b.ReportMetric(p.cpu().Seconds()-cpu.Seconds(), "cpu-s")
	b.ReportMetric((p.cpu()-cpu).Seconds()/per*1e6, "cpu-s/Mrec")
	b.ReportMetric((p.metric("go_memstats_mallocs_total")-allocs)/per, "allocs/rec")
	b.ReportMetric(per/(p.metric("waystation_queue_commits_total")-commits), "rec/commit")
	b.ReportMetric(per/took.Seconds(), "rec/s")
	b.ReportMetric(float64(idle)/(1<<20), "idle-MiB")
	b.ReportMetric(float64(p.rss())/(1<<20), "flow-MiB")
	b.ReportMetric(0, "ns/op")
	p.stop() // in order, so that a profile is written
}

// BenchmarkLatency states the time from sending a message to its arrival at a
// consumer of Kafka.
func BenchmarkLatency(b *testing.B) {
	for _, rate := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) {
			r := newRig(b)
			p := r.gateway(b)
			if err := load(r.mosquitto.Addr, 2*rate/800*800, rate); err != nil { // warm-up
				b.Fatal(err)
			}
			p.await("warm-up sent", time.Minute, func(s *gateway.Status) bool { // a new Kafka takes seconds for its first transaction
				return s.Sources[0].Queued >= int64(2*rate/800*800) && s.Sinks[0].Waiting == 0
			})
			n := 20 * rate / 800 * 800
			late := consume(b, r.kafka.Addr, n)
			cpu, commits := p.cpu(), p.metric("waystation_queue_commits_total")
			if err := load(r.mosquitto.Addr, n, rate); err != nil {
				b.Fatal(err)
			}
			used := p.cpu() - cpu
			got := <-late
			if len(got) < n {
				b.Fatalf("only %d of %d arrived", len(got), n)
			}
			sort.Slice(got, func(i, j int) bool { return got[i] < got[j] })
			for _, q := range []struct {
				name string
				at   float64
			}{{"p50-ms", .5}, {"p99-ms", .99}, {"p999-ms", .999}} {
				b.ReportMetric(float64(got[int(q.at*float64(len(got)-1))])/1e6, q.name)
			}
			b.ReportMetric(used.Seconds()/20*100, "cpu-%")
			b.ReportMetric((p.metric("waystation_queue_commits_total")-commits)/20, "commits/s")
			b.ReportMetric(0, "ns/op")
			p.stop()
		})
	}
}
