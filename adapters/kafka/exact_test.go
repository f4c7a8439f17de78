package kafka

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/gateway"
)

// newExact is a rig whose sink delivers exactly once.
func newExact(t testing.TB, n int, change func(*Config), opts ...kfake.Opt) *rig {
	t.Helper()
	return newRig(t, n, func(c *Config) {
		c.Delivery = wordExactlyOnce
		if change != nil {
			change(c)
		}
	}, opts...)
}

// reborn replaces the sink by a new one, as after a crash: the old one does not
// roll back what it has begun.
func (r *rig) reborn() {
	r.t.Helper()
	old := r.sink
	_ = errors.Join(old.claims.close(), old.drop())
	s, err := old.cfg.Sink(gateway.Env{GatewayID: old.env.GatewayID, Name: old.env.Name, Log: slog.New(r.logs)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.sink = s.(*Sink)
	r.sink.dial, r.sink.pause, r.sink.tries = old.dial, old.pause, old.tries
	t := r.sink
	r.t.Cleanup(func() { _ = t.Close() })
}

func keys(k ...kmsg.Key) []kmsg.Key { return k }

func (r *rig) offset(group, topic string) int64 {
	r.t.Helper()
	s := r.sink
	blocks, err := s.fetchOffsets(r.ctx(), group)
	if err != nil {
		r.t.Fatal(err)
	}
	if b := blocks[topic][0]; b != nil {
		return b.Offset
	}
	return -1
}

func TestExactlyOncePlain(t *testing.T) {
	r := newExact(t, 3, nil, kfake.SeedTopics(4, "waystation.positions"))
	for range 5 {
		r.deliver(r.batch(300, 20))
	}
	r.exactlyOnce(1500, "data")
	if got := r.offset("waystation-gw1-shore-telemetry", "waystation.positions"); got != 1501 {
		t.Errorf("offset %d", got)
	}
	if n := len(r.read("waystation.positions")); n != 5 {
		t.Errorf("%d copies", n)
	}
	if s := r.sink.Facts(); len(s) != 2 || s[0].Value != "exactly once" {
		t.Errorf("facts %v", s)
	}
	if len(r.logs.lines) > 0 {
		t.Errorf("log %v", r.logs.lines)
	}
}

// A batch that was committed and not released comes again after the restart.
func TestExactlyOnceAfterRestart(t *testing.T) {
	r := newExact(t, 1, nil)
	a := r.batch(100, 10)
	b := r.batch(100, 10)
	r.deliver(a)
	r.deliver(b)
	r.reborn()
	half := *b
	half.Items = b.Items[50:]
	r.deliver(b)
	r.deliver(&half)
	r.deliver(r.batch(50, 10))
	r.exactlyOnce(250, "data")
}

// What was refused before a crash is refused again after it: it may not be
// among the dead letters yet.
func TestRefusedBeforeTheCrash(t *testing.T) {
	r := newExact(t, 1, nil, kfake.SeedTopics(2, "waystation.positions"))
	poison(r.c, kerr.InvalidRecord)
	b := r.batch(300, 10)
	for _, i := range []int{3, 4, 150, 299} {
		b.Items[i].Record.Payload = []byte("POISON")
	}
	want := poisoned(b)
	first := r.deliver(b)
	r.reborn()
	again := r.deliver(b)
	if !slices.Equal(seqs(b, first), want) || !slices.Equal(first, again) {
		t.Errorf("refused %v, then %v", first, again)
	}
	r.exactlyOnce(300, "data", want...)
}

// Every answer at every step.
func TestExactlyOnceErrors(t *testing.T) {
	steps := map[string]kmsg.Key{"init": kmsg.InitProducerID, "partitions": kmsg.AddPartitionsToTxn, "offsets": kmsg.AddOffsetsToTxn,
		"produce": kmsg.Produce, "txnoffset": kmsg.TxnOffsetCommit, "end": kmsg.EndTxn, "fetch": kmsg.OffsetFetch, "find": kmsg.FindCoordinator}
	codes := []*kerr.Error{kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.ConcurrentTransactions,
		kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState, kerr.TransactionAbortable,
		kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.RequestTimedOut, kerr.NotLeaderForPartition, kerr.UnknownServerError}
	for name, key := range steps {
		for _, code := range codes {
			if name == "find" && code == kerr.CoordinatorNotAvailable {
				continue // sarama sleeps for seconds then
			}
			t.Run(name+"/"+code.Message, func(t *testing.T) {
				r := newExact(t, 1, nil, kfake.SeedTopics(2, "waystation.positions"))
				if name != "init" && name != "find" {
					r.deliver(r.batch(50, 10))
				}
				if name == "fetch" {
					r.reborn()
				}
				h := r.c.Fault(kfake.Fault{Keys: keys(key), Err: code, TopLevel: name == "init" || name == "offsets" || name == "end" || name == "find"})
				r.deliver(r.batch(100, 10))
				if h.Hits() == 0 {
					h2 := r.c.Fault(kfake.Fault{Keys: keys(key), Err: code})
					r.deliver(r.batch(0, 10))
					h2.Remove()
					t.Log("the fault was not met")
				}
				r.deliver(r.batch(100, 10))
				r.exactlyOnce(r.seq, "data")
			})
		}
	}
}

// The connection goes before, in and after the requests of a transaction.
func TestExactlyOnceCuts(t *testing.T) {
	for name, f := range map[string]kafkatest.Fault{"before": kafkatest.CutBefore, "middle": kafkatest.CutMiddle, "after": kafkatest.CutAfter} {
		for _, key := range []int16{0, 9, 10, 22, 24, 25, 26, 28} {
			t.Run(name+"/"+kmsg.NameForKey(key), func(t *testing.T) {
				r := newExact(t, 1, nil, kfake.SeedTopics(2, "waystation.positions"))
				for range 3 {
					r.line.PlanFor(key, f)
					r.deliver(r.batch(100, 10))
					r.reborn()
				}
				r.exactlyOnce(300, "data")
			})
		}
	}
}

// A batch is given up by the forwarder while its transaction is open.
func TestGivenUpBatchIsRolledBack(t *testing.T) {
	r := newExact(t, 1, nil)
	r.connect()
	down := r.c.Fault(kfake.Fault{Keys: keys(kmsg.Produce), Partitions: []int32{1}, Err: kerr.NotEnoughReplicas, Count: -1})
	if err := r.sink.Send(r.ctx(), r.batch(100, 10)); err == nil {
		t.Fatal("no error")
	}
	r.nothingOpen("data")
	down.Remove()
	r.seq = 0
	r.deliver(r.batch(60, 10))
	r.deliver(r.batch(60, 10))
	r.exactlyOnce(120, "data")
}

func TestReplayHasNoPosition(t *testing.T) {
	r := newExact(t, 1, nil)
	b := r.batch(100, 10)
	r.deliver(b)
	again := *b
	again.Replayed = true
	r.deliver(&again)
	if n := len(r.read("data")); n != 200 {
		t.Errorf("%d records", n)
	}
	r.deliver(r.batch(10, 2))
	if got := r.offset("waystation-gw1-shore-telemetry", "data"); got != 111 {
		t.Errorf("offset %d", got)
	}
}

// Another generation and a guest have positions of their own.
func TestPositionsOfOtherQueues(t *testing.T) {
	r := newExact(t, 1, nil)
	r.deliver(r.batch(100, 10))
	r.seq = 0
	other := r.batch(100, 10)
	other.Gateway, other.Generation = "gw2", "g2"
	r.deliver(other)
	r.reborn()
	r.seq = 0
	anew := r.batch(30, 10)
	anew.Generation = "g3"
	r.deliver(anew)
	r.deliver(other)
	if n := len(r.read("data")); n != 230 {
		t.Errorf("%d records", n)
	}
}

// The offsets of the group have expired; the copy of the position is found.
func TestPositionFromTheCopy(t *testing.T) {
	r := newExact(t, 1, nil, kfake.SeedTopics(3, "waystation.positions"))
	b := r.batch(100, 10)
	r.deliver(r.batch(0, 1))
	r.deliver(b)
	r.reborn()
	expired := r.sink.cfg.Group
	r.sink.group = "other" + expired // a group that has no offset
	r.deliver(b)
	r.exactlyOnce(100, "data")
	r.deliver(r.batch(10, 1))
	r.exactlyOnce(110, "data")
}

// A rolled back transaction leaves a copy that does not count.
func TestCopyOfARolledBackTransaction(t *testing.T) {
	r := newExact(t, 1, nil, kfake.SeedTopics(1, "waystation.positions"))
	a := r.batch(100, 10)
	r.deliver(a)
	b := r.batch(100, 10)
	r.crashAt("end-before", b)
	r.reborn()
	r.sink.group = "other"
	r.deliver(b)
	r.exactlyOnce(200, "data")
}

// crashAt sends b until the point is reached.
func (r *rig) crashAt(point string, b *gateway.Batch) (reached bool) {
	r.t.Helper()
	r.sink.fault = func(p string) {
		if p == point {
			panic(errCrash)
		}
	}
	defer func() {
		if x := recover(); x != nil {
			if x != any(errCrash) {
				panic(x)
			}
			reached = true
		}
	}()
	r.deliver(b)
	return false
}

var errCrash = errors.New("the process is dead")

func TestCrashAtEveryStep(t *testing.T) {
	for _, step := range []string{"init", "partitions", "offsets", "produce", "txnoffset", "end"} {
		for _, when := range []string{"-before", "-after"} {
			t.Run(step+when, func(t *testing.T) {
				r := newExact(t, 2, nil, kfake.SeedTopics(2, "waystation.positions"))
				poison(r.c, kerr.InvalidRecord)
				if step != "init" {
					r.deliver(r.batch(100, 10))
				}
				b := r.batch(100, 10)
				b.Items[40].Record.Payload = []byte("POISON")
				if !r.crashAt(step+when, b) {
					t.Fatal("the point was not reached")
				}
				r.reborn()
				if got := r.deliver(b); !slices.Equal(seqs(b, got), poisoned(b)) {
					t.Errorf("refused %v", got)
				}
				r.deliver(r.batch(100, 10))
				r.exactlyOnce(r.seq, "data", poisoned(b)...)
			})
		}
	}
}

// A coordinator that rolls the transaction back because it takes too long
// fences us; that is no clone.
func TestTransactionTimesOut(t *testing.T) {
	r := newExact(t, 1, func(c *Config) { c.TransactionTimeout = time.Second })
	r.deliver(r.batch(10, 2))
	down := r.c.Fault(kfake.Fault{Keys: keys(kmsg.Produce), Err: kerr.NotEnoughReplicas, Count: -1})
	r.sink.tries, r.sink.pause = 1000, 10*time.Millisecond
	b := r.batch(10, 2)
	wait := time.AfterFunc(1500*time.Millisecond, down.Remove)
	defer wait.Stop()
	r.deliver(b)
	r.deliver(r.batch(10, 2))
	r.exactlyOnce(30, "data")
	if len(r.sink.fence.times) != 0 {
		t.Errorf("counted as a clone: %v", r.sink.fence.times)
	}
}

// Two gateways with one id: the one that finds the other's position stops.
func TestCloneStops(t *testing.T) {
	r := newExact(t, 1, nil)
	r.deliver(r.batch(50, 5))
	first := r.sink
	t.Cleanup(func() { _ = first.Close() })
	clone, err := first.cfg.Sink(gateway.Env{GatewayID: "gw1", Name: "shore"})
	if err != nil {
		t.Fatal(err)
	}
	second := clone.(*Sink)
	t.Cleanup(func() { _ = second.Close() })
	next := r.batch(50, 5)
	r.sink = second
	r.deliver(next)
	r.sink = first
	err = first.Send(r.ctx(), r.batch(50, 5))
	if !gateway.IsPermanent(err) || !strings.Contains(err.Error(), `"waystation-gw1-shore"`) || !strings.Contains(err.Error(), "gateway.id") {
		t.Fatalf("first: %v", err)
	}
	r.sink = second
	r.seq = 100
	r.deliver(r.batch(50, 5))
	r.exactlyOnce(150, "data")
}

func TestFencedWithoutEnd(t *testing.T) {
	r := newExact(t, 1, nil)
	r.deliver(r.batch(10, 2))
	r.c.Fault(kfake.Fault{Keys: keys(kmsg.EndTxn), Err: kerr.ProducerFenced, Count: -1, TopLevel: true})
	b := r.batch(10, 2)
	var err error
	for range 10 {
		if err = r.sink.Connect(r.ctx()); err == nil {
			err = r.sink.Send(r.ctx(), b)
		}
		if gateway.IsPermanent(err) {
			break
		}
	}
	if !gateway.IsPermanent(err) || !strings.Contains(err.Error(), "5 times") {
		t.Fatal(err)
	}
}

func TestQueueFromAnOlderCopy(t *testing.T) {
	r := newExact(t, 1, nil)
	sum, next := uint32(7), uint64(101)
	recall := func(seq uint64) gateway.Recalled { return gateway.Recalled{Found: seq < next, Sum: sum, Next: next} }
	b := r.batch(100, 10)
	b.Recall = recall
	r.deliver(b)
	for name, change := range map[string]func(){"shorter": func() { next = 60 }, "other": func() { sum, next = 8, 200 }} {
		t.Run(name, func(t *testing.T) {
			sum, next = 7, 101
			change()
			r.reborn()
			r.connect()
			err := r.sink.Send(r.ctx(), b)
			if !gateway.IsPermanent(err) || !strings.Contains(err.Error(), "older copy") {
				t.Fatal(err)
			}
		})
	}
	sum, next = 7, 101
	r.reborn()
	r.deliver(b)
	r.exactlyOnce(100, "data")
}
