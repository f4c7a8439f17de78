package kafka

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/IBM/sarama"
	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/gateway"
)

func produceKey() []kmsg.Key { return []kmsg.Key{kmsg.Produce} }

func TestOrderPerKeyOverHundredDevices(t *testing.T) {
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			r := newRig(t, 3, func(c *Config) { c.Compression = codec })
			for range 5 {
				if ref := r.deliver(r.batch(1000, 100)); ref != nil {
					t.Fatal(ref)
				}
			}
			r.exactlyOnce(5000, "data")
		})
	}
}

func TestHeadersKeyTimestamp(t *testing.T) {
	r := newRig(t, 1, nil)
	b := r.batch(2, 1)
	rec := &b.Items[1].Record
	rec.Time = time.Unix(1_600_000_000, 123456789)
	rec.Quality, rec.Reason, rec.ClockTrusted = gateway.Uncertain, "sensor drift", false
	rec.Tags = []gateway.Tag{{Key: "vessel", Value: "aurora"}}
	r.deliver(b)
	got := r.read("data")
	var names, values []string
	for _, h := range got[1].Headers {
		names, values = append(names, h.Key), append(values, string(h.Value))
	}
	wantNames := "gateway generation lane seq source name content-type received time clock quality reason tag.vessel"
	if s := strings.Join(names, " "); s != wantNames {
		t.Errorf("headers %s\n   want %s", s, wantNames)
	}
	wantValues := "gw1|g1|telemetry|2|deck|deck/temp|text/plain|2023-11-14T22:13:20.002Z|2020-09-13T12:26:40.123456789Z|untrusted|uncertain|sensor drift|aurora"
	if s := strings.Join(values, "|"); s != wantValues {
		t.Errorf("values %s\n  want %s", s, wantValues)
	}
	if string(got[1].Key) != "d0" || string(got[1].Value) != "v2" {
		t.Errorf("key %q value %q", got[1].Key, got[1].Value)
	}
	for i := range got {
		if ms := got[i].Timestamp.UnixMilli(); ms != 1_700_000_000_001+int64(i) {
			t.Errorf("timestamp of %d: %d", i, ms)
		}
	}
	if len(got[0].Headers) != 8 {
		t.Errorf("good record carries %d headers, want 8: %v", len(got[0].Headers), got[0].Headers)
	}
}

func TestKeyAndValueBytes(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.Compression = "zstd" })
	values := [][]byte{{}, {0}, bytes.Repeat([]byte{0xff, 0, 7}, 300_000), []byte("\xff\xfe invalid \x80"), []byte(strings.Repeat("x", 5))}
	keys := []string{"k\x00ey", "\xff\xfe", "plain", strings.Repeat("k", 300), "d"}
	b := r.batch(len(values), 1)
	for i := range b.Items {
		b.Items[i].Record.Payload, b.Items[i].Record.Device = values[i], keys[i]
	}
	if ref := r.deliver(b); ref != nil {
		t.Fatal(ref)
	}
	got := r.read("data")
	if len(got) != len(values) {
		t.Fatalf("%d records", len(got))
	}
	for _, g := range got {
		i := int(head(g, "seq")[0] - '1')
		if !bytes.Equal(g.Value, values[i]) || string(g.Key) != keys[i] || g.Value == nil {
			t.Errorf("record %d: key %q, %d bytes of value (nil %v)", i, g.Key, len(g.Value), g.Value == nil)
		}
		if want := partitionOf([]byte(keys[i]), 4); int(g.Partition) != want {
			t.Errorf("record %d in partition %d, want %d", i, g.Partition, want)
		}
	}
}

func TestOversizeRecordIsRefusedWithoutBeingSent(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.MaxMessage = 2000 })
	b := r.batch(40, 1)
	b.Items[20].Record.Payload = make([]byte, 2500)
	ref := r.deliver(b)
	if len(ref) != 1 || ref[0].Index != 20 {
		t.Fatalf("refused %v", ref)
	}
	if !strings.Contains(ref[0].Reason, "exceeds max_message_bytes 2000") || !strings.Contains(ref[0].Reason, "record of 27") {
		t.Errorf("reason %q", ref[0].Reason)
	}
	r.exactlyOnce(40, "data", 21)
}

func TestChunksStayBelowTheLimit(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.MaxMessage = 2000 })
	if err := r.c.CreateTopic("small", 1, map[string]string{"max.message.bytes": "2000"}); err != nil {
		t.Fatal(err)
	}
	r.sink.topicOf, _ = parseTemplate("small")
	h := r.c.Fault(kfake.Fault{Keys: produceKey(), Observe: true, Count: -1})
	r.deliver(r.batch(200, 10))
	r.exactlyOnce(200, "small")
	// A rejected chunk would have been sent again in halves: more requests.
	size := 0
	for _, p := range r.c.PartitionInfos("small") {
		size += int(p.NumBytes)
	}
	if least := size/2000 + 1; h.Hits() > least+2 {
		t.Errorf("%d requests for %d bytes", h.Hits(), size)
	}
}

