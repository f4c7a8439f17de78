package modbus

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// sound is a profile without faults that uses most of what there is.
func sound() *Profile {
	return &Profile{Name: "p", Order: "CDAB",
		Limits: Limits{Words: 100, Gap: ptr(0), Forbidden: []Range{{"holding", 500, 510}}},
		Groups: []Group{{Name: "main", Every: time.Second, Points: everyType()}, {Name: "sel", Select: &Select{Address: 1, Values: []uint16{3}},
			Points: []Point{{Name: "a", Address: 10}, {Name: "b", Address: 100, Type: "uint32"}}}},
		SunSpec: &SunSpec{Bases: []int{40000, 0}, Models: []SunSpecModel{
			{IDs: []int{101, 102}, Group: Group{Name: "inverter", Points: []Point{{Name: "W", Address: 14, Type: "int16", ScaleAt: ptr(15)}}}},
			{IDs: []int{111}, Group: Group{Name: "inverter", Points: []Point{{Name: "W", Address: 500, Type: "float32"}}}}}}}
}

func TestSoundProfile(t *testing.T) {
	p := sound()
	if errs := p.validate("profile"); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	for i := range p.Groups {
		if _, err := compile(p, &p.Groups[i]); err != nil {
			t.Error(err)
		}
	}
}

// TestEveryFaultOfAProfile spoils the sound profile in one place each.
func TestEveryFaultOfAProfile(t *testing.T) {
	point := func(q Point) func(*Profile) {
		return func(p *Profile) {
			if q.Name == "" {
				q.Name = "x"
			}
			p.Groups[0].Points = append(p.Groups[0].Points[:0:0], q)
		}
	}
	at := "groups[0].points[0]."
	for _, c := range []struct {
		key, want string
		spoil     func(*Profile)
	}{
		{"order", "is not one of ABCD", func(p *Profile) { p.Order = "ABDC" }},
		{"limits.words", "126 is outside 0 to 125", func(p *Profile) { p.Limits.Words = 126 }},
		{"limits.bits", "outside 0 to 2000", func(p *Profile) { p.Limits.Bits = 2001 }},
		{"limits.gap", "outside 0 to 125", func(p *Profile) { p.Limits.Gap = ptr(-1) }},
		{"limits.forbidden[0].table", "is not one of", func(p *Profile) { p.Limits.Forbidden[0].Table = "fifo" }},
		{"limits.forbidden[0].table", "must not be empty", func(p *Profile) { p.Limits.Forbidden[0].Table = "" }},
		{"limits.forbidden[0].from", "outside", func(p *Profile) { p.Limits.Forbidden[0].From = -1 }},
		{"limits.forbidden[0].to", "outside", func(p *Profile) { p.Limits.Forbidden[0].To = 65536 }},
		{"limits.forbidden[0].to", "is below from", func(p *Profile) { p.Limits.Forbidden[0].To = 499 }},
		{"groups", "must not be empty", func(p *Profile) { p.Groups, p.SunSpec = nil, nil }},
		{"groups[1].name", "is the name of groups[0] already", func(p *Profile) { p.Groups[1].Name = "main" }},
		{"groups[0].name", "must not be empty", func(p *Profile) { p.Groups[0].Name = "" }},
		{"groups[0].name", `"a b" is not a name (write a_b`, func(p *Profile) { p.Groups[0].Name = "a b" }},
		{"groups[0].every", "outside 1ms", func(p *Profile) { p.Groups[0].Every = time.Microsecond }},
		{"groups[0].points", "must not be empty", func(p *Profile) { p.Groups[0].Points = nil }},
		{"groups[0].points", "more than 4096 values", func(p *Profile) {
			p.Groups[0].Points = []Point{{Name: "a", Count: 4096}, {Name: "b", Address: 5000}}
		}},
		{"groups[1].select.values", "must be 1 to 121", func(p *Profile) { p.Groups[1].Select.Values = make([]uint16, 122) }},
		{"groups[1].select.values", "must be 1 to 121", func(p *Profile) { p.Groups[1].Select.Values = nil }},
		{"groups[1].select.address", "outside 0 to 65534", func(p *Profile) { p.Groups[1].Select = &Select{65535, []uint16{1, 2}} }},
		{"groups[1].select", "span 101 registers, must be at most 100", func(p *Profile) { p.Groups[1].Points[1].Address = 109 }},
		{"groups[1].select", "span 101 registers", func(p *Profile) { p.Groups[1].Points[0].ScaleAt = ptr(1); p.Groups[1].Points[1].Address = 99 }},
		{"groups[1].select", "lie around the forbidden range", func(p *Profile) { p.Limits.Forbidden[0] = Range{"holding", 50, 60} }},
		{"groups[1].points[0].table", "must be holding", func(p *Profile) { p.Groups[1].Points[0].Table = "input" }},
		{"sunspec.bases[1]", "outside", func(p *Profile) { p.SunSpec.Bases[1] = 65535 }},
		{"sunspec.models", "must not be empty", func(p *Profile) { p.SunSpec.Models = nil }},
		{"sunspec.models[0].ids", "must not be empty", func(p *Profile) { p.SunSpec.Models[0].IDs = nil }},
		{"sunspec.models[0].ids[0]", "outside", func(p *Profile) { p.SunSpec.Models[0].IDs[0] = 65535 }},
		{"sunspec.models[1].ids[0]", "101 is a model of models[0]", func(p *Profile) { p.SunSpec.Models[1].IDs[0] = 101 }},
		{"sunspec.models[0].name", "is the name of groups[0]", func(p *Profile) { p.SunSpec.Models[0].Group.Name = "main" }},
		{"sunspec.models[0].select", "not for SunSpec", func(p *Profile) { p.SunSpec.Models[0].Group.Select = &Select{Values: []uint16{1}} }},
		{"sunspec.models[0].points[0].table", "must be holding", func(p *Profile) { p.SunSpec.Models[0].Group.Points[0].Table = "input" }},
		{at + "name", "is not a name", point(Point{Name: "Spannung L1 (Außen)"})},
		{at + "name", "write Spannung_L1_Aussen", point(Point{Name: "Spannung L1 (Außen)"})},
		{at + "name", "1 to 64", point(Point{Name: strings.Repeat("x", 65)})},
		{at + "table", "is not one of", point(Point{Table: "registers"})},
		{at + "type", "is not one of", point(Point{Type: "int24"})},
		{at + "order", "is not one of", point(Point{Order: "4321"})},
		{at + "order", "must be ABCD or BADC for string", point(Point{Type: "string", Order: "CDAB"})},
		{at + "order", "not for single bits", point(Point{Table: "coil", Order: "ABCD"})},
		{at + "address", "outside 0 to 65535", point(Point{Address: -1})},
		{at + "address", "table: holding, address: 100", point(Point{Address: 400101})},
		{at + "address", "is too high", point(Point{Address: 65535, Type: "uint32"})},
		{at + "address", "is too high", point(Point{Address: 65530, Count: 7})},
		{at + "address", "lies in the forbidden range holding 500 to 510", point(Point{Address: 499, Type: "uint32"})},
		{at + "address", "lies in the forbidden", point(Point{Address: 400, Count: 200})},
		{at + "scale_at", "lies in the forbidden", point(Point{ScaleAt: ptr(510)})},
		{at + "scale_at", "outside", point(Point{ScaleAt: ptr(-1)})},
		{at + "scale_at", "not for a fifo", point(Point{Table: "fifo", ScaleAt: ptr(1)})},
		{at + "count", "outside 0 to 4096", point(Point{Count: 4097})},
		{at + "count", "outside 0 to 4096", point(Point{Count: -1})},
		{at + "count", "takes 101 registers", point(Point{Type: "string", Count: 101})},
		{at + "count", "a queue has at most 31", point(Point{Table: "fifo", Type: "uint32", Count: 16})},
		{at + "type", "takes 4 registers", func(p *Profile) { point(Point{Type: "uint64", Count: 2})(p); p.Limits.Words = 3 }},
		{at + "type", "must be bool", point(Point{Table: "discrete", Type: "uint16"})},
		{at + "bit", "not for coils", point(Point{Table: "coil", Bit: ptr(1)})},
		{at + "width", "not for coils", point(Point{Table: "coil", Width: 1})},
		{at + "invalid", "not for single bits", point(Point{Table: "coil", Invalid: []string{"1"}})},
		{at + "bit", "is required", point(Point{Type: "bool"})},
		{at + "bit", "is for bool and whole numbers", point(Point{Type: "float32", Bit: ptr(1)})},
		{at + "bit", "outside 0 to 15", point(Point{Bit: ptr(16)})},
		{at + "width", "outside 0 to 8", point(Point{Bit: ptr(8), Width: 9})},
		{at + "width", "no effect without bit", point(Point{Width: 3})},
		{at + "width", "must be 1 for bool", point(Point{Type: "bool", Bit: ptr(1), Width: 2})},
		{at + "width", "at least 2", point(Point{Type: "int16", Bit: ptr(1)})},
		{at + "invalid", "is not for bytes", point(Point{Type: "bytes", Invalid: []string{"0"}})},
		{at + "invalid[1]", `"0x10000" is not a number of 16 bits`, point(Point{Invalid: []string{"0", "0x10000"}})},
		{at + "invalid[0]", "is not a number of 16 bits", point(Point{Invalid: []string{"-32769"}})},
		{at + "invalid[0]", "is not a number", point(Point{Type: "float32", Invalid: []string{"NaN"}})},
		{at + "invalid[0]", "4 digits", point(Point{Type: "bcd16", Invalid: []string{"10000"}})},
		{at + "enum", "is not for float32", point(Point{Type: "float32", Enum: map[string]string{"1": "a"}})},
		{at + "enum", "is not for string", point(Point{Type: "string", Enum: map[string]string{"1": "a"}})},
		{at + "enum.x", `"x" is not a number`, point(Point{Enum: map[string]string{"x": "a"}})},
		{at + "enum.-1", "is not a number of 16 bits", point(Point{Enum: map[string]string{"-1": "a"}})},
		{at + "enum.2", "is not a number of 1 bits", point(Point{Table: "coil", Enum: map[string]string{"2": "a"}})},
		{at + "enum.16", "is the same number as", point(Point{Enum: map[string]string{"0x10": "a", "16": "b"}})},
		{at + "enum.1", "text of 1 to 128", point(Point{Enum: map[string]string{"1": ""}})},
		{at + "enum.16", "is not a bit", point(Point{Type: "bits16", Enum: map[string]string{"16": "a"}})},
		{at + "enum.1", "is not a name", point(Point{Type: "bits16", Enum: map[string]string{"1": "a b"}})},
		{at + "enum.10000", "4 digits", point(Point{Type: "bcd16", Enum: map[string]string{"10000": "a"}})},
		{at + "enum", "have no effect", point(Point{Enum: map[string]string{"1": "a"}, Scale: 2})},
		{at + "type", "are for numbers, not string", point(Point{Type: "string", Scale: 2})},
		{at + "type", "are for numbers, not bool", point(Point{Table: "coil", Min: ptr(1.0)})},
		{at + "scale", "must be numbers", point(Point{Scale: math.NaN()})},
		{at + "min", "must be a number", point(Point{Min: ptr(math.Inf(-1))})},
		{at + "min", "3 is above max, 2", point(Point{Min: ptr(3.0), Max: ptr(2.0)})},
		{at + "counter", "is for uint and bcd", point(Point{Type: "int32", Counter: true})},
		{at + "counter", "not for a fifo", point(Point{Table: "fifo", Counter: true})},
		{at + "counter", "no effect with enum", point(Point{Counter: true, Enum: map[string]string{"1": "a"}})},
		{at + "counter", "min and max have no meaning", point(Point{Counter: true, Max: ptr(1.0)})},
		{at + "counter", "at least 8 bits", point(Point{Counter: true, Bit: ptr(1), Width: 7})},
		{at + "deadband", "must not be negative", point(Point{Deadband: -1})},
		{at + "deadband", "must not be negative", point(Point{Deadband: math.NaN()})},
		{at + "deadband_percent", "outside 0 to 100", point(Point{Percent: 101})},
		{"groups[0].points[1].name", "is the name of a value of points[0]", func(p *Profile) {
			p.Groups[0].Points = []Point{{Name: "a", Count: 2}, {Name: "a.1", Address: 9}}
		}},
		{"groups[0].points[1].name", "is the name of a value of points[0]", func(p *Profile) {
			p.Groups[0].Points = []Point{{Name: "a", Type: "bits16", Enum: map[string]string{"3": "on"}}, {Name: "a.on", Address: 9}}
		}},
		{"groups[0].points[0].name", "is the name of a value of points[0]", point(Point{Type: "bits16", Enum: map[string]string{"3": "on", "4": "on"}})},
	} {
		p := sound()
		c.spoil(p)
		if got := faultAt(t, p.validate("profile"), "profile."+c.key); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, not %q; all: %v", c.key, got, c.want, p.validate("profile"))
		}
		if strings.HasPrefix(c.key, "groups[0].points[0].") {
			if _, err := compile(p, &p.Groups[0]); err == nil {
				t.Errorf("%s %s: compiled", c.key, c.want)
			}
		}
	}
}

