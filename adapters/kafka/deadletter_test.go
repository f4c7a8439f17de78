package kafka

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waystation-iot/waystation/gateway"
)

// letters makes a batch of dead letters of it.
func letters(b *gateway.Batch) *gateway.Batch {
	b.Replayed = true
	for i := range b.Items {
		b.Letters = append(b.Letters, gateway.DeadLetterInfo{ID: uint64(100 + i), At: time.UnixMilli(1_700_000_000_000), Reason: "too large"})
	}
	return b
}

// Dead letters go to their own topic, with what happened in the headers, and
// nowhere else; one that is too large for that too comes without its payload.
func TestDeadLetterTopic(t *testing.T) {
	r := newRig(t, 1, func(c *Config) {
		c.DeadLetters.Topic, c.MaxMessage, c.Headers = "dead.{source}", 4096, false
	}, kfake.SeedTopics(2, "dead.deck"))
	if yes, keep := r.sink.LettersToo(); !yes || !keep {
		t.Fatal("there is no place for dead letters, or they do not stay")
	}
	b := letters(r.batch(5, 5))
	b.Gateway = "ship-7"
	b.Items[1].Record.Payload = []byte(strings.Repeat("x", 5000))
	b.Letters[2].Cut = true
	b.Items[3].Record.Payload = []byte{}
	b.Letters[3].Cut = true
	b.Letters[4].Reason = strings.Repeat("r", 5000)
	if ref := r.deliver(b); ref != nil {
		t.Fatal(ref)
	}
	if n := len(r.read("data")); n != 0 {
		t.Errorf("%d of them in the topic of the records", n)
	}
	got := r.read("dead.deck")
	if len(got) != 5 {
		t.Fatalf("%d dead letters", len(got))
	}
	for _, rec := range got {
		i := int(head(rec, "seq")[0] - '1')
		cut := i >= 1 && i <= 3
		value := string(b.Items[i].Record.Payload)
		if i == 1 {
			value = value[:512]
		}
		if (head(rec, "dead-cut") == "true") != cut || string(rec.Value) != value || rec.Value == nil {
			t.Errorf("letter %d: cut %q, %d bytes", i, head(rec, "dead-cut"), len(rec.Value))
		}
		if head(rec, "dead-letter-id") != []string{"100", "101", "102", "103", "104"}[i] || !strings.HasPrefix(head(rec, "dead-at"), "2023-11-14T22:13:20") ||
			head(rec, "dead-topic") != "data" || head(rec, "gateway") != "ship-7" || head(rec, "generation") != "g1" || head(rec, "replayed") != "true" || head(rec, "source") != "deck" {
			t.Errorf("letter %d: %v", i, rec.Headers)
		}
		if want := b.Letters[i].Reason; head(rec, "dead-reason") != want[:min(len(want), 1024)] {
			t.Errorf("letter %d: reason of %d bytes", i, len(head(rec, "dead-reason")))
		}
	}
	if ref := r.deliver(r.batch(3, 3)); ref != nil || len(r.read("data")) != 3 {
		t.Errorf("records after letters: %v", ref)
	}
}

// Without the topic the letters come back at once, to be sent later; the others
// are sent; a fact tells the command to create it, until it is there. Data goes
// on in the same session.
func TestDeadLetterTopicMissing(t *testing.T) {
	for _, mode := range []string{"wait", "dead-letter"} {
		r := newRig(t, 1, func(c *Config) { c.DeadLetters.Topic, c.UnknownTopic = "dead.{source}", mode }, kfake.SeedTopics(1, "dead.deck"))
		b := letters(r.batch(4, 4))
		b.Items[0].Record.Source, b.Items[2].Record.Source = "engine", "engine"
		r.connect()
		for range 2 {
			for i := range b.Letters {
				b.Letters[i].Later = false
			}
			start := time.Now()
			ref := r.deliver(b)
			if len(ref) != 2 || ref[0].Index != 0 || ref[1].Index != 2 || !b.Letters[0].Later || b.Letters[1].Later || !b.Letters[2].Later {
				t.Fatalf("%v, %+v", ref, b.Letters)
			}
			if time.Since(start) > 5*time.Second {
				t.Error("it was waited for")
			}
			f := r.sink.Facts()[1:] // the first tells of the delivery
			if len(f) != 1 || !f[0].Warn || !strings.Contains(f[0].Value, "--create --topic dead.engine") || strings.Contains(f[0].Value, "unknown_topic") {
				t.Fatalf("%+v", f)
			}
			if ref := r.deliver(r.batch(3, 3)); ref != nil {
				t.Fatal(ref)
			}
		}
		if err := r.c.CreateTopic("dead.engine", 1, nil); err != nil {
			t.Fatal(err)
		}
		if ref := r.deliver(b); ref != nil {
			t.Fatal(ref)
		}
		if f := r.sink.Facts()[1:]; len(f) != 1 || f[0].Warn {
			t.Errorf("%+v", f)
		}
		if n := len(r.read("dead.engine")); n != 2 {
			t.Errorf("%d letters, want 2", n)
		}
	}
}

func TestDeadLetterTopicOptions(t *testing.T) {
	for topic, says := range map[string]string{"dead.{source}": "", "": "", "{nobody}": "{nobody} is not a placeholder", "a b": "does not allow", "data": "is the topic of the records"} {
		c := NewConfig()
		c.Brokers, c.Topic, c.DeadLetters.Topic = []string{"k:1"}, "data", topic
		err := c.Validate()
		if (err == nil) != (says == "") || err != nil && (!strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "dead_letter_topic: ")) {
			t.Errorf("%q: %v", topic, err)
		}
	}
}
