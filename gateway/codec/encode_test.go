package codec

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/waystation-iot/waystation/gateway"
)

// telemetry is a payload of about 200 bytes as devices send them.
const telemetry = `{"id":"engine-3","ts":1700000000123,"rpm":1480,"oil":{"temp":81.25,"pressure":4.1},"coolant":78.5,"load":0.62,"alarm":false,"state":"running","hours":18231,"fuel":{"rate":212.4,"level":0.71},"seq":48812}`

func withUnit(v gateway.Value, unit string) gateway.Value { v.Unit = unit; return v }

func graded(v gateway.Value, q gateway.Quality, why string) gateway.Value {
	v.Quality, v.Reason = q, why
	return v
}

// golden are records whose JSON stands in testdata/NAME.golden.json.
func golden() map[string]gateway.Record {
	at := time.Date(2026, 11, 22, 13, 0, 0, 120000000, time.FixedZone("", 3600))
	return map[string]gateway.Record{
		"telemetry": {
			Source: "engine", Device: "engine-3", Name: "ship/engine/3", Time: at, Received: at.Add(time.Millisecond), ClockTrusted: true,
			Tags: []gateway.Tag{{Key: "vessel", Value: "aurora"}, {Key: "deck", Value: "lower"}, {Key: "vessel", Value: "borealis"}},
			Values: []gateway.Value{
				gateway.IntValue("rpm", 1480), withUnit(gateway.FloatValue("oil.temp", 81.25), "°C"), gateway.FloatValue("load", 1),
				gateway.BoolValue("alarm", false), gateway.StringValue("state", "running"),
			},
		},
		"kinds": {
			Source: "s", Name: "all", Received: at, ClockTrusted: true,
			Values: []gateway.Value{
				gateway.IntValue("min", math.MinInt64), gateway.IntValue("max", math.MaxInt64), gateway.UintValue("umax", math.MaxUint64),
				gateway.FloatValue("pi", math.Pi), gateway.FloatValue("tiny", 5e-324), gateway.FloatValue("huge", math.MaxFloat64),
				gateway.FloatValue("minus zero", math.Copysign(0, -1)), gateway.FloatValue("e21", 1e21), gateway.FloatValue("1e-6", 1e-6),
				gateway.FloatValue("nan", math.NaN()), gateway.FloatValue("inf", math.Inf(1)), gateway.FloatValue("-inf", math.Inf(-1)),
				gateway.BoolValue("yes", true), gateway.StringValue("", ""), gateway.StringValue("quote\"\\", "a\"\\\n\t\r\x00\x1f\x7f<&>\u2028ü😀"),
				gateway.BytesValue("bytes", "\x00\xff\xfe"), gateway.BytesValue("long", strings.Repeat("\x01", 50)), gateway.BytesValue("none", ""),
				{Name: "nothing"},
			},
		},
		"bad": {
			Source: "plc", Device: "unit-7", Name: "holding 100+20", Received: at, Quality: gateway.Uncertain, Reason: "clock of the device is wrong",
			Values: []gateway.Value{
				gateway.BadValue("level", "exception 2: illegal data address"), withUnit(graded(gateway.IntValue("flow", 3), gateway.Uncertain, "old"), "l/min"),
				graded(gateway.FloatValue("nan", math.NaN()), gateway.Bad, ""),
			},
		},
		"payload": {
			Source: "deck", Device: "a/b", Name: "a/b", Received: at, ClockTrusted: true, Quality: gateway.Bad, Reason: "decode json: invalid UTF-8 at byte 0",
			Payload: []byte{0xff, 0, 1}, ContentType: "application/octet-stream",
		},
		"empty-payload": {Source: "deck", Device: "a", Name: "a", Received: at, ClockTrusted: true, Payload: []byte{}},
		"replaced": {
			Source: "s", Device: "d\xff", Name: "n", Received: at, ClockTrusted: true,
			Values: []gateway.Value{gateway.StringValue("bad\xc3", "x\xffy"), gateway.StringValue("good", "\ufffd")},
		},
		"zero": {},
	}
}

func updating() bool { return os.Getenv("UPDATE_GOLDEN") == "1" }

// TestGolden compares the encoder's bytes with testdata and with the schema
// in docs. UPDATE_GOLDEN=1 writes testdata.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile("../../docs/record.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	for name, r := range golden() {
		t.Run(name, func(t *testing.T) {
			got, err := RecordJSON{}.Encode(nil, &r, nil)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".golden.json")
			if updating() {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(got)+"\n" != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			var doc any
			dec := json.NewDecoder(bytes.NewReader(got))
			dec.UseNumber()
			if err := dec.Decode(&doc); err != nil {
				t.Fatalf("not JSON: %v", err)
			}
			for _, fault := range validate(schema, schema, doc, "$") {
				t.Errorf("schema: %s", fault)
			}
		})
	}
}

