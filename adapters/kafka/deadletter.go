package kafka

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

// Bounds of what is sent to the dead-letter topic.
const (
	maxDeadReason = 1024 // bytes of the header dead-reason
	cutValue      = 1024 // bytes that are left of a value that is cut
)

// factDeadTopic is the name of the fact about the dead-letter topic.
const factDeadTopic = "dead-letter topic"

// DeadLetters are the options of the dead-letter topic.
type DeadLetters struct {
	Topic string `yaml:"dead_letter_topic" doc:"Topic that records refused for good are sent to as well, with the headers dead-reason, dead-at, dead-letter-id and dead-topic. The same placeholders as topic. Empty: they are only kept in the gateway."`
	Keep  bool   `yaml:"dead_letter_keep" doc:"Whether a dead letter stays in the gateway, to be retried or dropped, once it is on dead_letter_topic."`
}

// check checks the options. topic is that of the records themselves.
func (d *DeadLetters) check(f *faults, topic string) {
	switch t, err := parseTemplate(d.Topic); {
	case d.Topic == "":
	case err != nil:
		f.add("dead_letter_topic", err.Error(), placeholderHint)
	case t.badTopicText() != "":
		f.add("dead_letter_topic", fmt.Sprintf("%q holds characters Kafka does not allow in a topic", t.badTopicText()), "use letters, digits, '.', '_' and '-'")
	case d.Topic == topic:
		f.add("dead_letter_topic", "is the topic of the records themselves", "what one topic refuses needs another one")
	}
}

// LettersToo implements gateway.LetterSink.
func (s *Sink) LettersToo() (yes, keep bool) {
	return s.cfg.Topic != "" && s.cfg.DeadLetters.Topic != "", s.cfg.Keep
}

// topicText appends the text of the topic for a record of b.
func (s *Sink) topicText(dst []byte, b *gateway.Batch, r *gateway.Record) []byte {
	if b.Letters != nil {
		return s.deadTopicOf.expand(dst, s.origin(b), r)
	}
	return s.topicOf.expand(dst, s.origin(b), r)
}

// deadLetter makes of rec, the record of item, that for the dead-letter topic:
// with the headers that say what happened, and cut when it is too large there
// as well.
func (s *Sink) deadLetter(item *gateway.Item, rec *sarama.Record) {
	a, b := &s.arena, s.job.batch
	i, ok := slices.BinarySearchFunc(b.Items, item.Seq, func(x gateway.Item, seq uint64) int {
		return cmp.Compare(x.Seq, seq)
	})
	if !ok || i >= len(b.Letters) {
		return
	}
	l, first := &b.Letters[i], len(a.hptr)-len(rec.Headers)
	if !s.form.own { // they are off; of a dead letter they are what it is about
		a.headers(item, s.form.enc.ContentType(&item.Record), rec.Key)
	}
	a.text([]byte("dead-reason"), l.Reason[:min(len(l.Reason), maxDeadReason)])
	a.stamp([]byte("dead-at"), l.At)
	a.text([]byte("dead-letter-id"), strconv.FormatUint(l.ID, 10))
	a.text([]byte("dead-topic"), topicName(s.topicOf.expand(nil, s.origin(b), &item.Record)))
	rec.Headers = a.hptr[first:len(a.hptr):len(a.hptr)]
	if !l.Cut && batchOverhead+recordSize(rec) <= int(s.cfg.MaxMessage) {
		return
	}
	rec.Value = rec.Value[:min(len(rec.Value), cutValue, int(s.cfg.MaxMessage)/8)]
	if rec.Value == nil {
		rec.Value = []byte{} // null would be a tombstone
	}
	a.text([]byte("dead-cut"), "true")
	rec.Headers = a.hptr[first:len(a.hptr):len(a.hptr)]
}

// postponeLetters gives up the dead letters for a topic that cannot be written,
// for now: nothing else waits for it.
func (s *Sink) postponeLetters(t *topic, err error) {
	t.trouble, t.refresh = nil, true
	hint := strings.Replace(s.hint(err, t.name), ", or set unknown_topic: dead-letter", "", 1)
	before := len(s.job.refused)
	s.refuseAll(t, fmt.Sprintf("dead-letter topic %s: %v", t.name, err))
	for i := before; i < len(s.job.refused); i++ {
		s.job.batch.Letters[s.job.refused[i].Index].Later = true
	}
	s.facts.set(gateway.Fact{Name: factDeadTopic, Warn: true, Value: fmt.Sprintf("%s: %v: dead letters are kept here, and tried again every minute%s", t.name, err, hint)})
}

// lettersSent takes the warning back when all letters of a batch were taken.
func (s *Sink) lettersSent() {
	if !slices.ContainsFunc(s.job.refused, func(r gateway.Refusal) bool { return s.job.batch.Letters[r.Index].Later }) {
		s.facts.set(gateway.Fact{Name: factDeadTopic, Value: "last used " + time.Now().UTC().Format(time.RFC3339)})
	}
}
