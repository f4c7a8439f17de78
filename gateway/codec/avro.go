package codec

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// AvroContentType is the media type of what Avro makes.
const AvroContentType = "application/vnd.waystation.record+avro"

// Avro encodes a whole record in Avro's binary form (Avro 1.11 specification,
// "Binary Encoding") of the schema docs/record.avsc. It never fails and
// allocates nothing beyond dst.
type Avro struct{}

// ContentType implements Encoder.
func (Avro) ContentType(*gateway.Record) string { return AvroContentType }

// Encode implements Encoder. The fields are in the order of the schema.
func (Avro) Encode(dst []byte, r *gateway.Record, at *Position) ([]byte, error) {
	e := avroWriter{dst: dst}
	if at == nil {
		at = &Position{}
	}
	e.text(at.Gateway)
	e.text(at.Generation)
	e.text(at.Lane)
	e.long(int64(at.Seq))
	e.bool(at.Replayed)
	e.text(r.Source)
	e.text(or(r.Device, r.Name))
	e.text(r.Name)
	e.time(r.Time)
	e.time(r.Received)
	e.bool(r.ClockTrusted)
	e.long(int64(worst(r.Quality)))
	e.optional(r.Reason)
	e.tags(r.Tags)
	e.values(r.Values)
	if r.Payload == nil {
		e.branch(0)
	} else {
		e.branch(1)
		e.long(int64(len(r.Payload)))
		e.dst = append(e.dst, r.Payload...)
	}
	e.optional(r.ContentType)
	e.bool(e.replaced)
	return e.dst, nil
}

// avroWriter appends Avro's primitive types.
type avroWriter struct {
	dst      []byte
	replaced bool // some text was not valid UTF-8
}

// long appends an int or long: zig-zag, variable length.
func (e *avroWriter) long(v int64) { e.dst = binary.AppendVarint(e.dst, v) }

// branch appends the index of a union's branch; there are never more than two.
func (e *avroWriter) branch(i byte) { e.dst = append(e.dst, i<<1) }

func (e *avroWriter) bool(b bool) {
	if b {
		e.dst = append(e.dst, 1)
	} else {
		e.dst = append(e.dst, 0)
	}
}

func (e *avroWriter) text(s string) {
	n, ok := validLen(s)
	e.long(int64(n))
	if ok {
		e.dst = append(e.dst, s...)
		return
	}
	e.replaced = true
	e.dst = appendValid(e.dst, s)
}

// optional appends a union of null and string, null when s is empty.
func (e *avroWriter) optional(s string) {
	if s == "" {
		e.branch(0)
		return
	}
	e.branch(1)
	e.text(s)
}

// time appends the microseconds, rounded down, and the nanoseconds after them.
func (e *avroWriter) time(t time.Time) {
	if !writable(t) {
		e.branch(0)
		e.long(0)
		return
	}
	e.branch(1)
	e.long(t.UnixMicro())
	e.long(int64(t.Nanosecond() % 1000))
}

// tags appends a map; of a key given twice the last one.
func (e *avroWriter) tags(tags []gateway.Tag) {
	if n := distinct(tags); n > 0 {
		e.long(int64(n))
		for i := range tags {
			if !laterTag(tags[i+1:], tags[i].Key) {
				e.text(tags[i].Key)
				e.text(tags[i].Value)
			}
		}
	}
	e.long(0)
}

func (e *avroWriter) values(values []gateway.Value) {
	if len(values) > 0 {
		e.long(int64(len(values)))
		for i := range values {
			e.value(&values[i])
		}
	}
	e.long(0)
}

// The nullable fields of a value, in the order of the schema.
const (
	fieldBool = iota
	fieldLong
	fieldUnsigned
	fieldDouble
	fieldString
	fieldBytes
	valueFields
	noField
)

// fieldOf says which field holds the reading of v.
func fieldOf(v *gateway.Value) int {
	switch v.Kind() {
	case gateway.KindBool:
		return fieldBool
	case gateway.KindInt:
		return fieldLong
	case gateway.KindUint:
		if v.Uint() > math.MaxInt64 {
			return fieldUnsigned
		}
		return fieldLong
	case gateway.KindFloat:
		return fieldDouble
	case gateway.KindString:
		return fieldString
	case gateway.KindBytes:
		return fieldBytes
	}
	return noField
}

func (e *avroWriter) value(v *gateway.Value) {
	e.text(v.Name)
	e.long(int64(v.Kind())) // the symbols of ValueType are the kinds in their order
	field := fieldOf(v)
	for i := range valueFields {
		if i != field {
			e.branch(0)
			continue
		}
		e.branch(1)
		e.reading(v, field)
	}
	e.optional(v.Unit)
	e.long(int64(worst(v.Quality)))
	e.optional(v.Reason)
}

func (e *avroWriter) reading(v *gateway.Value, field int) {
	switch field {
	case fieldBool:
		e.bool(v.Bool())
	case fieldLong:
		e.long(v.Int() + int64(v.Uint())) // one of them is 0
	case fieldUnsigned: // decimal: two's complement, big-endian, so a zero goes before the highest bit
		e.dst = append(e.dst, 9<<1, 0)
		e.dst = binary.BigEndian.AppendUint64(e.dst, v.Uint())
	case fieldDouble:
		e.dst = binary.LittleEndian.AppendUint64(e.dst, math.Float64bits(v.Float()))
	case fieldString:
		e.text(v.Text())
	case fieldBytes:
		e.long(int64(len(v.Text())))
		e.dst = append(e.dst, v.Text()...)
	}
}
