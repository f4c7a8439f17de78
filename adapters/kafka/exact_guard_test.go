package kafka

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The code panics when EndTxn was sent, and the same batch comes again to the
// same sink: the request may still be on its way, and must not meet another
// transaction of the epoch.
func TestPanicAfterTheCommit(t *testing.T) {
	r := newExact(t, 1, nil)
	r.deliver(r.batch(20, 4))
	b := r.batch(20, 4)
	all := r.steps("end-after")
	r.sendPanics(func() error { return r.sink.Send(r.ctx(), b) })
	*all = nil
	r.deliver(b)
	if len(*all) == 0 || (*all)[0] != "init-before" {
		t.Errorf("went on with %v", *all)
	}
	r.deliver(r.batch(20, 4))
	r.exactlyOnce(60, "data")
}

// A position whose commit is under way is waited for.
func TestPositionIsReadAsStable(t *testing.T) {
	r := newExact(t, 1, nil)
	r.deliver(r.batch(50, 5))
	sum := note{Version: 1, Generation: "g1", Instance: "before"}
	meta, err := sum.text()
	if err != nil {
		t.Fatal(err)
	}
	commit := r.pending("waystation-gw1-shore-telemetry", "data", 101, meta)
	r.reborn()
	asked := make(chan struct{}, 1000)
	r.c.ControlKey(int16(kmsg.OffsetFetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		r.c.KeepControl()
		asked <- struct{}{}
		return nil, nil, false
	})
	r.connect()
	b, done := r.batch(50, 5), make(chan error, 1)
	ctx := r.ctx()
	go func() { done <- r.sink.Send(ctx, b) }()
	<-asked
	select {
	case <-asked: // again: it was told to wait
		commit()
		err = <-done
	case err = <-done:
		t.Error("it did not wait")
	}
	if err != nil {
		t.Fatal(err)
	}
	r.exactlyOnce(50, "data")
}

// pending writes a position in a transaction of another, and returns what
// commits it.
func (r *rig) pending(group, topic string, offset int64, meta string) (commit func()) {
	r.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.c.Addrs()...))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(cl.Close)
	ctx, id := r.ctx(), "another"
	begin := kmsg.NewInitProducerIDRequest()
	begin.TransactionalID, begin.TransactionTimeoutMillis = &id, 60000
	who, err := begin.RequestWith(ctx, cl)
	if err != nil || who.ErrorCode != 0 {
		r.t.Fatal(err, who)
	}
	add := kmsg.NewAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = id, who.ProducerID, who.ProducerEpoch, group
	if a, err := add.RequestWith(ctx, cl); err != nil || a.ErrorCode != 0 {
		r.t.Fatal(err, a)
	}
	write := kmsg.NewTxnOffsetCommitRequest()
	write.TransactionalID, write.ProducerID, write.ProducerEpoch, write.Group, write.Generation = id, who.ProducerID, who.ProducerEpoch, group, -1
	part := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	part.Offset, part.Metadata = offset, &meta
	write.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: topic, TopicID: r.c.TopicInfo(topic).TopicID, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{part}}}
	if a, err := write.RequestWith(ctx, cl); err != nil || a.Topics[0].Partitions[0].ErrorCode != 0 {
		r.t.Fatal(err, a)
	}
	return func() {
		end := kmsg.NewEndTxnRequest()
		end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = id, who.ProducerID, who.ProducerEpoch, true
		if a, err := end.RequestWith(ctx, cl); err != nil || a.ErrorCode != 0 {
			r.t.Error(err, a)
		}
	}
}

// When the coordinator is far away the group is added while the partitions
// still are, over a connection of its own; and what is said of it counts.
func TestFarCoordinator(t *testing.T) {
	r := newExact(t, 1, nil)
	r.deliver(r.batch(20, 4))
	joined := make(chan struct{})
	r.c.ControlKey(int16(kmsg.AddOffsetsToTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		r.c.DropControl()
		close(joined)
		return nil, nil, false
	})
	r.c.ControlKey(int16(kmsg.AddPartitionsToTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		r.c.DropControl()
		r.c.SleepControl(func() {
			select {
			case <-joined:
			case <-time.After(2 * time.Second):
				t.Error("the group was not added meanwhile")
			}
		})
		return nil, nil, false
	})
	r.sink.trip = time.Second
	r.deliver(r.batch(20, 4))
	if r.sink.trip == time.Second {
		t.Error("the round trip was not measured again")
	}
	for _, c := range []*kerr.Error{kerr.ConcurrentTransactions, kerr.NotCoordinator, kerr.InvalidTxnState, kerr.UnknownServerError} {
		for _, key := range keys(kmsg.AddOffsetsToTxn, kmsg.AddPartitionsToTxn) {
			h := r.c.Fault(kfake.Fault{Keys: keys(key), Err: c, TopLevel: key == kmsg.AddOffsetsToTxn})
			r.sink.trip = time.Second
			r.deliver(r.batch(20, 4))
			if h.Hits() != 1 {
				t.Errorf("%s at %s: met %d times", c.Message, key.Name(), h.Hits())
			}
		}
	}
	denied := r.c.Fault(kfake.Fault{Keys: keys(kmsg.AddOffsetsToTxn), Err: kerr.GroupAuthorizationFailed, TopLevel: true, Count: -1})
	r.sink.fault = func(string) { r.sink.trip = time.Second } // at every try
	b := r.batch(20, 4)
	if err := r.sink.Send(r.ctx(), b); err == nil || !strings.Contains(err.Error(), "add the position to the transaction") {
		t.Error(err)
	}
	denied.Remove()
	r.deliver(b)
	r.exactlyOnce(r.seq, "data")
}
