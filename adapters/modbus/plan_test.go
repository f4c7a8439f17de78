package modbus

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// drawSpans draws up to n spans of one function, many of them side by side,
// over or within one another.
func drawSpans(t *rapid.T, function byte, n, reach int) []span {
	out := make([]span, rapid.IntRange(1, n).Draw(t, "spans"))
	lengths := rapid.SampledFrom([]int{1, 1, 1, 2, 2, 4, 10, 20})
	for i := range out {
		out[i] = span{function, rapid.IntRange(0, reach).Draw(t, "address"), lengths.Draw(t, "length")}
	}
	return out
}

// drawLimits draws limits of a device that can give every span.
func drawLimits(t *rapid.T, spans []span, reach int) *Limits {
	gap := rapid.IntRange(0, 12).Draw(t, "gap")
	l := &Limits{Words: rapid.IntRange(20, 125).Draw(t, "words"), Bits: rapid.IntRange(20, 200).Draw(t, "bits"), Gap: &gap}
	for range rapid.IntRange(0, 3).Draw(t, "forbidden") {
		from := rapid.IntRange(0, reach+20).Draw(t, "from")
		r := Range{tableOf(spans[0].function), from, from + rapid.IntRange(0, 3).Draw(t, "more")}
		if !slices.ContainsFunc(spans, func(s span) bool { return s.address <= r.To && r.From < s.end() }) {
			l.Forbidden = append(l.Forbidden, r)
		}
	}
	return l
}

// readable says, address by address, whether one request may read from one to
// another when spans are asked for: the rules without any cleverness.
func readable(l *Limits, spans []span, from, to int) bool {
	if to-from > l.limit(spans[0].function) {
		return false
	}
	vain := 0
	for a := from; a < to; a++ {
		for _, r := range l.Forbidden {
			if r.From <= a && a <= r.To {
				return false
			}
		}
		if slices.ContainsFunc(spans, func(s span) bool { return s.address <= a && a < s.end() }) {
			vain = 0
		} else if vain++; vain > l.gap(spans[0].function) {
			return false
		}
	}
	return true
}

// oracle tries every partition of spans into requests.
func oracle(l *Limits, spans []span) (requests, registers int) {
	requests = len(spans) + 1
	var sets [][]span
	var try func(i int)
	try = func(i int) {
		if i < len(spans) {
			for k := range sets {
				sets[k] = append(sets[k], spans[i])
				try(i + 1)
				sets[k] = sets[k][:len(sets[k])-1]
			}
			sets = append(sets, []span{spans[i]})
			try(i + 1)
			sets = sets[:len(sets)-1]
			return
		}
		sum := 0
		for _, set := range sets {
			from, to := set[0].address, 0
			for _, s := range set {
				from, to = min(from, s.address), max(to, s.end())
			}
			if !readable(l, spans, from, to) {
				return
			}
			sum += to - from
		}
		if len(sets) < requests || len(sets) == requests && sum < registers {
			requests, registers = len(sets), sum
		}
	}
	try(0)
	return requests, registers
}

// greedy takes spans as long as they fit, as most readers do.
func greedy(l *Limits, spans []span) (requests int) {
	sorted := slices.Clone(spans)
	slices.SortFunc(sorted, byAddress)
	from, to := -1, 0
	for _, s := range sorted {
		if end := max(to, s.end()); from >= 0 && readable(l, spans, from, end) {
			to = end
			continue
		}
		requests, from, to = requests+1, s.address, s.end()
	}
	return requests
}

func TestPlanIsOptimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom([]byte{readHolding, readInput, readCoils, readDiscrete}).Draw(t, "function")
		reach := rapid.SampledFrom([]int{40, 100, 400}).Draw(t, "reach")
		spans := drawSpans(t, f, 8, reach)
		l := drawLimits(t, spans, reach)
		blocks := checkPlan(t, spans, l)
		words := 0
		for _, b := range blocks {
			words += b.length
		}
		if r, w := oracle(l, spans); len(blocks) != r || words != w {
			t.Fatalf("%d requests for %d, the best are %d for %d: %v", len(blocks), words, r, w, blocks)
		}
	})
}

func TestPlanOfLargeMaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom([]byte{readHolding, readCoils}).Draw(t, "function")
		reach := rapid.SampledFrom([]int{300, 3000, 60000}).Draw(t, "reach")
		spans := drawSpans(t, f, 120, reach)
		l := drawLimits(t, spans, reach)
		if blocks, most := checkPlan(t, spans, l), greedy(l, spans); len(blocks) > most {
			t.Fatalf("%d requests, a greedy reader makes %d", len(blocks), most)
		}
	})
}

// checkPlan makes a plan and holds what is true of every plan.
func checkPlan(t *rapid.T, spans []span, l *Limits) []block {
	p, err := newPoll(spans, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	covered := make([]int, len(spans))
	blocks := p.blocks()
	for _, b := range blocks {
		if !readable(l, spans, b.address, b.end()) {
			t.Fatalf("%v may not be read", b)
		}
		last := -1
		for _, i := range b.spans {
			s := spans[i]
			covered[i]++
			if s.function != b.function || s.address < b.address || s.end() > b.end() {
				t.Fatalf("%v is not within %v", s, b)
			}
			if s.address < last {
				t.Fatalf("the spans of %v do not ascend", b)
			}
			last = s.address
		}
	}
	for i, n := range covered {
		if n != 1 {
			t.Fatalf("span %v lies in %d requests", spans[i], n)
		}
	}
	return blocks
}

func TestPlanRefuses(t *testing.T) {
	h := func(a, n int) span { return span{readHolding, a, n} }
	ten := Limits{Words: 10}
	for _, tc := range []struct {
		name  string
		spans []span
		lim   Limits
		sel   *Select
		want  string
	}{
		{"too long", []span{h(0, 1), h(5, 11)}, ten, nil, "read holding 5+11: it does not fit into one request of 10"},
		{"forbidden", []span{h(5, 4)}, Limits{Forbidden: []Range{{"holding", 8, 9}}}, nil, "read holding 5+4: it lies in the forbidden range 8 to 9"},
		{"default table is holding", []span{h(5, 4)}, Limits{Forbidden: []Range{{"", 8, 9}}}, nil, "forbidden range 8 to 9"},
		{"behind the last", []span{h(65535, 2)}, Limits{}, nil, "read holding 65535+2: addresses are 0 to 65535"},
		{"bits", []span{{readCoils, 0, 2001}}, Limits{Bits: 9000}, nil, "one request of 2000"},
		{"select, two requests", []span{h(0, 2), h(9, 2)}, ten, &Select{}, "read holding 9+2: with select all points of a group must fit one request"},
		{"select, around forbidden", []span{h(0, 2), h(9, 1)}, Limits{Forbidden: []Range{{"holding", 4, 4}}}, &Select{}, "must fit one request"},
		{"select, not holding", []span{{readInput, 3, 1}}, ten, &Select{}, "read input 3+1: with select only holding registers"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := newPoll(tc.spans, &tc.lim, tc.sel); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	// What is not of the same table does not matter, and a select bridges any gap.
	lim := Limits{Forbidden: []Range{{"input", 0, 100}}}
	if p, err := newPoll([]span{h(0, 2), h(60, 2)}, &lim, &Select{Address: 9, Values: []uint16{1}}); err != nil || len(p.plan) != 1 || p.plan[0].q.function != readWrite || p.plan[0].q.count != 62 {
		t.Errorf("%v, %v", p, err)
	}
	// The fifo queue and every table have requests of their own.
	p, err := newPoll([]span{{readFIFO, 5, 31}, {readFIFO, 6, 31}, h(5, 1), {readInput, 6, 1}, h(5, 1)}, &Limits{Forbidden: []Range{{"holding", 6, 6}}}, nil)
	if err != nil || len(p.plan) != 4 {
		t.Errorf("%v, %v", p, err)
	}
}

func BenchmarkPlan(b *testing.B) {
	var spans []span
	for i := range 3000 {
		spans = append(spans, span{readCoils, i * 3, 1 + i%4})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := newPoll(spans, &Limits{}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
