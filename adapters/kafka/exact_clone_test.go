package kafka

import (
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/gateway"
)

// twin is one of two gateways with one id and copies of one queue.
type twin struct {
	sink    *Sink
	queue   []gateway.Item // seq 1 first
	sent    int            // items that are confirmed
	batch   *gateway.Batch // under way
	stopped error
}

// newTwin makes a gateway whose queue began with the given items.
func (r *rig) newTwin(queue []gateway.Item) *twin {
	r.t.Helper()
	s, err := r.sink.cfg.Sink(gateway.Env{GatewayID: "gw1", Name: "shore", Log: slog.New(&logCount{})})
	if err != nil {
		r.t.Fatal(err)
	}
	w := &twin{sink: s.(*Sink), queue: append([]gateway.Item(nil), queue...)}
	w.sink.dial, w.sink.pause, w.sink.tries = r.line.Dial, r.sink.pause, 2
	r.t.Cleanup(func() { _ = w.sink.Close() })
	return w
}

// gather queues n records of its own.
func (w *twin) gather(name string, n int) {
	for range n {
		seq := uint64(len(w.queue) + 1)
		w.queue = append(w.queue, gateway.Item{Seq: seq, Record: gateway.Record{Source: "deck", Device: fmt.Sprintf("%s%d", name, seq%3),
			Name: "deck/temp", Payload: []byte(name + strconv.FormatUint(seq, 10))}})
	}
}

// recall is what its queue tells of a record; the confirmed ones are released.
func (w *twin) recall(seq uint64) gateway.Recalled {
	out := gateway.Recalled{Next: uint64(len(w.queue) + 1)}
	if seq >= 1 && seq < out.Next && seq > uint64(w.sent) {
		out.Found, out.Sum = true, crc32.Checksum(w.queue[seq-1].Record.Payload, crc32.MakeTable(crc32.Castagnoli))
	}
	return out
}

// send is one try of the forwarder.
func (w *twin) send(r *rig) {
	if w.stopped != nil {
		return
	}
	if w.batch == nil {
		items := w.queue[w.sent:]
		items = items[:min(len(items), 7)]
		if len(items) == 0 {
			return
		}
		w.batch = &gateway.Batch{Lane: gateway.LaneTelemetry, Generation: "g1", Items: items, Recall: w.recall}
	}
	err := w.sink.Connect(r.ctx())
	if err == nil {
		err = w.sink.Send(r.ctx(), w.batch)
	}
	switch {
	case err == nil:
		w.sent += len(w.batch.Items)
		w.batch = nil
	case gateway.IsPermanent(err):
		w.stopped = err
	}
}

// Two gateways with one id send by turns, whatever goes wrong meanwhile: soon
// exactly one has stopped, and of the other nothing is lost or doubled.
func TestTwins(t *testing.T) {
	last := uint64(40)
	if n, err := strconv.ParseUint(os.Getenv("WAYSTATION_TEST_SEEDS"), 10, 64); err == nil {
		last = n
	}
	for seed := range last {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			twins(t, seed)
		})
	}
}

func twins(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 47))
	r := newExact(t, 1+rng.IntN(2), nil)
	r.sink.tries = 2
	backlog := &twin{}
	backlog.gather("c", rng.IntN(40))
	both := []*twin{r.newTwin(backlog.queue), r.newTwin(backlog.queue)}
	if rng.IntN(2) == 0 { // one has sent for a while
		both[0].gather("0-", 10)
		for range rng.IntN(5) {
			both[0].send(r)
		}
	}
	const bound = 60
	turns := 0
	for ; turns < bound && both[0].stopped == nil && both[1].stopped == nil; turns++ {
		i := rng.IntN(2)
		both[i].gather(strconv.Itoa(i)+"-", 1+rng.IntN(9))
		faults := r.mishap(rng)
		both[i].send(r)
		for _, h := range faults {
			h.Remove()
		}
		r.line.Clear()
	}
	won := both[0]
	switch {
	case both[0].stopped == nil && both[1].stopped == nil:
		t.Fatalf("both go on after %d turns", turns)
	case both[0].stopped != nil:
		won = both[1]
	}
	for range 60 {
		won.send(r)
	}
	if won.stopped != nil {
		t.Fatalf("both stopped: %v; %v", both[0].stopped, both[1].stopped)
	}
	if won.sent != len(won.queue) {
		t.Fatalf("%d of %d sent", won.sent, len(won.queue))
	}
	times := make(map[string]int)
	for _, rec := range r.read("data") {
		times[string(rec.Value)]++
	}
	for _, it := range won.queue {
		if k := times[string(it.Record.Payload)]; k != 1 {
			t.Errorf("%s is there %d times", it.Record.Payload, k)
		}
	}
}

// mishap plans what goes wrong with the next Send.
func (r *rig) mishap(rng *rand.Rand) []*kfake.FaultHandle {
	wire := []int16{0, 9, 24, 25, 26, 28}
	switch rng.IntN(3) {
	case 0:
		r.line.PlanFor(wire[rng.IntN(len(wire))], kafkatest.Fault(1+rng.IntN(3)))
	case 1:
		codes := []*kerr.Error{kerr.InvalidTxnState, kerr.InvalidProducerIDMapping, kerr.TransactionAbortable, kerr.ConcurrentTransactions, kerr.NotCoordinator}
		key := kmsg.Key(wire[rng.IntN(len(wire))])
		top := key == kmsg.AddOffsetsToTxn || key == kmsg.EndTxn
		return []*kfake.FaultHandle{r.c.Fault(kfake.Fault{Keys: keys(key), Err: codes[rng.IntN(len(codes))], TopLevel: top})}
	}
	return nil
}

// The error by which a gateway learns that its transaction is over need not be
// the one that says that another took the id.
func TestCloneIsNoticedWhateverTheError(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.InvalidTxnState, kerr.InvalidProducerIDMapping, kerr.TransactionAbortable} {
		t.Run(code.Message, func(t *testing.T) {
			r := newExact(t, 1, nil)
			b := r.batch(50, 5)
			r.deliver(b)
			clone := r.newTwin(nil)
			clone.batch = r.batch(50, 5)
			if clone.send(r); clone.batch != nil {
				t.Fatal("the clone has not sent")
			}
			r.c.Fault(kfake.Fault{Keys: keys(kmsg.AddPartitionsToTxn), Err: code})
			err := r.sink.Send(r.ctx(), r.batch(50, 5))
			if !gateway.IsPermanent(err) {
				t.Fatalf("it goes on: %v", err)
			}
			r.exactlyOnce(100, "data")
		})
	}
}

// Who commits between being fenced gives the other time to find that out, but
// not for ever: it may be no gateway at all.
func TestFencedBetweenCommits(t *testing.T) {
	r := newExact(t, 1, nil)
	for n := 1; ; n++ {
		b := r.batch(5, 2)
		r.connect()
		r.c.Fault(kfake.Fault{Keys: keys(kmsg.AddPartitionsToTxn), Err: kerr.InvalidProducerEpoch})
		err := r.sink.Send(r.ctx(), b)
		if n < manyFences && err != nil || n > manyFences {
			t.Fatalf("fenced %d times: %v", n, err)
		}
		if gateway.IsPermanent(err) {
			break
		}
	}
	r.exactlyOnce(r.seq-5, "data")
}
