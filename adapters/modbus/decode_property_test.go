package modbus

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/waystation-iot/waystation/gateway"
)

// layOut writes the lowest words of v in the given order, by the letters: of
// ABCD, A is the most significant byte of a pair of registers.
func layOut(v uint64, words int, order string) []byte {
	b := binary.BigEndian.AppendUint64(nil, v)[8-2*words:]
	if order == "CDAB" || order == "DCBA" {
		pairs := make([][]byte, 0, 4)
		for p := range slices.Chunk(b, 2) {
			pairs = append(pairs, p)
		}
		slices.Reverse(pairs)
		b = slices.Concat(pairs...)
	}
	if order == "BADC" || order == "DCBA" {
		for i := 0; i < len(b); i += 2 {
			b[i], b[i+1] = b[i+1], b[i]
		}
	}
	return b
}

// TestNumbersComeBack encodes numbers of every type in every order and decodes
// them.
func TestNumbersComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom([]string{"int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bcd16", "bcd32", "bcd64"}).Draw(t, "type")
		order := rapid.SampledFrom(orders()).Draw(t, "order")
		pt, _ := typeOf(typ)
		raw := rapid.Uint64().Draw(t, "raw") & lowBits(pt.width())
		var want gateway.Value
		switch pt.class {
		case classInt:
			want = gateway.IntValue("x", map[uint8]int64{16: int64(int16(raw)), 32: int64(int32(raw)), 64: int64(raw)}[pt.width()])
		case classUint:
			want = gateway.UintValue("x", raw)
		case classBCD:
			n := raw % uint64(math.Pow10(pt.digits()))
			want = gateway.UintValue("x", n)
			raw = 0
			for i, digit := range fmt.Sprintf("%0*d", pt.digits(), n) {
				raw |= uint64(digit-'0') << (4 * (pt.digits() - 1 - i))
			}
		case classFloat:
			f := rapid.Float64().Draw(t, "float")
			raw = math.Float64bits(f)
			if pt.words == 2 {
				f = float64(rapid.Float32().Draw(t, "float32"))
				raw = uint64(math.Float32bits(float32(f)))
			}
			want = gateway.FloatValue("x", f)
		}
		d, err := compile(&Profile{Order: order}, &Group{Name: "g", Points: []Point{{Name: "x", Type: typ, Order: order}}})
		if err != nil {
			t.Fatal(err)
		}
		got := d.values(nil, []reading{{data: layOut(raw, int(pt.words), order)}})
		if len(got) != 1 || got[0] != want {
			t.Fatalf("%s, not %s", show(got), want.String())
		}
	})
}

// TestScaleIsTheNearest compares with the decimals that a person would write.
func TestScaleIsTheNearest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.IntRange(-32768, 65535).Draw(t, "raw")
		places := rapid.IntRange(1, 6).Draw(t, "places")
		steps := rapid.IntRange(1, 999).Draw(t, "steps")
		var factor, want float64
		fmt.Sscanf(fmt.Sprintf("%de-%d", steps, places), "%g", &factor)
		fmt.Sscanf(fmt.Sprintf("%de-%d", raw*steps, places), "%g", &want)
		s := scalingOf(factor, 0)
		if got := s.apply(float64(raw), 0); got != want {
			t.Fatalf("%d * %g = %v, not %v", raw, factor, got, want)
		}
		if places <= 4 {
			s = scalingOf(float64(steps), 0)
			if got := s.apply(float64(raw), -places); got != want {
				t.Fatalf("%d * %d at -%d = %v, not %v", raw, steps, places, got, want)
			}
		}
	})
}

