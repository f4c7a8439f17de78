package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	// maxScan bounds how long the copy of the position is looked for.
	maxScan     = 5 * time.Minute
	scanLog     = 10 * time.Second
	fetchBytes  = 1 << 20
	factCopy    = "position copy"
	factDeliver = "delivery"
)

// positionCopy is what is known of the topic with copies of the position.
type positionCopy struct {
	known bool // it was looked for
	topic *topic
}

// copyValue is a copy of a position.
type copyValue struct {
	note
	Next uint64    `json:"n"`
	Time time.Time `json:"at"`
}

// findCopy finds out whether there is a position topic.
func (s *Sink) findCopy(ctx context.Context) error {
	name := s.cfg.PositionTopic
	if s.copy.known {
		return nil
	}
	if name == "" {
		s.copy.known = true
		return nil
	}
	client := s.sess.client
	parts, err := call(ctx, s.sess, func() (int, error) {
		b := client.LeastLoadedBroker()
		if b == nil {
			return 0, sarama.ErrOutOfBrokers
		}
		answer, err := b.GetMetadata(&sarama.MetadataRequest{Version: 4, Topics: []string{name}}) // never creates it
		if err != nil {
			return 0, err
		}
		if len(answer.Topics) != 1 {
			return 0, sarama.ErrUnknownTopicOrPartition
		}
		t := answer.Topics[0]
		if t.Err != sarama.ErrNoError && t.Err != sarama.ErrLeaderNotAvailable {
			return 0, t.Err
		}
		return len(t.Partitions), nil
	})
	switch {
	case err == nil && parts > 0:
		s.copy.topic = &topic{name: name, position: true}
		s.facts.set(gateway.Fact{Name: factCopy, Value: "topic " + name})
	case err == nil || isTopicError(err):
		s.copyOff(err)
	default:
		return err
	}
	s.copy.known = true
	return nil
}

// copyOff goes on without a copy, and says so.
func (s *Sink) copyOff(err error) {
	tool := " --bootstrap-server " + s.cfg.Brokers[0]
	name := s.cfg.PositionTopic
	do := "kafka-topics.sh" + tool + " --create --topic " + name + " --partitions 8 --config cleanup.policy=compact"
	if err != nil && !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		do = s.allow() + " --operation Read --operation Write --operation Describe --topic " + name
	}
	text := "no copy of the position: after an absence longer than offsets.retention.minutes (7 days) one batch may come twice"
	s.env.Log.Info(text, "position_topic", name, "reason", err, "command", do)
	s.facts.set(gateway.Fact{Name: factCopy, Value: "none: after more than 7 days of absence one batch may come twice (" + do + ")"})
	s.copy.known, s.copy.topic = true, nil
}

// prepareCopy makes the copy of the position part of the job, and returns the
// name of its topic, "" when there is none.
func (s *Sink) prepareCopy(ctx context.Context, r *round) string {
	t := s.copy.topic
	if t == nil {
		return ""
	}
	if len(t.parts) == 0 || t.refresh {
		ids, err := s.sess.partitions(ctx, t.name, t.refresh)
		if err != nil {
			s.topicTrouble(t, err, r)
			return ""
		}
		t.learn(ids, time.Now())
	}
	if !t.inJob {
		meta, err := s.metadata()
		if err != nil {
			return t.name // complete says what is wrong
		}
		t.inJob = true
		s.job.topics = append(s.job.topics, t)
		s.copyNow(meta)
	}
	return t.name
}

// copyNow puts the copy among what is to be sent.
func (s *Sink) copyNow(meta string) {
	t, key := s.copy.topic, s.positionOf(s.job.batch).key
	v := copyValue{note: s.txn.note, Next: s.txn.next, Time: time.Now().UTC()}
	text, err := json.Marshal(&v)
	if err != nil {
		s.copyOff(err)
		return
	}
	s.txn.copyText, s.txn.copyTime, s.txn.copied = text, v.Time, meta
	p := t.parts[partitionOf([]byte(key), len(t.parts))]
	p.items, p.done = append(p.items[:0], -1), 0
	s.job.left++
}

// copyAnew sends the copy again when more was refused since.
func (s *Sink) copyAnew(meta string) {
	if t := s.copy.topic; t != nil && t.inJob && s.txn.copied != meta {
		s.copyNow(meta)
	}
}

