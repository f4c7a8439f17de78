package mqtt

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// errBehind says that more messages wait to be stored than allowed.
var errBehind = errors.New("storing is too far behind")

// errEnded says that the source is being stopped.
var errEnded = errors.New("source is stopping")

// inbox turns PUBLISH packets into records, delivers what one read brought as
// one delivery and acknowledges it when it is stored. It is bounded by count
// and bytes of what is not yet stored. add, addBad and flush are the reader's.
type inbox struct {
	in       *gateway.Intake
	dec      codec.Decoder
	maxCount int
	maxBytes int
	roomWait time.Duration // how long the reader waits for room before the connection is given up

	recs   []gateway.Record
	cur    *slot
	names  map[string]string // topics seen, so that a topic costs no allocation
	retain []gateway.Tag
	seenQ0 bool

	deliverMu sync.Mutex // guards stopped; held over Deliver
	stopped   bool       // nothing more is delivered: Run has returned

	mu      sync.Mutex // guards what follows
	count   int        // messages delivered and not yet stored
	bytes   int
	room    chan struct{} // signalled when count falls, and at the end
	ended   bool          // no more messages are taken
	free    []*slot
	empty   chan struct{} // closed when ended and nothing is outstanding
	emptied bool
}

// slot is one delivery on its way.
type slot struct {
	box   *inbox
	conn  *conn
	acks  []byte // the packets that acknowledge it
	count int
	bytes int
	lazy  bool // nobody waits for it: all of QoS 0, and there is plenty of room
	done  func(error)
}

// Bounds of what an inbox keeps.
const (
	keepTopics   = 8192  // topics remembered
	keepTopicLen = 256   // bytes of a topic worth remembering
	maxRecords   = 16384 // records of one delivery, far below the limit of the queue
)

func newInbox(in *gateway.Intake, dec codec.Decoder, cfg *Config) *inbox {
	return &inbox{in: in, dec: dec, maxCount: cfg.MaxInflight, maxBytes: int(cfg.MaxBytes), roomWait: cfg.Timeout / 2,
		names: map[string]string{}, room: make(chan struct{}, 1), empty: make(chan struct{}),
		retain: []gateway.Tag{{Key: "retained", Value: "true"}}}
}

// topic returns the topic as text that stays.
func (b *inbox) topic(p []byte) string {
	if s, ok := b.names[string(p)]; ok {
		return s
	}
	s := string(p)
	if len(s) > keepTopicLen {
		return s
	}
	if len(b.names) >= keepTopics {
		clear(b.names)
	}
	b.names[s] = s
	return s
}

// add collects a message. Its bytes must stay until flush.
func (b *inbox) add(c *conn, m publish) error {
	from := len(b.recs)
	return b.collect(c, m, b.decode(m), from)
}

// decode appends the records of a message to recs: one of bad quality with the
// payload when it cannot be decoded, or the codec panics on it.
func (b *inbox) decode(m publish) (recs []gateway.Record) {
	from, topic := len(b.recs), b.topic(m.topic)
	defer func() {
		if r := recover(); r != nil {
			recs = append(b.recs[:from], badRecord(topic, m.payload, fmt.Sprintf("decode: panic: %v", r)))
		}
	}()
	out, err := b.dec.Decode(b.recs, topic, m.payload)
	if err != nil {
		return append(b.recs[:from], badRecord(topic, m.payload, "decode: "+err.Error()))
	}
	return out
}

// addBad collects a message as a record of bad quality and delivers it.
func (b *inbox) addBad(c *conn, m publish, reason string) error {
	if err := b.collect(c, m, append(b.recs, badRecord(b.topic(m.topic), m.payload, reason)), len(b.recs)); err != nil {
		return err
	}
	return b.flush(c)
}

func badRecord(topic string, payload []byte, reason string) gateway.Record {
	if payload == nil {
		payload = []byte{}
	}
	return gateway.Record{Device: topic, Name: topic, Payload: payload, ContentType: codec.DefaultContentType,
		Quality: gateway.Bad, Reason: reason}
}

// collect takes the records recs[from:] of a message into the delivery being built.
func (b *inbox) collect(c *conn, m publish, recs []gateway.Record, from int) error {
	b.recs = recs
	for i := from; i < len(recs) && m.retained; i++ {
		tags := recs[i].Tags
		recs[i].Tags = append(tags[:len(tags):len(tags)], b.retain...)
	}
	if b.cur == nil {
		b.cur = b.slot(c)
	}
	if m.qos == 0 {
		b.noteQoS0()
	}
	b.cur.acks = m.appendAck(b.cur.acks)
	b.cur.count++
	b.cur.bytes += len(m.payload) + len(m.topic) + 64
	if b.cur.count >= b.maxCount/2 || b.cur.bytes >= b.maxBytes/2 || len(recs) >= maxRecords {
		return b.flush(c)
	}
	return nil
}

