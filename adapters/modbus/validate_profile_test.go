package modbus

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// soundProfile is a profile without faults that uses most of what there is.
func soundProfile() *Profile {
	return &Profile{Name: "p", Order: "CDAB",
		Limits: Limits{Words: 100, Gap: ptr(0), Forbidden: []Range{{"holding", 500, 510}}},
		Groups: []Group{{Name: "main", Every: time.Second, Points: everyType()}, {Name: "sel", Select: &Select{Address: 1, Values: []uint16{3}},
			Points: []Point{{Name: "a", Address: 10}, {Name: "b", Address: 100, Type: "uint32"}}}},
		SunSpec: &SunSpec{Bases: []int{40000, 0}, Models: []SunSpecModel{
			{IDs: []int{101, 102}, Group: Group{Name: "inverter", Points: []Point{{Name: "W", Address: 14, Type: "int16", ScaleAt: ptr(15)}}}},
			{IDs: []int{111}, Group: Group{Name: "inverter", Points: []Point{{Name: "W", Address: 500, Type: "float32"}}}}}}}
}

func TestSoundProfile(t *testing.T) {
	p := soundProfile()
	if errs := p.validate("profile"); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	for i := range p.Groups {
		if _, err := compile(p, &p.Groups[i]); err != nil {
			t.Error(err)
		}
	}
}

// faultCase spoils the sound profile in one place.
type faultCase struct {
	key, want string
	spoil     func(*Profile)
}

// withPoint makes q the one point of the first group.
func withPoint(q Point) func(*Profile) {
	return func(p *Profile) {
		if q.Name == "" {
			q.Name = "x"
		}
		p.Groups[0].Points = []Point{q}
	}
}

// profileCases are faults of profiles, groups and models.
func profileCases() []faultCase {
	return []faultCase{
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
		{"groups[0].every", "outside 10ms to 24h", func(p *Profile) { p.Groups[0].Every = time.Microsecond }},
		{"groups[0].points", "must not be empty", func(p *Profile) { p.Groups[0].Points = nil }},
		{"groups[0].points", "more than 4096 values", func(p *Profile) {
			p.Groups[0].Points = []Point{{Name: "a", Table: "input", Count: 4096}, {Name: "b", Address: 5000}}
		}},
		{"groups[1].select.values", "must be 1 to 121", func(p *Profile) { p.Groups[1].Select.Values = make([]uint16, 122) }},
		{"groups[1].select.values", "must be 1 to 121", func(p *Profile) { p.Groups[1].Select.Values = nil }},
		{"groups[1].select.address", "outside 0 to 65534", func(p *Profile) { p.Groups[1].Select = &Select{65535, []uint16{1, 2}} }},
		{"groups[1].select", "span 101 registers, must be at most 100", func(p *Profile) { p.Groups[1].Points[1].Address = 109 }},
		{"groups[1].select", "span 101 registers", func(p *Profile) { p.Groups[1].Points[0].ScaleAt = ptr(1) }},
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
	}
}

