package kafka

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
)

func TestConnectionLostAroundTheAppend(t *testing.T) {
	for name, f := range map[string]kafkatest.Fault{"before": kafkatest.CutBefore, "middle": kafkatest.CutMiddle, "after": kafkatest.CutAfter} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1, nil)
			r.connect()
			r.line.Plan(f, f)
			if err := r.sink.Send(r.ctx(), r.batch(100, 10)); err != nil {
				t.Fatal(err)
			}
			if r.line.Sent() != 3 {
				t.Fatalf("%d requests", r.line.Sent())
			}
			r.deliver(r.batch(100, 10))
			r.exactlyOnce(200, "data")
		})
	}
}

// The outcome stays unknown until Send gives up; the next Send of the same
// batch, over a new connection, must use the same sequence numbers.
func TestDoubtOutlivesSend(t *testing.T) {
	r := newRig(t, 1, nil)
	r.connect()
	b := r.batch(100, 10)
	r.line.Plan(kafkatest.CutAfter, kafkatest.CutBefore, kafkatest.CutBefore, kafkatest.CutBefore, kafkatest.CutBefore)
	if err := r.sink.Send(r.ctx(), b); err == nil {
		t.Fatal("no error")
	}
	if !r.sink.sess.broken {
		t.Error("the session is still believed")
	}
	if n := len(r.read("data")); n != 100 {
		t.Fatalf("%d records appended: the test does not test", n)
	}
	if err := r.sink.Close(); err != nil {
		t.Fatal(err)
	}
	r.deliver(b)
	r.deliver(r.batch(100, 10))
	r.exactlyOnce(200, "data")
	if len(r.logs.lines) > 0 {
		t.Errorf("new producer id: %v", r.logs.lines)
	}
}

func TestAbandonedBatchInDoubtDoesNotSwallowTheNext(t *testing.T) {
	r := newRig(t, 1, nil)
	r.connect()
	r.line.Plan(kafkatest.CutAfter, kafkatest.CutBefore, kafkatest.CutBefore, kafkatest.CutBefore, kafkatest.CutBefore)
	if err := r.sink.Send(r.ctx(), r.batch(100, 10)); err == nil {
		t.Fatal("no error")
	}
	r.deliver(r.batch(100, 10)) // another batch: same sizes per partition, as a duplicate would have
	r.exactlyOnce(200, "data")
	if len(r.logs.lines) != 1 {
		t.Errorf("log: %v", r.logs.lines)
	}
}

// Nothing was sent, so nothing is in doubt and the producer id is kept.
func TestAbandonedBatchThatWasNeverSent(t *testing.T) {
	r := newRig(t, 1, nil)
	r.deliver(r.batch(100, 10))
	if err := r.sink.Close(); err != nil {
		t.Fatal(err)
	}
	r.connect()
	r.line.Plan(kafkatest.CutBefore)
	r.sink.tries = 1
	r.line.Down(true)
	if err := r.sink.Send(r.ctx(), r.batch(1, 1)); err == nil {
		t.Fatal("no error")
	}
	r.seq-- // given up, and never seen
	r.line.Down(false)
	r.line.Clear()
	r.deliver(r.batch(100, 10))
	r.exactlyOnce(200, "data")
	if len(r.logs.lines) > 0 {
		t.Errorf("new producer id: %v", r.logs.lines)
	}
}

// A chunk that may have been appended is rejected when it is sent again. Its
// sequence must not be given to the next records: the broker would take them
// for the old ones and drop them.
func TestRejectionOfWhatIsInDoubt(t *testing.T) {
	r := newRig(t, 1, nil)
	r.connect()
	b := r.batch(1, 1)
	r.line.Plan(kafkatest.CutAfter)
	late := r.c.Fault(kfake.Fault{Keys: produceKey(), Err: kerr.InvalidTimestamp, Count: -1,
		When: func(kmsg.Request) bool { return r.line.Sent() > 1 }})
	if ref := r.deliver(b); len(ref) != 1 {
		t.Fatalf("refused %v", ref)
	}
	late.Remove()
	r.deliver(r.batch(1, 1))
	r.exactlyOnce(2, "data")
}

func TestDuplicateSequenceNumberMeansConfirmed(t *testing.T) {
	r := newRig(t, 1, nil)
	r.connect()
	r.c.Fault(kfake.Fault{Keys: produceKey(), Err: kerr.DuplicateSequenceNumber})
	if err := r.sink.Send(r.ctx(), r.batch(10, 10)); err != nil || r.line.Sent() != 1 {
		t.Fatal(err, r.line.Sent())
	}
}

func TestBrokerDownAtConnect(t *testing.T) {
	r := newRig(t, 1, nil)
	r.c.Close()
	err := r.sink.Connect(r.ctx())
	if err == nil || !strings.HasPrefix(err.Error(), "kafka shore: connect to 127.0.0.1:") {
		t.Fatal(err)
	}
	if err := r.sink.Send(r.ctx(), r.batch(1, 1)); err == nil || !strings.Contains(err.Error(), "not connected") {
		t.Fatal(err)
	}
	r.seq = 0
	if err := r.c.Up(); err != nil {
		t.Fatal(err)
	}
	r.deliver(r.batch(10, 2))
	r.exactlyOnce(10, "data")
}

