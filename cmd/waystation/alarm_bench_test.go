//go:build bench

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
)

// BenchmarkAlarm queues a backlog of telemetry, starts the gateway, and
// publishes an alarm every 50 ms while the backlog drains. It states how long
// the alarms took from device to consumer. Environment BACKLOG=n sets the
// records of the backlog.
func BenchmarkAlarm(b *testing.B) {
	n := 1_000_000
	if s := os.Getenv("BACKLOG"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	r := newRig(b)
	if err := r.kafka.CreateTopic("test.bell", 1, nil); err != nil {
		b.Fatal(err)
	}
	config := r.alarmConfig(b)
	queueBacklog(b, filepath.Join(r.dir, "queue"), n)
	ages := make(chan []int64, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { ages <- hear(ctx, b, r.kafka.Addr) }()
	p := startGateway(b, config)
	p.await("draining", time.Minute, func(s *gateway.Status) bool {
		return s.Sources[1].State == gateway.Up && s.Sinks[0].Sent > 20_000
	})
	any := func(*gateway.Status) bool { return true }
	first := p.await("first figures", time.Minute, any).Sinks[0].Sent
	begin, rung := time.Now(), 0
	pub, err := newPublisher(r.mosquitto.Addr, "bell", 10)
	if err != nil {
		b.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := p.await("figures", time.Minute, any)
	for ; last.Sinks[0].Waiting > 50_000 && rung < 2000; rung++ {
		<-tick.C
		if err := pub.publish("bell/1", telemetry(nil, 1, int64(rung))); err != nil {
			b.Fatal(err)
		}
		_ = pub.out.Flush()
		if rung%10 == 0 {
			last = p.await("figures", time.Minute, any)
		}
	}
	rate := float64(last.Sinks[0].Sent-first) / time.Since(begin).Seconds()
	p.await("drained", 5*time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 })
	wait(b, time.Second)
	cancel()
	got := <-ages
	if len(got) < rung || rung == 0 {
		b.Fatalf("%d of %d alarms arrived", len(got), rung)
	}
	sort.Slice(got, func(i, j int) bool { return got[i] < got[j] })
	b.ReportMetric(float64(n), "backlog")
	b.ReportMetric(rate, "drain-rec/s")
	b.ReportMetric(float64(rung), "alarms")
	b.ReportMetric(float64(got[len(got)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(got[len(got)*99/100])/1e6, "p99-ms")
	b.ReportMetric(float64(got[len(got)-1])/1e6, "max-ms")
	b.ReportMetric(0, "ns/op")
}

// alarmConfig writes a configuration with a source of alarms beside the plant.
func (r *rig) alarmConfig(b *testing.B) string {
	b.Helper()
	config := filepath.Join(r.dir, "alarm.yaml")
	text := fmt.Sprintf(`gateway: {id: alarm-bench}
buffer: {dir: queue, max_bytes: 8GiB}
http: {listen: "127.0.0.1:0"}
sources:
  - {name: plant, type: mqtt, url: "tcp://%[1]s", topics: ["plant/#"]}
  - {name: bell, type: mqtt, url: "tcp://%[1]s", topics: ["bell/#"], lane: alarm}
sinks:
  - {name: kafka, type: kafka, brokers: ["%[2]s"], topic: "test.{source}"}
`, r.mosquitto.Addr, r.kafka.Addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return config
}

// queueBacklog fills a queue as a gateway would have during an outage.
func queueBacklog(b *testing.B, dir string, n int) {
	b.Helper()
	q, err := buffer.Open(buffer.Options{Dir: dir, Lanes: buffer.NamedLanes(gateway.LaneNames()...), MaxBytes: 8 << 30})
	if err != nil {
		b.Fatal(err)
	}
	var batch buffer.Batch
	var stored, payload []byte
	for at := 0; at < n; {
		batch.Reset()
		for end := min(n, at+4096); at < end; at++ {
			payload = telemetry(payload, at%100, int64(at/100)+1)
			name := fmt.Sprintf("plant/dev-%03d", at%100)
			stored = gateway.AppendRecord(stored[:0], &gateway.Record{Source: "plant", Name: name, Device: name, Payload: payload, Received: time.Now()})
			batch.Add(stored)
		}
		done := make(chan error, 1)
		q.Append(int(gateway.LaneTelemetry), &batch, func(err error) { done <- err })
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	if err := q.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// hear returns the ages on arrival, in nanoseconds, of all alarms until ctx ends.
func hear(ctx context.Context, b *testing.B, addr string) (ages []int64) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("test.bell"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		b.Error(err)
		return nil
	}
	defer cl.Close()
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		now := time.Now().UnixNano()
		fetches.EachRecord(func(r *kgo.Record) {
			if bytes.Contains(r.Value, []byte(`"t":`)) {
				ages = append(ages, now-sentAt(r.Value))
			}
		})
	}
	return ages
}
