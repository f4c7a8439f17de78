package codec

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/waystation-iot/waystation/gateway"
)

// RecordSchema is the value of "schema" in every document RecordJSON makes.
// It changes when a reader of the old form would misread the new one.
const RecordSchema = 1

// RecordContentType is the media type of what RecordJSON makes.
const RecordContentType = "application/vnd.waystation.record+json"

// timeLayout is RFC 3339 with nine digits, so that times sort as text.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// RecordJSON encodes a whole record as one JSON object; docs/record-json.md
// describes it, docs/record.schema.json is its JSON schema. It never fails
// and allocates nothing beyond dst.
type RecordJSON struct{}

// ContentType implements Encoder.
func (RecordJSON) ContentType(*gateway.Record) string { return RecordContentType }

// Encode implements Encoder.
func (RecordJSON) Encode(dst []byte, r *gateway.Record, _ *Position) ([]byte, error) {
	e := object{dst: append(dst, '{')}
	e.key("schema")
	e.dst = strconv.AppendInt(e.dst, RecordSchema, 10)
	e.text("source", r.Source)
	e.text("device", or(r.Device, r.Name))
	e.text("name", r.Name)
	e.time("time", r.Time)
	e.time("received", r.Received)
	if !r.ClockTrusted {
		e.key("clock_trusted")
		e.dst = append(e.dst, "false"...)
	}
	e.quality("quality", r.Quality, r.Reason)
	e.tags(r.Tags)
	e.values(r.Values)
	if r.Payload != nil {
		e.key("payload")
		e.base64(r.Payload)
		e.optional("content_type", r.ContentType)
	}
	e.flag()
	return append(e.dst, '}'), nil
}

// object appends the members of one JSON object.
type object struct {
	dst      []byte
	replaced bool // some text was not valid UTF-8
	some     bool // a member was written
}

// key appends a key that needs no escaping.
func (e *object) key(k string) {
	if e.some {
		e.dst = append(e.dst, ',')
	}
	e.some = true
	e.dst = append(e.dst, '"')
	e.dst = append(e.dst, k...)
	e.dst = append(e.dst, '"', ':')
}

// str appends a JSON string.
func (e *object) str(s string) {
	var ok bool
	e.dst, ok = appendString(e.dst, s)
	e.replaced = e.replaced || !ok
}

func (e *object) text(k, s string) {
	e.key(k)
	e.str(s)
}

// optional appends a text unless it is empty.
func (e *object) optional(k, s string) {
	if s != "" {
		e.text(k, s)
	}
}

func (e *object) base64(b []byte) {
	e.dst = append(e.dst, '"')
	e.dst = base64.StdEncoding.AppendEncode(e.dst, b)
	e.dst = append(e.dst, '"')
}

// time appends t in UTC. A zero time, and one that RFC 3339 cannot write, is
// left out.
func (e *object) time(k string, t time.Time) {
	if t.IsZero() {
		return
	}
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		return
	}
	e.key(k)
	e.dst = append(e.dst, '"')
	e.dst = t.AppendFormat(e.dst, timeLayout)
	e.dst = append(e.dst, '"')
}

// quality appends the grade under k and the reason, unless it is good.
func (e *object) quality(k string, q gateway.Quality, reason string) {
	if q == gateway.Good {
		return
	}
	if q > gateway.Bad {
		q = gateway.Bad
	}
	e.text(k, q.String())
	e.optional("reason", reason)
}

// flag notes that some text was not valid UTF-8.
func (e *object) flag() {
	if e.replaced {
		e.key("replaced")
		e.dst = append(e.dst, "true"...)
	}
}

// tags appends the tags; of a key given twice the last one.
func (e *object) tags(tags []gateway.Tag) {
	if len(tags) == 0 {
		return
	}
	e.key("tags")
	e.dst = append(e.dst, '{')
	first := true
	for i := range tags {
		if laterTag(tags[i+1:], tags[i].Key) {
			continue
		}
		if !first {
			e.dst = append(e.dst, ',')
		}
		first = false
		e.str(tags[i].Key)
		e.dst = append(e.dst, ':')
		e.str(tags[i].Value)
	}
	e.dst = append(e.dst, '}')
}

func laterTag(tags []gateway.Tag, key string) bool {
	for i := range tags {
		if tags[i].Key == key {
			return true
		}
	}
	return false
}

