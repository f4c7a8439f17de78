package kafka

import (
	"errors"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waystation-iot/waystation/gateway"
)

func TestUnknownTopicWaits(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.Topic = "fleet.{source}" })
	if err := r.c.CreateTopic("fleet.deck", 4, nil); err != nil {
		t.Fatal(err)
	}
	r.connect()
	b := r.batch(100, 10)
	for i := 50; i < 100; i++ {
		b.Items[i].Record.Source = "engine room"
	}
	for range 3 {
		err := r.sink.Send(r.ctx(), b)
		if !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
			t.Fatal(err)
		}
		want := "--create --topic fleet.engine_room"
		if !strings.HasPrefix(err.Error(), "kafka shore: produce fleet.engine_room: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if n := len(r.read("fleet.deck")); n != 50 {
		t.Errorf("%d records in the topic that exists, want 50", n)
	}
	if err := r.c.CreateTopic("fleet.engine_room", 3, nil); err != nil {
		t.Fatal(err)
	}
	if ref := r.deliver(b); ref != nil {
		t.Fatal(ref)
	}
	if n := len(r.read("fleet.deck")) + len(r.read("fleet.engine_room")); n != 100 {
		t.Errorf("%d records, want 100", n)
	}
}

func TestUnknownTopicDeadLetters(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.Topic, c.UnknownTopic = "{source}", "dead-letter" })
	b := r.batch(10, 10)
	for i := range b.Items {
		b.Items[i].Record.Source = "data"
	}
	b.Items[3].Record.Source, b.Items[7].Record.Source = "none", "none"
	ref := r.deliver(b)
	if len(ref) != 2 || ref[0].Index != 3 || ref[1].Index != 7 || !strings.Contains(ref[0].Reason, "topic none") {
		t.Fatal(ref)
	}
	r.exactlyOnce(10, "data", 4, 8)
}

// An unknown topic in dead-letter mode must not be believed at once: a broker
// that has just started does not know its topics.
func TestDeadLetterNeedsMoreThanOneAnswer(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.UnknownTopic = "dead-letter" })
	r.connect()
	r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce, kmsg.Metadata}, Err: kerr.UnknownTopicOrPartition, Count: 3})
	if ref := r.deliver(r.batch(10, 10)); ref != nil {
		t.Fatal(ref)
	}
	r.exactlyOnce(10, "data")
}

func TestAutoCreate(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.Topic, c.AutoCreate = "new", true }, kfake.AllowAutoTopicCreation())
	if ref := r.deliver(r.batch(10, 3)); ref != nil {
		t.Fatal(ref)
	}
	r.exactlyOnce(10, "new")
}

func TestTopicForbidden(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.InvalidTopicException} {
		t.Run(code.Message, func(t *testing.T) {
			r := newRig(t, 1, nil)
			r.connect()
			h := r.c.Fault(kfake.Fault{Keys: produceKey(), Err: code, Count: -1})
			b := r.batch(10, 10)
			err := r.sink.Send(r.ctx(), b)
			if err == nil || !strings.HasPrefix(err.Error(), "kafka shore: produce data: ") || !strings.HasSuffix(err.Error(), ")") {
				t.Fatal(err)
			}
			h.Remove()
			r.deliver(b)
			r.exactlyOnce(10, "data")
		})
	}
}

func TestACLs(t *testing.T) {
	allow := func(res kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: res, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	user := kfake.User("SCRAM-SHA-256", "gw", "secret", allow(kmsg.ACLResourceTypeTopic, "mine", kmsg.ACLOperationWrite), allow(kmsg.ACLResourceTypeTopic, "data", kmsg.ACLOperationDescribe))
	r := newRig(t, 1, func(c *Config) {
		c.SASL = SASL{Mechanism: "scram-sha-256", User: "gw", Password: "secret"}
	}, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"), user)
	r.connect()
	err := r.sink.Send(r.ctx(), r.batch(10, 10))
	if !errors.Is(err, sarama.ErrTopicAuthorizationFailed) || !strings.Contains(err.Error(), "kafka-acls.sh --bootstrap-server "+r.c.Addrs()[0]+" --add --allow-principal User:gw --operation Write --operation Describe --topic data") {
		t.Fatal(err)
	}
}

func TestSASL(t *testing.T) {
	opts := []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("PLAIN", "gw", "päss,=word"),
		kfake.Superuser("SCRAM-SHA-256", "gw", "päss,=word"), kfake.Superuser("SCRAM-SHA-512", "gw", "päss,=word")}
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		for password, good := range map[gateway.Secret]bool{"päss,=word": true, "wrong": false} {
			t.Run(mechanism, func(t *testing.T) {
				r := newRig(t, 1, func(c *Config) { c.SASL = SASL{Mechanism: mechanism, User: "gw", Password: password} }, opts...)
				err := r.sink.Connect(r.ctx())
				if !good {
					if err == nil || strings.Contains(err.Error(), "wrong") || !strings.Contains(err.Error(), "check sasl.") {
						t.Fatal(err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := r.sink.Send(r.ctx(), r.batch(10, 10)); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestTemplates(t *testing.T) {
	rec := gateway.Record{Source: "deck", Name: "a/b", Tags: []gateway.Tag{{Key: "site", Value: "Köln"}}}
	o := origin{"ship-042", "alarm"}
	for in, want := range map[string]string{
		"fleet.{source}":         "fleet.deck",
		"{gateway}-{lane}":       "ship-042-alarm",
		"{device}":               "a_b",
		"x{name}{tag.site}":      "xa_bK__ln",
		"{tag.none}":             "_",
		".{tag.none}.":           "__",
		strings.Repeat("x", 300): strings.Repeat("x", 249),
	} {
		tm, err := parseTemplate(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := topicName(tm.expand(nil, o, &rec)); got != want {
			t.Errorf("%s → %s, want %s", in, got, want)
		}
	}
	for _, bad := range []string{"{", "}", "a{b", "{nope}", "{tag.}", "{tag}", "{{source}}"} {
		if _, err := parseTemplate(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestTopicCacheIsBounded(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.Topic = "{device}" })
	for i := range 3 {
		b := r.batch(maxTopics, 1)
		for j := range b.Items {
			b.Items[j].Record.Device = strings.Repeat("x", i) + string(rune('a'+j%26)) + strings.Repeat("y", j/26)
		}
		r.sink.take(b)
	}
	if n := len(r.sink.topics.byText); n > 2*maxTopics {
		t.Errorf("%d topics kept", n)
	}
}

// A notice of the gateway must not hold up the data when nobody has made a
// topic for it.
func TestNoticeWithoutTopic(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.Topic = "{source}" })
	b := &gateway.Batch{Generation: "00", Items: []gateway.Item{{Seq: 1, Record: gateway.Record{
		Source: gateway.NoticeSource, Name: "queue-loss", Values: []gateway.Value{gateway.BoolValue("exact", true)}}}}}
	if ref := r.deliver(b); ref == nil || len(ref) != 1 {
		t.Fatal(ref)
	}
}

// A notice among data, as thinning leaves them, must not hold the data up.
func TestNoticeAmongDataWithoutTopic(t *testing.T) {
	r := newRig(t, 1, func(c *Config) { c.Topic = "{source}" })
	b := r.batch(5, 5)
	for i := range b.Items {
		b.Items[i].Record.Source = "data"
	}
	b.Items[2].Record.Source = gateway.NoticeSource
	if ref := r.deliver(b); len(ref) != 1 || ref[0].Index != 2 {
		t.Fatal(ref)
	}
	if n := len(r.read("data")); n != 4 {
		t.Errorf("%d records arrived, want 4", n)
	}
}
