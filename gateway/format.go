package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// The stored form of a record, version 1. Integers are big-endian or unsigned
// varints; text is a varint length and bytes.
//
//	version u8 = 1 | flags varint | source | device (unless flagDeviceIsName) | name
//	| received i64 | time i64 | reason | tags: n, (key, value)… | content type
//	| payload | values: n, value…
//
// Every field after name is there only when its flag is set; times are
// nanoseconds since 1970 UTC. A value is: name | kind (bits 0–3), quality
// (4–5), has unit (6), has reason (7) u8 | unit | reason | data, the data
// being u8 for bool, zig-zag varint for int64, varint for uint64, u64 bits for
// float64, text for string and bytes, nothing for none.
const formatVersion = 1

const (
	flagReceived = 1 << iota
	flagTime
	flagClockTrusted
	flagReason
	flagTags
	flagContentType
	flagPayload
	flagValues
	flagDeviceIsName
	flagUncertain
	flagBad
	flagsKnown = 1<<iota - 1
)

// ErrRecordFormat says that stored bytes are not a record this version reads.
var ErrRecordFormat = errors.New("bad record format")

// AppendRecord appends the stored form of r to dst.
func AppendRecord(dst []byte, r *Record) []byte {
	flags := recordFlags(r)
	dst = append(dst, formatVersion)
	dst = binary.AppendUvarint(dst, flags)
	dst = appendText(dst, r.Source)
	if flags&flagDeviceIsName == 0 {
		dst = appendText(dst, r.Device)
	}
	dst = appendText(dst, r.Name)
	if flags&flagReceived != 0 {
		dst = binary.BigEndian.AppendUint64(dst, uint64(r.Received.UnixNano()))
	}
	if flags&flagTime != 0 {
		dst = binary.BigEndian.AppendUint64(dst, uint64(r.Time.UnixNano()))
	}
	if flags&flagReason != 0 {
		dst = appendText(dst, r.Reason)
	}
	if flags&flagTags != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(r.Tags)))
		for i := range r.Tags {
			dst = appendText(appendText(dst, r.Tags[i].Key), r.Tags[i].Value)
		}
	}
	if flags&flagContentType != 0 {
		dst = appendText(dst, r.ContentType)
	}
	if flags&flagPayload != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(r.Payload)))
		dst = append(dst, r.Payload...)
	}
	if flags&flagValues != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(r.Values)))
		for i := range r.Values {
			dst = appendValue(dst, &r.Values[i])
		}
	}
	return dst
}

func recordFlags(r *Record) (flags uint64) {
	set := func(on bool, f uint64) {
		if on {
			flags |= f
		}
	}
	set(storable(r.Received), flagReceived)
	set(storable(r.Time), flagTime)
	set(r.ClockTrusted, flagClockTrusted)
	set(r.Reason != "", flagReason)
	set(len(r.Tags) > 0, flagTags)
	set(r.ContentType != "", flagContentType)
	set(r.Payload != nil, flagPayload)
	set(len(r.Values) > 0, flagValues)
	set(r.Device == r.Name, flagDeviceIsName)
	set(r.Quality == Uncertain, flagUncertain)
	set(r.Quality >= Bad, flagBad)
	return flags
}

