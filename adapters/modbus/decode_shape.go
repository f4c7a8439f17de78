package modbus

import (
	"fmt"
	"slices"
	"strconv"
)

// shape is what the elements of a point have in common.
type shape struct {
	class   class
	order   byteOrder
	coil    bool  // of coils or discrete inputs
	queue   bool  // of a fifo, which may hold less than was asked for
	words   uint8 // of a number
	bytes   int   // data of one element
	part    bool  // bit and width tell a part of the number
	bit     uint8
	width   uint8 // bits of the number, or of its part
	bitAt   []uint8
	enum    map[uint64]string
	invalid []pattern
	scaled  bool
	scale   scaling
	min     *bound
	max     *bound
	unit    string
	band    deadband
}

// pattern is what a register holds when there is no value.
type pattern struct {
	raw    uint64
	reason string
}

// bound is a limit of plausible values.
type bound struct {
	value  float64
	reason string
}

// elements is how many values of its type q has.
func (q *Point) elements() int {
	if t, ok := q.typ(); !ok || t.words == 0 {
		return 1
	}
	return max(1, q.Count)
}

// length is how many registers or bits one element of q takes.
func (q *Point) length() int {
	t, ok := q.typ()
	switch {
	case q.ofBits() || !ok:
		return 1
	case t.words == 0:
		return max(1, q.Count)
	}
	return int(t.words)
}

// run returns the span of element i of q and how many bytes of it to skip. Each
// element may be read by itself, so that an array may be longer than a request;
// only a queue comes as a whole.
func (q *Point) run(i int) (s span, skip int) {
	n := q.length()
	if q.Table == "fifo" {
		return span{readFIFO, q.Address, q.elements() * n}, 2 * i * n
	}
	return span{functionOf(q.Table), q.Address + i*n, n}, 0
}

// element returns the name of element i of q.
func (q *Point) element(i int) string {
	if q.elements() == 1 {
		return q.Name
	}
	return q.Name + "." + strconv.Itoa(i)
}

// bitName returns the name of a bit of a bit field.
func (q *Point) bitName(bit uint8) string {
	for key, name := range q.Enum {
		if n, err := strconv.Atoi(key); err == nil && n == int(bit) {
			return name
		}
	}
	return strconv.Itoa(int(bit))
}

// newShape prepares what the elements of q have in common.
func newShape(p *Profile, q *Point) *shape {
	t, _ := q.typ()
	s := &shape{class: t.class, order: q.order(p.Order, t), coil: q.ofBits(), queue: q.Table == "fifo", words: t.words,
		width: q.width(t), unit: q.Unit, scale: scalingOf(q.Scale, q.Offset), band: deadband{q.Deadband, q.Percent}}
	s.bytes = 2 * q.length()
	if s.coil {
		s.bytes, s.width = 1, 1
	}
	if q.Bit != nil {
		s.part, s.bit = true, uint8(*q.Bit)
	}
	s.scaled = q.ScaleAt != nil || q.Offset != 0 || q.Scale != 0 && q.Scale != 1
	for _, text := range q.Invalid {
		if raw, err := bitsOf(text, t); err == nil {
			s.invalid = append(s.invalid, pattern{raw, fmt.Sprintf("no value (0x%0*X)", 4*int(t.words), raw)})
		}
	}
	s.min, s.max = boundOf("below", q.Min), boundOf("above", q.Max)
	if t.class == classBits {
		s.bitAt = q.bitNumbers(t)
		return s
	}
	for key, text := range q.Enum {
		if s.enum == nil {
			s.enum = make(map[uint64]string, len(q.Enum))
		}
		if n, err := enumKey(key, t, s.width); err == nil {
			s.enum[n] = text
		}
	}
	return s
}

// bitNumbers returns the bits of a bit field that are values, ascending: those
// with a name, or all.
func (q *Point) bitNumbers(t pointType) []uint8 {
	var out []uint8
	for key := range q.Enum {
		if n, err := strconv.ParseUint(key, 10, 8); err == nil {
			out = append(out, uint8(n))
		}
	}
	if len(out) == 0 {
		for n := range t.width() {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func boundOf(word string, v *float64) *bound {
	if v == nil {
		return nil
	}
	return &bound{*v, word + " " + strconv.FormatFloat(*v, 'g', -1, 64)}
}