// The limit is for the batch with its header: a record that fits to the byte
// goes, one byte more is refused without asking Kafka.
func TestLimitToTheByte(t *testing.T) {
	for more, refused := range []int{0, 1} {
		r := newRig(t, 1, func(c *Config) { c.MaxMessage = 1000 })
		if err := r.c.CreateTopic("small", 1, map[string]string{"max.message.bytes": "1000"}); err != nil {
			t.Fatal(err)
		}
		r.sink.topicOf, _ = parseTemplate("small")
		r.connect()
		b := r.batch(1, 1)
		b.Items[0].Record.Payload = make([]byte, 500)
		r.sink.take(b)
		r.sink.arena.begin("gw1", b)
		size, err := r.sink.record(&b.Items[0], 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		r.sink.endJob("")
		// base 0 makes the timestamp longer than it is when it is the first of a chunk
		size -= varint(millis(&b.Items[0].Record)) - 1
		b.Items[0].Record.Payload = make([]byte, 500+1000-batchOverhead-size+more)
		ref := r.deliver(b)
		if len(ref) != refused || r.line.Sent() != 1-refused {
			t.Errorf("%d bytes too many: refused %v, %d requests", more, ref, r.line.Sent())
		}
	}
}

// poison makes partition p of topic data reject every batch that holds POISON.
func poison(c *kafkatest.Cluster, err *kerr.Error) {
	for p := range int32(4) {
		c.Fault(kfake.Fault{Keys: produceKey(), Topic: "data", Partitions: []int32{p}, Count: -1, Err: err,
			When: func(req kmsg.Request) bool {
				for _, t := range req.(*kmsg.ProduceRequest).Topics {
					for _, rp := range t.Partitions {
						if rp.Partition == p && bytes.Contains(rp.Records, []byte("POISON")) {
							return true
						}
					}
				}
				return false
			}})
	}
}

func TestPoisonRecordsAreRefusedAndOthersGoOn(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.InvalidRecord, kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.CorruptMessage, kerr.InvalidTimestamp, kerr.PolicyViolation} {
		t.Run(code.Message, func(t *testing.T) {
			r := newRig(t, 2, nil)
			poison(r.c, code)
			b := r.batch(100, 10)
			bad := []int{0, 50, 51, 99}
			for _, i := range bad {
				b.Items[i].Record.Payload = []byte("POISON")
			}
			ref := r.deliver(b)
			if len(ref) != len(bad) {
				t.Fatalf("refused %v", ref)
			}
			for i := range ref {
				if ref[i].Index != bad[i] || !strings.Contains(ref[i].Reason, "refused by Kafka: ") {
					t.Errorf("refused %v", ref[i])
				}
			}
			r.deliver(r.batch(50, 10)) // the sequence numbers still fit
			r.exactlyOnce(150, "data", 1, 51, 52, 100)
			if len(r.logs.lines) > 0 {
				t.Errorf("new producer id: %v", r.logs.lines)
			}
		})
	}
}

func TestAnswersThatPass(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend,
		kerr.RequestTimedOut, kerr.KafkaStorageError, kerr.UnknownTopicOrPartition, kerr.UnknownServerError} {
		t.Run(code.Message, func(t *testing.T) {
			r := newRig(t, 2, nil)
			r.connect()
			h := r.c.Fault(kfake.Fault{Keys: produceKey(), Err: code, Count: 2})
			if err := r.sink.Send(r.ctx(), r.batch(100, 10)); err != nil {
				t.Fatal(err)
			}
			if h.Hits() != 2 {
				t.Fatalf("%d hits", h.Hits())
			}
			r.exactlyOnce(100, "data")
		})
	}
}

func TestLeaderMoves(t *testing.T) {
	r := newRig(t, 3, nil)
	r.deliver(r.batch(100, 20))
	for p := range int32(4) {
		if err := r.c.MoveTopicPartition("data", p, (r.c.LeaderFor("data", p)+1)%3); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.sink.Send(r.ctx(), r.batch(100, 20)); err != nil {
		t.Fatal(err)
	}
	r.exactlyOnce(200, "data")
}

func TestErrorNamesThePartitionAndGivesUpInTime(t *testing.T) {
	r := newRig(t, 1, nil)
	r.connect()
	r.c.Fault(kfake.Fault{Keys: produceKey(), Err: kerr.NotEnoughReplicas, Count: -1})
	err := r.sink.Send(r.ctx(), r.batch(1, 1))
	if !errors.Is(err, sarama.ErrNotEnoughReplicas) || !strings.HasPrefix(err.Error(), "kafka shore: produce data/") {
		t.Fatal(err)
	}
}

func TestCancelMidSend(t *testing.T) {
	r := newRig(t, 1, nil)
	r.connect()
	r.line.Plan(kafkatest.Stall)
	ctx, cancel := context.WithCancel(context.Background())
	b := r.batch(100, 10)
	done := make(chan error, 1)
	go func() { done <- r.sink.Send(ctx, b) }()
	<-r.line.Hit()
	cancel()
	start := time.Now()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 900*time.Millisecond {
		t.Fatalf("returned after %v", d)
	}
	r.deliver(b) // in doubt, recognised by the broker
	r.deliver(r.batch(100, 10))
	r.exactlyOnce(200, "data")
}

func TestAllocations(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.Compression = "zstd" }, kfake.BlackholeProduce())
	r.connect()
	b := r.batch(1000, 100)
	send := func() {
		if err := r.sink.Send(r.ctx(), b); err != nil {
			t.Fatal(err)
		}
	}
	send()
	s := r.sink
	got := testing.AllocsPerRun(20, func() { // all of Send but the exchange: kfake runs in this process
		s.take(b)
		s.route(r.ctx(), &round{})
		s.requests(&round{})
		s.endJob("")
	})
	if got > 100 {
		t.Errorf("%.0f allocations for 1,000 records", got)
	}
}
