package modbus

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

const (
	mostPoints   = 500 // of one unit in a configuration
	everyZero    = 200 // registers and bits of a unit up to which those that are 0 are points too
	mostText     = 64  // registers of a text
	leastFloat   = 1e-4
	greatestReal = 1e8
)

// stretch is a row of registers, or bits, that can be read without a hole.
type stretch struct {
	function      byte
	from          int
	words         []uint16 // bits are 0 and 1
	again         []uint16 // what was read the second time; nil = it was not
	known         []bool   // what has a second value
	taken         []bool   // what is a point already
	first, second []byte   // the registers as bytes
}

// guess makes points of what was read: types are guessed from values that are
// plausible, and what is not to be told is an uint16.
func (f *found) guess(runs []*run) {
	stretches := join(runs)
	total := 0
	for _, a := range stretches {
		total += len(a.words)
	}
	f.order = guessOrder(stretches)
	left := mostPoints
	for _, a := range stretches {
		name := tableOf(a.function)
		if len(f.tables) == 0 || f.tables[len(f.tables)-1].name != name {
			f.tables = append(f.tables, foundTable{name: name})
		}
		t := &f.tables[len(f.tables)-1]
		t.ranges = append(t.ranges, Range{name, a.from, a.from + len(a.words) - 1})
		points, zeros := a.points(f.order, total <= everyZero, left)
		t.points, t.zeros, left = append(t.points, points...), t.zeros+zeros, left-len(points)
	}
}

// holes reports whether a table has registers that cannot be read between those that can.
func (f *found) holes() bool {
	return slices.ContainsFunc(f.tables, func(t foundTable) bool { return len(t.ranges) > 1 })
}

// join makes stretches of runs, which may touch and overlap.
func join(runs []*run) (stretches []*stretch) {
	runs = slices.Clone(runs)
	place := func(r *run) int {
		return slices.Index([]byte{readHolding, readInput, readCoils, readDiscrete}, r.function)
	}
	slices.SortFunc(runs, func(a, b *run) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a.from, b.from), cmp.Compare(b.n, a.n))
	})
	for _, r := range runs {
		var a *stretch
		if n := len(stretches); n > 0 {
			a = stretches[n-1]
		}
		if a == nil || a.function != r.function || r.from > a.from+len(a.words) {
			a = &stretch{function: r.function, from: r.from}
			stretches = append(stretches, a)
		}
		for i := a.from + len(a.words) - r.from; i < r.n; i++ {
			a.words = append(a.words, r.value(r.first, i))
			a.known = append(a.known, r.second != nil)
			again := uint16(0)
			if r.second != nil {
				again = r.value(r.second, i)
			}
			a.again = append(a.again, again)
		}
	}
	for _, a := range stretches {
		a.taken = make([]bool, len(a.words))
		for i, w := range a.words {
			a.first = binary.BigEndian.AppendUint16(a.first, w)
			a.second = binary.BigEndian.AppendUint16(a.second, a.again[i])
		}
	}
	return stretches
}

// value is the i-th register or bit of what was read.
func (r *run) value(data []byte, i int) uint16 {
	if r.function == readCoils || r.function == readDiscrete {
		return uint16(data[i/8]>>(i%8)) & 1
	}
	return binary.BigEndian.Uint16(data[2*i:])
}

func (a *stretch) bits() bool { return a.function == readCoils || a.function == readDiscrete }

// points makes points of an area, at most most. Those that are 0 are counted and
// left out unless all are wanted.
func (a *stretch) points(order string, all bool, most int) (points []foundPoint, zeros int) {
	if !a.bits() {
		points = a.texts()
		points = append(points, a.numbers(order, all)...)
	}
	for i, w := range a.words {
		if a.taken[i] {
			continue
		}
		if w == 0 && !all && !(a.known[i] && a.again[i] != 0) {
			zeros++
			continue
		}
		points = append(points, a.plain(i))
	}
	slices.SortFunc(points, func(x, y foundPoint) int { return cmp.Compare(x.Address, y.Address) })
	if len(points) > most {
		points = points[:most]
	}
	return points, zeros
}

// point makes a point of what begins at place i.
func (a *stretch) point(i int, typ string) Point {
	table := tableOf(a.function)
	return Point{Name: fmt.Sprintf("%s_%d", table, a.from+i), Table: table, Address: a.from + i, Type: typ}
}

