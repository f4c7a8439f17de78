package kafka

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

// maxTopics bounds the cache of topics. The cache is emptied when it is
// exceeded; sequence numbers live elsewhere.
const maxTopics = 4096

// job is the batch under way: what is confirmed, refused and in doubt. It
// outlives Send until the batch is done or another one comes.
type job struct {
	batch   *gateway.Batch
	id      batchID
	topics  []*topic // that the batch has records for
	refused []gateway.Refusal
	left    int  // records neither confirmed nor refused, and the copy of the position
	placed  bool // the records are dealt to their topics
	closed  bool // the transaction is committed, or needs none
	bare    bool // the position cannot go with it
}

// batchID tells whether a batch is the same as before, even if the forwarder
// uses its memory again.
type batchID struct {
	ptr         *gateway.Batch
	lane        gateway.Lane
	laneName    string
	gateway     string
	generation  string
	replayed    bool
	n           int
	first, last uint64
}

func identityOf(b *gateway.Batch) batchID {
	id := batchID{ptr: b, lane: b.Lane, laneName: b.LaneName, gateway: b.Gateway, generation: b.Generation, replayed: b.Replayed, n: len(b.Items)}
	if id.n > 0 {
		id.first, id.last = b.Items[0].Seq, b.Items[id.n-1].Seq
	}
	return id
}

// topic is what is known about a topic and its share of the job.
type topic struct {
	name    string
	parts   []*part // empty when the partitions are not known
	learned time.Time
	refresh bool // the cached metadata is not to be believed

	items   []int32 // of the job, until dealt to the parts
	inJob   bool
	trouble error // last answer that the topic cannot be written, perhaps for a moment
	blocked error // why it is not tried again in this Send

	position bool // it holds copies of the position
}

// part is a partition and its share of the job.
type part struct {
	topic  *topic
	key    partitionKey
	leader *sarama.Broker

	items []int32 // indexes into the batch, in order
	done  int     // items[:done] are confirmed or refused
	size  int     // records of the chunk already built, 0 when none is
	ends  []int   // ends of the pieces of a rejected chunk, nearest last
	doubt bool    // the chunk may have been appended
	stale bool    // the chunk waits for a new producer id
}

// onlyNotices reports whether all that is left for t are notices of the gateway
// about itself: they must not hold up the data when nobody has made a topic for
// them.
func (j *job) onlyNotices(t *topic) bool {
	notice := func(i int32) bool { return j.batch.Items[i].Record.Source == gateway.NoticeSource }
	for _, i := range t.items {
		if !notice(i) {
			return false
		}
	}
	for _, p := range t.parts {
		for _, i := range p.items[p.done:] {
			if !notice(i) {
				return false
			}
		}
	}
	return true
}

// origin is what the templates need of the job's batch.
func (s *Sink) origin(b *gateway.Batch) origin {
	return origin{cmp.Or(b.Gateway, s.env.GatewayID), laneOf(b)}
}

// laneOf is the name of the batch's lane.
func laneOf(b *gateway.Batch) string {
	if b.LaneName != "" {
		return b.LaneName
	}
	return b.Lane.String()
}

func (p *part) left() int { return len(p.items) - p.done }

// limit is the largest number of records the next chunk may have.
func (p *part) limit() int {
	if p.size > 0 {
		return p.size
	}
	if n := len(p.ends); n > 0 {
		return p.ends[n-1] - p.done
	}
	return p.left()
}

// settle counts n records of p as done.
func (p *part) settle(n int) {
	p.done += n
	p.size, p.doubt, p.stale = 0, false, false
	for len(p.ends) > 0 && p.ends[len(p.ends)-1] <= p.done {
		p.ends = p.ends[:len(p.ends)-1]
	}
}

// halve prepares a rejected chunk of more than one record to be sent in two.
func (p *part) halve() {
	end, half := p.done+p.size, p.done+p.size/2
	if n := len(p.ends); n == 0 || p.ends[n-1] != end {
		p.ends = append(p.ends, end)
	}
	p.ends = append(p.ends, half)
	p.size, p.doubt = 0, false
}

// topicCache finds topics by the text their template expands to.
type topicCache struct {
	byText map[string]*topic // before characters are replaced
	byName map[string]*topic
	text   []byte // scratch
}

func (c *topicCache) clear() {
	c.byText, c.byName = make(map[string]*topic), make(map[string]*topic)
}

// find returns the topic of the text in c.text.
func (c *topicCache) find() *topic {
	if t, ok := c.byText[string(c.text)]; ok {
		return t
	}
	name := topicName(c.text)
	t, ok := c.byName[name]
	if !ok {
		t = &topic{name: name}
		c.byName[name] = t
	}
	c.byText[string(c.text)] = t
	return t
}