// TestSchemaRefuses makes sure that the schema can say no.
func TestSchemaRefuses(t *testing.T) {
	text, err := os.ReadFile("../../docs/record.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	const ok = `{"schema":1,"source":"s","device":"d","name":"n","values":{"a":{"v":1}}}`
	for from, to := range map[string]string{
		`"schema":1`: `"schema":2`, `"source":"s",`: ``, `"v":1`: `"v":[1]`, `{"v":1}`: `{"v":1,"q":"good"}`, `{"v":1}}`: `{"x":1}}`, `"name":"n"`: `"name":"n","extra":1`,
		`"device":"d"`: `"device":"d","time":"yesterday"`,
	} {
		var doc any
		if err := json.Unmarshal([]byte(strings.Replace(ok, from, to, 1)), &doc); err != nil {
			t.Fatal(err)
		}
		if len(validate(schema, schema, doc, "$")) == 0 {
			t.Errorf("schema takes %s", to)
		}
	}
}

// TestRoundTrip reads numbers and texts back as they were.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, i, u := rapid.Float64().Draw(t, "f"), rapid.Int64().Draw(t, "i"), rapid.Uint64().Draw(t, "u")
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "s"))
		r := gateway.Record{Values: []gateway.Value{gateway.FloatValue("f", f), gateway.IntValue("i", i), gateway.UintValue("u", u), gateway.StringValue("s", s), gateway.BytesValue("b", s)}}
		out, err := RecordJSON{}.Encode([]byte("prefix"), &r, nil)
		if err != nil || !bytes.HasPrefix(out, []byte("prefix{")) {
			t.Fatal(err, string(out))
		}
		var doc struct {
			Values struct {
				F struct{ V float64 }
				I struct{ V int64 }
				U struct{ V uint64 }
				S struct {
					V        string
					Replaced bool
				}
				B struct{ V []byte }
			}
		}
		if err := json.Unmarshal(out[6:], &doc); err != nil {
			t.Fatal(err, string(out))
		}
		v := doc.Values
		if v.F.V != f || v.I.V != i || v.U.V != u || string(v.B.V) != s || v.S.Replaced == utf8.ValidString(s) || utf8.ValidString(s) && v.S.V != s {
			t.Fatalf("%s", out)
		}
		if replaced := []rune(s); !utf8.ValidString(s) && v.S.V != string(replaced) {
			t.Fatalf("got %q, want %q", v.S.V, string(replaced))
		}
	})
}

func TestPayloadEncoder(t *testing.T) {
	for _, tc := range []struct {
		r        gateway.Record
		out, typ string
	}{
		{gateway.Record{Payload: []byte("\x00x"), ContentType: "text/plain"}, "\x00x", "text/plain"},
		{gateway.Record{Payload: []byte{}}, "", "application/octet-stream"},
		{gateway.Record{Name: "n", ClockTrusted: true}, `{"schema":1,"source":"","device":"n","name":"n"}`, RecordContentType},
	} {
		for _, name := range []string{"", "raw"} {
			e, err := NewEncoder(name)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := e.Encode(nil, &tc.r, nil); err != nil || string(out) != tc.out || e.ContentType(&tc.r) != tc.typ {
				t.Errorf("got %q %s, want %q %s", out, e.ContentType(&tc.r), tc.out, tc.typ)
			}
		}
	}
	if e, err := NewEncoder("json"); err != nil || e.ContentType(&gateway.Record{Payload: []byte("x")}) != RecordContentType {
		t.Error(err)
	}
	if _, err := NewEncoder("xml"); err == nil {
		t.Error("unknown encoding taken")
	}
}

func TestYearsOutOfRangeAreLeftOut(t *testing.T) {
	r := gateway.Record{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), Received: time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -3600))}
	if out, _ := (RecordJSON{}).Encode(nil, &r, nil); bytes.Contains(out, []byte(`time"`)) || bytes.Contains(out, []byte(`received"`)) {
		t.Errorf("got %s", out)
	}
}

func TestEncodeAllocs(t *testing.T) {
	for name, r := range golden() {
		dst := make([]byte, 0, 1<<16)
		for _, e := range []Encoder{RecordJSON{}, Payload{}, Avro{}, Protobuf{}} {
			if n := testing.AllocsPerRun(100, func() { dst, _ = e.Encode(dst[:0], &r, nil) }); n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	}
}

func BenchmarkJSONDecode(b *testing.B) {
	for name, cfg := range map[string]JSONConfig{
		"all":    {},
		"picked": {Values: []JSONValue{{Path: "rpm"}, {Path: "oil.temp", Unit: "°C"}, {Path: "state"}, {Path: "fuel.rate"}}, Time: JSONTime{Path: "ts"}},
	} {
		b.Run(name, func(b *testing.B) {
			d, dst, payload := build(b, Config{Codec: "json", JSON: cfg}), make([]gateway.Record, 0, 1), []byte(telemetry)
			b.ReportAllocs()
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				var err error
				if dst, err = d.Decode(dst[:0], "ship/engine/3", payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRecordJSON(b *testing.B) {
	r := one(b, JSONConfig{Time: JSONTime{Path: "ts"}}, telemetry)
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	b.SetBytes(int64(len(telemetry)))
	for b.Loop() {
		dst, _ = RecordJSON{}.Encode(dst[:0], &r, nil)
	}
}
