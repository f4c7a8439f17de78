package gateway

import (
	"fmt"
	"math"
	"strconv"
)

// Kind says which type a Value holds.
type Kind uint8

// The kinds of values. The numbers are part of the stored format.
const (
	KindNone   Kind = iota // no value, for instance a reading that failed
	KindBool               // true or false
	KindInt                // signed 64-bit integer
	KindUint               // unsigned 64-bit integer
	KindFloat              // IEEE 754 double
	KindString             // UTF-8 text
	KindBytes              // any bytes
)

// String returns the name used in JSON and in messages.
func (k Kind) String() string {
	names := [...]string{"none", "bool", "int64", "uint64", "float64", "string", "bytes"}
	if int(k) < len(names) {
		return names[k]
	}
	return "kind(" + strconv.Itoa(int(k)) + ")"
}

// Quality says how far a reading can be trusted, in the three grades of
// OPC UA Part 8 (good, uncertain, bad).
type Quality uint8

// The qualities. The numbers are part of the stored format.
const (
	Good Quality = iota
	Uncertain
	Bad
)

// String returns "good", "uncertain" or "bad".
func (q Quality) String() string {
	switch q {
	case Good:
		return "good"
	case Uncertain:
		return "uncertain"
	case Bad:
		return "bad"
	}
	return "quality(" + strconv.Itoa(int(q)) + ")"
}

// Value is one named reading inside a Record. It is a small struct with a
// kind instead of an interface, so that a record of a hundred readings costs
// one slice and no boxing. Build one with the constructors below.
type Value struct {
	Name    string  // signal, unique within the record
	Unit    string  // unit of measure as the source names it, e.g. "°C", "kPa"; "" when unknown
	Reason  string  // why the quality is not good, short; "" when good
	Quality Quality // trust in the reading
	kind    Kind
	num     uint64 // bool, int64, uint64 or the bits of a float64
	str     string // string or bytes
}

// BoolValue returns a boolean reading.
func BoolValue(name string, b bool) Value {
	v := Value{Name: name, kind: KindBool}
	if b {
		v.num = 1
	}
	return v
}

// IntValue returns a signed integer reading.
func IntValue(name string, i int64) Value {
	return Value{Name: name, kind: KindInt, num: uint64(i)}
}

// UintValue returns an unsigned integer reading.
func UintValue(name string, u uint64) Value { return Value{Name: name, kind: KindUint, num: u} }

// FloatValue returns a floating-point reading. NaN and infinities are kept.
func FloatValue(name string, f float64) Value {
	return Value{Name: name, kind: KindFloat, num: math.Float64bits(f)}
}

// StringValue returns a text reading.
func StringValue(name, s string) Value { return Value{Name: name, kind: KindString, str: s} }

// BytesValue returns a reading of raw bytes, given as a string so that the
// value is immutable.
func BytesValue(name, b string) Value { return Value{Name: name, kind: KindBytes, str: b} }

// BadValue returns a reading that failed, with the reason.
func BadValue(name, reason string) Value { return Value{Name: name, Quality: Bad, Reason: reason} }

// Kind returns the type of the value.
func (v *Value) Kind() Kind { return v.kind }

// Bool returns a boolean value; false for every other kind.
func (v *Value) Bool() bool { return v.kind == KindBool && v.num != 0 }

// Int returns a signed integer value; 0 for every other kind.
func (v *Value) Int() int64 {
	if v.kind != KindInt {
		return 0
	}
	return int64(v.num)
}

// Uint returns an unsigned integer value; 0 for every other kind.
func (v *Value) Uint() uint64 {
	if v.kind != KindUint {
		return 0
	}
	return v.num
}

// Float returns a floating-point value; 0 for every other kind.
func (v *Value) Float() float64 {
	if v.kind != KindFloat {
		return 0
	}
	return math.Float64frombits(v.num)
}

// Text returns the text or bytes of a string or bytes value; "" for every other kind.
func (v *Value) Text() string { return v.str }

// String returns the value for messages, with its unit.
func (v *Value) String() string {
	var s string
	switch v.kind {
	case KindBool:
		s = strconv.FormatBool(v.Bool())
	case KindInt:
		s = strconv.FormatInt(v.Int(), 10)
	case KindUint:
		s = strconv.FormatUint(v.num, 10)
	case KindFloat:
		s = strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case KindString:
		s = v.str
	case KindBytes:
		s = fmt.Sprintf("%x", v.str)
	default:
		s = "(" + v.Reason + ")"
	}
	if v.Unit != "" {
		s += " " + v.Unit
	}
	return s
}