// everyType is a group with a point of each kind.
func everyType() []Point {
	var out []Point
	at := 0
	for _, typ := range types() {
		q := Point{Name: typ, Type: typ, Address: at, Count: 2, Invalid: []string{"0x8000"}}
		switch pt, _ := typeOf(typ); pt.class {
		case classBool:
			q.Bit = ptr(3)
		case classText, classBytes:
			q.Count, q.Invalid = 4, nil
		case classInt:
			q.Scale, q.ScaleAt, q.Min, q.Max = 0.1, ptr(100), ptr(-10.0), ptr(10.0)
		case classUint:
			q.Counter, q.Scale = true, 0.5
		}
		out = append(out, q)
		at += 8
	}
	return append(out, Point{Name: "state", Address: 200, Enum: map[string]string{"0": "off", "1": "on"}},
		Point{Name: "part", Address: 200, Bit: ptr(4), Width: 5}, Point{Name: "c", Table: "coil", Count: 9}, Point{Name: "q", Table: "fifo", Count: 3})
}

// FuzzValues decodes any bytes: a value for each name, always of the same
// order, never a NaN.
func FuzzValues(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3}, uint8(0))
	f.Add([]byte("\x80\x00\xff\xff\x7f\xc0"), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, short uint8) {
		d := mustCompile(t, rapid.SampledFrom(orders()).Example(int(short)), everyType()...)
		var names []string
		for range 2 {
			rs := make([]reading, len(d.spans()))
			rest := data
			for i, s := range d.spans() {
				n := min(2*s.length, len(rest))
				rs[i].data, rest = rest[:n], rest[n:]
				if len(rest) == 0 {
					rest = data
				}
			}
			var got []string
			for _, v := range d.values(nil, rs) {
				got = append(got, v.Name)
				if math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0) {
					t.Fatalf("%s is %s", v.Name, v.String())
				}
				if (v.Quality == gateway.Good) != (v.Reason == "") || (v.Quality == gateway.Bad) != (v.Kind() == gateway.KindNone) {
					t.Fatalf("%s is %s: %s", v.Name, v.Quality, v.Reason)
				}
			}
			if names != nil && !slices.Equal(names, got) {
				t.Fatal(names, got)
			}
			names = got
			if len(data) == 0 {
				return
			}
			data = append(data[1:], data[0])
		}
	})
}

// steady is a group of numbers and bools, with what a poll of it finds.
func steady(t testing.TB) (*decoder, []reading) {
	d := mustCompile(t, "CDAB", Point{Name: "v", Count: 40, Scale: 0.1, Unit: "V"}, Point{Name: "f", Address: 40, Type: "float32", Count: 20, Max: ptr(-1.0)},
		Point{Name: "sf", Address: 80, Type: "int16", ScaleAt: ptr(81)}, Point{Name: "n", Address: 82, Type: "uint32", Counter: true},
		Point{Name: "bits", Address: 84, Type: "bits16"}, Point{Name: "no", Address: 85, Invalid: []string{"0"}}, Point{Name: "e", Address: 86, Enum: map[string]string{"0": "off"}},
		Point{Name: "u", Address: 87, Enum: map[string]string{"9": "on"}}, Point{Name: "text", Address: 90, Type: "string", Count: 10}, Point{Name: "coil", Table: "coil", Count: 10})
	rs := make([]reading, len(d.spans()))
	for i, s := range d.spans() {
		rs[i].data = make([]byte, 2*s.length)
	}
	return d, rs
}

func TestSteadyPollsAllocateNothing(t *testing.T) {
	d, rs := steady(t)
	values := d.values(nil, rs)
	n := uint64(0)
	if a := testing.AllocsPerRun(100, func() {
		n++ // numbers change, counters count
		for i := range rs {
			if d.runs[i].length == 2 {
				binary.BigEndian.PutUint16(rs[i].data, uint16(n))
			}
		}
		values = d.values(values[:0], rs)
	}); a != 0 {
		t.Errorf("%g allocations in a poll", a)
	}
}

func BenchmarkValues(b *testing.B) {
	d, rs := steady(b)
	values := d.values(nil, rs)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		values = d.values(values[:0], rs)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(values)), "ns/value")
}
