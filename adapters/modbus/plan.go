package modbus

import (
	"cmp"
	"fmt"
	"slices"
)

// defaultGap is how many registers that nobody asked for a request may read in
// one piece; of coils and discrete inputs bitsPerRegister times as many.
const (
	defaultGap      = 10
	bitsPerRegister = 16
	addresses       = 1 << 16
)

// wall is a run of addresses that no request may hold whole: a range that must
// not be read, a gap too long to bridge, or what a device refused.
//
// A request begins and ends with a span, and no span lies in a forbidden range
// or in a gap. So a request that touches one of these holds all of it, and one
// rule is enough for every kind. It is also the rule of what was refused: more
// around it is refused as well, be it for an address or for the length.
type wall struct{ from, to int } // to is behind the last

// grouping is what the requests of one function have to keep to.
type grouping struct {
	limit int    // registers or bits in one request
	walls []wall // ascending by from
}

// step is the best way to read all spans from one on.
type step struct {
	requests, registers int
	next                int // the first span that is not in the first request
}

// runs finds the fewest requests for spans, and among those the fewest
// registers. It returns the index behind the last span of each request. spans
// are without equals, ascending by address, the longer first where that is equal.
//
// Runs of spans in this order are enough, although spans may overlap and lie in
// one another. Take the best requests as intervals: none lies within another,
// or it could be spared, so both their starts and their ends ascend. Give each
// span to the last interval that holds it. Were span b given to an interval
// before that of span a, although b does not start before a, then b would start
// and end within the interval of a too (it starts no earlier than a, and ends
// with its own interval, which ends earlier), which is a later one. So the
// intervals take runs. Those shrink to their spans at most, and what may be
// read may also be read in part. Only the span that is itself beyond limit or
// holds a wall is an exception: it is always tried alone, with what lies in it.
// Its interval does not shrink, as the span could only have gone to one around it.
func (g *grouping) runs(spans []span) []int {
	n := len(spans)
	best := make([]step, n+1)
	stop, w := 2*addresses, len(g.walls)-1
	for i := n - 1; i >= 0; i-- {
		from := spans[i].address
		for ; w >= 0 && g.walls[w].from >= from; w-- {
			stop = min(stop, g.walls[w].to-1)
		}
		reach, end := min(from+g.limit, stop), 0
		for j := i; j < n; j++ {
			end = max(end, spans[j].end())
			if end > reach && end > spans[i].end() {
				break
			}
			s := step{best[j+1].requests + 1, best[j+1].registers + end - from, j + 1}
			if j == i || s.requests < best[i].requests || s.requests == best[i].requests && s.registers <= best[i].registers {
				best[i] = s
			}
		}
	}
	ends := make([]int, 0, best[0].requests)
	for i := 0; i < n; i = best[i].next {
		ends = append(ends, best[i].next)
	}
	return ends
}

// byAddress is the order in which runs takes spans.
func byAddress(a, b span) int {
	return cmp.Or(cmp.Compare(a.address, b.address), cmp.Compare(b.length, a.length))
}

// bits reports whether a function reads bits.
func bits(function byte) bool { return function == readCoils || function == readDiscrete }

// limit returns how much of function's table the device gives in one request.
func (l *Limits) limit(function byte) int {
	most, set := maxWords, l.Words
	switch {
	case bits(function):
		most, set = maxBits, l.Bits
	case function == readFIFO:
		return maxFIFO
	}
	if set <= 0 {
		return most
	}
	return min(set, most)
}

// gap returns the longest run of function's table that may be read in vain.
func (l *Limits) gap(function byte) int {
	gap := defaultGap
	if l.Gap != nil {
		gap = *l.Gap
	}
	if bits(function) {
		gap *= bitsPerRegister
	}
	return gap
}

// forbidden returns the ranges of the table that function reads.
func (l *Limits) forbidden(function byte) (walls []wall) {
	for _, r := range l.Forbidden {
		if f := functionOf(r.Table); f == function || f == readHolding && function == readWrite {
			walls = append(walls, wall{r.From, r.To + 1})
		}
	}
	return walls
}

// walls returns what spans, which runs would take, must not be joined across:
// forbidden ranges, and runs nobody asked for that are too long.
func (l *Limits) walls(spans []span) []wall {
	if len(spans) == 0 {
		return nil
	}
	function, end := spans[0].function, spans[0].end()
	walls := l.forbidden(function)
	for _, s := range spans {
		if s.address-end > l.gap(function) {
			walls = append(walls, wall{end, s.address})
		}
		end = max(end, s.end())
	}
	return walls
}

// fits says why a span cannot be read at all.
func (l *Limits) fits(s span) error {
	switch {
	case s.address < 0 || s.address >= addresses || s.function != readFIFO && (s.length < 1 || s.end() > addresses):
		return fmt.Errorf("read %s: addresses are 0 to %d", s.text(), addresses-1)
	case s.length > l.limit(s.function):
		return fmt.Errorf("read %s: it does not fit into one request of %d", s.text(), l.limit(s.function))
	}
	if s.function == readFIFO { // an address of its own kind
		return nil
	}
	for _, w := range l.forbidden(s.function) {
		if s.address < w.to && w.from < s.end() {
			return fmt.Errorf("read %s: it lies in the forbidden range %d to %d", s.text(), w.from, w.to-1)
		}
	}
	return nil
}

// text names the span as messages do.
func (s span) text() string {
	if s.function == readFIFO {
		return fmt.Sprintf("fifo %d", s.address)
	}
	return fmt.Sprintf("%s %d+%d", tableOf(s.function), s.address, s.length)
}

// sortWalls brings walls into the order that runs wants.
func sortWalls(walls []wall) {
	slices.SortFunc(walls, func(a, b wall) int { return cmp.Compare(a.from, b.from) })
}
