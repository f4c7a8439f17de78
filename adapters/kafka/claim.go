package kafka

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// ClaimContentType is the media type of a reference to a large value.
const ClaimContentType = "application/vnd.waystation.claim+json"

// askAgain is when a batch that waits for an upload is asked for again if the
// end of the upload does not wake it.
const askAgain = time.Minute

// claims is the claim check of a sink: values that are too large for the topic
// go to a store, and a reference goes to Kafka. Send spools such a value and
// puts its batch off; a goroutine uploads one value after the other; the batch
// that comes again finds its values stored, and is sent. nil does nothing.
type claims struct {
	opt   *Large
	addr  string // "kafka shore"
	log   *slog.Logger
	spool spool
	store objectStore
	pace  pace
	first time.Duration // the first pause after trouble; doubles up to most
	most  time.Duration

	// Of the batch being sent; Send's goroutine alone.
	refs    map[uint64]*reference // by seq
	scratch []byte

	wake chan struct{} // capacity 1: something that was put off can go on
	hand chan struct{} // capacity 1: there is something to spool
	work chan struct{} // capacity 1: there is something to upload

	mu     sync.Mutex // guards what follows
	open   bool
	stop   context.CancelFunc // of spooler and uploader; nil = they do not run
	ended  chan struct{}      // closed when they have ended
	values []handed           // that are to be spooled
	handed int64              // bytes of them
	turned bool               // one was turned away meanwhile
	local  error              // why the last value could not be spooled
	all    map[recordID]*claim
	used   int64 // bytes of values in the spool
	last   uint64
	moved  int64 // bytes of the value being uploaded that are sent
	stored int64 // values stored since the start
	down   error // why the store does not take anything now
}

// handed is a value on its way to the spool, with what names it.
type handed struct {
	claim *claim
	value []byte
	from  gateway.Record
}

// maxHanded bounds the values in memory on their way to the spool, bytes; one
// is taken whatever its size.
const maxHanded = 8 << 20

// reference is what goes to Kafka in place of a value.
type reference struct {
	value   []byte
	url     []byte
	refused string // the record goes to the dead letters instead
}

// claimText is the JSON of a reference.
type claimText struct {
	Claim    int    `json:"claim"` // version of this form
	URL      string `json:"url"`
	Endpoint string `json:"endpoint,omitempty"`
	Bucket   string `json:"bucket,omitempty"`
	Key      string `json:"key"`
	Bytes    int64  `json:"bytes"`
	SHA256   string `json:"sha256"`
	Type     string `json:"content_type,omitempty"`
}

// newClaims makes the claim check, nil when no store is configured.
func (s *Sink) newClaims() *claims {
	o := &s.cfg.Large
	if o.Store.Type == "" {
		return nil
	}
	c := &claims{opt: o, addr: s.addr, log: s.env.Log, store: s.newStore(), pace: pace{rate: int64(o.Rate)},
		first: time.Second, most: time.Minute, spool: spool{max: int64(o.Spool)},
		wake: make(chan struct{}, 1), hand: make(chan struct{}, 1), work: make(chan struct{}, 1), all: map[recordID]*claim{}}
	if s.env.State != "" {
		c.spool.dir = filepath.Join(s.env.State, "large")
	}
	return c
}

// Wake implements gateway.Waker.
func (s *Sink) Wake() <-chan struct{} {
	if s.claims == nil {
		return nil
	}
	return s.claims.wake
}

// reference returns what stands for the value of a record of the batch being
// sent, nil when the value itself goes to Kafka; an error says that the record
// is to be refused.
func (c *claims) reference(seq uint64) (*reference, error) {
	if c == nil {
		return nil, nil
	}
	r := c.refs[seq]
	if r != nil && r.refused != "" {
		return nil, errors.New(r.refused)
	}
	return r, nil
}

// header is the header that a reference adds.
func (r *reference) header() *sarama.RecordHeader {
	return &sarama.RecordHeader{Key: []byte("claim"), Value: r.url}
}