// plain is a register or bit that nothing else is known of.
func (a *stretch) plain(i int) foundPoint {
	if a.bits() {
		return foundPoint{a.point(i, "bool"), a.seen(i, 1, strconv.FormatBool(a.words[i] == 1), strconv.FormatBool(a.again[i] == 1))}
	}
	w := a.words[i]
	p := foundPoint{a.point(i, "uint16"), a.seen(i, 1, strconv.Itoa(int(w)), strconv.Itoa(int(a.again[i])))}
	switch {
	case w == 0xFFFF || w == 0x8000 || w == 0x7FFF:
		p.comment += fmt.Sprintf("; 0x%04X often means that there is no value", w)
	case w > 0xFC00:
		p.Type = "int16"
		p.comment = a.seen(i, 1, strconv.Itoa(int(int16(w))), strconv.Itoa(int(int16(a.again[i]))))
	}
	return p
}

// seen writes the values that were read: "230.1, then 230.4".
func (a *stretch) seen(i, n int, first, second string) string {
	if a.sure(i, n) && first != second {
		return first + ", then " + second
	}
	return first
}

// sure reports whether n registers were read a second time.
func (a *stretch) sure(i, n int) bool { return !slices.Contains(a.known[i:i+n], false) }

// texts finds registers with printable characters that do not change.
func (a *stretch) texts() (points []foundPoint) {
	for i := 0; i < len(a.words); i++ {
		n := 0
		for i+n < len(a.words) && n < mostText && isText(a.first[2*(i+n):2*(i+n)+2], n > 0) {
			n++
			if a.words[i+n-1] == 0 { // the padding is part of it, once
				break
			}
		}
		raw := a.first[2*i : 2*(i+n)]
		text, order := tagText(bytes.TrimRight(raw, "\x00 ")), ""
		if j := bytes.IndexByte(raw, 0); j >= 0 && j%2 == 0 && j+1 < len(raw) && raw[j+1] != 0 { // the end is before the last character
			order = "BADC"
			raw = slices.Clone(raw)
			for k := 0; k+1 < len(raw); k += 2 {
				raw[k], raw[k+1] = raw[k+1], raw[k]
			}
			text = tagText(bytes.TrimRight(raw, "\x00 "))
		}
		letters := strings.IndexFunc(text, isLetter) >= 0
		if n < 2 || len(text) < 4 || !letters || fractions(a.words[i:i+n]) || a.sure(i, n) && !bytes.Equal(a.first[2*i:2*(i+n)], a.second[2*i:2*(i+n)]) {
			continue
		}
		p := a.point(i, "string")
		p.Count, p.Order = n, order
		points = append(points, foundPoint{p, strconv.Quote(text)})
		a.take(i, n)
		i += n - 1
	}
	return points
}

// fractions reports whether every second register is the low word of a float
// with a tenth or fifth behind the point, which reads "33" and "ff".
func fractions(words []uint16) bool {
	n := 0
	for _, w := range words {
		if w == 0x3333 || w == 0x6666 {
			n++
		}
	}
	return 2*n >= len(words)-1 && n > 0
}

