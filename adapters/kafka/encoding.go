package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// form is how a record becomes the value and the headers of a Kafka record.
type form struct {
	enc     codec.Encoder
	name    string // of the encoding
	raw     bool   // a payload is the value, untouched
	own     bool   // our own headers are written
	events  *events
	trace   *tracer
	schemas *registry            // nil = no registry
	schema  *sarama.RecordHeader // tells the schema where no registry does; nil = none
	wire    []byte               // goes before each value of the chunk being built
	data    []byte               // scratch: the data of a structured event
}

// newForm builds the form that c, which is valid, describes.
func newForm(c *Config, env gateway.Env) (form, error) {
	f := form{name: c.Encoding, raw: c.Encoding == wordRaw && c.CloudEvents != wordStructured, own: c.Headers}
	var err error
	if f.enc, err = codec.NewEncoder(c.Encoding); err != nil {
		return f, err
	}
	if c.CloudEvents != wordOff {
		f.events = newEvents(c)
	}
	if c.Trace == wordOn {
		f.trace = &tracer{sampled: c.TraceSampled}
	}
	if c.Encoding != wordAvro && c.Encoding != wordProtobuf {
		return f, nil
	}
	schema, err := codec.Schema(c.Encoding)
	if err != nil {
		return f, err
	}
	if c.hasRegistry() {
		f.schemas, err = newRegistry(&c.SchemaRegistry, c.Encoding, schema, env)
		return f, err
	}
	f.schema = &sarama.RecordHeader{Key: []byte("schema-fingerprint"), Value: []byte(codec.Fingerprint(schema)[:16])}
	return f, nil
}

// learnSchemas finds out the ids of the schema for the topics of the job. A
// topic whose id cannot be had is not written to in this Send; the others are.
func (s *Sink) learnSchemas(ctx context.Context) {
	g := s.form.schemas
	if g == nil {
		return
	}
	var unknown []*topic
	for _, t := range s.job.topics {
		if !t.position && !g.knows(t.name) {
			unknown = append(unknown, t)
		}
	}
	if len(unknown) > 0 {
		if g.makeRoom(len(unknown)) {
			unknown = s.job.topics
		}
		s.facts.set(g.fact(s.askSchemas(ctx, unknown)))
		g.rest()
	} else if g.quiet {
		return
	} else {
		s.facts.set(g.fact(nil))
	}
	g.quiet = len(unknown) == 0
}

// askSchemas asks for the ids for topics and returns the first trouble. A
// registry that does not answer is asked once for all of them.
func (s *Sink) askSchemas(ctx context.Context, topics []*topic) (first error) {
	var dead error
	for _, t := range topics {
		if t.position || s.form.schemas.knows(t.name) {
			continue // of the same subject as one before
		}
		err := dead
		if err == nil {
			err = s.form.schemas.learn(ctx, t.name)
		}
		if err == nil {
			continue
		}
		var no *refusedSchema
		if !errors.As(err, &no) {
			dead = err
		} else if no.forGood() && s.job.onlyNotices(t) {
			s.refuseAll(t, err.Error()) // notices must not hold up the data
			continue
		}
		t.blocked = fmt.Errorf("%s: %w", s.addr, err)
		if first == nil {
			first = err
		}
	}
	return first
}

// beginChunk makes ready for records of one topic.
func (f *form) beginChunk(topic string) {
	if f.schemas != nil {
		f.wire = f.schemas.header(f.wire[:0], topic)
	}
}

// value makes the value of a record, or gives that of the reference to it.
func (s *Sink) value(item *gateway.Item, ref *reference) (value []byte, err error) {
	f, a, r := &s.form, &s.arena, &item.Record
	if ref != nil {
		return ref.value, nil
	}
	if f.raw && r.Payload != nil {
		return r.Payload, nil
	}
	a.at.Seq = item.Seq
	start := len(a.buf)
	if f.events.structured() {
		if f.data, err = f.enc.Encode(f.data[:0], r, &a.at); err == nil {
			a.buf = f.envelope(a.buf, r, &a.at)
		}
		if cap(f.data) > keepArena {
			f.data = nil
		}
	} else {
		a.buf, err = f.enc.Encode(append(a.buf, f.wire...), r, &a.at)
	}
	if err != nil {
		return nil, fmt.Errorf("encode as %s: %w", f.name, err)
	}
	return a.buf[start:len(a.buf):len(a.buf)], nil
}

// allHeaders makes the headers of a record: our own and those that other
// systems know. A reference is an event in binary form, whatever is configured.
func (s *Sink) allHeaders(item *gateway.Item, ref *reference, key []byte) []*sarama.RecordHeader {
	f, a, r := &s.form, &s.arena, &item.Record
	first := len(a.hptr)
	kind := f.enc.ContentType(r)
	switch {
	case ref != nil:
		kind = ClaimContentType
	case f.events.structured():
		kind = eventContentType
	}
	a.at.Seq = item.Seq
	if f.own {
		a.headers(item, kind, key)
	} else if f.events != nil {
		a.text(a.keys.contentType, kind)
	}
	if f.own && ref != nil {
		a.hptr = append(a.hptr, ref.header())
	}
	if f.own && ref == nil && f.schema != nil {
		a.hptr = append(a.hptr, f.schema)
	}
	binary := f.events != nil && (ref != nil || !f.events.structured())
	if binary {
		f.events.headers(a, r)
	}
	if f.trace != nil {
		f.trace.headers(a, r, binary)
	}
	return a.hptr[first:len(a.hptr):len(a.hptr)]
}
