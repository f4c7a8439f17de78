package kafka

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/gateway"
)

// Whatever happens on the way, on either side and to us, a consumer of
// committed records sees every record once and those of a key in order; exactly
// the poisoned ones are refused. WAYSTATION_TEST_SEED runs one seed.
func TestExactlyOnceWhateverHappens(t *testing.T) {
	first, last := uint64(0), uint64(200)
	if text := os.Getenv("WAYSTATION_TEST_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, last = seed, seed+1
	}
	for seed := first; seed < last; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			exactSchedule(t, seed)
		})
	}
}

// ordeal is one schedule of troubles.
type ordeal struct {
	*rig
	rng *rand.Rand
}

func exactSchedule(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 43))
	var opts []kfake.Opt
	if rng.IntN(2) == 0 {
		opts = append(opts, kfake.SeedTopics(2, "waystation.positions"))
	}
	o := &ordeal{rig: newExact(t, 1+rng.IntN(3), func(c *Config) { c.MaxMessage = 4000 }, opts...), rng: rng}
	o.sink.tries = 2
	poison(o.c, kerr.InvalidRecord)
	var missing []uint64
	var before *gateway.Batch
	for range 8 {
		b := o.batch(1+rng.IntN(200), 1+rng.IntN(40))
		for range rng.IntN(4) {
			b.Items[rng.IntN(len(b.Items))].Record.Payload = []byte("POISON")
		}
		missing = append(missing, poisoned(b)...)
		o.ordeal()
		for range rng.IntN(3) {
			o.crash(b)
			if before != nil && rng.IntN(2) == 0 { // its release was not on disk yet
				o.expect(before, poisoned(before))
			}
		}
		o.interrupted(rng, b)
		if rng.IntN(6) == 0 { // the forwarder sends it in pieces
			cut := rng.IntN(len(b.Items) + 1)
			left, right := *b, *b
			left.Items, right.Items = b.Items[:cut], b.Items[cut:]
			o.expect(&left, poisoned(&left))
			o.expect(&right, poisoned(&right))
		} else {
			o.expect(b, poisoned(b))
		}
		before = b
	}
	o.line.Clear()
	o.exactlyOnce(o.seq, "data", missing...)
	if t.Failed() {
		t.Logf("again with WAYSTATION_TEST_SEED=%d", seed)
	}
}

// expect delivers b and compares what is refused.
func (o *ordeal) expect(b *gateway.Batch, want []uint64) {
	o.t.Helper()
	got := seqs(b, o.deliver(b))
	if !slices.Equal(got, want) {
		o.t.Errorf("refused %v, want %v", got, want)
	}
}

// crash ends the process at a random step, and starts another.
func (o *ordeal) crash(b *gateway.Batch) {
	points := []string{"init", "partitions", "offsets", "produce", "txnoffset", "end"}
	point := points[o.rng.IntN(len(points))] + []string{"-before", "-after"}[o.rng.IntN(2)]
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	func() {
		o.sink.fault = func(p string) {
			if p == point {
				panic(errCrash)
			}
		}
		defer func() {
			if x := recover(); x != nil && x != any(errCrash) {
				panic(x)
			}
		}()
		if o.sink.Connect(ctx) == nil {
			_ = o.sink.Send(ctx, b)
		}
	}()
	o.reborn()
}

// ordeal plans what will go wrong with the next batch.
func (o *ordeal) ordeal() {
	o.line.Clear()
	for _, h := range o.faults {
		h.Remove()
	}
	o.faults = nil
	wire := []int16{0, 0, 0, 9, 10, 22, 24, 25, 26, 26, 28, 28}
	for range o.rng.IntN(4) {
		o.line.PlanFor(wire[o.rng.IntN(len(wire))], kafkatest.Fault(o.rng.IntN(4)))
	}
	codes := []*kerr.Error{kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.ConcurrentTransactions, kerr.NotLeaderForPartition,
		kerr.InvalidProducerIDMapping, kerr.InvalidTxnState, kerr.TransactionAbortable, kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID,
		kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.KafkaStorageError, kerr.UnknownServerError}
	for range o.rng.IntN(3) {
		key := kmsg.Key(wire[o.rng.IntN(len(wire))])
		top := key == kmsg.InitProducerID || key == kmsg.AddOffsetsToTxn || key == kmsg.EndTxn || key == kmsg.FindCoordinator
		o.faults = append(o.faults, o.c.Fault(kfake.Fault{Keys: keys(key), Err: codes[o.rng.IntN(len(codes))], Count: 1 + o.rng.IntN(2), TopLevel: top}))
	}
	switch o.rng.IntN(10) {
	case 0, 1:
		if err := o.c.MoveTopicPartition("data", o.rng.Int32N(4), o.rng.Int32N(int32(len(o.c.Addrs())))); err != nil {
			o.t.Fatal(err)
		}
	case 2, 3:
		o.c.RehashCoordinators()
	case 4:
		if err := o.sink.Close(); err != nil {
			o.t.Fatal(err)
		}
	case 5:
		if o.rng.IntN(3) > 0 { // it takes a while
			return
		}
		o.c.Close()
		if err := o.c.Up(); err != nil {
			o.t.Fatal(err)
		}
		poison(o.c, kerr.InvalidRecord)
	}
}

// interrupted is the rig's, and also tolerates a batch that was done.
func (o *ordeal) interrupted(rng *rand.Rand, b *gateway.Batch) {
	if rng.IntN(3) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(o.ctx(), time.Duration(rng.IntN(6000))*time.Microsecond)
	defer cancel()
	if o.sink.Connect(ctx) != nil {
		return
	}
	err := o.sink.Send(ctx, b)
	var e *gateway.RefusedError
	if errors.As(err, &e) {
		if got := seqs(b, e.Refused); !slices.Equal(got, poisoned(b)) {
			o.t.Errorf("refused %v, want %v", got, poisoned(b))
		}
	}
}