// placeCases are faults of where points are.
func placeCases() []faultCase {
	return []faultCase{
		{"groups[0].points[0].name", "is not a name", withPoint(Point{Name: "Spannung L1 (Außen)"})},
		{"groups[0].points[0].name", "write Spannung_L1_Aussen", withPoint(Point{Name: "Spannung L1 (Außen)"})},
		{"groups[0].points[0].name", "1 to 64", withPoint(Point{Name: strings.Repeat("x", 65)})},
		{"groups[0].points[0].table", "is not one of", withPoint(Point{Table: "registers"})},
		{"groups[0].points[0].type", "is not one of", withPoint(Point{Type: "int24"})},
		{"groups[0].points[0].order", "is not one of", withPoint(Point{Order: "4321"})},
		{"groups[0].points[0].order", "must be ABCD or BADC for string", withPoint(Point{Type: "string", Order: "CDAB"})},
		{"groups[0].points[0].order", "not for single bits", withPoint(Point{Table: "coil", Order: "ABCD"})},
		{"groups[0].points[0].address", "outside 0 to 65535", withPoint(Point{Address: -1})},
		{"groups[0].points[0].address", "table: holding, address: 100", withPoint(Point{Address: 400101})},
		{"groups[0].points[0].address", "is too high", withPoint(Point{Address: 65535, Type: "uint32"})},
		{"groups[0].points[0].address", "is too high", withPoint(Point{Address: 65530, Count: 7})},
		{"groups[0].points[0].address", "lies in the forbidden range holding 500 to 510", withPoint(Point{Address: 499, Type: "uint32"})},
		{"groups[0].points[0].address", "lies in the forbidden", withPoint(Point{Address: 400, Count: 200})},
		{"groups[0].points[0].scale_at", "lies in the forbidden", withPoint(Point{ScaleAt: ptr(510)})},
		{"groups[0].points[0].scale_at", "outside", withPoint(Point{ScaleAt: ptr(-1)})},
		{"groups[0].points[0].scale_at", "not for a fifo", withPoint(Point{Table: "fifo", ScaleAt: ptr(1)})},
		{"groups[0].points[0].count", "outside 0 to 4096", withPoint(Point{Count: 4097})},
		{"groups[0].points[0].count", "outside 0 to 4096", withPoint(Point{Count: -1})},
		{"groups[0].points[0].count", "takes 101 registers", withPoint(Point{Type: "string", Count: 101})},
		{"groups[0].points[0].count", "a queue has at most 31", withPoint(Point{Table: "fifo", Type: "uint32", Count: 16})},
		{"groups[0].points[0].type", "takes 4 registers", func(p *Profile) { withPoint(Point{Type: "uint64", Count: 2})(p); p.Limits.Words = 3 }},
		{"groups[0].points[0].type", "must be bool", withPoint(Point{Table: "discrete", Type: "uint16"})},
	}
}

// partCases are faults of parts of registers and patterns.
func partCases() []faultCase {
	return []faultCase{
		{"groups[0].points[0].bit", "not for coils", withPoint(Point{Table: "coil", Bit: ptr(1)})},
		{"groups[0].points[0].width", "not for coils", withPoint(Point{Table: "coil", Width: 1})},
		{"groups[0].points[0].invalid", "not for single bits", withPoint(Point{Table: "coil", Invalid: []string{"1"}})},
		{"groups[0].points[0].bit", "is required", withPoint(Point{Type: "bool"})},
		{"groups[0].points[0].bit", "is for bool and whole numbers", withPoint(Point{Type: "float32", Bit: ptr(1)})},
		{"groups[0].points[0].bit", "outside 0 to 15", withPoint(Point{Bit: ptr(16)})},
		{"groups[0].points[0].width", "outside 0 to 8", withPoint(Point{Bit: ptr(8), Width: 9})},
		{"groups[0].points[0].width", "no effect without bit", withPoint(Point{Width: 3})},
		{"groups[0].points[0].width", "must be 1 for bool", withPoint(Point{Type: "bool", Bit: ptr(1), Width: 2})},
		{"groups[0].points[0].width", "at least 2", withPoint(Point{Type: "int16", Bit: ptr(1)})},
		{"groups[0].points[0].invalid", "is not for bytes", withPoint(Point{Type: "bytes", Invalid: []string{"0"}})},
		{"groups[0].points[0].invalid[1]", `"0x10000" is not a number of 16 bits`, withPoint(Point{Invalid: []string{"0", "0x10000"}})},
		{"groups[0].points[0].invalid[0]", "is not a number of 16 bits", withPoint(Point{Invalid: []string{"-32769"}})},
		{"groups[0].points[0].invalid[0]", "is not a number", withPoint(Point{Type: "float32", Invalid: []string{"NaN"}})},
		{"groups[0].points[0].invalid[0]", "4 digits", withPoint(Point{Type: "bcd16", Invalid: []string{"10000"}})},
	}
}

