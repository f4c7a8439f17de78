package kafka

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// nothingOpen checks that no transaction holds up a consumer of the topic.
func (r *rig) nothingOpen(topic string) {
	r.t.Helper()
	for _, p := range r.c.PartitionInfos(topic) {
		if p.LastStableOffset != p.HighWatermark {
			r.t.Errorf("%s/%d: last stable offset %d, high watermark %d", topic, p.Partition, p.LastStableOffset, p.HighWatermark)
		}
	}
}

// steps notes the steps of transactions, and panics once at one of them.
func (r *rig) steps(once string) *[]string {
	var all []string
	r.sink.fault = func(p string) {
		all = append(all, p)
		if p == once {
			once = ""
			panic(errCrash)
		}
	}
	return &all
}

// sendPanics sends and wants the panic.
func (r *rig) sendPanics(send func() error) {
	r.t.Helper()
	defer func() {
		if x := recover(); x != any(errCrash) {
			r.t.Fatalf("recovered %v", x)
		}
	}()
	_ = send()
}

// A sink that is closed leaves no transaction open.
func TestCloseRollsBack(t *testing.T) {
	for name, leave := range map[string]func(*rig){
		"after a panic": func(r *rig) {
			r.steps("produce-after")
			r.sendPanics(func() error { return r.sink.Send(r.ctx(), r.batch(100, 10)) })
			if err := r.sink.Close(); err != nil {
				r.t.Fatal(err)
			}
		},
		"while it waits to try again": func(r *rig) {
			r.c.Fault(kfake.Fault{Keys: keys(kmsg.Produce), Partitions: []int32{1}, Err: kerr.NotEnoughReplicas, Count: -1})
			ctx, stop := context.WithCancelCause(r.ctx())
			r.sink.pause = time.Minute
			r.sink.fault = func(p string) {
				if p == "txnoffset-after" { // what follows is the pause
					time.AfterFunc(100*time.Millisecond, func() { stop(errCrash) })
				}
			}
			if err := r.sink.Send(ctx, r.batch(100, 10)); !errors.Is(err, errCrash) {
				r.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newExact(t, 1, nil)
			r.deliver(r.batch(20, 4))
			leave(r)
			r.nothingOpen("data")
			if n := len(r.read("data")); n != 20 {
				t.Errorf("%d records", n)
			}
		})
	}
}

// Close does not wait long for a coordinator that does not answer, nor at all
// when the line is down.
func TestCloseIsBounded(t *testing.T) {
	for _, down := range []bool{false, true} {
		r := newExact(t, 1, nil)
		r.deliver(r.batch(20, 4))
		r.steps("produce-after")
		r.sendPanics(func() error { return r.sink.Send(r.ctx(), r.batch(100, 10)) })
		r.c.Fault(kfake.Fault{Keys: keys(kmsg.InitProducerID), Err: kerr.ConcurrentTransactions, Count: -1, TopLevel: true})
		r.sink.sess.broken = down
		start, limit := time.Now(), lastWord+grace+time.Second
		if down {
			limit = time.Second
		}
		if err := r.sink.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > limit {
			t.Errorf("line down %v: took %s", down, took)
		}
	}
}
