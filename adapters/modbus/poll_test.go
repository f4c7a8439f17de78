package modbus

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/goburrow/modbus"
	"pgregory.net/rapid"
)

// fakeUnit is a unit whose registers hold what only they can hold.
type fakeUnit struct {
	bad    map[int]bool // addresses that are refused
	seams  []int        // addresses that no request reads across
	limit  int          // registers or bits in one request
	code   byte         // of the exceptions; 0 = illegal address
	fail   func(*request) error
	asked  []request
	refuse int // requests refused
	buf    []byte
}

func (u *fakeUnit) ask(_ context.Context, q *request) ([]byte, error) {
	u.asked = append(u.asked, *q)
	if u.fail != nil {
		if err := u.fail(q); err != nil {
			return nil, err
		}
	}
	from, to := int(q.address), int(q.address)+int(q.count)
	ok := to-from <= u.limit
	for a := from; a < to; a++ {
		ok = ok && !u.bad[a]
	}
	for _, s := range u.seams {
		ok = ok && (s <= from || s >= to)
	}
	if !ok {
		u.refuse++
		return nil, &modbus.ModbusError{FunctionCode: q.function | exceptionBit, ExceptionCode: cmp.Or(u.code, illegalAddress)}
	}
	for i := range u.buf {
		u.buf[i] = 0xEE // the last answer is not valid any more
	}
	u.buf = answerOf(u.buf[:0], span{q.function, from, to - from})
	return u.buf, nil
}

// illegalAddress is the exception that devices give most.
const illegalAddress = 2

// answerOf appends what a span holds.
func answerOf(b []byte, s span) []byte {
	if !bits(s.function) {
		for a := s.address; a < s.end(); a++ {
			b = binary.BigEndian.AppendUint16(b, uint16(a*7+int(s.function)))
		}
		return b
	}
	for i := range s.length {
		if i%8 == 0 {
			b = append(b, 0)
		}
		if a := s.address + i; a*a%7 < 3 {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// can says whether the unit gives s alone.
func (u *fakeUnit) can(s span) bool {
	for a := s.address; a < s.end(); a++ {
		if u.bad[a] || a > s.address && slices.Contains(u.seams, a) {
			return false
		}
	}
	return s.length <= u.limit
}

// checkRun makes a run and holds what is true of every run. It returns how many
// spans that can be read were not.
func checkRun(t rapid.TB, p *poll, u *fakeUnit) (missing int) {
	t.Helper()
	u.asked, u.refuse = u.asked[:0], 0
	plan := len(p.plan)
	if p.stale {
		plan = len(p.spans)
	}
	results, err := p.run(context.Background(), u.ask)
	if err != nil || len(results) != len(p.spans) {
		t.Fatalf("%d results, %v", len(results), err)
	}
	if len(u.asked) > plan+extraRequests {
		t.Fatalf("%d requests in one run, %d of the plan", len(u.asked), plan)
	}
	for i, r := range results {
		switch s := p.spans[i]; {
		case (r.err == nil) == (r.data == nil):
			t.Fatalf("%v: %v and %v", s, r.data, r.err)
		case r.err == nil && !slices.Equal(r.data, answerOf(nil, s)):
			t.Fatalf("%v: got %x, want %x", s, r.data, answerOf(nil, s))
		case r.err == nil && !u.can(s):
			t.Fatalf("%v was read", s)
		case r.err != nil && exception(r.err) == 0:
			t.Fatalf("%v: %v", s, r.err)
		case r.err != nil && u.can(s):
			missing++
		}
	}
	return missing
}

// settle runs until the device refuses nothing any more, and returns how many
// runs that took.
func settle(t rapid.TB, p *poll, u *fakeUnit, most int) int {
	t.Helper()
	for n := range most {
		if missing := checkRun(t, p, u); u.refuse == 0 && !p.stale {
			if missing > 0 {
				t.Fatalf("%d readable spans are not read", missing)
			}
			return n
		}
	}
	t.Fatalf("the device still refuses %d requests after %d runs: %v", u.refuse, most, u.asked)
	return 0
}

// drawUnit draws a unit for spans: a few bad addresses, or whole areas, and a limit.
func drawUnit(t *rapid.T, reach int) *fakeUnit {
	u := &fakeUnit{bad: map[int]bool{}, limit: rapid.SampledFrom([]int{20, 32, 60, 100, 2000}).Draw(t, "limit"), code: rapid.SampledFrom([]byte{1, 2, 3}).Draw(t, "code")}
	for range rapid.IntRange(0, 6).Draw(t, "bad") {
		u.bad[rapid.IntRange(0, reach+20).Draw(t, "bad address")] = true
	}
	if rapid.IntRange(0, 4).Draw(t, "area") == 0 {
		from := rapid.IntRange(0, reach).Draw(t, "area from")
		for a := from; a < from+reach/3; a++ {
			u.bad[a] = true
		}
	}
	return u
}

// enough is how many runs may pass until a map is learned.
func enough(spans []span) int { return 10 + len(spans) }

func TestPollLearnsTheMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom([]byte{readHolding, readInput, readCoils}).Draw(t, "function")
		reach := rapid.SampledFrom([]int{60, 200, 600}).Draw(t, "reach")
		spans := drawSpans(t, f, 60, reach)
		l := drawLimits(t, spans, reach)
		l.Bits = 2000
		u := drawUnit(t, reach)
		p, err := newPoll(spans, l, nil)
		if err != nil {
			t.Fatal(err)
		}
		settle(t, p, u, enough(spans))

		// Knowing the map, the best plan has as many requests as the learned one.
		known := *l
		known.Words, known.Bits = min(l.limit(f), u.limit), min(l.limit(f), u.limit)
		for a := range u.bad {
			known.Forbidden = append(known.Forbidden, Range{tableOf(f), a, a})
		}
		fine := slices.DeleteFunc(slices.Clone(spans), func(s span) bool { return !u.can(s) })
		// What was asked for is no gap, although it cannot be read.
		g := grouping{known.limit(f), l.walls(p.tables[0].spans())}
		for a := range u.bad {
			g.walls = append(g.walls, wall{a, a + 1})
		}
		sortWalls(g.walls)
		slices.SortFunc(fine, byAddress)
		if best := len(g.runs(slices.Compact(fine))); len(u.asked) != best {
			t.Fatalf("%d requests, and %d with the map known", len(u.asked), best)
		}
		held := p.heldOff()
		for _, s := range held {
			if u.can(s) {
				t.Fatalf("%v is held off, and can be read", s)
			}
		}
	})
}

func (t *table) spans() (out []span) {
	for i := range t.items {
		out = append(out, t.items[i].span)
	}
	return out
}

// A device of which areas must be read apart, although all of it can be read.
func TestPollLearnsSeams(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spans := drawSpans(t, readHolding, 60, 300)
		u := drawUnit(t, 300)
		for range rapid.IntRange(1, 4).Draw(t, "seams") {
			u.seams = append(u.seams, rapid.IntRange(1, 300).Draw(t, "seam"))
		}
		p, err := newPoll(spans, &Limits{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		settle(t, p, u, 3*enough(spans))
	})
}
