package modbus

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/goburrow/modbus"

	"github.com/waystation-iot/waystation/gateway"
)

// mustCompile compiles one group of points.
func mustCompile(t testing.TB, order string, points ...Point) *decoder {
	t.Helper()
	d, err := compile(&Profile{Order: order}, &Group{Name: "g", Points: points})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// results gives each span the next of the data, written in hex.
func results(t testing.TB, d *decoder, data ...string) []reading {
	t.Helper()
	if len(data) != len(d.spans()) {
		t.Fatalf("%d spans, %d data", len(d.spans()), len(data))
	}
	out := make([]reading, len(data))
	for i, s := range data {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		out[i].data = b
	}
	return out
}

// show writes values as "name=value unit quality:reason".
func show(values []gateway.Value) string {
	var out []string
	for i := range values {
		v := &values[i]
		s := v.Name + "=" + v.String()
		if v.Kind() == gateway.KindNone {
			s = v.Name + "=none"
		}
		if v.Quality != gateway.Good || v.Reason != "" {
			s += " " + v.Quality.String() + ":" + v.Reason
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func ptr[T any](v T) *T { return &v }

// expect decodes data and compares.
func expect(t *testing.T, q Point, want string, data ...string) {
	t.Helper()
	q.Name = "x"
	d := mustCompile(t, "", q)
	if got := show(d.values(nil, results(t, d, data...))); got != want {
		t.Errorf("%s %s % s:\n got %s\nwant %s", q.Type, q.Order, data, got, want)
	}
}

// The bytes are those of struct.pack of Python 3 with ">", put into the orders
// by hand.
func TestTypesAndOrders(t *testing.T) {
	for _, c := range []struct{ typ, want, abcd, cdab, badc, dcba string }{
		{"int16", "-12345", "CFC7", "CFC7", "C7CF", "C7CF"},
		{"uint16", "54321", "D431", "D431", "31D4", "31D4"},
		{"int32", "-123456789", "F8A432EB", "32EBF8A4", "A4F8EB32", "EB32A4F8"},
		{"uint32", "3735928559", "DEADBEEF", "BEEFDEAD", "ADDEEFBE", "EFBEADDE"},
		{"int64", "-1234567890123456789", "EEDDEF0B82167EEB", "7EEB8216EF0BEEDD", "DDEE0BEF1682EB7E", "EB7E16820BEFDDEE"},
		{"uint64", "18364758544493064720", "FEDCBA9876543210", "32107654BA98FEDC", "DCFE98BA54761032", "1032547698BADCFE"},
		{"uint64", "72623859790382856", "0102030405060708", "0708050603040102", "0201040306050807", "0807060504030201"},
		{"float16", "-0.333251953125", "B555", "B555", "55B5", "55B5"},
		{"float32", "230.10000610351562", "4366199A", "199A4366", "66439A19", "9A196643"},
		{"float64", "-273.15", "C071126666666666", "666666661266C071", "71C0661266666666", "66666666661271C0"},
		{"bcd16", "1234", "1234", "1234", "3412", "3412"},
		{"bcd32", "12345678", "12345678", "56781234", "34127856", "78563412"},
		{"bcd64", "9876543210123456", "9876543210123456", "3456101254329876", "7698325412105634", "5634121032547698"},
	} {
		for order, data := range map[string]string{"": c.abcd, "ABCD": c.abcd, "CDAB": c.cdab, "BADC": c.badc, "DCBA": c.dcba} {
			expect(t, Point{Type: c.typ, Order: order}, "x="+c.want, data)
		}
	}
}

// TestHalf decodes numbers of IEEE 754 binary16, by struct.pack(">e").
func TestHalf(t *testing.T) {
	for bits, want := range map[string]string{"3C00": "1", "C000": "-2", "7BFF": "65504", "0001": "5.960464477539063e-08",
		"0400": "6.103515625e-05", "2E66": "0.0999755859375", "0000": "0", "8000": "-0"} {
		expect(t, Point{Type: "float16"}, "x="+want, bits)
	}
	for v := range 1 << 16 {
		f := half(uint16(v))
		if got := halfBits(f); got != uint16(v) && !math.IsNaN(f) {
			t.Fatalf("%04X is %g, whose bits are %04X", v, f, got)
		}
	}
	for f, want := range map[float64]uint16{65519.9: 0x7BFF, 65520: 0x7C00, 2047.5: 0x6800, 1e-9: 0, -1e9: 0xFC00, 0.1: 0x2E66} {
		if got := halfBits(f); got != want {
			t.Errorf("%g: %04X, not %04X", f, got, want)
		}
	}
}

func TestOrderOfProfile(t *testing.T) {
	d := mustCompile(t, "DCBA", Point{Name: "long", Type: "uint32"}, Point{Name: "short", Address: 2}, Point{Name: "own", Type: "uint32", Address: 3, Order: "ABCD"},
		Point{Name: "text", Type: "string", Count: 2, Address: 5}, Point{Name: "swapped", Address: 7, Order: "BADC"})
	got := show(d.values(nil, results(t, d, "04030201", "0102", "01020304", "41424344", "0201")))
	if want := "long=16909060, short=258, own=16909060, text=ABCD, swapped=258"; got != want {
		t.Error(got)
	}
}

func TestScale(t *testing.T) {
	expect(t, Point{Scale: 0.1, Unit: "V"}, "x=230.1 V", "08FD") // 2301 * 0.1 is 230.10000000000002
	expect(t, Point{Scale: 0.1}, "x=200", "07D0")
	expect(t, Point{Scale: 1}, "x=2000", "07D0")
	expect(t, Point{Scale: 0.4}, "x=1.2", "0003") // 3 * 0.4 is 1.2000000000000002
	expect(t, Point{Scale: 1000}, "x=3000", "0003")
	expect(t, Point{Type: "int16", Scale: -0.01}, "x=0.07", "FFF9")
	expect(t, Point{Scale: 0.5, Offset: -40}, "x=-39.5", "0001")
	expect(t, Point{Type: "int16", Offset: 273}, "x=272", "FFFF")
	expect(t, Point{Type: "uint64"}, "x=18446744073709551615", "FFFFFFFFFFFFFFFF")
	expect(t, Point{Type: "uint64", Offset: -1}, "x=1.8446744073709552e+19", "FFFFFFFFFFFFFFFF")
	expect(t, Point{Type: "float64", Scale: 1e300}, "x=none bad:no value (Inf)", "7E37E43C8800759C")
	d := mustCompile(t, "", Point{Name: "x", Scale: 0.1})
	if v := d.values(nil, results(t, d, "0000"))[0]; v.Kind() != gateway.KindFloat {
		t.Errorf("a scaled number is %s", v.Kind())
	}
}

// TestScaleAt takes the power of ten from a register, as SunSpec models do.
func TestScaleAt(t *testing.T) {
	at := Point{Type: "int16", ScaleAt: ptr(9), Unit: "W"}
	expect(t, at, "x=2301 W", "0000", "08FD")
	for sf, want := range map[string]string{
		"FFFF": "x=230.1 W", "FFFE": "x=23.01 W", "0002": "x=230100 W", "000A": "x=2.301e+13 W", "FFF6": "x=2.301e-07 W",
		"8000": "x=none bad:no scale factor (0x8000)",
		"000B": "x=none bad:the scale factor is not a power of ten from -10 to 10",
		"FFF5": "x=none bad:the scale factor is not a power of ten from -10 to 10",
		"":     "x=none bad:the answer was too short",
	} {
		q := at
		q.Name = "x"
		d := mustCompile(t, "", q)
		if s := d.spans(); s[0] != (span{readHolding, 9, 1}) || s[1] != (span{readHolding, 0, 1}) {
			t.Fatal(s)
		}
		if got := show(d.values(nil, results(t, d, sf, "08FD"))); got != want {
			t.Errorf("%s: %s", sf, got)
		}
		// The kind is the same whatever the power.
		if v := d.values(nil, results(t, d, "0000", "08FD"))[0]; v.Kind() != gateway.KindFloat {
			t.Error(v.Kind())
		}
		r := results(t, d, "0000", "08FD")
		r[0] = reading{err: &silence{after: time.Second}}
		if got := show(d.values(nil, r)); got != "x=none bad:no answer" {
			t.Error(got)
		}
	}
}

func TestText(t *testing.T) {
	text := Point{Type: "string", Count: 4}
	expect(t, text, "x=SDM630", "53444D3633300000")
	expect(t, text, "x=AB", "4142202020202020")
	expect(t, text, "x=A", "4100424344454647")
	expect(t, text, "x=", "0000000000000000")
	expect(t, text, "x=", "FFFFFFFFFFFFFFFF")
	expect(t, text, "x= A B", "2041204200000000")
	expect(t, text, "x=20 °C", "323020C2B0430000") // UTF-8
	expect(t, text, "x=20 °C", "323020B043000000") // ISO 8859-1
	text.Order = "BADC"
	expect(t, text, "x=SDM630", "4453364D30330000")
	expect(t, Point{Type: "string"}, "x=AB", "4142")
	expect(t, Point{Type: "bytes", Count: 2}, "x=41002042", "41002042")
	expect(t, Point{Type: "bytes", Count: 2, Order: "BADC"}, "x=00414220", "41002042")
	d := mustCompile(t, "", Point{Name: "x", Type: "string", Count: 2})
	for _, step := range [][2]string{{"41420000", "x=AB"}, {"41420000", "x=AB"}, {"43440000", "x=CD"}, {"41420000", "x=AB"}} {
		if got := show(d.values(nil, results(t, d, step[0]))); got != step[1] {
			t.Errorf("%s: %s", step[0], got)
		}
	}
}

func TestBits(t *testing.T) {
	expect(t, Point{Type: "bits16", Enum: map[string]string{"0": "run", "3": "trip", "15": "remote"}},
		"x.run=true, x.trip=false, x.remote=true", "8001")
	expect(t, Point{Type: "bits32", Enum: map[string]string{"31": "high", "0": "low"}, Order: "CDAB"}, "x.low=true, x.high=false", "00010000")
	d := mustCompile(t, "", Point{Name: "x", Type: "bits16"})
	v := d.values(nil, results(t, d, "0402"))
	if len(v) != 16 || show(v[1:3]) != "x.1=true, x.2=false" || show(v[9:11]) != "x.9=false, x.10=true" {
		t.Error(show(v))
	}
	expect(t, Point{Type: "bits16", Enum: map[string]string{"1": "a", "2": "b"}, Invalid: []string{"0xffff"}},
		"x.a=none bad:no value (0xFFFF), x.b=none bad:no value (0xFFFF)", "FFFF")
	expect(t, Point{Type: "bits16", Count: 2, Enum: map[string]string{"1": "a"}}, "x.0.a=true, x.1.a=false", "0002", "0001")
}

func TestPartOfRegister(t *testing.T) {
	expect(t, Point{Type: "bool", Bit: ptr(3)}, "x=true", "0008")
	expect(t, Point{Type: "bool", Bit: ptr(15)}, "x=false", "7FFF")
	expect(t, Point{Bit: ptr(15)}, "x=1", "8000")
	expect(t, Point{Bit: ptr(8), Width: 8}, "x=18", "1234")
	expect(t, Point{Bit: ptr(0), Width: 8}, "x=52", "1234")
	expect(t, Point{Bit: ptr(4), Width: 4, Scale: 0.5}, "x=1.5", "1234")
	expect(t, Point{Type: "int16", Bit: ptr(8), Width: 8}, "x=-2", "FE34")
	expect(t, Point{Type: "uint32", Bit: ptr(12), Width: 12, Order: "CDAB"}, "x=801", "1ABC5432")
	expect(t, Point{Type: "uint64", Bit: ptr(63)}, "x=1", "8000000000000000")
	expect(t, Point{Bit: ptr(4), Width: 4, Enum: map[string]string{"3": "auto"}}, "x=auto", "1234")
	// invalid is the whole register.
	expect(t, Point{Bit: ptr(0), Width: 8, Invalid: []string{"0x1234"}}, "x=none bad:no value (0x1234)", "1234")
}

func TestEnum(t *testing.T) {
	states := map[string]string{"0": "stopped", "0x10": "running"}
	expect(t, Point{Enum: states}, "x=stopped", "0000")
	expect(t, Point{Enum: states}, "x=running", "0010")
	expect(t, Point{Enum: states}, "x=7 uncertain:no name for 7", "0007")
	expect(t, Point{Type: "int16", Enum: map[string]string{"-1": "down", "1": "up"}}, "x=down", "FFFF")
	expect(t, Point{Type: "int16", Enum: map[string]string{"1": "up"}}, "x=-1 uncertain:no name for -1", "FFFF")
	expect(t, Point{Type: "bcd16", Enum: map[string]string{"12": "dozen"}}, "x=dozen", "0012")
	expect(t, Point{Table: "coil", Enum: map[string]string{"0": "open", "1": "closed"}}, "x=closed", "01")
	expect(t, Point{Type: "bool", Bit: ptr(1), Enum: map[string]string{"0": "open", "1": "closed"}}, "x=open", "FFFD")
	d := mustCompile(t, "", Point{Name: "x", Enum: states})
	for _, data := range []string{"0000", "0007", "0008"} {
		if v := d.values(nil, results(t, d, data))[0]; v.Kind() != gateway.KindString {
			t.Errorf("%s is %s", data, v.Kind())
		}
	}
	if got := show(d.values(nil, results(t, d, "0009"))); got != "x=9 uncertain:no name for 9" {
		t.Error(got)
	}
}

func TestNoValue(t *testing.T) {
	expect(t, Point{Type: "int16", Invalid: []string{"0x8000"}}, "x=none bad:no value (0x8000)", "8000")
	expect(t, Point{Type: "int16", Invalid: []string{"-1", "32767"}}, "x=none bad:no value (0xFFFF)", "FFFF")
	expect(t, Point{Type: "int16", Invalid: []string{"65535"}}, "x=none bad:no value (0xFFFF)", "FFFF")
	expect(t, Point{Type: "uint32", Invalid: []string{"0xFFFFFFFF"}, Scale: 0.1}, "x=none bad:no value (0xFFFFFFFF)", "FFFFFFFF")
	expect(t, Point{Type: "uint32", Invalid: []string{"0x00000001"}, Order: "CDAB"}, "x=none bad:no value (0x00000001)", "00010000")
	expect(t, Point{Type: "float32", Invalid: []string{"-9999"}}, "x=none bad:no value (0xC61C3C00)", "C61C3C00")
	expect(t, Point{Type: "bcd16", Invalid: []string{"9999"}}, "x=none bad:no value (0x9999)", "9999")
	expect(t, Point{Type: "bcd16", Invalid: []string{"0xFFFF"}}, "x=none bad:no value (0xFFFF)", "FFFF")
	expect(t, Point{Type: "bcd16"}, "x=none bad:not binary-coded decimal", "12A4")
	expect(t, Point{Type: "bool", Bit: ptr(0), Invalid: []string{"0xFFFF"}}, "x=none bad:no value (0xFFFF)", "FFFF")
	for _, c := range [][3]string{{"float16", "7E00", "NaN"}, {"float16", "FC00", "Inf"}, {"float32", "7FC00000", "NaN"}, {"float32", "7F800000", "Inf"},
		{"float32", "FF800000", "Inf"}, {"float32", "7F800001", "NaN"}, {"float64", "7FF8000000000000", "NaN"}, {"float64", "FFF0000000000000", "Inf"}} {
		expect(t, Point{Type: c[0]}, "x=none bad:no value ("+c[2]+")", c[1])
		expect(t, Point{Type: c[0], Scale: 0.1, Max: ptr(10.0)}, "x=none bad:no value ("+c[2]+")", c[1])
	}
}

func TestPlausible(t *testing.T) {
	q := Point{Type: "int16", Scale: 0.1, Unit: "°C", Min: ptr(-40.0), Max: ptr(85.5)}
	expect(t, q, "x=-40 °C", "FE70")
	expect(t, q, "x=-40.1 °C uncertain:below -40", "FE6F")
	expect(t, q, "x=85.5 °C", "0357")
	expect(t, q, "x=85.6 °C uncertain:above 85.5", "0358")
}

func TestArrays(t *testing.T) {
	q := Point{Name: "x", Type: "uint32", Count: 3, Address: 10}
	d := mustCompile(t, "", q)
	if got := fmt.Sprint(d.spans()); got != "[{3 10 2} {3 12 2} {3 14 2}]" {
		t.Error(got)
	}
	if got := show(d.values(nil, results(t, d, "00000001", "00000002", "00000003"))); got != "x.0=1, x.1=2, x.2=3" {
		t.Error(got)
	}
	expect(t, Point{Table: "coil", Count: 3}, "x.0=true, x.1=false, x.2=true", "01", "00", "FF")
	expect(t, Point{Table: "discrete", Count: 1}, "x=false", "FE")
	expect(t, Point{Count: 1}, "x=1", "0001")
	// Points of the same registers are read once.
	d = mustCompile(t, "", Point{Name: "a", Type: "bool", Bit: ptr(0)}, Point{Name: "b", Type: "bool", Bit: ptr(1)}, Point{Name: "c", Table: "input"})
	if len(d.spans()) != 2 {
		t.Error(d.spans())
	}
}

func TestQueueOfRegisters(t *testing.T) {
	q := Point{Name: "x", Table: "fifo", Count: 3, Address: 1246}
	d := mustCompile(t, "", q)
	if got := fmt.Sprint(d.spans()); got != "[{24 1246 3}]" {
		t.Error(got)
	}
	if got := show(d.values(nil, results(t, d, "01B81284"))); got != "x.0=440, x.1=4740, x.2=none bad:not in the queue" {
		t.Error(got)
	}
	q.Type, q.Count = "bytes", 31
	d = mustCompile(t, "", q)
	if got := show(d.values(nil, results(t, d, "01B81284"))); got != "x=01b81284" {
		t.Error(got)
	}
}

func TestReasons(t *testing.T) {
	d := mustCompile(t, "", Point{Name: "x"}, Point{Name: "b", Type: "bits16", Address: 1, Enum: map[string]string{"0": "p", "1": "q"}})
	for want, err := range map[string]error{
		"illegal function (1)":                         &modbus.ModbusError{ExceptionCode: 1},
		"illegal data address (2)":                     &modbus.ModbusError{ExceptionCode: 2},
		"illegal data value (3)":                       &modbus.ModbusError{ExceptionCode: 3},
		"server device failure (4)":                    &modbus.ModbusError{ExceptionCode: 4},
		"acknowledge (5)":                              &modbus.ModbusError{ExceptionCode: 5},
		"server device busy (6)":                       &modbus.ModbusError{ExceptionCode: 6},
		"memory parity error (8)":                      &modbus.ModbusError{ExceptionCode: 8},
		"gateway path unavailable (10)":                &modbus.ModbusError{ExceptionCode: 10},
		"gateway target device failed to respond (11)": &modbus.ModbusError{ExceptionCode: 11},
		"exception 77":                                 &modbus.ModbusError{ExceptionCode: 77},
		"no answer":                                    &silence{after: time.Second},
		"held off":                                     errors.New("held off"),
		strings.Repeat("ü", 60) + "…":                  errors.New(strings.Repeat("ü", 100)),
	} {
		err = fmt.Errorf("%w", err)
		v := d.values(nil, []reading{{err: err}, {err: err}})
		if got := show(v); got != "x=none bad:"+want+", b.p=none bad:"+want+", b.q=none bad:"+want {
			t.Error(got)
		}
	}
	if got := show(d.values(nil, []reading{{data: []byte{1}}, {}})); got != "x=none bad:the answer was too short, b.p=none bad:the answer was too short, b.q=none bad:the answer was too short" {
		t.Error(got)
	}
	if got := show(d.values(nil, nil)); got != "x=none bad:not read, b.p=none bad:not read, b.q=none bad:not read" {
		t.Error(got)
	}
}
