package modbus

import "math"

// byteOrder says how the bytes of a number lie in its registers. The letters
// of the option name the bytes of the number, A the most significant, in the
// order in which they come over the line.
type byteOrder uint8

const (
	wordsReversed byteOrder = 1 << iota // the register with the lowest part comes first: CDAB
	bytesSwapped                        // the low byte of each register comes first: BADC
)

// orderOf returns the order that an option names; "" is ABCD.
func orderOf(s string) (o byteOrder, ok bool) {
	switch s {
	case "", "ABCD":
		return 0, true
	case "CDAB":
		return wordsReversed, true
	case "BADC":
		return bytesSwapped, true
	case "DCBA":
		return wordsReversed | bytesSwapped, true
	}
	return 0, false
}

// number puts at most four registers together.
func (o byteOrder) number(data []byte) uint64 {
	n := len(data) / 2
	var v uint64
	for i := range n {
		at := i
		if o&wordsReversed != 0 {
			at = n - 1 - i
		}
		high, low := data[2*at], data[2*at+1]
		if o&bytesSwapped != 0 {
			high, low = low, high
		}
		v = v<<16 | uint64(high)<<8 | uint64(low)
	}
	return v
}

// signed reads the lowest width bits of v as two's complement.
func signed(v uint64, width uint8) int64 {
	shift := 64 - width
	return int64(v<<shift) >> shift
}

// lowBits returns a mask of the lowest width bits.
func lowBits(width uint8) uint64 { return math.MaxUint64 >> (64 - width) }

// half reads IEEE 754 binary16 (section 3.6).
func half(v uint16) float64 {
	exponent, fraction := int(v>>10&0x1F), float64(v&0x3FF)
	f := 0.0
	switch exponent {
	case 0:
		f = math.Ldexp(fraction, -24)
	case 0x1F:
		f = math.Inf(1)
		if fraction != 0 {
			f = math.NaN()
		}
	default:
		f = math.Ldexp(1024+fraction, exponent-25)
	}
	return math.Copysign(f, -float64(v>>15)+0.5)
}

// halfBits returns the binary16 nearest to f, ties to even.
func halfBits(f float64) uint16 {
	var sign uint16
	if math.Signbit(f) {
		sign, f = 0x8000, -f
	}
	switch {
	case math.IsNaN(f):
		return sign | 0x7E00
	case f >= 65520: // half of the last step above the greatest number
		return sign | 0x7C00
	case f < 0x1p-14:
		return sign | uint16(math.RoundToEven(math.Ldexp(f, 24)))
	}
	fraction, exponent := math.Frexp(f) // fraction in [0.5, 1)
	steps := uint16(math.RoundToEven(math.Ldexp(fraction, 11)))
	return sign + uint16(exponent+13)<<10 + steps // 1024 steps carry into the exponent
}

// decimal reads v as binary-coded decimal, one digit in four bits.
func decimal(v uint64) (n uint64, ok bool) {
	unit := uint64(1)
	for ; v != 0; v >>= 4 {
		digit := v & 0xF
		if digit > 9 {
			return 0, false
		}
		n += digit * unit
		unit *= 10
	}
	return n, true
}

// decimalBits writes n as binary-coded decimal of the given number of digits.
func decimalBits(n uint64, digits int) (v uint64, ok bool) {
	for i := range digits {
		v |= n % 10 << (4 * i)
		n /= 10
	}
	return v, n == 0
}
