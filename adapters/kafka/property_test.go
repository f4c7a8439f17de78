package kafka

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/gateway"
)

// Whatever happens on the way, a consumer sees every record once and those of
// a key in order; exactly the poisoned ones are refused.
func TestEveryRecordOnceWhateverHappens(t *testing.T) {
	for seed := range uint64(12) {
		t.Run("", func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 42))
			r := newRig(t, 3, func(c *Config) { c.MaxMessage = 4000 })
			r.sink.tries = 2
			poison(r.c, kerr.InvalidRecord)
			var missing []uint64
			for range 25 {
				b := r.batch(1+rng.IntN(300), 1+rng.IntN(50))
				for range rng.IntN(4) {
					b.Items[rng.IntN(len(b.Items))].Record.Payload = []byte("POISON")
				}
				want := poisoned(b)
				var refused []gateway.Refusal
				done := false
				if r.trouble(rng) {
					refused, done = r.interrupted(rng, b)
				}
				if !done {
					refused = r.deliver(b)
				}
				if got := seqs(b, refused); !slices.Equal(got, want) {
					t.Fatalf("seed %d: refused %v, want %v", seed, got, want)
				}
				missing = append(missing, want...)
			}
			r.exactlyOnce(r.seq, "data", missing...)
		})
	}
}

// trouble plans what will go wrong with the next batch. A lost producer id is
// never mixed with doubt, for that may double records, as the package says:
// then it returns false.
func (r *rig) trouble(rng *rand.Rand) bool {
	r.line.Clear()
	for _, h := range r.faults {
		h.Remove()
	}
	r.faults = nil
	plan := func(err *kerr.Error, count int) {
		r.faults = append(r.faults, r.c.Fault(kfake.Fault{Keys: produceKey(), Partitions: []int32{rng.Int32N(4)}, Err: err, Count: count}))
	}
	if rng.IntN(6) == 0 {
		code := []*kerr.Error{kerr.UnknownProducerID, kerr.OutOfOrderSequenceNumber, kerr.InvalidProducerEpoch}[rng.IntN(3)]
		plan(code, 1)
		return false
	}
	for range rng.IntN(5) {
		r.line.Plan(kafkatest.Fault(rng.IntN(4))) // Pass, CutBefore, CutMiddle, CutAfter
	}
	codes := []*kerr.Error{kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.NotEnoughReplicas,
		kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut, kerr.KafkaStorageError}
	for range rng.IntN(3) {
		plan(codes[rng.IntN(len(codes))], 1+rng.IntN(3))
	}
	switch rng.IntN(8) {
	case 0:
		if err := r.c.MoveTopicPartition("data", rng.Int32N(4), rng.Int32N(3)); err != nil {
			r.t.Fatal(err)
		}
	case 1:
		if err := r.sink.Close(); err != nil {
			r.t.Fatal(err)
		}
	case 2:
		r.c.Close()
		if err := r.c.Up(); err != nil {
			r.t.Fatal(err)
		}
		poison(r.c, kerr.InvalidRecord)
	}
	return true
}

// interrupted sometimes cancels a Send of b at a random moment. It reports
// whether b was done nevertheless.
func (r *rig) interrupted(rng *rand.Rand, b *gateway.Batch) (refused []gateway.Refusal, done bool) {
	if rng.IntN(3) > 0 {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(r.ctx(), time.Duration(rng.IntN(3000))*time.Microsecond)
	defer cancel()
	if r.sink.Connect(ctx) != nil {
		return nil, false
	}
	err := r.sink.Send(ctx, b)
	var e *gateway.RefusedError
	if errors.As(err, &e) {
		return e.Refused, true
	}
	return nil, err == nil
}

func poisoned(b *gateway.Batch) (seq []uint64) {
	for i := range b.Items {
		if string(b.Items[i].Record.Payload) == "POISON" {
			seq = append(seq, b.Items[i].Seq)
		}
	}
	return seq
}

func seqs(b *gateway.Batch, refused []gateway.Refusal) (seq []uint64) {
	for _, ref := range refused {
		seq = append(seq, b.Items[ref.Index].Seq)
	}
	return seq
}