// storable reports whether t fits the stored form: 64 bits of nanoseconds reach
// from 1677 to 2262. Other times, such as the 1601 and 9999 of OPC UA Part 6,
// 5.2.2.5 ("no time"), are stored as not given.
func storable(t time.Time) bool {
	const second = int64(time.Second)
	return t.Unix() > math.MinInt64/second && t.Unix() < math.MaxInt64/second
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendValue(dst []byte, v *Value) []byte {
	dst = appendText(dst, v.Name)
	head := byte(v.kind) | byte(min(v.Quality, Bad))<<4
	if v.Unit != "" {
		head |= 1 << 6
	}
	if v.Reason != "" {
		head |= 1 << 7
	}
	dst = append(dst, head)
	if v.Unit != "" {
		dst = appendText(dst, v.Unit)
	}
	if v.Reason != "" {
		dst = appendText(dst, v.Reason)
	}
	switch v.kind {
	case KindBool:
		dst = append(dst, byte(v.num))
	case KindInt:
		dst = binary.AppendVarint(dst, int64(v.num))
	case KindUint:
		dst = binary.AppendUvarint(dst, v.num)
	case KindFloat:
		dst = binary.BigEndian.AppendUint64(dst, v.num)
	case KindString, KindBytes:
		dst = appendText(dst, v.str)
	}
	return dst
}

// RecordDecoder reads stored records. It keeps short texts that repeat, such
// as topics, so that decoding a stream of records allocates next to nothing.
// It is for one goroutine.
type RecordDecoder struct {
	texts  map[string]string
	values []Value
	tags   []Tag
}

// Bounds of what a RecordDecoder keeps.
const (
	keepTextBytes = 256
	keepTexts     = 4096
	keepValues    = 64 << 10
)

// Reset lets the decoder reuse the memory of the values and tags it has
// returned: records decoded before are no longer valid.
func (d *RecordDecoder) Reset() {
	d.values, d.tags = d.values[:0], d.tags[:0]
	if cap(d.values) > keepValues {
		d.values = nil
	}
	if cap(d.tags) > keepValues {
		d.tags = nil
	}
}

// Decode reads the stored form p into r, replacing all of it. The payload
// points into p.
func (d *RecordDecoder) Decode(r *Record, p []byte) error {
	if len(p) == 0 || p[0] != formatVersion {
		return fmt.Errorf("%w: version %x, this one reads %d", ErrRecordFormat, p[:min(1, len(p))], formatVersion)
	}
	c := cut{p: p[1:], d: d}
	flags := c.varint()
	*r = Record{Source: c.text()}
	if flags&flagDeviceIsName == 0 {
		r.Device = c.text()
	}
	r.Name = c.text()
	if flags&flagDeviceIsName != 0 {
		r.Device = r.Name
	}
	if flags&flagReceived != 0 {
		r.Received = time.Unix(0, int64(c.u64()))
	}
	if flags&flagTime != 0 {
		r.Time = time.Unix(0, int64(c.u64()))
	}
	r.ClockTrusted = flags&flagClockTrusted != 0
	d.decodeRest(r, &c, flags)
	if c.bad || len(c.p) != 0 || flags&^uint64(flagsKnown) != 0 {
		return fmt.Errorf("%w: cut short, or %d bytes left over", ErrRecordFormat, len(c.p))
	}
	return nil
}

func (d *RecordDecoder) decodeRest(r *Record, c *cut, flags uint64) {
	switch {
	case flags&flagBad != 0:
		r.Quality = Bad
	case flags&flagUncertain != 0:
		r.Quality = Uncertain
	}
	if flags&flagReason != 0 {
		r.Reason = c.text()
	}
	if flags&flagTags != 0 {
		from := len(d.tags)
		for range c.count(2) {
			d.tags = append(d.tags, Tag{c.text(), c.text()})
		}
		r.Tags = d.tags[from:len(d.tags):len(d.tags)]
	}
	if flags&flagContentType != 0 {
		r.ContentType = c.text()
	}
	if flags&flagPayload != 0 {
		r.Payload = c.bytes() // not nil, though it may be empty
	}
	if flags&flagValues != 0 {
		from := len(d.values)
		for range c.count(2) {
			d.values = append(d.values, c.value())
		}
		r.Values = d.values[from:len(d.values):len(d.values)]
	}
}

// cut takes fields off stored bytes. After the first fault it yields zeros.
type cut struct {
	p   []byte
	d   *RecordDecoder
	bad bool
}

func (c *cut) varint() uint64 {
	v, n := binary.Uvarint(c.p)
	if n <= 0 {
		c.bad, c.p = true, nil
		return 0
	}
	c.p = c.p[n:]
	return v
}

// count reads a number of elements of at least size bytes each.
func (c *cut) count(size int) int {
	n := c.varint()
	if n > uint64(len(c.p)/size) {
		c.bad, c.p = true, nil
		return 0
	}
	return int(n)
}

func (c *cut) bytes() []byte {
	n := c.varint()
	if n > uint64(len(c.p)) {
		c.bad, c.p = true, nil
		return nil
	}
	b := c.p[:n:n]
	c.p = c.p[n:]
	return b
}

func (c *cut) text() string {
	b := c.bytes()
	if len(b) > keepTextBytes {
		return string(b)
	}
	if s, ok := c.d.texts[string(b)]; ok {
		return s
	}
	if c.d.texts == nil || len(c.d.texts) >= keepTexts {
		c.d.texts = make(map[string]string)
	}
	s := string(b)
	c.d.texts[s] = s
	return s
}

func (c *cut) u8() byte {
	if len(c.p) == 0 {
		c.bad = true
		return 0
	}
	b := c.p[0]
	c.p = c.p[1:]
	return b
}

func (c *cut) u64() uint64 {
	if len(c.p) < 8 {
		c.bad, c.p = true, nil
		return 0
	}
	v := binary.BigEndian.Uint64(c.p)
	c.p = c.p[8:]
	return v
}

func (c *cut) value() Value {
	v := Value{Name: c.text()}
	head := c.u8()
	v.kind, v.Quality = Kind(head&15), Quality(head>>4&3)
	if head&(1<<6) != 0 {
		v.Unit = c.text()
	}
	if head&(1<<7) != 0 {
		v.Reason = c.text()
	}
	switch v.kind {
	case KindNone:
	case KindBool:
		v.num = uint64(c.u8())
		c.bad = c.bad || v.num > 1
	case KindInt:
		i, n := binary.Varint(c.p)
		if n <= 0 {
			c.bad, c.p = true, nil
			return v
		}
		v.num, c.p = uint64(i), c.p[n:]
	case KindUint:
		v.num = c.varint()
	case KindFloat:
		v.num = c.u64()
	case KindString, KindBytes:
		v.str = string(c.bytes())
	default:
		c.bad = true
	}
	if v.Quality > Bad {
		c.bad = true
	}
	return v
}