// forgetLeaders makes every leader be looked up again: brokers belong to a
// session.
func (c *topicCache) forgetLeaders(also []*topic) {
	for _, t := range c.byName {
		t.forgetLeaders()
	}
	for _, t := range also {
		t.forgetLeaders()
	}
}

func (t *topic) forgetLeaders() {
	for _, p := range t.parts {
		p.leader = nil
	}
}

// take makes b the job. A batch that was given up while a chunk of it was in
// doubt costs the producer id: see the package comment.
func (s *Sink) take(b *gateway.Batch) {
	id := identityOf(b)
	if s.job.batch != nil && s.job.id == id {
		for _, t := range s.job.topics {
			t.blocked = nil
		}
		return
	}
	s.endJob("another batch came while one was in doubt")
	if len(s.topics.byText) > maxTopics {
		s.topics.clear()
	}
	s.job.batch, s.job.id, s.job.left = b, id, len(b.Items)
}

// assign deals the records from the one of that index on to their topics.
func (s *Sink) assign(from int) {
	b := s.job.batch
	o := s.origin(b)
	for i := from; i < len(b.Items); i++ {
		s.topics.text = s.topicOf.expand(s.topics.text[:0], o, &b.Items[i].Record)
		t := s.topics.find()
		if !t.inJob {
			t.inJob = true
			s.job.topics = append(s.job.topics, t)
		}
		t.items = append(t.items, int32(i))
	}
	s.job.placed = true
}

// endJob clears the job. What was sent and not confirmed must not be sent under
// the same sequence numbers or in the same transaction again.
func (s *Sink) endJob(why string) {
	doubt := s.undeal()
	switch {
	case s.exact && !s.txn.begun.IsZero():
		_ = s.reset(nil)
	case !s.exact && doubt:
		s.renew(why)
	}
	clear(s.job.topics)
	s.job = job{topics: s.job.topics[:0], refused: nil}
}

// undeal takes the records back from the topics, and reports whether a chunk of
// them is in doubt.
func (s *Sink) undeal() (doubt bool) {
	for _, t := range s.job.topics {
		for _, p := range t.parts {
			doubt = doubt || p.doubt
			p.items, p.ends = p.items[:0], p.ends[:0]
			p.done, p.size, p.doubt, p.stale = 0, 0, false, false
		}
		t.items, t.inJob, t.trouble, t.blocked = t.items[:0], false, nil, nil
	}
	return doubt
}

// rewind begins the job anew.
func (s *Sink) rewind() {
	s.undeal()
	clear(s.job.topics)
	j := job{batch: s.job.batch, id: s.job.id, topics: s.job.topics[:0], bare: s.job.bare}
	if j.batch != nil {
		j.left = len(j.batch.Items)
	}
	s.job = j
}

// renew gives the producer id up.
func (s *Sink) renew(why string) {
	s.env.Log.Warn("giving up the producer id: records in doubt may arrive twice, with the same seq",
		"producer_id", s.prod.id, "reason", why)
	s.prod.forget()
}

// learn sets the partitions of t.
func (t *topic) learn(ids []int32, now time.Time) {
	t.learned, t.refresh, t.trouble = now, false, nil
	if len(ids) == len(t.parts) && slices.EqualFunc(ids, t.parts, func(id int32, p *part) bool { return id == p.key.id }) {
		return
	}
	t.parts = make([]*part, len(ids))
	for i, id := range ids {
		t.parts[i] = &part{topic: t, key: partitionKey{t.name, id}}
	}
}

// deal shares the records of t out to its partitions, by the hash of the key.
func (s *Sink) deal(t *topic) {
	o := s.origin(s.job.batch)
	for _, i := range t.items {
		s.topics.text = s.keyOf.expand(s.topics.text[:0], o, &s.job.batch.Items[i].Record)
		p := t.parts[partitionOf(s.topics.text, len(t.parts))]
		p.items = append(p.items, i)
	}
	t.items = t.items[:0]
}

// refuse gives up the first record of p that is not done.
func (s *Sink) refuse(p *part, reason string) {
	if p.topic.position {
		s.copyOff(errors.New(reason))
		s.job.left--
		p.settle(1)
		return
	}
	s.job.refused = append(s.job.refused, gateway.Refusal{Index: int(p.items[p.done]), Reason: reason})
	s.job.left--
	p.settle(1)
}

// refuseAll gives up all that is left of t. A chunk in doubt stays in doubt.
func (s *Sink) refuseAll(t *topic, reason string) {
	for _, i := range t.items {
		s.job.refused = append(s.job.refused, gateway.Refusal{Index: int(i), Reason: reason})
	}
	s.job.left -= len(t.items)
	t.items = t.items[:0]
	for _, p := range t.parts {
		for _, i := range p.items[p.done:] {
			if t.position {
				break
			}
			s.job.refused = append(s.job.refused, gateway.Refusal{Index: int(i), Reason: reason})
		}
		s.job.left -= p.left()
		p.items = p.items[:p.done]
	}
}
