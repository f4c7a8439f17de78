//go:build interop

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waystation-iot/waystation/adapters/kafka"
	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// eosRig is a sink that delivers exactly once to a real Kafka.
type eosRig struct {
	t    *testing.T
	k    *peers.Kafka
	conf *kafka.Config
	sink gateway.Sink
	seq  uint64
}

func newEOSRig(t *testing.T, k *peers.Kafka) *eosRig {
	conf := kafka.NewConfig()
	conf.Brokers, conf.Topic, conf.Delivery = []string{k.Addr}, "wind", "exactly-once"
	conf.TransactionTimeout = 10 * time.Second
	r := &eosRig{t: t, k: k, conf: conf}
	r.reborn()
	t.Cleanup(func() { _ = r.sink.Close() })
	return r
}

// reborn replaces the sink, as a restart of the gateway does.
func (r *eosRig) reborn() {
	if r.sink != nil {
		_ = r.sink.Close()
	}
	s, err := r.conf.Sink(gateway.Env{GatewayID: "gw1", Name: "shore"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.sink = s
}

func (r *eosRig) batch(n int) *gateway.Batch {
	b := &gateway.Batch{LaneName: "telemetry", Generation: "g1"}
	for range n {
		r.seq++
		b.Items = append(b.Items, gateway.Item{Seq: r.seq, Record: gateway.Record{Source: "deck", Device: fmt.Sprintf("d%d", r.seq%17), Name: "wind",
			Payload: []byte("v" + strconv.FormatUint(r.seq, 10)), Received: time.Now(), ClockTrusted: true}})
	}
	return b
}

// deliver sends b as the forwarder does.
func (r *eosRig) deliver(ctx context.Context, b *gateway.Batch) []gateway.Refusal {
	r.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
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
		case gateway.IsPermanent(err), ctx.Err() != nil:
			r.t.Fatal(err)
		}
		r.t.Log(err)
		<-tick.C
	}
}

// committed counts the seqs that a consumer of committed records sees, and
// checks their order, until it has seen want of them.
func (r *eosRig) committed(ctx context.Context, want int) map[string]int {
	r.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.k.Addr), kgo.ConsumeTopics("wind"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		r.t.Fatal(err)
	}
	defer cl.Close()
	seen, newest := map[string]int{}, map[string]int{}
	for n, more := 0, true; more; {
		ctx := ctx
		if n >= want { // nothing should follow
			after, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			ctx, more = after, false
		}
		f := cl.PollFetches(ctx)
		if err := f.Err0(); err != nil && n < want {
			r.t.Fatalf("%d of %d records: %v", n, want, err)
		}
		f.EachRecord(func(rec *kgo.Record) {
			n++
			for _, h := range rec.Headers {
				if h.Key == "seq" {
					seen[string(h.Value)]++
					seq, _ := strconv.Atoi(string(h.Value))
					if seq <= newest[string(rec.Key)] {
						r.t.Errorf("key %s: seq %d after %d", rec.Key, seq, newest[string(rec.Key)])
					}
					newest[string(rec.Key)] = seq
				}
			}
		})
	}
	return seen
}

// A real Kafka commits and rolls back our transactions, halved batches among
// them, and gives the position back, also after SIGKILL.
func TestExactlyOnceInterop(t *testing.T) {
	k, err := peers.StartKafka(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Kill() })
	if err := k.CreateTopic("wind", 4, map[string]string{"max.message.bytes": "100000"}); err != nil {
		t.Fatal(err)
	}
	if err := k.CreateTopic("waystation.positions", 2, map[string]string{"cleanup.policy": "compact"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	r := newEOSRig(t, k)
	last := r.batch(2048)
	r.deliver(ctx, last)
	for i := range 4 {
		b := r.batch(500)
		switch i {
		case 1: // a record that the topic does not take
			b.Items[77].Record.Payload = make([]byte, 200000)
			r.conf.Compression = "none"
			r.reborn()
		case 2:
			if err := k.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := k.Start(); err != nil {
				t.Fatal(err)
			}
		}
		refused := r.deliver(ctx, b)
		if (i == 1) != (len(refused) == 1) {
			t.Errorf("batch %d: refused %v", i, refused)
		}
		last = b
		r.reborn()
		if again := r.deliver(ctx, last); len(again) != len(refused) || len(again) > 0 && again[0] != refused[0] {
			t.Errorf("batch %d after the restart: refused %v, before %v", i, again, refused)
		}
	}
	seen := r.committed(ctx, int(r.seq)-1)
	for seq := 1; seq <= int(r.seq); seq++ {
		want := 1
		if seq == 2048+500+78 {
			want = 0
		}
		if got := seen[strconv.Itoa(seq)]; got != want {
			t.Errorf("seq %d is there %d times, want %d", seq, got, want)
		}
	}
}
