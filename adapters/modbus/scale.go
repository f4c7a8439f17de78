package modbus

import (
	"math"
	"strconv"
	"strings"
)

// scaling makes the value of a number: number * factor / divisor * 10^power + offset.
// A factor is kept as the quotient of two whole numbers where its decimals
// allow: 2301 * 0.1 is 230.10000000000002, 2301 / 10 is 230.1.
type scaling struct {
	factor, divisor, offset float64
}

// powers is the greatest power of ten that a float64 holds exactly.
const powers = 22

// scalingOf returns the scaling by factor, where 0 is 1, and offset.
func scalingOf(factor, offset float64) scaling {
	if factor == 0 {
		factor = 1
	}
	s := scaling{factor, 1, offset}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(factor, 'e', -1, 64), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	power, _ := strconv.Atoi(exponent)
	power -= len(fraction)
	m, err := strconv.ParseFloat(whole+fraction, 64)
	if err != nil || math.Abs(m) >= 1<<53 || power >= 0 || power < -powers {
		return s
	}
	s.factor, s.divisor = m, tenTo(-power)
	return s
}

// tenTo returns 10^n for n in 0 to powers.
func tenTo(n int) float64 {
	f := 1.0
	for range n {
		f *= 10
	}
	return f
}

// apply scales f, besides by ten to the power of ten.
func (s *scaling) apply(f float64, ten int) float64 {
	f *= s.factor
	if ten > 0 {
		f *= tenTo(ten)
	}
	if d := s.divisor; d != 1 || ten < 0 {
		if ten < 0 {
			d *= tenTo(-ten)
		}
		f /= d
	}
	return f + s.offset
}
