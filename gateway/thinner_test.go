package gateway

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// thin returns which of the records stay.
func thin(every int, recs []Record) []bool {
	th := NewThinner(every)
	for i := range recs {
		th.Observe(i, AppendRecord(nil, &recs[i]))
	}
	return th.Keep()
}

// signalsOf are the signals of a record, found in another way than the thinner does.
func signalsOf(r *Record) map[string]float64 {
	out := map[string]float64{}
	put := func(name string, v float64) {
		if !math.IsNaN(v) {
			out[name] = v
		}
	}
	for i := range r.Values {
		switch v := &r.Values[i]; v.Kind() {
		case KindBool:
			put(v.Name, map[bool]float64{true: 1}[v.Bool()])
		case KindInt:
			put(v.Name, float64(v.Int()))
		case KindUint:
			put(v.Name, float64(v.Uint()))
		case KindFloat:
			put(v.Name, v.Float())
		}
	}
	if len(out) > 0 {
		return out
	}
	var object map[string]any
	if v, err := strconv.ParseFloat(string(r.Payload), 64); err == nil {
		put("", v)
	} else if json.Unmarshal(r.Payload, &object) == nil {
		for name, x := range object {
			switch x := x.(type) {
			case float64:
				put(name, x)
			case bool:
				put(name, map[bool]float64{true: 1}[x])
			}
		}
	}
	return out
}

// drawRecord draws the next record of one of a few series of many kinds.
func drawRecord(t *rapid.T) Record {
	kind := rapid.IntRange(0, 5).Draw(t, "kind")
	r := Record{Source: "s", Device: fmt.Sprint("d", kind), Name: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")}
	r.Quality = rapid.SampledFrom([]Quality{Good, Good, Good, Good, Good, Good, Good, Good, Uncertain, Bad}).Draw(t, "quality")
	value := rapid.IntRange(-9, 9)
	switch kind {
	case 0:
		r.Payload = []byte(fmt.Sprint(value.Draw(t, "v")))
	case 1:
		r.Payload = fmt.Appendf(nil, `{"t": %d, "s":"a\"}b", "on":%v, "deep":{"t":[1,"]"]},"h":%d.5e0}`, value.Draw(t, "t"), rapid.Bool().Draw(t, "on"), value.Draw(t, "h"))
	case 2:
		r.Payload = []byte("text")
		if rapid.Bool().Draw(t, "broken") {
			r.Payload = fmt.Appendf(nil, `{"t": %d, "s`, value.Draw(t, "t"))
		}
	case 3:
		r.Values = []Value{IntValue("i", int64(value.Draw(t, "i"))), FloatValue("f", float64(value.Draw(t, "f"))), StringValue("s", "x"), FloatValue("n", math.NaN())}
		if rapid.IntRange(0, 9).Draw(t, "bad") == 0 {
			r.Values[1].Quality = Bad
		}
	case 4: // now one signal, now another
		r.Values = []Value{UintValue(fmt.Sprint("u", rapid.IntRange(0, 3).Draw(t, "which")), uint64(value.Draw(t, "u")+9))}
	case 5:
		r.Values = []Value{BoolValue("b", rapid.Bool().Draw(t, "b"))}
	}
	return r
}

// Of each interval of each series first, last, and the extremes of every
// signal stay, and each change of quality, and nothing else.
func TestThinnerProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		every := rapid.IntRange(2, 4).Draw(t, "every")
		recs := make([]Record, rapid.IntRange(1, 200).Draw(t, "n"))
		for i := range recs {
			recs[i] = drawRecord(t)
		}
		want := make([]bool, len(recs))
		series := map[string][]int{}
		for i, r := range recs {
			series[r.Device+"/"+r.Name] = append(series[r.Device+"/"+r.Name], i)
		}
		for _, all := range series {
			had := map[string]bool{}
			for k := 1; k < len(all); k++ {
				if qualities(&recs[all[k]]) != qualities(&recs[all[k-1]]) {
					want[all[k]] = true
				}
			}
			for len(all) > 0 {
				for name := range signalsOf(&recs[all[0]]) {
					had[name] = true
				}
				n := min(len(all), every*(2+2*len(had)))
				for name := range signalsIn(recs, all[:n]) {
					had[name] = true
				}
				markInterval(recs, all[:n], want)
				all = all[n:]
			}
		}
		got := thin(every, recs)
		for i := range recs {
			if got[i] != want[i] {
				t.Fatalf("record %d of %s/%s (%s %v): stays %v, want %v", i, recs[i].Device, recs[i].Name, recs[i].Payload, recs[i].Values, got[i], want[i])
			}
		}
	})
}

