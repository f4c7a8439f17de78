package gateway

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// update writes golden files that are not there yet. One that is there is
// never changed: a queue of years ago must stay readable.
var update = flag.Bool("update", false, "write golden files that are missing")

var sampleTime = time.Date(2026, 11, 22, 14, 13, 45, 123_456_789, time.UTC)

// samples are records of every shape, by the name of their golden file.
func samples() map[string]Record {
	quality := func(v Value, q Quality, reason, unit string) Value {
		v.Quality, v.Reason, v.Unit = q, reason, unit
		return v
	}
	return map[string]Record{
		"empty": {},
		"mqtt": {Source: "deck", Device: "deck/7/temperature", Name: "deck/7/temperature", Payload: []byte(`{"t":21.5}`),
			ContentType: "application/json", Received: sampleTime, ClockTrusted: true, Tags: []Tag{{"retained", "true"}}},
		"empty-payload": {Source: "deck", Device: "door", Name: "door/open", Payload: []byte{}, Received: sampleTime},
		"modbus": {Source: "engine", Device: "main engine", Name: "holding 100", Received: sampleTime, Time: sampleTime.Add(-time.Second),
			Values: []Value{
				BoolValue("running", true), BoolValue("alarm", false),
				quality(IntValue("temperature", -40), Good, "", "°C"), IntValue("least", math.MinInt64),
				UintValue("hours", math.MaxUint64), quality(FloatValue("pressure", 101.325), Uncertain, "old value", "kPa"),
				FloatValue("not a number", math.Float64frombits(0x7ff8000000000001)), FloatValue("infinite", math.Inf(-1)),
				StringValue("state", "läuft"), BytesValue("raw", "\x00\xff"), BadValue("flow", "exception 2: illegal data address"),
			}},
		"bad":       {Source: "hvac", Device: "chiller", Name: "ns=2;s=Chiller.T1", Quality: Bad, Reason: "BadNoCommunication", Received: sampleTime},
		"uncertain": {Source: "hvac", Device: "", Name: "x", Quality: Uncertain, Reason: "UncertainLastUsableValue"},
		"year-1970": {Source: "s", Device: "d", Name: "n", Received: time.Unix(0, 1), Time: time.Unix(-1, 0)},
		"year-2038": {Source: "s", Device: "d", Name: "n", Received: time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC), ClockTrusted: true},
	}
}

