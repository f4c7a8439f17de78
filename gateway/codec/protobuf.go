package codec

import (
	"encoding/binary"
	"math"
	"math/bits"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// ProtobufContentType is the media type of what Protobuf makes.
const ProtobufContentType = "application/vnd.waystation.record+protobuf"

// Protobuf encodes a whole record as the message Record of docs/record.proto
// (protobuf.dev, "Encoding"). It never fails and allocates nothing beyond dst.
type Protobuf struct{}

// ContentType implements Encoder.
func (Protobuf) ContentType(*gateway.Record) string { return ProtobufContentType }

// The numbers of the fields in docs/record.proto.
const (
	recordGateway = 1 + iota
	recordGeneration
	recordLane
	recordSeq
	recordSource
	recordDevice
	recordName
	recordTime
	recordReceived
	recordValues
	recordTags
	recordPayload
	recordContentType
	recordQuality
	recordReason
	recordClockUntrusted
	recordReplayed
	recordReplaced

	valueName    = 1
	valueBool    = 2
	valueInt     = 3
	valueUint    = 4
	valueDouble  = 5
	valueString  = 6
	valueBytes   = 7
	valueUnit    = 8
	valueQuality = 9
	valueReason  = 10

	entryKey   = 1 // of a map
	entryValue = 2

	timeSeconds = 1 // of google.protobuf.Timestamp
	timeNanos   = 2
)

// Wire types.
const (
	wireVarint = 0
	wireFixed  = 1
	wireBytes  = 2
)

// Encode implements Encoder.
func (Protobuf) Encode(dst []byte, r *gateway.Record, at *Position) ([]byte, error) {
	e := protoWriter{dst: dst}
	if at == nil {
		at = &Position{}
	}
	e.optional(recordGateway, at.Gateway)
	e.optional(recordGeneration, at.Generation)
	e.optional(recordLane, at.Lane)
	e.number(recordSeq, at.Seq)
	e.optional(recordSource, r.Source)
	e.optional(recordDevice, or(r.Device, r.Name))
	e.optional(recordName, r.Name)
	e.time(recordTime, r.Time)
	e.time(recordReceived, r.Received)
	for i := range r.Values {
		start := e.open(recordValues)
		e.value(&r.Values[i])
		e.close(start)
	}
	for i := range r.Tags {
		if laterTag(r.Tags[i+1:], r.Tags[i].Key) {
			continue // of a key given twice the last one
		}
		start := e.open(recordTags)
		e.text(entryKey, r.Tags[i].Key)
		e.text(entryValue, r.Tags[i].Value)
		e.close(start)
	}
	if r.Payload != nil {
		e.tag(recordPayload, wireBytes)
		e.varint(uint64(len(r.Payload)))
		e.dst = append(e.dst, r.Payload...)
	}
	e.optional(recordContentType, r.ContentType)
	e.number(recordQuality, uint64(worst(r.Quality)))
	e.optional(recordReason, r.Reason)
	e.flag(recordClockUntrusted, !r.ClockTrusted)
	e.flag(recordReplayed, at.Replayed)
	e.flag(recordReplaced, e.replaced)
	return e.dst, nil
}

// protoWriter appends the fields of a message.
type protoWriter struct {
	dst      []byte
	replaced bool // some text was not valid UTF-8
}

func (e *protoWriter) varint(v uint64) { e.dst = binary.AppendUvarint(e.dst, v) }

func (e *protoWriter) tag(field, wire uint64) { e.varint(field<<3 | wire) }

// number appends a field unless it is 0, the default.
func (e *protoWriter) number(field, v uint64) {
	if v != 0 {
		e.tag(field, wireVarint)
		e.varint(v)
	}
}

func (e *protoWriter) flag(field uint64, b bool) {
	if b {
		e.number(field, 1)
	}
}

func (e *protoWriter) text(field uint64, s string) {
	e.tag(field, wireBytes)
	n, ok := validLen(s)
	e.varint(uint64(n))
	if ok {
		e.dst = append(e.dst, s...)
		return
	}
	e.replaced = true
	e.dst = appendValid(e.dst, s)
}

// optional appends a text unless it is empty, the default.
func (e *protoWriter) optional(field uint64, s string) {
	if s != "" {
		e.text(field, s)
	}
}

// open begins a message within the message, close ends it: its length is put
// before it then.
func (e *protoWriter) open(field uint64) (start int) {
	e.tag(field, wireBytes)
	return len(e.dst)
}

func (e *protoWriter) close(start int) {
	n := len(e.dst) - start
	var pad [binary.MaxVarintLen64]byte
	width := max(1, (bits.Len(uint(n))+6)/7)
	e.dst = append(e.dst, pad[:width]...)
	copy(e.dst[start+width:], e.dst[start:start+n])
	binary.PutUvarint(e.dst[start:], uint64(n))
}

// time appends a google.protobuf.Timestamp, unless there is none.
func (e *protoWriter) time(field uint64, t time.Time) {
	if !writable(t) {
		return
	}
	start := e.open(field)
	e.number(timeSeconds, uint64(t.Unix()))
	e.number(timeNanos, uint64(t.Nanosecond()))
	e.close(start)
}

// value appends the fields of one Value. A member of a oneof is written even
// when it is the default: that it is there says which one it is.
func (e *protoWriter) value(v *gateway.Value) {
	e.optional(valueName, v.Name)
	switch v.Kind() {
	case gateway.KindBool:
		e.tag(valueBool, wireVarint)
		b := uint64(0)
		if v.Bool() {
			b = 1
		}
		e.varint(b)
	case gateway.KindInt: // sint64: zig-zag
		e.tag(valueInt, wireVarint)
		e.dst = binary.AppendVarint(e.dst, v.Int())
	case gateway.KindUint:
		e.tag(valueUint, wireVarint)
		e.varint(v.Uint())
	case gateway.KindFloat:
		e.tag(valueDouble, wireFixed)
		e.dst = binary.LittleEndian.AppendUint64(e.dst, math.Float64bits(v.Float()))
	case gateway.KindString:
		e.text(valueString, v.Text())
	case gateway.KindBytes:
		e.tag(valueBytes, wireBytes)
		e.varint(uint64(len(v.Text())))
		e.dst = append(e.dst, v.Text()...)
	}
	e.optional(valueUnit, v.Unit)
	e.number(valueQuality, uint64(worst(v.Quality)))
	e.optional(valueReason, v.Reason)
}