// copyChunk is the chunk with the copy.
func (s *Sink) copyChunk(p *part) *sarama.RecordBatch {
	p.size = 1
	return &sarama.RecordBatch{
		Version: 2, ProducerID: s.prod.id, ProducerEpoch: s.prod.epoch, FirstSequence: s.prod.sequence(p.key), IsTransactional: true,
		FirstTimestamp: s.txn.copyTime.Truncate(time.Millisecond), MaxTimestamp: s.txn.copyTime.Truncate(time.Millisecond),
		Records: []*sarama.Record{{Key: []byte(s.positionOf(s.job.batch).key), Value: s.txn.copyText}},
	}
}

// readCopy looks for the last committed copy under key.
func (s *Sink) readCopy(ctx context.Context, key string, found *position) error {
	t := s.copy.topic
	if t == nil {
		return nil
	}
	ids, err := s.sess.partitions(ctx, t.name, false)
	if err != nil {
		return err
	}
	sc := &scan{s: s, sess: s.sess, topic: t.name, part: ids[partitionOf([]byte(key), len(ids))], key: key, generation: s.job.batch.Generation, found: found}
	return sc.run(ctx)
}

// scan reads a partition of the position topic up to the last stable offset.
type scan struct {
	s          *Sink
	sess       *session
	topic      string
	part       int32
	key        string
	generation string
	next, end  int64
	aborted    map[int64]bool // producers whose transaction at this place was rolled back
	pending    []*sarama.AbortedTransaction
	found      *position
}

func (c *scan) run(ctx context.Context) error {
	begun, said := time.Now(), time.Now()
	offset, err := call(ctx, c.sess, func() (int64, error) { return c.sess.client.GetOffset(c.topic, c.part, sarama.OffsetOldest) })
	if err != nil {
		return err
	}
	c.next = offset
	for {
		more, err := c.fetch(ctx)
		if err != nil || !more {
			return err
		}
		switch now := time.Now(); {
		case now.Sub(begun) > maxScan:
			c.s.env.Log.Warn("looking for the copy of the position takes too long; the batch may come twice", "topic", c.topic, "partition", c.part, "offset", c.next, "of", c.end)
			return nil
		case now.Sub(said) > scanLog:
			said = now
			c.s.env.Log.Info("looking for the copy of the position", "topic", c.topic, "partition", c.part, "offset", c.next, "of", c.end)
		}
	}
}

// fetch reads on, and reports whether there is more.
func (c *scan) fetch(ctx context.Context) (more bool, err error) {
	topic, part, next := c.topic, c.part, c.next
	client := c.sess.client
	block, err := call(ctx, c.sess, func() (*sarama.FetchResponseBlock, error) {
		b, err := client.Leader(topic, part)
		if err != nil {
			return nil, err
		}
		q := &sarama.FetchRequest{Version: 4, MaxWaitTime: 100, MinBytes: 0, MaxBytes: fetchBytes, Isolation: sarama.ReadCommitted}
		q.AddBlock(topic, part, next, fetchBytes, -1)
		answer, err := b.Fetch(q)
		if err != nil {
			return nil, err
		}
		block := answer.GetBlock(topic, part)
		if block == nil {
			return nil, fmt.Errorf("fetch %s/%d: the answer does not name the partition", topic, part)
		}
		return block, answerTo(block.Err, nil)
	})
	if err != nil {
		return false, err
	}
	c.end, c.pending, c.aborted = block.LastStableOffset, block.AbortedTransactions, make(map[int64]bool)
	for _, set := range block.RecordsSet {
		if b := set.RecordBatch; b != nil && b.LastOffset() >= c.next {
			c.take(b)
		}
	}
	return c.next < c.end && c.next > next, nil
}

// take looks at a batch. The list of rolled back transactions tells where each
// begins; its marker, a control record, ends it.
func (c *scan) take(b *sarama.RecordBatch) {
	c.next = b.LastOffset() + 1
	for _, a := range c.pending {
		if a.FirstOffset <= b.LastOffset() && a.FirstOffset >= 0 {
			c.aborted[a.ProducerID] = true
			a.FirstOffset = -1
		}
	}
	if b.Control {
		delete(c.aborted, b.ProducerID)
		return
	}
	if b.IsTransactional && c.aborted[b.ProducerID] {
		return
	}
	for _, r := range b.Records {
		if string(r.Key) == c.key {
			c.consider(r.Value)
		}
	}
}

// consider takes a copy, if it is one of our generation. The last counts.
func (c *scan) consider(value []byte) {
	var v copyValue
	if err := json.Unmarshal(value, &v); err != nil {
		return
	}
	text, err := json.Marshal(&v.note)
	if err != nil {
		return
	}
	n, refused, err := parseNote(string(text))
	if err != nil || n.Generation != c.generation {
		return
	}
	c.found.next, c.found.sum, c.found.refused = v.Next, n.Sum, refused
}