func qualities(r *Record) string {
	s := r.Quality.String()
	for i := range r.Values {
		if q := r.Values[i].Quality; q != Good {
			s += r.Values[i].Name + q.String()
		}
	}
	return s
}

func signalsIn(recs []Record, at []int) map[string]bool {
	out := map[string]bool{}
	for _, i := range at {
		for name := range signalsOf(&recs[i]) {
			out[name] = true
		}
	}
	return out
}

// markInterval marks what stays of one interval but for changes of quality.
func markInterval(recs []Record, at []int, want []bool) {
	want[at[0]], want[at[len(at)-1]] = true, true
	for name := range signalsIn(recs, at) {
		low, top := -1, -1
		for _, i := range at {
			if v, ok := signalsOf(&recs[i])[name]; ok {
				if low < 0 || v < signalsOf(&recs[low])[name] {
					low = i
				}
				if top < 0 || v > signalsOf(&recs[top])[name] {
					top = i
				}
			}
		}
		want[low], want[top] = true, true
	}
}

// On telemetry that looks real about one of n stays, however many signals a
// record has.
func TestThinnerKeepsOneOfN(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, signals := range []int{0, 1, 3, 30, 100} {
		for _, every := range []int{2, 10} {
			walk := make([]float64, signals)
			recs := make([]Record, 8000)
			for i := range recs {
				recs[i] = Record{Source: "s", Device: fmt.Sprint(i % 4), Name: "n", Payload: []byte("{}")}
				for k := range walk {
					walk[k] += rnd.NormFloat64()
					recs[i].Values = append(recs[i].Values, FloatValue(fmt.Sprint("v", k), walk[k]))
				}
			}
			kept := 0
			for _, k := range thin(every, recs) {
				if k {
					kept++
				}
			}
			ratio := float64(kept) * float64(every) / float64(len(recs))
			t.Logf("%d signals, every %d: %.2f/n stay", signals, every, ratio)
			if ratio < 0.25 || ratio > 1.3 || signals < 2 && ratio < 0.7 {
				t.Errorf("%d signals, every %d: %.2f/n stay", signals, every, ratio)
			}
		}
	}
}

// Notices and what cannot be read stay whatever comes.
func TestThinnerKeepsNoticesAndJunk(t *testing.T) {
	th := NewThinner(10)
	cutShort := AppendRecord(nil, &Record{Source: "s", Name: "x", Reason: "is cut"})
	cutShort = cutShort[:len(cutShort)-1]
	n := 0
	for i := range 1000 {
		switch i % 3 {
		case 0:
			th.Observe(i, AppendRecord(nil, &Record{Source: NoticeSource, Name: "queue-loss"}))
		case 1:
			th.Observe(i, [][]byte{[]byte("junk"), cutShort, {}}[i%5%3])
		default:
			th.Observe(i, AppendRecord(nil, &Record{Source: "s", Name: "x"}))
		}
	}
	for i, k := range th.Keep() {
		if i%3 != 2 && !k {
			t.Fatalf("record %d is gone", i)
		}
		if i%3 == 2 && k {
			n++
		}
	}
	if n > 40 {
		t.Errorf("%d of 333 records of the series stay", n)
	}
	for _, k := range thin(1, make([]Record, 100)) {
		if !k {
			t.Fatal("every = 1 keeps all")
		}
	}
}