// ready makes sure that every value of b which is too large for Kafka is in
// the store. While one is not it returns a *gateway.LaterError: nothing of b
// has been sent then.
func (s *Sink) ready(b *gateway.Batch) error {
	c := s.claims
	if c == nil {
		return nil
	}
	clear(c.refs)
	if b.Letters != nil { // what goes to the dead-letter topic is cut instead
		return nil
	}
	if err := c.start(); err != nil {
		return &gateway.LaterError{After: askAgain, Err: fmt.Errorf("%s: %w", c.addr, err)}
	}
	var waits error
	waiting := 0
	for i := range b.Items {
		ref, err := s.claimFor(b, &b.Items[i])
		if err != nil {
			waiting++
			if waits == nil {
				waits = err
			}
			continue
		}
		if ref != nil {
			if c.refs == nil {
				c.refs = map[uint64]*reference{}
			}
			c.refs[b.Items[i].Seq] = ref
		}
	}
	if waits == nil {
		return nil
	}
	if waiting > 1 {
		waits = fmt.Errorf("%w; %d more wait", waits, waiting-1)
	}
	return &gateway.LaterError{After: askAgain, Err: fmt.Errorf("%s: %w", c.addr, waits)}
}

// claimFor returns the reference for a record whose value is too large, nil
// for another. An error says why it is not in the store yet.
func (s *Sink) claimFor(b *gateway.Batch, item *gateway.Item) (*reference, error) {
	c, r := s.claims, &item.Record
	room := s.roomFor(b, r)
	if mostOf(r, s.form.raw) <= room {
		return nil, nil
	}
	id := recordID{Gateway: cmp.Or(b.Gateway, s.env.GatewayID), Generation: b.Generation, Lane: laneOf(b), Seq: item.Seq, Replayed: b.Replayed}
	if ref, err, known := c.known(id); known {
		return ref, err
	}
	value, err := r.Payload, error(nil)
	if !s.form.raw || r.Payload == nil {
		at := codec.Position{Gateway: id.Gateway, Generation: id.Generation, Lane: id.Lane, Seq: id.Seq, Replayed: id.Replayed}
		if c.scratch, err = s.form.enc.Encode(c.scratch[:0], r, &at); err != nil {
			return nil, nil // record refuses it with the reason
		}
		value = c.scratch
	}
	defer func() {
		if cap(c.scratch) > keepArena {
			c.scratch = nil
		}
	}()
	if len(value) <= room {
		return nil, nil
	}
	cl := &claim{Record: id, Store: c.store.id(), Bytes: int64(len(value)), Type: strings.Clone(s.form.enc.ContentType(r)), Asked: time.Now().UTC()}
	return c.add(cl, value, r)
}

// roomFor is how large the value of a record may be to go to Kafka itself: so
// that it fits a message with its key and headers, and is not above the limit.
func (s *Sink) roomFor(b *gateway.Batch, r *gateway.Record) int {
	const fixed = batchOverhead + 640 // times, seq, names of the headers, lengths
	c := s.claims
	c.scratch = s.keyOf.expand(c.scratch[:0], s.origin(b), r)
	room := int(s.cfg.MaxMessage) - fixed - len(c.scratch) - len(s.env.GatewayID) - len(b.Gateway) - len(b.Generation) -
		len(r.Source) - len(r.Name) - len(r.Reason) - len(r.ContentType)
	for i := range r.Tags {
		room -= 16 + len(r.Tags[i].Key) + len(r.Tags[i].Value)
	}
	if above := int(min(c.opt.Above, maxMessage)); above > 0 {
		room = min(room, above)
	}
	return max(room, 0)
}

// mostOf is the most that the value of a record can take, without making it.
func mostOf(r *gateway.Record, raw bool) int {
	if raw && r.Payload != nil {
		return len(r.Payload)
	}
	n := 1024 + len(r.Payload)*2 + len(r.ContentType)
	text := len(r.Source) + len(r.Device) + len(r.Name) + len(r.Reason)
	for i := range r.Tags {
		text += 8 + len(r.Tags[i].Key) + len(r.Tags[i].Value)
	}
	for i := range r.Values {
		v := &r.Values[i]
		n += 160
		text += len(v.Name) + len(v.Unit) + len(v.Reason) + len(v.Text())
	}
	return n + 6*text // each byte may become six, as in \u0000
}

// known returns what is known of a record's value.
func (c *claims) known(id recordID) (ref *reference, err error, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.all[id]
	if cl == nil {
		return nil, nil, false
	}
	cl.Asked = time.Now().UTC()
	ref, err = c.state(cl)
	return ref, err, true
}

