package kafka

import (
	"cmp"
	"fmt"
	"math/bits"
	"strconv"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	// batchOverhead is the size of a record batch without its records
	// (message format v2: base offset 8, length 4, and 49 after it).
	batchOverhead = 61
	// keepArena is how many bytes of scratch space are kept between batches.
	keepArena = 4 << 20
)

// arena holds what the records of one round point to. It is used again in the
// next round: sarama encodes a request before it writes it and keeps no
// reference to the records after Produce has returned.
type arena struct {
	buf  []byte
	recs []sarama.Record
	ptrs []*sarama.Record
	hdrs []sarama.RecordHeader
	hptr []*sarama.RecordHeader
	keys headerKeys
	same [4]*sarama.RecordHeader // gateway, generation, lane, replayed: one for all records
}

// headerKeys are the keys of the headers as bytes, made once.
type headerKeys struct {
	gateway, generation, lane, seq, source, name, contentType    []byte
	replayed, yes                                                []byte
	received, time, clock, untrusted, quality, reason, tagPrefix []byte
}

func newHeaderKeys() headerKeys {
	return headerKeys{
		gateway: []byte("gateway"), generation: []byte("generation"), lane: []byte("lane"), seq: []byte("seq"),
		replayed: []byte("replayed"), yes: []byte("true"),
		source: []byte("source"), name: []byte("name"), contentType: []byte("content-type"),
		received: []byte("received"), time: []byte("time"), clock: []byte("clock"), untrusted: []byte("untrusted"),
		quality: []byte("quality"), reason: []byte("reason"), tagPrefix: []byte("tag."),
	}
}

// begin empties the arena for a round of batch b.
func (a *arena) begin(gatewayID string, b *gateway.Batch) {
	if cap(a.buf) > keepArena {
		*a = arena{}
	}
	if a.keys.seq == nil {
		a.keys = newHeaderKeys()
	}
	clear(a.recs) // let payloads of the last batch go
	a.buf, a.recs, a.ptrs, a.hdrs, a.hptr = a.buf[:0], a.recs[:0], a.ptrs[:0], a.hdrs[:0], a.hptr[:0]
	a.same[0] = &sarama.RecordHeader{Key: a.keys.gateway, Value: []byte(cmp.Or(b.Gateway, gatewayID))}
	a.same[1] = &sarama.RecordHeader{Key: a.keys.generation, Value: []byte(b.Generation)}
	a.same[2] = &sarama.RecordHeader{Key: a.keys.lane, Value: []byte(laneOf(b))}
	a.same[3] = nil
	if b.Replayed {
		a.same[3] = &sarama.RecordHeader{Key: a.keys.replayed, Value: a.keys.yes}
	}
}

// header adds a header whose value is what was appended to buf since start.
func (a *arena) header(key []byte, start int) {
	a.hdrs = append(a.hdrs, sarama.RecordHeader{Key: key, Value: a.buf[start:len(a.buf):len(a.buf)]})
	a.hptr = append(a.hptr, &a.hdrs[len(a.hdrs)-1])
}

// text adds a header with a text, unless the text is empty.
func (a *arena) text(key []byte, value string) {
	if value != "" {
		start := len(a.buf)
		a.buf = append(a.buf, value...)
		a.header(key, start)
	}
}

// stamp adds a header with a time: RFC 3339 in UTC with nanoseconds.
func (a *arena) stamp(key []byte, t time.Time) {
	start := len(a.buf)
	a.buf = t.UTC().AppendFormat(a.buf, time.RFC3339Nano)
	a.header(key, start)
}

// headers makes the headers of one record. The first four say which record of
// which queue this is, the next, if it is there, that it was sent before.
func (a *arena) headers(item *gateway.Item, contentType string, key []byte) []*sarama.RecordHeader {
	first, r := len(a.hptr), &item.Record
	a.hptr = append(a.hptr, a.same[0], a.same[1], a.same[2])
	start := len(a.buf)
	a.buf = strconv.AppendUint(a.buf, item.Seq, 10)
	a.header(a.keys.seq, start)
	if a.same[3] != nil {
		a.hptr = append(a.hptr, a.same[3])
	}
	a.text(a.keys.source, r.Source)
	if r.Name != string(key) {
		a.text(a.keys.name, r.Name)
	}
	a.text(a.keys.contentType, contentType)
	if !r.Received.IsZero() {
		a.stamp(a.keys.received, r.Received)
	}
	if !r.Time.IsZero() {
		a.stamp(a.keys.time, r.Time)
	}
	if !r.ClockTrusted {
		a.hdrs = append(a.hdrs, sarama.RecordHeader{Key: a.keys.clock, Value: a.keys.untrusted})
		a.hptr = append(a.hptr, &a.hdrs[len(a.hdrs)-1])
	}
	if r.Quality != gateway.Good {
		a.text(a.keys.quality, r.Quality.String())
		a.text(a.keys.reason, r.Reason)
	}
	for i := range r.Tags {
		start := len(a.buf)
		a.buf = append(append(a.buf, a.keys.tagPrefix...), r.Tags[i].Key...)
		name := a.buf[start:len(a.buf):len(a.buf)]
		start = len(a.buf)
		a.buf = append(a.buf, r.Tags[i].Value...)
		a.header(name, start)
	}
	return a.hptr[first:len(a.hptr):len(a.hptr)]
}