func isLetter(r rune) bool { return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' }

// isText reports whether a register may be part of a text; zeros only behind
// its beginning.
func isText(two []byte, begun bool) bool {
	for _, c := range two {
		if !(c >= ' ' && c < 0x7F || c == 0 && begun) {
			return false
		}
	}
	return true
}

func (a *stretch) take(i, n int) {
	for ; n > 0; n, i = n-1, i+1 {
		a.taken[i] = true
	}
}

// numbers finds values of two registers: floats, of which those that are 0 are
// left out unless all are wanted, and numbers that rise.
func (a *stretch) numbers(order string, all bool) (points []foundPoint) {
	free := make([]bool, len(a.words))
	for i := range free {
		free[i] = !a.taken[i]
	}
	orders := []string{order}
	if order == "" { // no float told it
		order, orders = "ABCD", []string{"ABCD", "CDAB"}
	}
	reals := realsIn(a.words, free, order)
	if len(reals) == 1 && a.jumps(reals[0], order) {
		reals = nil
	}
	for _, i := range reals {
		if !all && !slices.ContainsFunc(slices.Concat(a.words[i:i+2], a.again[i:i+2]), func(w uint16) bool { return w != 0 }) {
			continue
		}
		p := a.point(i, "float32")
		p.Order = order
		points = append(points, foundPoint{p, a.seen(i, 2, number(a.words[i:], order), number(a.again[i:], order))})
		a.take(i, 2)
	}
	for i := 0; i+1 < len(a.words); i++ {
		for _, order := range orders {
			if p, ok := a.counter(i, order); ok {
				points = append(points, p)
				a.take(i, 2)
				i++
				break
			}
		}
	}
	return points
}

// counter makes a point of two registers that rise together by little.
func (a *stretch) counter(i int, order string) (foundPoint, bool) {
	if a.taken[i] || a.taken[i+1] || !a.sure(i, 2) {
		return foundPoint{}, false
	}
	was, is := whole(a.words[i:], order), whole(a.again[i:], order)
	if was>>16 == 0 || was>>28 != 0 || is <= was || is-was >= 1<<16 {
		return foundPoint{}, false
	}
	p := a.point(i, "uint32")
	p.Order = order
	return foundPoint{p, fmt.Sprintf("%d, then %d; it rises: a counter?", was, is)}, true
}

// whole is a number of two registers.
func whole(w []uint16, order string) uint32 {
	hi, lo := w[0], w[1]
	if order == "CDAB" || order == "DCBA" {
		hi, lo = lo, hi
	}
	if order == "BADC" || order == "DCBA" {
		hi, lo = hi>>8|hi<<8, lo>>8|lo<<8
	}
	return uint32(hi)<<16 | uint32(lo)
}

func number(w []uint16, order string) string {
	return strconv.FormatFloat(float64(math.Float32frombits(whole(w, order))), 'g', 6, 32)
}

// plausible reports whether two registers look like a float that a device measures.
func plausible(w []uint16, order string) bool {
	v := math.Abs(float64(math.Float32frombits(whole(w, order))))
	return v >= leastFloat && v <= greatestReal
}

// realsIn returns where floats begin. One alone is believed when its low word is
// not 0 or nothing is around it; two in a row are believed at once. What is 0
// or NaN between floats is one, too.
func realsIn(words []uint16, free []bool, order string) (at []int) {
	for i := 0; i+1 < len(words); {
		var row []int
		real, j := 0, i
		for ; j+1 < len(words) && free[j] && free[j+1]; j += 2 {
			if plausible(words[j:], order) {
				real++
			} else if bits := whole(words[j:], order); bits<<1 != 0 && bits&0x7F800000 != 0x7F800000 || real == 0 {
				break
			}
			row = append(row, j)
		}
		for len(row) > 0 && !plausible(words[row[len(row)-1]:], order) {
			row = row[:len(row)-1] // zeros behind the last belong to nobody
		}
		if real >= 2 || real == 1 && len(words) <= 3 {
			at = append(at, row...)
			i = row[len(row)-1] + 2
			continue
		}
		i++
	}
	return at
}

// guessOrder returns the order of bytes in which most registers make plausible
// floats, "" when none do.
func guessOrder(stretches []*stretch) (best string) {
	most := 0
	for _, order := range []string{"ABCD", "CDAB", "BADC", "DCBA"} {
		n := 0
		for _, a := range stretches {
			if a.bits() {
				continue
			}
			free := slices.Repeat([]bool{true}, len(a.words))
			n += a.steady(realsIn(a.words, free, order), order)
		}
		if n > most {
			best, most = order, n
		}
	}
	return best
}

// steady weighs floats. Those that changed by little between two reads count
// more. One register off, the wrong order makes floats of nearly the same value;
// they are one fewer, or begin at odd addresses.
func (a *stretch) steady(at []int, order string) (weight int) {
	odd := 0
	for _, i := range at {
		weight += 8
		odd += (a.from + i) % 2
		if !a.sure(i, 2) || whole(a.words[i:], order) == whole(a.again[i:], order) {
			continue
		}
		if a.jumps(i, order) {
			weight -= 8
		} else {
			weight++
		}
	}
	if 2*odd < len(at) && weight > 0 {
		weight += 4
	}
	return weight
}

// jumps reports whether a float was another by a tenth or more the second time.
func (a *stretch) jumps(i int, order string) bool {
	if !a.sure(i, 2) {
		return false
	}
	was, is := math.Float32frombits(whole(a.words[i:], order)), math.Float32frombits(whole(a.again[i:], order))
	return was != is && !(math.Abs(float64(is-was)/float64(was)) < 0.1)
}