func TestGoldenRecords(t *testing.T) {
	for name, want := range samples() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "record-v1-"+name+".golden")
			stored := AppendRecord(nil, &want)
			if _, err := os.Stat(path); *update && errors.Is(err, os.ErrNotExist) {
				if err := os.WriteFile(path, []byte(hex.Dump(stored)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			dump, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			golden := undump(t, string(dump))
			var got Record
			if err := new(RecordDecoder).Decode(&got, golden); err != nil {
				t.Fatalf("decode %s: %v", path, err)
			}
			if !sameRecord(&got, &want) {
				t.Errorf("decode %s:\ngot  %+v\nwant %+v", path, got, want)
			}
			if !bytes.Equal(stored, golden) {
				t.Errorf("the stored form has changed: write a new version instead\ngot  %x\nwant %x", stored, golden)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "record-v1-*.golden"))
	if err != nil || len(files) != len(samples()) {
		t.Errorf("%d golden files for %d samples, %v", len(files), len(samples()), err)
	}
}

// undump reads the output of hex.Dump.
func undump(t *testing.T, dump string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(dump) {
		if from, to := strings.Index(line, "  "), strings.Index(line, "|"); from >= 0 && to > from {
			digits.WriteString(strings.ReplaceAll(line[from:to], " ", ""))
		}
	}
	p, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sameRecord compares two records; empty and missing lists are the same,
// missing and empty payloads are not.
func sameRecord(a, b *Record) bool {
	return a.Source == b.Source && a.Device == b.Device && a.Name == b.Name && a.ContentType == b.ContentType &&
		a.Quality == b.Quality && a.Reason == b.Reason && a.ClockTrusted == b.ClockTrusted &&
		a.Received.Equal(b.Received) && a.Time.Equal(b.Time) && a.Received.IsZero() == b.Received.IsZero() &&
		bytes.Equal(a.Payload, b.Payload) && (a.Payload == nil) == (b.Payload == nil) &&
		slices.Equal(a.Tags, b.Tags) && slices.Equal(a.Values, b.Values)
}

func TestRecordsThatCannotBeReadAreSaidSo(t *testing.T) {
	whole := samples()["modbus"]
	stored := AppendRecord(nil, &whole)
	for n := range len(stored) {
		var r Record
		if err := new(RecordDecoder).Decode(&r, stored[:n]); !errors.Is(err, ErrRecordFormat) {
			t.Fatalf("decode the first %d of %d bytes: %v", n, len(stored), err)
		}
	}
	for name, p := range map[string][]byte{
		"nothing":          {},
		"version 0":        {0, 0, 0, 0, 0},
		"version 2":        {2, 0, 0, 0, 0},
		"unknown flag":     {1, 0x80, 0x10, 0, 0, 0},
		"bytes left over":  append(slices.Clone(stored), 0),
		"huge text":        {1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 'x'},
		"endless varint":   {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"more tags":        {1, flagTags | 0x80, 2, 0, 0, 0xff, 0xff, 3},
		"more values":      {1, 0x80, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f},
		"unknown kind":     {1, 0x80, 1, 0, 0, 0, 1, 0, 9},
		"unknown quality":  {1, 0x80, 1, 0, 0, 0, 1, 0, 3 << 4},
		"bool neither 0,1": {1, 0x80, 1, 0, 0, 0, 1, 0, 1, 2},
	} {
		var r Record
		if err := new(RecordDecoder).Decode(&r, p); !errors.Is(err, ErrRecordFormat) {
			t.Errorf("decode %s: %v, want ErrRecordFormat", name, err)
		}
	}
}

// Times outside of what 64 bits of nanoseconds hold must not come back as
// other times.
func TestTimesThatDoNotFitAreNotGiven(t *testing.T) {
	for _, at := range []time.Time{
		time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(1677, 9, 21, 0, 12, 0, 0, time.UTC), time.Date(2262, 4, 12, 0, 0, 0, 0, time.UTC),
	} {
		in, out := Record{Time: at, Received: sampleTime}, Record{}
		if err := new(RecordDecoder).Decode(&out, AppendRecord(nil, &in)); err != nil || !out.Time.IsZero() {
			t.Errorf("a device time of %s comes back as %s, %v", at, out.Time, err)
		}
	}
	for _, at := range []time.Time{time.Date(1677, 9, 22, 0, 0, 0, 0, time.UTC), time.Date(2262, 4, 11, 0, 0, 0, 0, time.UTC)} {
		in, out := Record{Time: at}, Record{}
		if err := new(RecordDecoder).Decode(&out, AppendRecord(nil, &in)); err != nil || !out.Time.Equal(at) {
			t.Errorf("a device time of %s comes back as %s, %v", at, out.Time, err)
		}
	}
}

// A quality that is none must not make a record that cannot be read.
func TestUnknownQualityIsBad(t *testing.T) {
	v := IntValue("v", 1)
	v.Quality = 7
	in, out := Record{Quality: 9, Values: []Value{v}}, Record{}
	if err := new(RecordDecoder).Decode(&out, AppendRecord(nil, &in)); err != nil || out.Quality != Bad || out.Values[0].Quality != Bad || out.Values[0].Unit != "" {
		t.Errorf("got %+v, %v", out, err)
	}
}

// anyRecord draws a record of any shape.
func anyRecord() *rapid.Generator[Record] {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "a", "deck/7/temperature", strings.Repeat("long ", 100), "\xff\xfe"}))
	when := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "none") {
			return time.Time{}
		}
		return time.Unix(0, rapid.Int64Range(math.MinInt64+2e9, math.MaxInt64-2e9).Draw(t, "ns"))
	})
	value := rapid.Custom(func(t *rapid.T) Value {
		name := text.Draw(t, "name")
		v := [...]Value{BadValue(name, "x"), BoolValue(name, rapid.Bool().Draw(t, "b")), IntValue(name, rapid.Int64().Draw(t, "i")),
			UintValue(name, rapid.Uint64().Draw(t, "u")), FloatValue(name, math.Float64frombits(rapid.Uint64().Draw(t, "f"))),
			StringValue(name, text.Draw(t, "s")), BytesValue(name, text.Draw(t, "y"))}[rapid.IntRange(0, 6).Draw(t, "kind")]
		v.Unit, v.Reason, v.Quality = text.Draw(t, "unit"), text.Draw(t, "reason"), Quality(rapid.IntRange(0, 2).Draw(t, "quality"))
		return v
	})
	tag := rapid.Custom(func(t *rapid.T) Tag { return Tag{text.Draw(t, "key"), text.Draw(t, "value")} })
	return rapid.Custom(func(t *rapid.T) Record {
		r := Record{Source: text.Draw(t, "source"), Device: text.Draw(t, "device"), Name: text.Draw(t, "name"), ContentType: text.Draw(t, "type"),
			Quality: Quality(rapid.IntRange(0, 2).Draw(t, "quality")), Reason: text.Draw(t, "reason"), ClockTrusted: rapid.Bool().Draw(t, "trusted"),
			Received: when.Draw(t, "received"), Time: when.Draw(t, "time"),
			Values: rapid.SliceOfN(value, 0, 8).Draw(t, "values"), Tags: rapid.SliceOfN(tag, 0, 4).Draw(t, "tags")}
		if rapid.Bool().Draw(t, "has payload") {
			r.Payload = append([]byte{}, rapid.SliceOf(rapid.Byte()).Draw(t, "payload")...)
		}
		if rapid.Bool().Draw(t, "device is name") {
			r.Device = r.Name
		}
		return r
	})
}

