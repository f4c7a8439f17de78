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

// roomWait is how long the reader waits for room in the inbox before the
// connection is given up; well below the time in which a keep-alive must be
// answered.
const roomWait = time.Second

// inbox turns PUBLISH packets into records, delivers what one read brought as
// one delivery and acknowledges it when it is stored. It is bounded by count
// and bytes of what is not yet stored. add, addBad and flush are the reader's.
type inbox struct {
	in       *gateway.Intake
	dec      codec.Decoder
	dec2     codec.Decoder // for through, which runs beside the reader
	maxCount int
	maxBytes int

	recs   []gateway.Record
	cur    *slot
	names  map[string]string // topics seen, so that a topic costs no allocation
	retain []gateway.Tag

	deliverMu sync.Mutex // held over Deliver, which is for one goroutine at a time

	mu      sync.Mutex // guards what follows
	count   int        // messages delivered and not yet stored
	bytes   int
	room    chan struct{} // signalled when count falls, and at the end
	ended   bool          // no more messages are taken
	free    []*slot
	empty   chan struct{} // closed when ended and nothing is outstanding
	seenQ0  bool
	emptied bool
}

// slot is one delivery on its way.
type slot struct {
	box   *inbox
	conn  *conn
	ids   []uint16
	count int
	bytes int
	done  func(error)
}

// keepTopics bounds the topics an inbox remembers.
const keepTopics = 8192

func newInbox(in *gateway.Intake, maxCount, maxBytes int) *inbox {
	return &inbox{in: in, maxCount: maxCount, maxBytes: maxBytes, names: map[string]string{},
		room: make(chan struct{}, 1), empty: make(chan struct{}), retain: []gateway.Tag{{Key: "retained", Value: "true"}}}
}

// topic returns the topic as text that stays.
func (b *inbox) topic(p []byte) string {
	if s, ok := b.names[string(p)]; ok {
		return s
	}
	if len(b.names) >= keepTopics {
		clear(b.names)
	}
	s := string(p)
	b.names[s] = s
	return s
}

// add collects a message. Its bytes must stay until flush.
func (b *inbox) add(c *conn, m publish) error {
	from := len(b.recs)
	return b.collect(c, m, decode(b.dec, b.recs, b.topic(m.topic), m), from)
}

// decode appends the records of a message; one of bad quality with the payload
// when it cannot be decoded.
func decode(dec codec.Decoder, recs []gateway.Record, topic string, m publish) []gateway.Record {
	from := len(recs)
	out, err := dec.Decode(recs, topic, m.payload)
	if err != nil {
		return append(recs[:from], badRecord(topic, m.payload, "decode: "+err.Error()))
	}
	return out
}

// through delivers one message that came through paho. done is called once.
func (b *inbox) through(m publish, done func(error)) {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return // not acknowledged: the broker sends it again
	}
	b.count++
	b.bytes += len(m.payload)
	b.mu.Unlock()
	size := len(m.payload)
	b.deliverMu.Lock()
	defer b.deliverMu.Unlock()
	recs := decode(b.dec2, nil, string(m.topic), m)
	b.mark(m, recs)
	b.in.Deliver(recs, func(err error) {
		done(err)
		b.mu.Lock()
		b.count--
		b.bytes -= size
		b.settle()
		b.mu.Unlock()
		b.signal()
	})
}

// mark tags the records of a retained message.
func (b *inbox) mark(m publish, recs []gateway.Record) {
	if !m.retained {
		return
	}
	for i := range recs {
		recs[i].Tags = append(recs[i].Tags[:len(recs[i].Tags):len(recs[i].Tags)], b.retain...)
	}
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
	b.mark(m, recs[from:])
	if b.cur == nil {
		b.cur = b.slot(c)
	}
	if m.qos > 0 {
		b.cur.ids = append(b.cur.ids, m.id)
	} else {
		b.noteQoS0()
	}
	b.cur.count++
	b.cur.bytes += len(m.payload) + len(m.topic) + 64
	if b.cur.count >= b.maxCount/2 || b.cur.bytes >= b.maxBytes/2 {
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
	if err := b.reserve(s, c); err != nil {
		b.cur, b.recs = nil, b.recs[:0]
		return err
	}
	b.cur = nil
	b.deliverMu.Lock()
	b.in.Deliver(b.recs, s.done)
	b.deliverMu.Unlock()
	clear(b.recs)
	b.recs = b.recs[:0]
	return nil
}

// reserve takes room for s.
func (b *inbox) reserve(s *slot, c *conn) error {
	var timer *time.Timer
	for {
		b.mu.Lock()
		if b.ended {
			b.mu.Unlock()
			return errEnded
		}
		if b.count == 0 || b.count+s.count <= b.maxCount && b.bytes+s.bytes <= b.maxBytes {
			b.count += s.count
			b.bytes += s.bytes
			b.mu.Unlock()
			return nil
		}
		waiting, size := b.count, b.bytes
		b.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(roomWait)
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

// errEnded says that the source is being stopped.
var errEnded = errors.New("source is stopping")

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
		s.conn.ack(s.ids)
	} else {
		c := s.conn
		go func() { _ = c.fail(fmt.Errorf("store messages: %w", err)) }() // closing a secured connection may block
	}
	b := s.box
	b.mu.Lock()
	b.count -= s.count
	b.bytes -= s.bytes
	b.settle()
	s.conn, s.ids, s.count, s.bytes = nil, s.ids[:0], 0, 0
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
	return b.empty
}

// release wakes a waiting reader when its connection is closed.
func (b *inbox) release() { b.signal() }
