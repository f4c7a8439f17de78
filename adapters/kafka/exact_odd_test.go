package kafka

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/gateway"
)

// A right that is missing is never a reason to deliver less: the error names
// the command.
func TestMissingRightsForTransactions(t *testing.T) {
	const acl = "kafka-acls.sh --bootstrap-server %s --add --allow-principal User:ANONYMOUS --operation "
	for name, c := range map[string]struct {
		fault kfake.Fault
		want  string
	}{
		"init":      {kfake.Fault{Keys: keys(kmsg.InitProducerID), Err: kerr.TransactionalIDAuthorizationFailed, TopLevel: true}, acl + "Write --operation Describe --transactional-id waystation-gw1-shore"},
		"find":      {kfake.Fault{Keys: keys(kmsg.FindCoordinator), Err: kerr.TransactionalIDAuthorizationFailed, TopLevel: true}, acl + "Write --operation Describe --transactional-id waystation-gw1-shore"},
		"time-out":  {kfake.Fault{Keys: keys(kmsg.InitProducerID), Err: kerr.InvalidTransactionTimeout, TopLevel: true}, "transaction_timeout is 1m0s, longer than transaction.max.timeout.ms"},
		"offsets":   {kfake.Fault{Keys: keys(kmsg.AddOffsetsToTxn), Err: kerr.GroupAuthorizationFailed, TopLevel: true}, acl + "Read --group waystation-gw1-shore --resource-pattern-type prefixed"},
		"fetch":     {kfake.Fault{Keys: keys(kmsg.OffsetFetch), Err: kerr.GroupAuthorizationFailed, TopLevel: true}, acl + "Read --group waystation-gw1-shore --resource-pattern-type prefixed"},
		"txnoffset": {kfake.Fault{Keys: keys(kmsg.TxnOffsetCommit), Err: kerr.GroupAuthorizationFailed}, acl + "Read --group waystation-gw1-shore --resource-pattern-type prefixed"},
		"position":  {kfake.Fault{Keys: keys(kmsg.TxnOffsetCommit), Err: kerr.TopicAuthorizationFailed}, acl + "Read --topic data"},
		"topic":     {kfake.Fault{Keys: keys(kmsg.AddPartitionsToTxn), Err: kerr.TopicAuthorizationFailed}, acl + "Write --operation Describe --topic data"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newExact(t, 1, func(c *Config) { c.Delivery = wordAuto })
			c.fault.Count = -1
			h := r.c.Fault(c.fault)
			want := c.want
			if strings.Contains(want, "%s") {
				want = fmt.Sprintf(want, r.sink.cfg.Brokers[0])
			}
			b := r.batch(10, 2)
			err := r.sink.Connect(r.ctx())
			if err == nil {
				err = r.sink.Send(r.ctx(), b)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("%v\nwant %s", err, want)
			}
			h.Remove()
			r.deliver(b)
			r.exactlyOnce(10, "data")
		})
	}
}

func TestClusterWithoutTransactions(t *testing.T) {
	without := kversion.V2_8_0()
	for _, key := range []int16{24, 25, 26, 28} {
		without.SetMaxKeyVersion(key, -1)
	}
	for name, versions := range map[string]*kversion.Versions{"2.4": kversion.V2_4_0(), "no such requests": without} {
		t.Run(name, func(t *testing.T) {
			r := newExact(t, 1, func(c *Config) { c.Delivery = wordAuto }, kfake.MaxVersions(versions))
			r.deliver(r.batch(50, 5))
			r.deliver(r.batch(50, 5))
			r.exactlyOnce(100, "data")
			if f := r.sink.Facts(); r.sink.exact || f[0].Value != "at least once: the cluster knows no transactions" || len(r.logs.lines) == 0 {
				t.Errorf("facts %v, log %v", f, r.logs.lines)
			}
			strict := newExact(t, 1, nil, kfake.MaxVersions(versions))
			strict.connect()
			err := strict.sink.Send(strict.ctx(), strict.batch(5, 1))
			if err == nil || !strings.Contains(err.Error(), "set delivery: at-least-once") {
				t.Error(err)
			}
		})
	}
}