// state returns the reference of a claim, or why it waits. c.mu is held.
func (c *claims) state(cl *claim) (*reference, error) {
	switch {
	case cl.refused != "":
		return &reference{refused: cl.refused}, nil
	case cl.Done:
		return c.referenceTo(cl), nil
	case cl.spooling:
		return nil, fmt.Errorf("a value of %s is written to the spool", gateway.Size(cl.Bytes))
	case cl.trouble != nil:
		return nil, fmt.Errorf("a value of %s waits for its upload: %w", gateway.Size(cl.Bytes), cl.trouble)
	case c.down != nil:
		return nil, fmt.Errorf("a value of %s waits for its upload: %w", gateway.Size(cl.Bytes), c.down)
	}
	return nil, fmt.Errorf("a value of %s is on its way to %s", gateway.Size(cl.Bytes), c.store.url(cl.Key))
}

// referenceTo makes the reference: the same text for the same record, always.
func (c *claims) referenceTo(cl *claim) *reference {
	t := claimText{Claim: 1, URL: c.store.url(cl.Key), Key: cl.Key, Bytes: cl.Bytes, SHA256: cl.SHA256, Type: cl.Type}
	if c.opt.Store.Type == wordS3 {
		t.Endpoint, t.Bucket = c.opt.Store.Endpoint, c.opt.Store.Bucket
	}
	b, _ := json.Marshal(t) // texts and numbers: it cannot fail
	return &reference{value: b, url: []byte(t.URL)}
}

// add hands a value to the spooler. What it takes of value and r it copies:
// writing a large value takes a slow medium seconds, and the other lanes must
// not wait for that.
func (c *claims) add(cl *claim, value []byte, r *gateway.Record) (*reference, error) {
	if cl.Bytes > c.spool.max {
		return &reference{refused: fmt.Sprintf("value of %d bytes exceeds large.spool_bytes %d", cl.Bytes, c.spool.max)}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handed > 0 && c.handed+cl.Bytes > maxHanded {
		c.turned = true
		return nil, fmt.Errorf("a value of %s waits for room in the spool", gateway.Size(cl.Bytes))
	}
	if !c.makeRoom(cl.Bytes) {
		return nil, fmt.Errorf("the spool of large values is full: %s wait for their upload", gateway.Size(c.used))
	}
	c.last++
	cl.order, cl.busy, cl.spooling = c.last, true, true
	c.used += cl.Bytes
	c.handed += cl.Bytes
	c.all[cl.Record] = cl
	c.values = append(c.values, handed{cl, bytes.Clone(value),
		gateway.Record{Source: strings.Clone(r.Source), Device: strings.Clone(r.Device), Name: strings.Clone(r.Name)}})
	signal(c.hand)
	return c.state(cl)
}

// makeRoom reports whether n bytes more may be spooled. Of what is in the store
// the value can go: the queue still has it. c.mu is held.
func (c *claims) makeRoom(n int64) bool {
	for _, cl := range c.all {
		if c.used+n <= c.spool.max {
			return true
		}
		if cl.Done && cl.hasData && !cl.busy {
			if err := removeIfThere(c.spool.data(cl.ID)); err != nil {
				c.log.Warn("clear spool", "error", err)
				continue
			}
			cl.hasData = false
			c.used -= cl.Bytes
		}
	}
	return c.used+n <= c.spool.max
}

// finished forgets the claims of a batch that Kafka has confirmed or refused,
// and those before it in its lane: their records are not in the queue any more.
func (c *claims) finished(b *gateway.Batch, gatewayID string) {
	if c == nil || len(b.Items) == 0 {
		return
	}
	clear(c.refs)
	lane := recordID{Gateway: cmp.Or(b.Gateway, gatewayID), Generation: b.Generation, Lane: laneOf(b), Replayed: b.Replayed}
	last := b.Items[len(b.Items)-1].Seq
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, cl := range c.all {
		seq := id.Seq
		if id.Seq = 0; id == lane && seq <= last {
			c.forget(cl)
		}
	}
}

// forget drops a claim and its files. c.mu is held.
func (c *claims) forget(cl *claim) {
	if c.all[cl.Record] == cl {
		delete(c.all, cl.Record)
	}
	cl.gone = true
	if cl.busy { // who has it drops it when that is done
		return
	}
	if cl.hasData {
		c.used -= cl.Bytes
	}
	if err := c.spool.remove(cl); err != nil {
		c.log.Warn("clear spool", "error", err) // what stays is deleted at the next start
	}
}

// signal makes a channel of capacity 1 ready.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
