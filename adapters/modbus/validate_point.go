package modbus

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// point checks a point by itself.
func (f *profileFaults) point(p *Profile, q *Point, relative bool) {
	f.name(q.Name)
	tabled := f.oneOf("table", q.Table, "coil", "discrete", "holding", "input", "fifo")
	t, known := q.typ()
	if !known {
		f.add("type", fmt.Sprintf("%q is not one of %s", q.Type, strings.Join(types(), ", ")), "")
	}
	f.deadbands(q)
	f.oneOf("order", q.Order, orders()...)
	if !tabled || !known {
		return
	}
	if relative && functionOf(q.Table) != readHolding {
		f.add("table", "must be holding in a SunSpec model", "")
	}
	f.place(p, q, relative)
	if q.ofBits() {
		f.coil(q, t)
	} else {
		f.register(q, t)
	}
	f.enum(q, t)
	f.meaning(q, t)
}

// place checks where a point lies.
func (f *profileFaults) place(p *Profile, q *Point, relative bool) {
	if q.Address < 0 || q.Address > maxAddress {
		f.add("address", fmt.Sprintf("%d is outside 0 to 65535", q.Address), modiconHint(q.Address))
		return
	}
	if !f.between("count", q.Count, 0, maxValues) {
		return
	}
	first, _ := q.run(0)
	last, _ := q.run(q.elements() - 1)
	switch {
	case q.Table == "fifo" && first.length > maxFIFO:
		f.add("count", fmt.Sprintf("takes %d registers, a queue has at most %d", first.length, maxFIFO), "")
		return
	case q.Table != "fifo" && last.end() > maxAddress+1:
		f.add("address", fmt.Sprintf("%d is too high: the point ends at %d, the last address is 65535", q.Address, last.end()-1), "")
		return
	case !q.ofBits() && first.length > p.Limits.mostWords():
		key := "type"
		if q.Count > 1 && q.elements() == 1 {
			key = "count"
		}
		f.add(key, fmt.Sprintf("takes %d registers, one request at most %d (limits.words)", first.length, p.Limits.mostWords()), "")
	}
	if relative || q.Table == "fifo" {
		return
	}
	if r := p.Limits.forbids(span{first.function, first.address, last.end() - first.address}); r != nil {
		f.add("address", fmt.Sprintf("%d lies in %s", q.Address, r), "")
	}
	if q.ScaleAt != nil {
		if r := p.Limits.forbids(span{first.function, *q.ScaleAt, 1}); r != nil {
			f.add("scale_at", fmt.Sprintf("%d lies in %s", *q.ScaleAt, r), "")
		}
	}
}

// modiconHint explains a number that is no address but may be a register number
// of six digits.
func modiconHint(n int) string {
	if table, address, ok := modicon(fmt.Sprintf("%06d", n)); ok && n >= 100001 {
		return fmt.Sprintf("in the numbers of old manuals %d is table: %s, address: %d", n, table, address)
	}
	return ""
}

// coil checks a point of coils or discrete inputs.
func (f *profileFaults) coil(q *Point, t pointType) {
	if t.class != classBool {
		f.add("type", fmt.Sprintf("must be bool for %s, which holds single bits", q.Table), "")
	}
	if q.Order != "" {
		f.add("order", "is not for single bits", "")
	}
	if q.Bit != nil {
		f.add("bit", "is not for coils and discrete inputs", "address says which one")
	}
	if q.Width != 0 {
		f.add("width", "is not for coils and discrete inputs", "")
	}
	if len(q.Invalid) > 0 {
		f.add("invalid", "is not for single bits", "")
	}
}

// register checks a point of registers.
func (f *profileFaults) register(q *Point, t pointType) {
	if t.words == 0 && (q.Order == "CDAB" || q.Order == "DCBA") {
		f.add("order", "must be ABCD or BADC for "+q.Type, "")
	}
	f.part(q, t)
	if len(q.Invalid) > 0 && t.words == 0 {
		f.add("invalid", "is not for "+q.Type, "")
		return
	}
	for i, s := range q.Invalid {
		if _, err := bitsOf(s, t); err != nil {
			f.add(fmt.Sprintf("invalid[%d]", i), err.Error(), "decimal, or 0x and the bits on the line")
		}
	}
}

// part checks bit and width.
func (f *profileFaults) part(q *Point, t pointType) {
	switch {
	case q.Bit == nil && t.class == classBool:
		f.add("bit", "is required: a register has 16 bits", "0 is the least")
	case q.Bit == nil && q.Width != 0:
		f.add("width", "has no effect without bit", "")
	case q.Bit == nil:
	case t.class != classBool && t.class != classInt && t.class != classUint:
		f.add("bit", "is for bool and whole numbers, not "+q.Type, "")
	case !f.between("bit", *q.Bit, 0, int(t.width())-1) || !f.between("width", q.Width, 0, int(t.width())-*q.Bit):
	case t.class == classBool && q.Width > 1:
		f.add("width", "must be 1 for bool", "uint16 has several bits")
	case t.class == classInt && q.Width < 2:
		f.add("width", fmt.Sprintf("must be at least 2 for %s: one bit is the sign", q.Type), "")
	}
}