// millis is the record's timestamp: when it was received, in milliseconds
// since 1970, never negative (Kafka takes a negative one for "none").
func millis(r *gateway.Record) int64 {
	return max(r.Received.UnixMilli(), 0)
}

// record appends the Kafka record for item to the arena, as the n-th of a
// chunk whose first timestamp is base, and returns its encoded size.
func (s *Sink) record(item *gateway.Item, n int, base int64) (size int, err error) {
	a, r := &s.arena, &item.Record
	rec := sarama.Record{OffsetDelta: int64(n), TimestampDelta: time.Duration(millis(r)-base) * time.Millisecond}
	start := len(a.buf)
	a.buf = s.keyOf.expand(a.buf, s.origin(s.job.batch), r)
	if len(a.buf) > start {
		rec.Key = a.buf[start:len(a.buf):len(a.buf)]
	}
	if s.raw && r.Payload != nil {
		rec.Value = r.Payload
	} else {
		start = len(a.buf)
		if a.buf, err = s.enc.Encode(a.buf, r); err != nil {
			return 0, fmt.Errorf("encode as %s: %w", s.cfg.Encoding, err)
		}
		rec.Value = a.buf[start:len(a.buf):len(a.buf)]
	}
	if s.cfg.Headers {
		rec.Headers = a.headers(item, s.enc.ContentType(r), rec.Key)
	}
	a.recs = append(a.recs, rec)
	a.ptrs = append(a.ptrs, &a.recs[len(a.recs)-1])
	return recordSize(&rec), nil
}

// recordSize is the encoded size of r before compression (message format v2).
func recordSize(r *sarama.Record) int {
	n := 1 + varint(int64(r.TimestampDelta/time.Millisecond)) + varint(r.OffsetDelta)
	n += varint(int64(len(r.Key))) + len(r.Key) + varint(int64(len(r.Value))) + len(r.Value)
	n += varint(int64(len(r.Headers)))
	for _, h := range r.Headers {
		n += varint(int64(len(h.Key))) + len(h.Key) + varint(int64(len(h.Value))) + len(h.Value)
	}
	return varint(int64(n)) + n
}

// varint is the size of v as a zigzag varint.
func varint(v int64) int {
	return (bits.Len64(uint64(v<<1)^uint64(v>>63)|1) + 6) / 7
}

// chunk makes the next chunk of p: the same records as before when it was sent
// already, else as many as fit. It returns nil when nothing is left, because
// every remaining record was refused.
func (s *Sink) chunk(p *part) *sarama.RecordBatch {
	if p.topic.position {
		return s.copyChunk(p)
	}
	items := s.job.batch.Items
	for p.left() > 0 {
		limit, first := p.limit(), len(s.arena.ptrs)
		base := millis(&items[p.items[p.done]].Record)
		total, newest, n := batchOverhead, base, 0
		for ; n < limit; n++ {
			item := &items[p.items[p.done+n]]
			size, err := s.record(item, n, base)
			if err == nil && p.size == 0 && total+size > int(s.cfg.MaxMessage) {
				s.arena.ptrs = s.arena.ptrs[:len(s.arena.ptrs)-1]
				err = fmt.Errorf("record of %d bytes exceeds max_message_bytes %d", batchOverhead+size, int64(s.cfg.MaxMessage))
			}
			if err != nil {
				if n == 0 {
					s.refuse(p, err.Error())
				}
				break
			}
			total, newest = total+size, max(newest, millis(&item.Record))
		}
		if n == 0 {
			continue // that one was refused
		}
		p.size = n
		return &sarama.RecordBatch{
			Version: 2, Codec: s.codec, CompressionLevel: s.level,
			ProducerID: s.prod.id, ProducerEpoch: s.prod.epoch, FirstSequence: s.prod.sequence(p.key), IsTransactional: s.exact,
			FirstTimestamp: time.UnixMilli(base), MaxTimestamp: time.UnixMilli(newest),
			LastOffsetDelta: int32(n - 1), Records: s.arena.ptrs[first:len(s.arena.ptrs):len(s.arena.ptrs)],
		}
	}
	return nil
}