// meaningCases are faults of what is made of numbers.
func meaningCases() []faultCase {
	return []faultCase{
		{"groups[0].points[0].enum", "is not for float32", withPoint(Point{Type: "float32", Enum: map[string]string{"1": "a"}})},
		{"groups[0].points[0].enum", "is not for string", withPoint(Point{Type: "string", Enum: map[string]string{"1": "a"}})},
		{"groups[0].points[0].enum.x", `"x" is not a number`, withPoint(Point{Enum: map[string]string{"x": "a"}})},
		{"groups[0].points[0].enum.-1", "is not a number of 16 bits", withPoint(Point{Enum: map[string]string{"-1": "a"}})},
		{"groups[0].points[0].enum.2", "is not a number of 1 bits", withPoint(Point{Table: "coil", Enum: map[string]string{"2": "a"}})},
		{"groups[0].points[0].enum.16", "is the same number as", withPoint(Point{Enum: map[string]string{"0x10": "a", "16": "b"}})},
		{"groups[0].points[0].enum.1", "text of 1 to 128", withPoint(Point{Enum: map[string]string{"1": ""}})},
		{"groups[0].points[0].enum.16", "is not a bit", withPoint(Point{Type: "bits16", Enum: map[string]string{"16": "a"}})},
		{"groups[0].points[0].enum.1", "is not a name", withPoint(Point{Type: "bits16", Enum: map[string]string{"1": "a b"}})},
		{"groups[0].points[0].enum.10000", "4 digits", withPoint(Point{Type: "bcd16", Enum: map[string]string{"10000": "a"}})},
		{"groups[0].points[0].enum", "have no effect", withPoint(Point{Enum: map[string]string{"1": "a"}, Scale: 2})},
		{"groups[0].points[0].type", "are for numbers, not string", withPoint(Point{Type: "string", Scale: 2})},
		{"groups[0].points[0].type", "are for numbers, not bool", withPoint(Point{Table: "coil", Min: ptr(1.0)})},
		{"groups[0].points[0].scale", "must be numbers", withPoint(Point{Scale: math.NaN()})},
		{"groups[0].points[0].min", "must be a number", withPoint(Point{Min: ptr(math.Inf(-1))})},
		{"groups[0].points[0].min", "3 is above max, 2", withPoint(Point{Min: ptr(3.0), Max: ptr(2.0)})},
		{"groups[0].points[0].counter", "is for uint and bcd", withPoint(Point{Type: "int32", Counter: true})},
		{"groups[0].points[0].counter", "not for a fifo", withPoint(Point{Table: "fifo", Counter: true})},
		{"groups[0].points[0].counter", "no effect with enum", withPoint(Point{Counter: true, Enum: map[string]string{"1": "a"}})},
		{"groups[0].points[0].counter", "min and max have no meaning", withPoint(Point{Counter: true, Max: ptr(1.0)})},
		{"groups[0].points[0].counter", "at least 8 bits", withPoint(Point{Counter: true, Bit: ptr(1), Width: 7})},
		{"groups[0].points[0].deadband", "must not be negative", withPoint(Point{Deadband: -1})},
		{"groups[0].points[0].deadband", "must not be negative", withPoint(Point{Deadband: math.NaN()})},
		{"groups[0].points[0].deadband_percent", "outside 0 to 100", withPoint(Point{Percent: 101})},
	}
}

// nameCases are faults of names of values.
func nameCases() []faultCase {
	return []faultCase{
		{"groups[0].points[1].name", "is the name of a value of points[0]", func(p *Profile) {
			p.Groups[0].Points = []Point{{Name: "a", Count: 2}, {Name: "a.1", Address: 9}}
		}},
		{"groups[0].points[1].name", "is the name of a value of points[0]", func(p *Profile) {
			p.Groups[0].Points = []Point{{Name: "a", Type: "bits16", Enum: map[string]string{"3": "on"}}, {Name: "a.on", Address: 9}}
		}},
		{"groups[0].points[0].name", "is the name of a value of points[0]", withPoint(Point{Type: "bits16", Enum: map[string]string{"3": "on", "4": "on"}})},
	}
}

// TestEveryFaultOfAProfile spoils the sound profile in one place each.
func TestEveryFaultOfAProfile(t *testing.T) {
	for _, c := range slices.Concat(profileCases(), placeCases(), partCases(), meaningCases(), nameCases()) {
		p := soundProfile()
		c.spoil(p)
		if got := profileFaultAt(t, p.validate("profile"), "profile."+c.key); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, not %q; all: %v", c.key, got, c.want, p.validate("profile"))
		}
		if strings.HasPrefix(c.key, "groups[0].points[0].") {
			if _, err := compile(p, &p.Groups[0]); err == nil {
				t.Errorf("%s %s: compiled", c.key, c.want)
			}
		}
	}
}

// profileFaultAt returns the one fault of a key.
func profileFaultAt(t *testing.T, errs []error, key string) string {
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
	p := soundProfile()
	p.Order, p.Groups[0].Points[2].Bit = "x", ptr(16)
	for _, key := range []string{"", "devices[2].profile"} {
		for _, want := range []string{"order", "groups[0].points[2].bit"} {
			if key != "" {
				want = key + "." + want
			}
			if profileFaultAt(t, p.validate(key), want) == "" {
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