func TestConnectIsCancelled(t *testing.T) {
	r := newRig(t, 1, nil)
	inDial := make(chan struct{}, 10)
	r.sink.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		inDial <- struct{}{}
		<-ctx.Done() // a network that swallows everything
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.sink.Connect(ctx) }()
	<-inDial
	cancel()
	start := time.Now()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 900*time.Millisecond {
		t.Fatalf("returned after %v", d)
	}
}

func TestRestartBetweenAndDuringSends(t *testing.T) {
	r := newRig(t, 2, nil)
	for i := range 6 {
		b := r.batch(200, 20)
		switch i {
		case 1: // between
			r.c.Close()
			if err := r.c.Up(); err != nil {
				t.Fatal(err)
			}
		case 3: // during: the answer to the first request is lost and the cluster goes
			r.line.Plan(kafkatest.Stall, kafkatest.Stall)
			up := make(chan error, 1)
			go func() {
				<-r.line.Hit()
				r.c.Close()
				up <- r.c.Up()
			}()
			ctx, cancel := context.WithTimeout(r.ctx(), 300*time.Millisecond)
			if err := r.sink.Send(ctx, b); err == nil {
				t.Error("no error while the cluster went")
			}
			cancel()
			if err := <-up; err != nil {
				t.Fatal(err)
			}
			r.line.Clear()
		}
		r.deliver(b)
	}
	r.exactlyOnce(1200, "data")
	if len(r.logs.lines) > 0 {
		t.Errorf("new producer id after a restart: %v", r.logs.lines)
	}
}

// One of two brokers does not answer: what the other confirmed is not sent again.
func TestPartialSuccessSendsOnlyTheRest(t *testing.T) {
	r := newRig(t, 2, nil)
	for p := range int32(4) {
		if err := r.c.MoveTopicPartition("data", p, p%2); err != nil {
			t.Fatal(err)
		}
	}
	r.connect()
	down := r.c.Fault(kfake.Fault{Keys: produceKey(), Partitions: []int32{1, 3}, Err: kerr.NotEnoughReplicas, Count: -1})
	b := r.batch(400, 40)
	if err := r.sink.Send(r.ctx(), b); err == nil {
		t.Fatal("no error")
	}
	before := len(r.read("data"))
	if before == 0 || before == 400 || r.sink.job.left != 400-before {
		t.Fatalf("%d records there, %d left", before, r.sink.job.left)
	}
	down.Remove()
	again := r.c.Fault(kfake.Fault{Keys: produceKey(), Partitions: []int32{0, 2}, Observe: true, Count: -1})
	r.deliver(b)
	if again.Hits() != 0 {
		t.Errorf("confirmed partitions were sent again %d times", again.Hits())
	}
	r.exactlyOnce(400, "data")
}

func TestProducerIDIsForgottenByKafka(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.UnknownProducerID, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.OutOfOrderSequenceNumber} {
		t.Run(code.Message, func(t *testing.T) {
			r := newRig(t, 1, nil)
			r.deliver(r.batch(100, 10))
			was := r.sink.prod.id
			r.c.Fault(kfake.Fault{Keys: produceKey(), Partitions: []int32{2}, Err: code})
			if err := r.sink.Send(r.ctx(), r.batch(100, 10)); err != nil {
				t.Fatal(err)
			}
			r.deliver(r.batch(100, 10))
			r.exactlyOnce(300, "data")
			if r.sink.prod.id == was || len(r.logs.lines) != 1 {
				t.Errorf("id %d → %d, log %v", was, r.sink.prod.id, r.logs.lines)
			}
		})
	}
}

// While one partition waits for a new producer id another is in doubt: the
// doubt must be settled under the old id first, or its records come twice.
func TestNewProducerIDWaitsForDoubt(t *testing.T) {
	r := newRig(t, 1, nil)
	r.deliver(r.batch(100, 10))
	r.c.Fault(kfake.Fault{Keys: produceKey(), Partitions: []int32{0}, Err: kerr.OutOfOrderSequenceNumber},
		kfake.Fault{Keys: produceKey(), Partitions: []int32{1}, Err: kerr.RequestTimedOut})
	if err := r.sink.Send(r.ctx(), r.batch(200, 40)); err != nil {
		t.Fatal(err)
	}
	r.exactlyOnce(300, "data")
}

// A topic that was deleted and created again does not know our sequence.
func TestTopicIsCreatedAgain(t *testing.T) {
	r := newRig(t, 1, nil)
	r.deliver(r.batch(100, 10))
	if err := r.c.DeleteTopic("data"); err != nil {
		t.Fatal(err)
	}
	if err := r.c.CreateTopic("data", 4, nil); err != nil {
		t.Fatal(err)
	}
	r.seq = 0
	r.deliver(r.batch(100, 10))
	r.exactlyOnce(100, "data")
}

func TestSequenceNumbersWrap(t *testing.T) {
	p := producer{}
	p.adopt(1, 0)
	k := partitionKey{"data", 0}
	p.next[k] = 1<<31 - 7
	if p.advance(k, 6); p.sequence(k) != 1<<31-1 {
		t.Errorf("sequence %d", p.sequence(k))
	}
	if p.advance(k, 1); p.sequence(k) != 0 {
		t.Errorf("after the last comes %d", p.sequence(k))
	}
	p.next[k] = 1<<31 - 7
	if p.advance(k, 10); p.sequence(k) != 3 {
		t.Errorf("sequence %d, want 3", p.sequence(k))
	}
}