// noteQoS0 shows once that messages arrive which a broken link loses.
func (b *inbox) noteQoS0() {
	if b.seenQ0 {
		return
	}
	b.seenQ0 = true
	b.in.Note("messages arrive at QoS 0: they are lost whenever the link is; have the devices publish at QoS 1")
}

// flush delivers what is collected. It waits a moment for room when too much
// is not yet stored, and returns errBehind when there is none.
func (b *inbox) flush(c *conn) error {
	s := b.cur
	if s == nil {
		return nil
	}
	b.cur = nil
	err := b.reserve(s, c)
	if err == nil {
		err = b.deliver(s)
	}
	clear(b.recs)
	b.recs = b.recs[:0]
	return err
}

// deliver hands the collected records to the intake.
func (b *inbox) deliver(s *slot) error {
	b.deliverMu.Lock()
	defer b.deliverMu.Unlock()
	if b.stopped {
		return errEnded
	}
	if s.lazy {
		b.in.DeliverLazy(b.recs, s.done)
	} else {
		b.in.Deliver(b.recs, s.done)
	}
	return nil
}

// reserve takes room for s. Once the inbox has ended it drops what is read until
// the connection is closed, so that what was delivered can still be acknowledged.
func (b *inbox) reserve(s *slot, c *conn) error {
	var timer *time.Timer
	for {
		b.mu.Lock()
		ended, waiting, size := b.ended, b.count, b.bytes
		fits := b.count == 0 || b.count+s.count <= b.maxCount && b.bytes+s.bytes <= b.maxBytes
		if fits && !ended {
			b.count += s.count
			b.bytes += s.bytes
			s.lazy = len(s.acks) == 0 && b.count <= b.maxCount/4 && b.bytes <= b.maxBytes/4
		}
		b.mu.Unlock()
		if ended {
			c.forget()
			<-c.closed
			return errEnded
		}
		if fits {
			return nil
		}
		if timer == nil {
			timer = time.NewTimer(b.roomWait)
			defer timer.Stop()
		}
		select {
		case <-b.room:
		case <-c.closed:
			return errEnded
		case <-timer.C:
			return fmt.Errorf("%w: %d messages of %d bytes wait for the disk; the broker keeps the rest", errBehind, waiting, size)
		}
	}
}

// slot returns an empty slot for a connection.
func (b *inbox) slot(c *conn) *slot {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.free); n > 0 {
		s := b.free[n-1]
		b.free = b.free[:n-1]
		s.conn = c
		return s
	}
	s := &slot{box: b, conn: c}
	s.done = s.stored
	return s
}

// stored is called by the queue, in the order of delivery.
func (s *slot) stored(err error) {
	if err == nil {
		s.conn.ack(s.acks)
	} else {
		c := s.conn
		go func() { _ = c.fail(fmt.Errorf("store messages: %w", err)) }() // closing a secured connection may block
	}
	b := s.box
	b.mu.Lock()
	b.count -= s.count
	b.bytes -= s.bytes
	b.settle()
	s.conn, s.acks, s.count, s.bytes, s.lazy = nil, s.acks[:0], 0, 0, false
	if len(b.free) < 64 {
		b.free = append(b.free, s)
	}
	b.mu.Unlock()
	b.signal()
}

// settle closes empty when the inbox has ended and nothing is outstanding. mu is held.
func (b *inbox) settle() {
	if b.ended && b.count == 0 && !b.emptied {
		b.emptied = true
		close(b.empty)
	}
}

func (b *inbox) signal() {
	select {
	case b.room <- struct{}{}:
	default:
	}
}

// end stops taking messages. The returned channel is closed when everything
// delivered has been stored and acknowledged.
func (b *inbox) end() <-chan struct{} {
	b.mu.Lock()
	b.ended = true
	b.settle()
	b.mu.Unlock()
	b.signal()
	b.hurry()
	return b.empty
}

// hurry has what was delivered lazily stored now: it comes before something
// that is waited for. A delivery under way is not held up.
func (b *inbox) hurry() {
	if !b.deliverMu.TryLock() {
		return
	}
	defer b.deliverMu.Unlock()
	if !b.stopped {
		b.in.Deliver(nil, func(error) {})
	}
}

// stop makes sure that nothing is delivered any more: the intake is free for
// the next Run when it returns.
func (b *inbox) stop() {
	b.deliverMu.Lock()
	defer b.deliverMu.Unlock()
	b.stopped = true
}