// faultAt returns the one fault of a key.
func faultAt(t *testing.T, errs []error, key string) string {
	t.Helper()
	got := ""
	for _, err := range errs {
		fe, ok := errors.AsType[*gateway.FieldError](err)
		if !ok {
			t.Fatalf("%v is not a FieldError", err)
		}
		if fe.Key == key {
			got += fmt.Sprintf("%s (%s)", fe.Msg, fe.Hint)
		}
	}
	return got
}

func TestKeyOfFaults(t *testing.T) {
	p := sound()
	p.Order, p.Groups[0].Points[2].Bit = "x", ptr(16)
	for _, key := range []string{"", "devices[2].profile"} {
		for _, want := range []string{"order", "groups[0].points[2].bit"} {
			if key != "" {
				want = key + "." + want
			}
			if faultAt(t, p.validate(key), want) == "" {
				t.Errorf("no fault at %s: %v", want, p.validate(key))
			}
		}
	}
}

func TestModiconNumbers(t *testing.T) {
	for s, want := range map[string]string{"40001": "holding 0", "49999": "holding 9998", "400001": "holding 0", "465536": "holding 65535", "30001": "input 0",
		"365536": "input 65535", "10001": "discrete 0", "100001": "discrete 0", "00001": "coil 0", "000001": "coil 0", "1": "coil 0", "9999": "coil 9998",
		"40000": "", "400000": "", "465537": "", "20001": "", "50001": "", "": "", "4000001": "", "4000x": "", "-4001": "", "0": ""} {
		table, address, ok := modicon(s)
		got := ""
		if ok {
			got = fmt.Sprintf("%s %d", table, address)
		}
		if got != want {
			t.Errorf("%s: %q, not %q", s, got, want)
		}
	}
}