// enum checks the names of numbers.
func (f *profileFaults) enum(q *Point, t pointType) {
	if len(q.Enum) == 0 {
		return
	}
	if t.class == classFloat || t.words == 0 {
		f.add("enum", "is not for "+q.Type, "")
		return
	}
	width := q.width(t)
	if q.ofBits() {
		width = 1
	}
	if t.class != classBool && width == 0 || width > 64 {
		return // said already
	}
	seen := make(map[uint64]string)
	for _, key := range sortedKeys(q.Enum) {
		n, err := uint64(0), error(nil)
		if t.class == classBits {
			n, err = bitKey(key, t)
		} else {
			n, err = enumKey(key, t, width)
		}
		at := fmt.Sprintf("enum.%s", key)
		switch first, twice := seen[n]; {
		case err != nil:
			f.add(at, err.Error(), "")
			continue
		case twice:
			f.add(at, fmt.Sprintf("is the same number as %q", first), "")
		}
		seen[n] = key
		switch text := q.Enum[key]; {
		case t.class == classBits && !sane.MatchString(text):
			f.add(at, fmt.Sprintf("%q is not a name", text), nameHint)
		case text == "" || len(text) > 128:
			f.add(at, "must be a text of 1 to 128 bytes", "")
		}
	}
	if t.class != classBits && (q.Scale != 0 || q.Offset != 0 || q.ScaleAt != nil || q.Min != nil || q.Max != nil) {
		f.add("enum", "makes text of the number: scale, offset, scale_at, min and max have no effect", "leave them out")
	}
}

// bitKey reads the number of a bit.
func bitKey(s string, t pointType) (uint64, error) {
	n := 0
	for _, c := range s {
		if c < '0' || c > '9' || n > 99 {
			n = 99
			break
		}
		n = 10*n + int(c-'0')
	}
	if s == "" || n >= int(t.width()) {
		return 0, fmt.Errorf("%q is not a bit: 0 to %d", s, t.width()-1)
	}
	return uint64(n), nil
}

// meaning checks what is made of the number.
func (f *profileFaults) meaning(q *Point, t pointType) {
	numeric := t.class == classInt || t.class == classUint || t.class == classFloat || t.class == classBCD
	if !numeric && (q.Scale != 0 || q.Offset != 0 || q.ScaleAt != nil || q.Min != nil || q.Max != nil) {
		f.add("type", "scale, offset, scale_at, min and max are for numbers, not "+cmp.Or(q.Type, "bool"), "leave them out")
		return
	}
	if !finite(q.Scale) || !finite(q.Offset) {
		f.add("scale", "scale and offset must be numbers", "")
	}
	if q.ScaleAt != nil {
		if q.Table == "fifo" {
			f.add("scale_at", "is not for a fifo", "")
		}
		f.between("scale_at", *q.ScaleAt, 0, maxAddress)
	}
	for key, limit := range map[string]*float64{"min": q.Min, "max": q.Max} {
		if limit != nil && !finite(*limit) {
			f.add(key, "must be a number", "")
		}
	}
	if q.Min != nil && q.Max != nil && *q.Min > *q.Max {
		f.add("min", fmt.Sprintf("%g is above max, %g", *q.Min, *q.Max), "")
	}
	if q.Counter {
		f.counter(q, t)
	}
}

// leastCounter is the least width of a counter in bits: in fewer, a quarter of
// the range passes too soon to know a roll-over by it.
const leastCounter = 8

func (f *profileFaults) counter(q *Point, t pointType) {
	switch {
	case t.class != classUint && t.class != classBCD:
		f.add("counter", "is for uint and bcd, not "+cmp.Or(q.Type, "bool"), "")
	case q.Table == "fifo":
		f.add("counter", "is not for a fifo", "")
	case len(q.Enum) > 0:
		f.add("counter", "has no effect with enum", "")
	case q.Min != nil || q.Max != nil:
		f.add("counter", "goes on for ever: min and max have no meaning", "leave them out")
	case q.width(t) < leastCounter:
		f.add("counter", fmt.Sprintf("needs at least %d bits", leastCounter), "")
	}
}

func (f *profileFaults) deadbands(q *Point) {
	if !(q.Deadband >= 0) || math.IsInf(q.Deadband, 0) {
		f.add("deadband", fmt.Sprintf("%g must not be negative", q.Deadband), "")
	}
	if !(q.Percent >= 0 && q.Percent <= 100) {
		f.add("deadband_percent", fmt.Sprintf("%g is outside 0 to 100", q.Percent), "")
	}
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

func sortedKeys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
