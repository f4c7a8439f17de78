package modbus

import (
	"errors"
	"fmt"
	"math"

	"github.com/waystation-iot/waystation/gateway"
)

// decoder makes values of what the polls of one group find. Everything that can
// be is prepared: a poll of numbers and bools allocates nothing. It is used by
// one goroutine.
type decoder struct {
	runs   []span
	fields []field
	turned bool // a counter rolled over or began anew, see rebased
}

// field is one value of a point: one element of an array, or the point itself.
type field struct {
	*shape
	name    string
	result  int      // which span holds it
	skip    int      // bytes of that before it
	scaleAt int      // which span holds the power of ten, -1: none
	bits    []string // names of the values of a bit field
	counter *counter // nil: it is none
	kept    kept     // what was last made of text, to make it once
}

// compile prepares the decoder of group g of p. The group may be one that was
// found on the device.
func compile(p *Profile, g *Group) (*decoder, error) {
	f := newProfileFaults("")
	f.group(p, g, false)
	if err := errors.Join(*f.errs...); err != nil {
		return nil, fmt.Errorf("compile group %q: %w", g.Name, err)
	}
	d := &decoder{}
	at := make(map[span]int)
	for i := range g.Points {
		d.point(p, &g.Points[i], at)
	}
	return d, nil
}

// point adds the fields of a point. at tells which spans are there already.
func (d *decoder) point(p *Profile, q *Point, at map[span]int) {
	s := newShape(p, q)
	scaleAt := -1
	if q.ScaleAt != nil {
		scaleAt = d.run(at, span{functionOf(q.Table), *q.ScaleAt, 1})
	}
	for i := range q.elements() {
		run, skip := q.run(i)
		f := field{shape: s, name: q.element(i), scaleAt: scaleAt, result: d.run(at, run), skip: skip}
		for _, bit := range s.bitAt {
			f.bits = append(f.bits, f.name+"."+q.bitName(bit))
		}
		if q.Counter {
			f.counter = newCounter(q)
		}
		d.fields = append(d.fields, f)
	}
}

// run returns the place of a span in the results.
func (d *decoder) run(at map[span]int, s span) int {
	i, ok := at[s]
	if !ok {
		i = len(d.runs)
		at[s] = i
		d.runs = append(d.runs, s)
	}
	return i
}

// spans returns what a poll must read.
func (d *decoder) spans() []span { return d.runs }

// values appends the values of the group to dst: as many as the time before, in
// the same order. results are what was read, one for each span.
func (d *decoder) values(dst []gateway.Value, results []reading) []gateway.Value {
	for i := range d.fields {
		f := &d.fields[i]
		data, reason := f.data(results)
		switch {
		case reason != "":
			dst = f.bad(dst, reason)
		case f.class == classText || f.class == classBytes:
			dst = append(dst, f.text(data))
		default:
			dst = d.append(dst, f, data, results)
		}
	}
	return dst
}

// data returns the registers or bits of f, or why there are none.
func (f *field) data(results []reading) ([]byte, string) {
	data, reason := resultOf(results, f.result)
	switch end := f.skip + f.bytes; {
	case reason != "":
		return nil, reason
	case len(data) >= end:
		return data[f.skip:end], ""
	case f.queue && f.class == classBytes:
		return data, "" // what is in the queue
	case f.queue:
		return nil, "not in the queue"
	}
	return nil, "the answer was too short"
}

func resultOf(results []reading, at int) ([]byte, string) {
	if at >= len(results) {
		return nil, "not read"
	}
	if err := results[at].err; err != nil {
		return nil, reasonOf(err)
	}
	return results[at].data, ""
}

// bad appends the values of f without one.
func (f *field) bad(dst []gateway.Value, reason string) []gateway.Value {
	if f.class != classBits {
		return append(dst, gateway.BadValue(f.name, reason))
	}
	for _, name := range f.bits {
		dst = append(dst, gateway.BadValue(name, reason))
	}
	return dst
}

// append appends what is made of a number.
func (d *decoder) append(dst []gateway.Value, f *field, data []byte, results []reading) []gateway.Value {
	var raw uint64
	if f.coil {
		raw = uint64(data[0] & 1)
	} else {
		raw = f.order.number(data)
	}
	for i := range f.invalid {
		if f.invalid[i].raw == raw {
			return f.bad(dst, f.invalid[i].reason)
		}
	}
	if f.class == classBits {
		for i, name := range f.bits {
			dst = append(dst, gateway.BoolValue(name, raw>>f.bitAt[i]&1 != 0))
		}
		return dst
	}
	if f.part {
		raw = raw >> f.bit & lowBits(f.width)
	}
	if f.class == classBCD {
		n, ok := decimal(raw)
		if !ok {
			return f.bad(dst, "not binary-coded decimal")
		}
		raw = n
	}
	if f.enum != nil {
		return append(dst, f.named(raw))
	}
	ten := 0
	if f.scaleAt >= 0 {
		var reason string
		if ten, reason = f.power(results); reason != "" {
			return f.bad(dst, reason)
		}
	}
	note := ""
	if f.counter != nil {
		var turned bool
		raw, turned, note = f.counter.step(raw)
		d.turned = d.turned || turned
	}
	v := f.number(raw, ten)
	if note != "" {
		v.Quality, v.Reason = gateway.Uncertain, note
	}
	return append(dst, v)
}

// greatestPower is the greatest power of ten of a scale_at register (SunSpec
// Information Model Specification: sunssf is -10 to 10).
const greatestPower = 10

// power reads the power of ten of a scale_at register.
func (f *field) power(results []reading) (ten int, reason string) {
	data, reason := resultOf(results, f.scaleAt)
	if reason != "" {
		return 0, reason
	}
	if len(data) != 2 {
		return 0, "the answer was too short"
	}
	switch n := int16(byteOrder(0).number(data)); {
	case n == math.MinInt16:
		return 0, "no scale factor (0x8000)"
	case n < -greatestPower || n > greatestPower:
		return 0, "the scale factor is not a power of ten from -10 to 10"
	default:
		return int(n), ""
	}
}

// number makes the value of the bits of a number.
func (f *field) number(raw uint64, ten int) gateway.Value {
	var v gateway.Value
	x := 0.0
	switch f.class {
	case classBool:
		return gateway.BoolValue(f.name, raw != 0)
	case classInt:
		n := signed(raw, f.width)
		v, x = gateway.IntValue(f.name, n), float64(n)
	case classFloat:
		x = f.float(raw)
		if math.IsNaN(x) {
			return gateway.BadValue(f.name, "no value (NaN)")
		}
		v = gateway.FloatValue(f.name, x)
	default:
		v, x = gateway.UintValue(f.name, raw), float64(raw)
	}
	if f.scaled {
		x = f.scale.apply(x, ten)
		v = gateway.FloatValue(f.name, x)
	}
	v.Unit = f.unit
	switch {
	case math.IsInf(x, 0):
		return gateway.BadValue(f.name, "no value (Inf)")
	case f.min != nil && x < f.min.value:
		v.Quality, v.Reason = gateway.Uncertain, f.min.reason
	case f.max != nil && x > f.max.value:
		v.Quality, v.Reason = gateway.Uncertain, f.max.reason
	}
	return v
}

func (f *field) float(raw uint64) float64 {
	switch f.words {
	case 1:
		return half(uint16(raw))
	case 2:
		return float64(math.Float32frombits(uint32(raw)))
	}
	return math.Float64frombits(raw)
}
