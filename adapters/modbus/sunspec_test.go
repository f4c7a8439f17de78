package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goburrow/modbus"
)

// fakeMap answers reads of holding registers; what is not there is refused.
type fakeMap struct {
	words map[int]uint16
	asked []string
	fail  func(q *request) error
}

func (m *fakeMap) ask(_ context.Context, q *request) ([]byte, error) {
	m.asked = append(m.asked, q.String())
	if m.fail != nil {
		if err := m.fail(q); err != nil {
			return nil, err
		}
	}
	var out []byte
	for i := range int(q.count) {
		w, ok := m.words[int(q.address)+i]
		if !ok {
			return nil, &modbus.ModbusError{FunctionCode: q.function | exceptionBit, ExceptionCode: 2}
		}
		out = binary.BigEndian.AppendUint16(out, w)
	}
	return out, nil
}

// sunspecMap is a device with models at base: pairs of identifier and length,
// and the end.
func sunspecMap(base int, pairs ...int) *fakeMap {
	m := &fakeMap{words: map[int]uint16{base: 0x5375, base + 1: 0x6e53}}
	at := base + 2
	for i := 0; i < len(pairs); i += 2 {
		m.words[at], m.words[at+1] = uint16(pairs[i]), uint16(pairs[i+1])
		at += 2 + pairs[i+1]
	}
	m.words[at], m.words[at+1] = 0xFFFF, 0
	return m
}

func sunspecProfile() *SunSpec {
	factor := 5
	return &SunSpec{Models: []SunSpecModel{
		{IDs: []int{1}, Group: Group{Name: "common", Every: time.Hour, Points: []Point{{Name: "maker", Address: 2, Type: "string", Count: 16}}}},
		{IDs: []int{101, 103}, Group: Group{Name: "inverter", Points: []Point{{Name: "w", Address: 2, Type: "int16", ScaleAt: &factor}, {Name: "wh", Address: 6, Type: "uint32"}}}},
	}}
}

// places tells groups and points with their addresses.
func places(groups []Group) string {
	var out []string
	for _, g := range groups {
		for _, p := range g.Points {
			s := fmt.Sprintf("%s.%s@%d", g.Name, p.Name, p.Address)
			if p.ScaleAt != nil {
				s += fmt.Sprintf("*%d", *p.ScaleAt)
			}
			out = append(out, s)
		}
	}
	return strings.Join(out, " ")
}

func TestDiscover(t *testing.T) {
	s := sunspecProfile()
	tests := []struct {
		name string
		m    *fakeMap
		want string
	}{
		{"usual", sunspecMap(40000, 1, 66, 103, 6), "common.maker@40004 inverter.w@40072*40075 inverter.wh@40076"},
		{"other base", sunspecMap(0, 1, 66, 101, 6), "common.maker@4 inverter.w@72*75 inverter.wh@76"},
		{"third base", sunspecMap(50000, 101, 6), "inverter.w@50004*50007 inverter.wh@50008"},
		{"others passed over", sunspecMap(40000, 64001, 100, 103, 6, 120, 26), "inverter.w@40106*40109 inverter.wh@40110"},
		{"two of one layout", sunspecMap(40000, 103, 6, 101, 6, 103, 6), "inverter.w@40004*40007 inverter.wh@40008 inverter-2.w@40012*40015 inverter-2.wh@40016 inverter-3.w@40020*40023 inverter-3.wh@40024"},
		{"shorter than the layout", sunspecMap(40000, 103, 5), "inverter.w@40004*40007"},
		{"too short for the factor", sunspecMap(40000, 103, 3, 1, 66), "common.maker@40009"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := s.discover(t.Context(), tc.m.ask)
			if err != nil || places(got) != tc.want {
				t.Errorf("got %s, %v\nwant %s", places(got), err, tc.want)
			}
		})
	}
	if *s.Models[1].Group.Points[0].ScaleAt != 5 || s.Models[1].Group.Points[0].Address != 2 {
		t.Error("the profile was changed")
	}
	if g, _ := s.discover(t.Context(), sunspecMap(0, 1, 66).ask); g[0].Every != time.Hour {
		t.Errorf("got %+v", g)
	}
}

// TestDiscoverOdd meets devices that are not what they should be.
func TestDiscoverOdd(t *testing.T) {
	silent := &silence{after: time.Second}
	broken := errors.New("broken pipe")
	noEnd := sunspecMap(40000, 103, 6)
	delete(noEnd.words, 40010)
	endless := &fakeMap{words: map[int]uint16{40000: 0x5375, 40001: 0x6e53}}
	for at := 40002; at < 40002+200; at += 2 {
		endless.words[at], endless.words[at+1] = 7, 0
	}
	tests := []struct {
		name string
		m    *fakeMap
		want string // of the error, or the places
		is   error
	}{
		{"no map", &fakeMap{}, `no "SunS" at holding register 40000, 0, 50000`, nil},
		{"another map", &fakeMap{words: map[int]uint16{40000: 1, 40001: 2}}, `no "SunS"`, nil},
		{"nothing wanted", sunspecMap(40000, 120, 26, 7, 1), "the device has the models 120, 7, none that the profile reads", nil},
		{"no models", sunspecMap(40000), "the device has no models, none that", nil},
		{"identifier 0", sunspecMap(40000, 0, 5), "holding register 40002: identifier 0 and length 5 make no sense", nil},
		{"beyond the table", sunspecMap(40000, 103, 30000), "length 30000 make no sense", nil},
		{"endless", endless, "the device has the models 7, 7,", nil},
		{"end missing", noEnd, "inverter.w@40004*40007 inverter.wh@40008", nil},
		{"silent", &fakeMap{fail: func(*request) error { return silent }}, "no answer within 1s", silent},
		{"line gone", &fakeMap{fail: func(*request) error { return broken }}, "broken pipe", broken},
		{"silent after the marker", &fakeMap{words: sunspecMap(40000, 103, 6).words, fail: func(q *request) error {
			if q.address != 40000 {
				return silent
			}
			return nil
		}}, "no answer within 1s", silent},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, err := sunspecProfile().discover(t.Context(), tc.m.ask)
			text := places(got)
			if err != nil {
				text = err.Error()
			}
			if !strings.Contains(text, tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("got %s, want %s", text, tc.want)
			}
			if len(tc.m.asked) > sunspecModels+3 {
				t.Errorf("%d requests", len(tc.m.asked))
			}
		})
	}
}

// TestDiscoverAsks looks only where the profile says, and past bases that do
// not answer.
func TestDiscoverAsks(t *testing.T) {
	s := sunspecProfile()
	s.Bases = []int{100, -1, 70000, 30}
	m := sunspecMap(30, 103, 6)
	m.fail = func(q *request) error {
		if q.address == 100 {
			return &silence{after: time.Second}
		}
		return nil
	}
	if _, err := s.discover(t.Context(), m.ask); err != nil {
		t.Fatal(err)
	}
	if want := []string{"holding 100+2", "holding 30+2", "holding 32+2", "holding 40+2"}; !slices.Equal(m.asked, want) {
		t.Errorf("asked %v, want %v", m.asked, want)
	}
}