func (e *object) values(values []gateway.Value) {
	if len(values) == 0 {
		return
	}
	e.key("values")
	e.dst = append(e.dst, '{')
	for i := range values {
		if i > 0 {
			e.dst = append(e.dst, ',')
		}
		e.value(&values[i])
	}
	e.dst = append(e.dst, '}')
}

// value appends the name and the object of one value.
func (e *object) value(v *gateway.Value) {
	m := object{}
	m.dst, m.replaced = e.dst, false
	m.str(v.Name)
	m.dst = append(m.dst, ':', '{')
	m.key("v")
	m.reading(v)
	m.optional("unit", v.Unit)
	m.quality("q", v.Quality, v.Reason)
	m.flag()
	e.dst = append(m.dst, '}')
}

// reading appends what follows "v": and the members that explain it.
func (e *object) reading(v *gateway.Value) {
	switch v.Kind() {
	case gateway.KindBool:
		e.dst = strconv.AppendBool(e.dst, v.Bool())
	case gateway.KindInt:
		e.dst = strconv.AppendInt(e.dst, v.Int(), 10)
	case gateway.KindUint:
		e.dst = strconv.AppendUint(e.dst, v.Uint(), 10)
	case gateway.KindFloat:
		e.float(v.Float())
	case gateway.KindString:
		e.str(v.Text())
	case gateway.KindBytes:
		e.dst = appendBase64(append(e.dst, '"'), v.Text())
		e.dst = append(e.dst, '"')
		e.text("enc", "base64")
	default:
		e.dst = append(e.dst, "null"...)
	}
}

// float appends f in the shortest form that reads back as the same double,
// always with a point or an exponent, so that it is not taken for an integer.
func (e *object) float(f float64) {
	special := ""
	switch {
	case math.IsNaN(f):
		special = "NaN"
	case math.IsInf(f, 1):
		special = "Infinity"
	case math.IsInf(f, -1):
		special = "-Infinity"
	}
	if special != "" {
		e.dst = append(e.dst, "null"...)
		e.text("special", special)
		return
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	start := len(e.dst)
	e.dst = strconv.AppendFloat(e.dst, f, format, -1, 64)
	for _, c := range e.dst[start:] {
		if c == '.' || c == 'e' {
			return
		}
	}
	e.dst = append(e.dst, '.', '0')
}

// appendBase64 appends the base64 (RFC 4648 §4) of s without copying s.
func appendBase64(dst []byte, s string) []byte {
	var in [48]byte // a multiple of 3: no padding before the end
	for len(s) > 0 {
		n := copy(in[:], s)
		dst = base64.StdEncoding.AppendEncode(dst, in[:n])
		s = s[n:]
	}
	return dst
}

// appendString appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD each; ok is false then.
func appendString(dst []byte, s string) (_ []byte, ok bool) {
	const hex = "0123456789abcdef"
	ok = true
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		n := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, n = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		switch {
		case c >= utf8.RuneSelf:
			ok = false
			dst = append(dst, "\uFFFD"...)
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i += n
		start = i
	}
	return append(append(dst, s[start:]...), '"'), ok
}

// Payload hands on the payload of a record as it came. A record without one
// is encoded by RecordJSON.
type Payload struct{}

// Encode implements Encoder. It never fails.
func (Payload) Encode(dst []byte, r *gateway.Record, at *Position) ([]byte, error) {
	if r.Payload == nil {
		return RecordJSON{}.Encode(dst, r, at)
	}
	return append(dst, r.Payload...), nil
}

// ContentType implements Encoder.
func (Payload) ContentType(r *gateway.Record) string {
	if r.Payload == nil {
		return RecordContentType
	}
	return or(r.ContentType, DefaultContentType)
}

// NewEncoder returns the encoder with the given name of configuration: raw
// (also "") is Payload, json is RecordJSON.
func NewEncoder(name string) (Encoder, error) {
	switch name {
	case "", NameRaw:
		return Payload{}, nil
	case NameJSON:
		return RecordJSON{}, nil
	case NameAvro:
		return Avro{}, nil
	case NameProtobuf:
		return Protobuf{}, nil
	}
	return nil, fmt.Errorf("build encoder: unknown encoding %q, must be raw, json, avro or protobuf", name)
}