// Too many series and signals take no more memory, and are thinned all the same.
func TestThinnerIsBounded(t *testing.T) {
	th := NewThinner(10).(*thinner)
	const n = 3 * thinSeries
	for i := range n {
		th.Observe(i, AppendRecord(nil, &Record{Source: "s", Name: fmt.Sprint(i),
			Values: []Value{IntValue("a", 1), IntValue("b", 1), IntValue("c", 1)}}))
	}
	kept := 0
	for _, k := range th.Keep()[thinSeries:] {
		if k {
			kept++
		}
	}
	wide := NewThinner(10).(*thinner)
	for i := range 1000 {
		wide.Observe(i, AppendRecord(nil, &Record{Name: "x", Values: []Value{IntValue(fmt.Sprint(i), 1)}}))
	}
	if len(wide.slots) != thinSignals {
		t.Errorf("a series has %d signals", len(wide.slots))
	}
	if len(th.states) != thinSeries || len(th.slots) != thinSlots || len(th.series) != thinSeries || kept < n/15-10 || kept > n/15+10 {
		t.Errorf("%d series, %d signals, %d of the %d records beyond stay", len(th.states), len(th.slots), kept, n-thinSeries)
	}
}

func TestThinnerAllocatesNothing(t *testing.T) {
	th := NewThinner(10)
	var stored [][]byte
	for i := range 1000 {
		r := Record{Source: "deck", Device: fmt.Sprint(i % 50), Name: "n", Payload: fmt.Appendf(nil, `{"temp":%d.25,"ok":true,"unit":"C"}`, i)}
		if i%2 == 0 {
			r = Record{Source: "engine", Device: fmt.Sprint(i % 50), Name: "n", Values: []Value{FloatValue("rpm", float64(i)), StringValue("s", "text")}}
		}
		stored = append(stored, AppendRecord(nil, &r))
	}
	i := 0
	observe := func() { th.Observe(i, stored[i%len(stored)]); i++ }
	for range 200_000 {
		observe()
	}
	if n := testing.AllocsPerRun(50_000, observe); n != 0 {
		t.Errorf("%v allocations per record", n)
	}
}

func BenchmarkThinner(b *testing.B) {
	r := AppendRecord(nil, &Record{Source: "deck", Device: "d", Name: "deck/d/temp", Payload: []byte(`{"temp":21.25,"ok":true,"unit":"C"}`), Received: sampleTime})
	th := NewThinner(10)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		th.Observe(i, r)
		i++
	}
}

// FuzzSkim: no bytes make a thinner fail, and what decodes is skimmed.
func FuzzSkim(f *testing.F) {
	f.Add(storedRecord(1))
	f.Add([]byte("{\\"))
	f.Add(AppendRecord(nil, &Record{Payload: []byte(`{"a":{"b":[1,"\"]"]},"c":-1.5e3,"d":tru`)}))
	f.Add(AppendRecord(nil, &Record{Values: []Value{IntValue("i", -5), BoolValue("b", true), BytesValue("x", "\x00")}, Reason: "r", Tags: []Tag{{"k", "v"}}, ContentType: "a/b", Time: sampleTime}))
	f.Fuzz(func(t *testing.T, p []byte) {
		th := NewThinner(2)
		for i := range 3 {
			th.Observe(i, p)
			th.Observe(2*i+1, AppendRecord(nil, &Record{Name: "x", Payload: p}))
		}
		th.Keep()
		var r Record
		ok := new(RecordDecoder).Decode(&r, p) == nil
		if s := new(skimmed); ok && s.skim(th.(*thinner).seed, p) != (r.Source != NoticeSource) {
			t.Errorf("decodes to %+v and is not skimmed", r)
		}
	})
}
