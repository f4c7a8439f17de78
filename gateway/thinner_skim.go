package gateway

import (
	"bytes"
	"hash/maphash"
	"math"
	"strconv"
)

// skimmed is what a thinner needs to know of a stored record.
type skimmed struct {
	series  uint64 // hash of source, device and name
	quality uint64 // differs when the quality of the record or of a value does
	signals [thinSignals]struct {
		key   uint64 // hash of the name
		value float64
	}
	n int // signals
}

// skim reads a stored record without keeping or allocating anything. It
// returns false for one that cannot be read or must not be thinned.
func (s *skimmed) skim(seed maphash.Seed, p []byte) bool {
	if len(p) == 0 || p[0] != formatVersion {
		return false
	}
	s.n = 0
	c := cut{p: p[1:]}
	flags := c.varint()
	names := c.p
	notice := string(c.bytes()) == NoticeSource
	if flags&flagDeviceIsName == 0 {
		c.bytes()
	}
	c.bytes()
	s.series = maphash.Bytes(seed, names[:len(names)-len(c.p)]) ^ flags&flagDeviceIsName
	s.quality = flags & (flagUncertain | flagBad)
	for _, f := range [...]uint64{flagReceived, flagTime} {
		if flags&f != 0 {
			c.u64()
		}
	}
	if flags&flagReason != 0 {
		c.bytes()
	}
	if flags&flagTags != 0 {
		for range c.count(2) {
			c.bytes()
			c.bytes()
		}
	}
	if flags&flagContentType != 0 {
		c.bytes()
	}
	var payload []byte
	if flags&flagPayload != 0 {
		payload = c.bytes()
	}
	if flags&flagValues != 0 {
		for range c.count(2) {
			s.value(seed, &c)
		}
	}
	if s.n == 0 {
		s.payload(seed, payload)
	}
	return !c.bad && !notice
}

// value reads one value.
func (s *skimmed) value(seed maphash.Seed, c *cut) {
	name := c.bytes()
	head := c.u8()
	key := maphash.Bytes(seed, name)
	if q := uint64(head >> 4 & 3); q != 0 {
		s.quality += key*4 + q<<8
	}
	for _, f := range [...]byte{1 << 6, 1 << 7} {
		if head&f != 0 {
			c.bytes()
		}
	}
	switch Kind(head & 15) {
	case KindBool:
		s.add(key, float64(c.u8()))
	case KindInt:
		u := c.varint() // zig-zag
		s.add(key, float64(int64(u>>1)^-int64(u&1)))
	case KindUint:
		s.add(key, float64(c.varint()))
	case KindFloat:
		s.add(key, math.Float64frombits(c.u64()))
	case KindString, KindBytes:
		c.bytes()
	}
}

// add notes a signal.
func (s *skimmed) add(key uint64, v float64) {
	if s.n < len(s.signals) && v == v {
		s.signals[s.n].key, s.signals[s.n].value = key, v
		s.n++
	}
}

// payload reads the signals of a payload: a number, or a JSON object.
func (s *skimmed) payload(seed maphash.Seed, p []byte) {
	p = bytes.TrimSpace(p)
	if len(p) == 0 {
		return
	}
	if p[0] != '{' {
		if v, ok := plainNumber(p); ok {
			s.add(0, v)
		}
		return
	}
	j := jsonSkim{p: p, i: 1}
	for j.space() != '}' && !j.bad {
		key := j.text()
		j.take(':')
		if b := j.space(); b == '"' {
			j.text()
		} else if b == '{' || b == '[' {
			j.nested()
		} else if v, ok := j.word(); ok {
			s.add(maphash.Bytes(seed, key), v)
		}
		if j.space() == ',' {
			j.i++
		} else if j.space() != '}' {
			j.bad = true
		}
	}
	if j.bad {
		s.n = 0
	}
}

// plainNumber reads a decimal number of at most 32 bytes.
func plainNumber(p []byte) (float64, bool) {
	if len(p) > 32 { // string(p) would allocate; no measured value has so many digits
		return 0, false
	}
	for _, b := range p {
		if (b < '0' || b > '9') && b != '-' && b != '+' && b != '.' && b != 'e' && b != 'E' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(string(p), 64)
	return v, err == nil
}

// jsonSkim walks over the members of a JSON object. It is lenient: what it
// takes for JSON may be none, and only picks other records to stay.
type jsonSkim struct {
	p   []byte
	i   int
	bad bool
}

// space skips white space and returns the next byte, 0 at the end.
func (j *jsonSkim) space() byte {
	for ; j.i < len(j.p); j.i++ {
		switch b := j.p[j.i]; b {
		case ' ', '\t', '\n', '\r':
		default:
			return b
		}
	}
	j.bad = true
	return 0
}

// take skips one byte that must be b.
func (j *jsonSkim) take(b byte) {
	if j.space() != b {
		j.bad = true
		return
	}
	j.i++
}

// text returns a string as it is written.
func (j *jsonSkim) text() []byte {
	if j.take('"'); j.bad {
		return nil
	}
	for from := j.i; j.i < len(j.p); j.i++ {
		switch j.p[j.i] {
		case '\\':
			j.i++
		case '"':
			j.i++
			return j.p[from : j.i-1]
		}
	}
	j.bad = true
	return nil
}

// nested skips an array or object.
func (j *jsonSkim) nested() {
	for depth := 0; !j.bad; {
		switch j.space() {
		case '"':
			j.text()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if j.i++; depth == 0 {
			return
		}
	}
}

// word reads a number or truth value, or skips null.
func (j *jsonSkim) word() (float64, bool) {
	if j.bad {
		return 0, false
	}
	from := j.i
	for ; j.i < len(j.p); j.i++ {
		if b := j.p[j.i]; b == ',' || b == '}' || b <= ' ' {
			break
		}
	}
	w := j.p[from:j.i]
	switch {
	case len(w) == 0:
		j.bad = true
	case string(w) == "true":
		return 1, true
	case string(w) == "false":
		return 0, true
	}
	return plainNumber(w)
}