// The position cannot say all that is refused: the batch goes without it, for a
// crash then repeats it, and loses nothing.
func TestTooManyRefusedForThePosition(t *testing.T) {
	r := newExact(t, 1, nil)
	poison(r.c, kerr.InvalidRecord)
	r.deliver(r.batch(10, 2))
	b := &gateway.Batch{Lane: gateway.LaneTelemetry, Generation: "g1"}
	var missing []uint64
	for i := range 800 {
		one := r.batch(1, 1)
		one.Items[0].Seq = 11 + uint64(i)*(1<<33+uint64(i*i*i)%(1<<31))
		one.Items[0].Record.Payload = []byte("POISON")
		b.Items = append(b.Items, one.Items...)
		missing = append(missing, one.Items[0].Seq)
	}
	if got := r.deliver(b); len(got) != len(missing) {
		t.Errorf("refused %d", len(got))
	}
	if got := r.offset("waystation-gw1-shore-telemetry", "data"); got != 11 {
		t.Errorf("offset %d", got)
	}
}

// Records whose topic is not there go nowhere, and no transaction stays open.
func TestExactlyOnceWithoutTopic(t *testing.T) {
	for _, word := range []string{wordWait, wordDeadLetter} {
		t.Run(word, func(t *testing.T) {
			r := newExact(t, 1, func(c *Config) { c.UnknownTopic, c.Topic = word, "data{tag.to}" })
			b := r.batch(20, 4)
			for i := range 5 {
				b.Items[i*4].Record.Tags = []gateway.Tag{{Key: "to", Value: "-none"}}
			}
			if word == wordDeadLetter {
				if got := r.deliver(b); len(got) != 5 {
					t.Fatalf("refused %v", got)
				}
				r.reborn()
				if got := r.deliver(b); len(got) != 5 {
					t.Fatalf("refused %v after the restart", got)
				}
				return
			}
			r.connect()
			if err := r.sink.Send(r.ctx(), b); err == nil || !strings.Contains(err.Error(), "data-none") {
				t.Fatal(err)
			}
			if !r.sink.txn.begun.IsZero() || len(r.read("data")) != 0 {
				t.Error("a transaction is open")
			}
			if err := r.c.CreateTopic("data-none", 1, nil); err != nil {
				t.Fatal(err)
			}
			r.deliver(b)
			if n := len(r.read("data", "data-none")); n != 20 {
				t.Errorf("%d records", n)
			}
		})
	}
}

// The copy of the position is a help, not a condition.
func TestPositionTopicThatMayNotBeWritten(t *testing.T) {
	r := newExact(t, 1, nil, kfake.SeedTopics(1, "waystation.positions"))
	r.connect()
	r.c.Fault(kfake.Fault{Keys: keys(kmsg.AddPartitionsToTxn, kmsg.Produce, kmsg.TxnOffsetCommit), Topic: "waystation.positions", Err: kerr.TopicAuthorizationFailed, Count: -1})
	r.deliver(r.batch(50, 5))
	r.deliver(r.batch(50, 5))
	r.exactlyOnce(100, "data")
	if f := r.sink.Facts(); len(f) != 2 || !strings.Contains(f[1].Value, "none") {
		t.Errorf("facts %v", f)
	}
}

// The line is lost in the middle of a transaction, and the forwarder goes on
// with another batch: what was sent of the first must not be committed with it.
func TestGivenUpWithoutALine(t *testing.T) {
	r := newExact(t, 1, func(c *Config) { c.MaxMessage = 2000 })
	r.connect()
	r.line.Plan(kafkatest.Pass, kafkatest.CutBefore, kafkatest.CutBefore, kafkatest.CutBefore, kafkatest.CutBefore, kafkatest.CutBefore)
	if err := r.sink.Send(r.ctx(), r.batch(200, 10)); err == nil || r.sink.txn.begun.IsZero() {
		t.Fatal("the transaction is not open:", err)
	}
	r.seq = 0
	r.connect()
	if err := r.sink.Send(r.ctx(), r.batch(60, 10)); err != nil { // and it must not wait for tries in that transaction
		t.Fatal(err)
	}
	r.exactlyOnce(60, "data")
}

// Kafka fences a producer whose transaction took too long. That is no clone.
func TestTimeOutIsNoClone(t *testing.T) {
	r := newExact(t, 1, nil)
	now := time.Now()
	r.sink.txn.begun = now.Add(-r.sink.cfg.TransactionTimeout)
	for range 2 * maxFences {
		if err := r.sink.fenced(sarama.ErrInvalidProducerEpoch, now); err != nil {
			t.Fatal(err)
		}
	}
	r.sink.txn.begun = now.Add(-time.Second)
	var err error
	for range maxFences {
		err = r.sink.fenced(sarama.ErrInvalidProducerEpoch, now)
	}
	if !gateway.IsPermanent(err) {
		t.Fatal(err)
	}
}