// What is stored comes back, also from a decoder that has read others before.
func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dec := &RecordDecoder{}
		in := rapid.SliceOfN(anyRecord(), 1, 5).Draw(t, "records")
		for round := range 2 {
			dec.Reset()
			out := make([]Record, len(in))
			for i := range in {
				if err := dec.Decode(&out[i], AppendRecord(nil, &in[i])); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
			}
			for i := range in { // after all were decoded: none may have changed another
				if !sameRecord(&in[i], &out[i]) {
					t.Fatalf("round %d: stored %+v, got %+v", round, in[i], out[i])
				}
			}
		}
	})
}

// FuzzDecodeRecord: no input panics, and what decodes is stored as an equal record.
func FuzzDecodeRecord(f *testing.F) {
	for _, r := range samples() {
		f.Add(AppendRecord(nil, &r))
	}
	f.Add([]byte{1, 0x80, 1, 0, 0, 0, 1, 0, 3 << 4})
	f.Fuzz(func(t *testing.T, p []byte) {
		var first, second Record
		if err := new(RecordDecoder).Decode(&first, p); err != nil {
			if !errors.Is(err, ErrRecordFormat) {
				t.Fatalf("decode: %v is not ErrRecordFormat", err)
			}
			return
		}
		if err := new(RecordDecoder).Decode(&second, AppendRecord(nil, &first)); err != nil {
			t.Fatalf("decode again: %v", err)
		}
		want := first
		for _, at := range []*time.Time{&want.Time, &want.Received} {
			if !storable(*at) {
				*at = time.Time{}
			}
		}
		if !sameRecord(&want, &second) {
			t.Fatalf("decoded %+v, stored again and decoded %+v", want, second)
		}
	})
}

// mqttRecord is what the MQTT source delivers.
func mqttRecord(i int) Record {
	topic := fmt.Sprintf("plant/line%d/temperature", i%50)
	return Record{Source: "deck", Device: topic, Name: topic, ContentType: "application/json", Received: sampleTime, ClockTrusted: true,
		Payload: fmt.Appendf(nil, `{"ts":%d,"value":%d.5,"unit":"C"}`, 1_700_000_000+i, i%40), Tags: []Tag{{"vessel", "aurora"}}}
}
