package modbus

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// class is what the registers of a point are read as.
type class uint8

const (
	classBool class = iota
	classInt
	classUint
	classFloat
	classBCD
	classBits
	classText
	classBytes
)

// pointType is the type of a point.
type pointType struct {
	class class
	words uint8 // registers of one value; 0: as many as count says
}

// width is how many bits a value of the type has.
func (t pointType) width() uint8 { return 16 * t.words }

// digits is how many digits a bcd has.
func (t pointType) digits() int { return 4 * int(t.words) }

// typeOf returns the type that an option names, without the default.
func typeOf(name string) (t pointType, ok bool) {
	switch name {
	case "bool":
		return pointType{classBool, 1}, true
	case "int16":
		return pointType{classInt, 1}, true
	case "int32":
		return pointType{classInt, 2}, true
	case "int64":
		return pointType{classInt, 4}, true
	case "uint16":
		return pointType{classUint, 1}, true
	case "uint32":
		return pointType{classUint, 2}, true
	case "uint64":
		return pointType{classUint, 4}, true
	case "float16":
		return pointType{classFloat, 1}, true
	case "float32":
		return pointType{classFloat, 2}, true
	case "float64":
		return pointType{classFloat, 4}, true
	case "bcd16":
		return pointType{classBCD, 1}, true
	case "bcd32":
		return pointType{classBCD, 2}, true
	case "bcd64":
		return pointType{classBCD, 4}, true
	case "bits16":
		return pointType{classBits, 1}, true
	case "bits32":
		return pointType{classBits, 2}, true
	case "string":
		return pointType{classText, 0}, true
	case "bytes":
		return pointType{classBytes, 0}, true
	}
	return pointType{}, false
}

// types are the names of all types.
func types() []string {
	return []string{"bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
		"bcd16", "bcd32", "bcd64", "string", "bytes", "bits16", "bits32"}
}

// ofBits reports whether the table of p holds single bits.
func (p *Point) ofBits() bool { return p.Table == "coil" || p.Table == "discrete" }

// typ returns the type of p; ok is false when it has none.
func (p *Point) typ() (t pointType, ok bool) {
	if p.Type == "" {
		if p.ofBits() {
			return typeOf("bool")
		}
		return typeOf("uint16")
	}
	return typeOf(p.Type)
}

// width is how many bits the number of p has: those of its type, or the part of
// it that bit and width tell.
func (p *Point) width(t pointType) uint8 {
	switch {
	case p.Bit == nil:
		return t.width()
	case p.Width == 0:
		return 1
	}
	return uint8(p.Width)
}

// order returns the order of p in a profile with the given one. The profile's
// is for numbers of several registers only.
func (p *Point) order(of string, t pointType) byteOrder {
	s := p.Order
	if s == "" && t.words > 1 {
		s = of
	}
	o, _ := orderOf(s)
	return o
}

// bitsOf returns the bits that a number has on the line: s is decimal, or 0x
// and the bits themselves. A decimal is the number as t reads it, before scale.
func bitsOf(s string, t pointType) (uint64, error) {
	width := int(t.width())
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		v, err := strconv.ParseUint(hex, 16, width)
		if err != nil {
			return 0, fmt.Errorf("%q is not a number of %d bits", s, width)
		}
		return v, nil
	}
	switch t.class {
	case classFloat:
		return floatBits(s, t)
	case classBCD:
		v, err := strconv.ParseUint(s, 10, 64)
		bits, ok := decimalBits(v, t.digits())
		if err != nil || !ok {
			return 0, fmt.Errorf("%q is not a number of %d digits", s, t.digits())
		}
		return bits, nil
	}
	if v, err := strconv.ParseUint(s, 10, width); err == nil {
		return v, nil
	}
	v, err := strconv.ParseInt(s, 10, width)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of %d bits", s, width)
	}
	return uint64(v) & lowBits(t.width()), nil
}

func floatBits(s string, t pointType) (uint64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	switch t.words {
	case 1:
		return uint64(halfBits(f)), nil
	case 2:
		return uint64(math.Float32bits(float32(f))), nil
	}
	return math.Float64bits(f), nil
}

// enumKey returns the number that a key of an enum names, as bits of the given
// width; of bcd, the number itself.
func enumKey(s string, t pointType, width uint8) (uint64, error) {
	if t.class == classBCD {
		v, err := strconv.ParseUint(s, 10, 64)
		if _, ok := decimalBits(v, t.digits()); err != nil || !ok {
			return 0, fmt.Errorf("%q is not a number of %d digits", s, t.digits())
		}
		return v, nil
	}
	base := 10
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		s, base = hex, 16
	}
	if v, err := strconv.ParseUint(s, base, int(width)); err == nil {
		return v, nil
	}
	if t.class == classInt {
		if v, err := strconv.ParseInt(s, 10, int(width)); err == nil {
			return uint64(v) & lowBits(width), nil
		}
	}
	return 0, fmt.Errorf("%q is not a number of %d bits", s, width)
}
