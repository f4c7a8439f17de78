package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/gateway"
)

func TestMain(m *testing.M) {
	if os.Getenv("KAFKA_BENCH_BROKER") != "" {
		benchBroker()
		return
	}
	// sarama counts fetches in go-metrics' own registry, whose one clock never
	// ends, while it measures a FetchRequest (fetch_request.go): one for the process.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// rig is a cluster, a faulty line to it and a sink.
type rig struct {
	t    testing.TB
	c    *kafkatest.Cluster
	line *kafkatest.Line
	sink *Sink
	seq  uint64
	logs *logCount

	faults []*kfake.FaultHandle // planned by trouble
}

// newRig starts n brokers with topic "data" of 4 partitions.
func newRig(t testing.TB, n int, change func(*Config), opts ...kfake.Opt) *rig {
	t.Helper()
	dir := t.TempDir()
	c, err := kafkatest.Start(n, dir, append([]kfake.Opt{kfake.SeedTopics(4, "data")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := &rig{t: t, c: c, line: kafkatest.NewLine(), logs: &logCount{}}
	conf := NewConfig()
	conf.Brokers, conf.Topic, conf.Compression = c.Addrs(), "data", "none"
	conf.Delivery = wordAtLeastOnce // exactly once has tests of its own
	conf.RequestTimeout, conf.DialTimeout = 5*time.Second, 5*time.Second
	if change != nil {
		change(conf)
	}
	s, err := conf.Sink(gateway.Env{GatewayID: "gw1", Name: "shore", Log: slog.New(r.logs)})
	if err != nil {
		t.Fatal(err)
	}
	r.sink = s.(*Sink)
	r.sink.dial = r.line.Dial
	r.sink.pause = time.Millisecond
	t.Cleanup(func() { _ = r.sink.Close() })
	return r
}

// logCount counts log lines.
type logCount struct{ lines []string }

func (l *logCount) Enabled(context.Context, slog.Level) bool { return true }
func (l *logCount) Handle(_ context.Context, r slog.Record) error {
	l.lines = append(l.lines, r.Message)
	return nil
}
func (l *logCount) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logCount) WithGroup(string) slog.Handler      { return l }

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) connect() {
	r.t.Helper()
	if err := r.sink.Connect(r.ctx()); err != nil {
		r.t.Fatal(err)
	}
}

// batch makes a batch of n records over the devices d0 … d(devices-1).
func (r *rig) batch(n, devices int) *gateway.Batch {
	b := &gateway.Batch{Lane: gateway.LaneTelemetry, Generation: "g1"}
	for range n {
		r.seq++
		b.Items = append(b.Items, gateway.Item{Seq: r.seq, Record: gateway.Record{
			Source: "deck", Device: fmt.Sprintf("d%d", r.seq%uint64(devices)), Name: "deck/temp",
			Payload: []byte("v" + strconv.FormatUint(r.seq, 10)), ContentType: "text/plain",
			Received: time.UnixMilli(1_700_000_000_000 + int64(r.seq)), ClockTrusted: true,
		}})
	}
	return b
}

// deliver sends b as the forwarder does: connect, send, again after an error.
func (r *rig) deliver(b *gateway.Batch) []gateway.Refusal {
	r.t.Helper()
	ctx := r.ctx()
	for try := 0; ; try++ {
		err := r.sink.Connect(ctx)
		if err == nil {
			err = r.sink.Send(ctx, b)
		}
		var refused *gateway.RefusedError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused):
			return refused.Refused
		case try > 200 || ctx.Err() != nil:
			r.t.Fatalf("not delivered after %d tries: %v", try, err)
		}
		r.pause(2 * time.Millisecond)
	}
}

// pause waits as the forwarder's back-off does.
func (r *rig) pause(d time.Duration) {
	tick := time.NewTimer(d)
	defer tick.Stop()
	<-tick.C
}

func (r *rig) read(topics ...string) []*kgo.Record {
	r.t.Helper()
	all, err := r.c.ReadAll(r.ctx(), topics...)
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

func head(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// exactlyOnce checks that the topic holds every seq of 1…last once, those of
// one key in order, except the missing ones.
func (r *rig) exactlyOnce(last uint64, topic string, missing ...uint64) {
	r.t.Helper()
	seen := make(map[uint64]int)
	newest := make(map[string]uint64)
	for _, rec := range r.read(topic) {
		seq, err := strconv.ParseUint(head(rec, "seq"), 10, 64)
		if err != nil {
			r.t.Fatalf("seq header: %v", err)
		}
		seen[seq]++
		if seq <= newest[string(rec.Key)] {
			r.t.Errorf("key %s: seq %d after %d", rec.Key, seq, newest[string(rec.Key)])
		}
		newest[string(rec.Key)] = seq
	}
	gone := make(map[uint64]bool)
	for _, m := range missing {
		gone[m] = true
	}
	for seq := uint64(1); seq <= last; seq++ {
		want := 1
		if gone[seq] {
			want = 0
		}
		if seen[seq] != want {
			r.t.Errorf("seq %d is there %d times, want %d", seq, seen[seq], want)
		}
	}
}
