package kafka

import (
	"strings"
	"testing"

	"github.com/waystation-iot/waystation/gateway"
)

// Records carry whose queue numbered them, and that they are sent again.
func TestOriginAndReplayHeaders(t *testing.T) {
	for want, b := range map[string]gateway.Batch{
		"gw1 g1 telemetry -":       {Lane: 1, Generation: "g1"},
		"gw1 g1 images -":          {Lane: 1, LaneName: "images", Generation: "g1"},
		"ship-7 g7 telemetry -":    {Lane: 5, LaneName: "telemetry", Gateway: "ship-7", Generation: "g7"},
		"gw1 g1 telemetry true":    {Lane: 1, Generation: "g1", Replayed: true},
		"ship-7 g7 telemetry true": {Lane: 5, LaneName: "telemetry", Gateway: "ship-7", Generation: "g7", Replayed: true},
	} {
		r := newRig(t, 1, func(c *Config) { c.Topic = "{gateway}.{lane}" })
		words := strings.Fields(want)
		topic := words[0] + "." + words[2]
		if err := r.c.CreateTopic(topic, 4, nil); err != nil {
			t.Fatal(err)
		}
		b.Items = r.batch(2, 2).Items
		if ref := r.deliver(&b); ref != nil {
			t.Fatal(ref)
		}
		got := r.read(topic)
		if len(got) != 2 {
			t.Fatalf("%s: %d records in %s", want, len(got), topic)
		}
		for _, rec := range got {
			again := head(rec, "replayed")
			if again == "" {
				again = "-"
			}
			if says := strings.Join([]string{head(rec, "gateway"), head(rec, "generation"), head(rec, "lane"), again}, " "); says != want {
				t.Errorf("headers say %q, want %q", says, want)
			}
		}
		r.deliver(&gateway.Batch{Lane: b.Lane, LaneName: b.LaneName, Gateway: b.Gateway, Generation: "g9", Items: r.batch(1, 1).Items})
		for _, rec := range r.read(topic) {
			if head(rec, "generation") == "g9" && head(rec, "replayed") != "" {
				t.Errorf("a live record after a batch of %q is called replayed", want)
			}
		}
	}
}

// What is under way is another batch when anything that says which records it
// holds is different, though the memory and the seqs are the same.
func TestBatchIdentity(t *testing.T) {
	b := &gateway.Batch{Lane: 1, LaneName: "telemetry", Generation: "g1", Items: []gateway.Item{{Seq: 1}, {Seq: 2}}}
	was := identityOf(b)
	if identityOf(b) != was {
		t.Fatal("a batch is another than itself")
	}
	for what, change := range map[string]func(*gateway.Batch){
		"lane":       func(b *gateway.Batch) { b.Lane = 2 },
		"lane name":  func(b *gateway.Batch) { b.LaneName = "bulk" },
		"gateway":    func(b *gateway.Batch) { b.Gateway = "ship-7" },
		"generation": func(b *gateway.Batch) { b.Generation = "g7" },
		"replayed":   func(b *gateway.Batch) { b.Replayed = true },
		"length":     func(b *gateway.Batch) { b.Items = b.Items[:1] },
		"first":      func(b *gateway.Batch) { b.Items = b.Items[1:] },
	} {
		before := *b
		change(b)
		if identityOf(b) == was {
			t.Errorf("a batch of another %s is taken for the one before", what)
		}
		*b = before
	}
}
