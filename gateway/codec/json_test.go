package codec

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/waystation-iot/waystation/gateway"
)

// one decodes payload into exactly one record.
func one(t testing.TB, cfg JSONConfig, payload string) gateway.Record {
	t.Helper()
	recs, err := build(t, Config{Codec: "json", JSON: cfg}).Decode(nil, "a/b", []byte(payload))
	if err != nil || len(recs) != 1 {
		t.Fatalf("%s: got %d records, %v", payload, len(recs), err)
	}
	return recs[0]
}

// show writes values as name=kind:value, with quality and reason when not good.
func show(values []gateway.Value) string {
	var parts []string
	for i := range values {
		v := &values[i]
		s := fmt.Sprintf("%s=%s:%s", v.Name, v.Kind(), v)
		if v.Quality != gateway.Good {
			s += fmt.Sprintf("!%s(%s)", v.Quality, v.Reason)
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

// TestFlatten takes every scalar out of a payload.
func TestFlatten(t *testing.T) {
	for payload, want := range map[string]string{
		`{"t":21.5,"n":3,"ok":true,"s":"x"}`:      `t=float64:21.5 n=int64:3 ok=bool:true s=string:x`,
		`{"a":{"b":{"c":1}},"l":[1,[2],{"d":3}]}`: `a.b.c=int64:1 l.0=int64:1 l.1.0=int64:2 l.2.d=int64:3`,
		`{"a":1,"a":2}`:               `a=int64:2!uncertain(name comes twice in the payload, last one kept)`,
		`{"a.b":1,"a":{"b":2}}`:       `a.b=int64:2!uncertain(name comes twice in the payload, last one kept)`,
		`{"a":null}`:                  `a=none:(is null)!bad(is null)`,
		`{"a":{},"b":[]}`:             ``,
		`{}`:                          ``,
		`[1,2]`:                       `0=int64:1 1=int64:2`,
		` 7 `:                         `value=int64:7`,
		`"x"`:                         `value=string:x`,
		"\ufeff{\"a\":1}":             `a=int64:1`,
		`{"":1}`:                      `=int64:1`,
		`{"\u00e4\"":"\ud83d\ude00"}`: `ä"=string:😀`,
		`{"i":9223372036854775807}`:   `i=int64:9223372036854775807`,
		`{"i":-9223372036854775808}`:  `i=int64:-9223372036854775808`,
		`{"i":18446744073709551615}`:  `i=uint64:18446744073709551615`,
		`{"i":18446744073709551616}`:  `i=float64:1.8446744073709552e+19!uncertain(whole number beyond 64 bits, rounded)`,
		`{"i":1e999}`:                 `i=string:1e999!bad(number beyond the range of a double)`,
		`{"i":1.0,"j":1e2,"k":-0}`:    `i=float64:1 j=float64:100 k=int64:0`,
		`{"i":123456789012345678901234567890123456}`: `i=float64:1.2345678901234568e+35!uncertain(whole number beyond 64 bits, rounded)`,
	} {
		if got := show(one(t, JSONConfig{}, payload).Values); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", payload, got, want)
		}
	}
}

// TestPick takes configured values, each with every type.
func TestPick(t *testing.T) {
	for _, tc := range []struct{ typ, payload, want string }{
		{"", `1`, "int64:1"}, {"", `"x"`, "string:x"}, {"", `{}`, "none:(is an object, not a single value)!bad(is an object, not a single value)"},
		{"", `[1]`, "none:(is an array, not a single value)!bad(is an array, not a single value)"}, {"", `null`, "none:(is null)!bad(is null)"},
		{"int", `7`, "int64:7"}, {"int", `7.0`, "int64:7"}, {"int", `"7"`, "int64:7"}, {"int", `" 7 "`, "int64:7"}, {"int", `1e3`, "int64:1000"},
		{"int", `7.5`, "string:7.5!bad(is not a whole number)"}, {"int", `"x"`, "string:x!bad(is text, not a whole number)"},
		{"int", `true`, "string:true!bad(is a boolean, not a whole number)"}, {"int", `18446744073709551615`, "uint64:18446744073709551615"},
		{"int", `1e19`, "string:1e19!bad(whole number beyond 64 bits)"}, {"int", `[]`, "string:[]!bad(is an array, not a whole number)"},
		{"int", `1.5e18`, "int64:1500000000000000000!uncertain(rounded to the nearest double)"},
		{"float", `7`, "float64:7"}, {"float", `"7.5"`, "float64:7.5"}, {"float", `"NaN"`, "string:NaN!bad(is text, not a number)"},
		{"float", `"0x10"`, "string:0x10!bad(is text, not a number)"}, {"float", `1e999`, "string:1e999!bad(number beyond the range of a double)"},
		{"bool", `true`, "bool:true"}, {"bool", `0`, "bool:false"}, {"bool", `"ON"`, "bool:true"}, {"bool", `2`, "string:2!bad(is neither true nor false)"},
		{"string", `"x"`, "string:x"}, {"string", `1.50`, "string:1.50"}, {"string", `{"b": 1}`, `string:{"b": 1}`},
	} {
		r := one(t, JSONConfig{Values: []JSONValue{{Name: "v", Path: "a.x", Type: tc.typ}}}, `{"a":{"x":`+tc.payload+`}}`)
		if got := show(r.Values); got != "v="+tc.want || r.Quality != gateway.Good {
			t.Errorf("%s as %q: got %s, want %s", tc.payload, tc.typ, got, tc.want)
		}
	}
	r := one(t, JSONConfig{Values: []JSONValue{{Path: "s.#(id==\"x\").v", Unit: "°C"}, {Path: "none"}}}, `{"s":[{"id":"w","v":1},{"id":"x","v":2}]}`)
	if got := show(r.Values); got != `s.#(id=="x").v=int64:2 °C none=none:(absent from the payload)!bad(absent from the payload)` {
		t.Errorf("got %s", got)
	}
}

func TestTime(t *testing.T) {
	for _, tc := range []struct{ format, payload, want string }{
		{"auto", `"2026-11-22T13:00:00.123456789+01:00"`, "2026-11-22T12:00:00.123456789Z"},
		{"auto", `"2026-11-22 12:00:00Z"`, "2026-11-22T12:00:00Z"},
		{"rfc3339", `"2026-11-22t12:00:00z"`, "2026-11-22T12:00:00Z"},
		{"auto", `1700000000`, "2023-11-14T22:13:20Z"}, {"auto", `1700000000.25`, "2023-11-14T22:13:20.25Z"},
		{"auto", `1700000000123`, "2023-11-14T22:13:20.123Z"}, {"auto", `1700000000123456`, "2023-11-14T22:13:20.123456Z"},
		{"auto", `1700000000123456789`, "2023-11-14T22:13:20.123456789Z"}, {"auto", `"1700000000"`, "2023-11-14T22:13:20Z"},
		{"unix_ms", `5`, "1970-01-01T00:00:00.005Z"}, {"unix_ms", `5.5`, "1970-01-01T00:00:00.0055Z"}, {"unix", `1.7e9`, "2023-11-14T22:13:20Z"},
		{"unix", `-0.5`, "1969-12-31T23:59:59.5Z"}, {"unix", `4102444800`, "2100-01-01T00:00:00Z"}, {"unix_ns", `1.9`, "1970-01-01T00:00:00.000000001Z"},
		{"unix", `1e30`, "!is out of range"}, {"unix", `99999999999999999999`, "!is out of range"}, {"unix", `999999999999`, "!is out of range"},
		{"unix", `"2026-11-22T12:00:00Z"`, "!is not a Unix time"}, {"rfc3339", `1700000000`, "!is a number, not an RFC 3339 time"},
		{"auto", `"yesterday"`, "!is not an RFC 3339 time"}, {"auto", `"2026-11-22T12:00:00"`, "!has no time zone"},
		{"auto", `null`, "!is null, not a time"}, {"auto", `{}`, "!is an object, not a time"}, {"auto", `"0001-01-01T00:00:00Z"`, "!is out of range"},
	} {
		r := one(t, JSONConfig{Time: JSONTime{Path: "t", Format: tc.format}}, `{"t":`+tc.payload+`}`)
		want, bad := strings.CutPrefix(tc.want, "!")
		switch {
		case bad && (!r.Time.IsZero() || r.Quality != gateway.Uncertain || r.Reason != "time t "+want):
			t.Errorf("%s %s: got %v %v %q, want %s", tc.format, tc.payload, r.Time, r.Quality, r.Reason, want)
		case !bad && (r.Time.Format("2006-01-02T15:04:05.999999999Z07:00") != want || r.Quality != gateway.Good):
			t.Errorf("%s %s: got %v %q, want %s", tc.format, tc.payload, r.Time, r.Reason, want)
		}
	}
	if r := one(t, JSONConfig{Time: JSONTime{Path: "x"}}, `{"v":1}`); r.Reason != "time x is absent from the payload" || len(r.Values) != 1 {
		t.Errorf("got %+v", r)
	}
}

func TestEach(t *testing.T) {
	d := build(t, Config{Codec: "json", Device: "{json:id}", JSON: JSONConfig{Each: true, KeepPayload: true, Name: "{1}"}})
	recs, err := d.Decode(make([]gateway.Record, 1), "t/u", []byte(`[{"id":"x","v":1}, 5,{"id":7}]`))
	if err != nil || len(recs) != 4 {
		t.Fatalf("got %d, %v", len(recs), err)
	}
	want := []struct{ device, payload, values string }{
		{"x", `{"id":"x","v":1}`, "id=string:x v=int64:1"}, {"t/u", `5`, "value=int64:5"}, {"7", `{"id":7}`, "id=int64:7"},
	}
	for i, w := range want {
		r := recs[i+1]
		if r.Device != w.device || string(r.Payload) != w.payload || show(r.Values) != w.values || r.Name != "t" || r.ContentType != "application/json" {
			t.Errorf("got %+v, want %+v", r, w)
		}
	}
	if recs, err = d.Decode(nil, "t", []byte(`[]`)); err != nil || len(recs) != 1 || recs[0].Quality != gateway.Uncertain || string(recs[0].Payload) != "[]" {
		t.Errorf("empty array: got %+v, %v", recs, err)
	}
	if recs, err = d.Decode(nil, "t", []byte(`{"v":1}`)); err != nil || len(recs) != 1 || show(recs[0].Values) != "v=int64:1" {
		t.Errorf("object: got %+v, %v", recs, err)
	}
	many := "[" + strings.Repeat("1,", maxRecords) + "1]"
	if recs, err = d.Decode(make([]gateway.Record, 1), "t", []byte(many)); err == nil || len(recs) != 1 || !strings.Contains(err.Error(), "more than 1000 elements") {
		t.Errorf("got %d records, %v", len(recs), err)
	}
	wide := "[" + strings.Repeat("["+strings.Repeat("1,", 999)+"1],", 21) + "1]"
	if _, err = d.Decode(nil, "t", []byte(wide)); err == nil || !strings.Contains(err.Error(), "more than 20000 values") {
		t.Errorf("got %v", err)
	}
}

// TestTooManyValues keeps the payload, so that nothing is lost.
func TestTooManyValues(t *testing.T) {
	payload := "[" + strings.Repeat("1,", maxValues) + "1]"
	r := one(t, JSONConfig{}, payload)
	if len(r.Values) != maxValues || r.Quality != gateway.Uncertain || !strings.Contains(r.Reason, "more than 1000 values") || string(r.Payload) != payload {
		t.Errorf("got %d values, %v %s", len(r.Values), r.Quality, r.Reason)
	}
	if r = one(t, JSONConfig{}, "["+strings.Repeat("1,", maxValues-1)+"1]"); r.Quality != gateway.Good || r.Payload != nil {
		t.Errorf("1000 values: %v %s", r.Quality, r.Reason)
	}
}

func TestJSONErrors(t *testing.T) {
	for payload, want := range map[string]string{
		"": "payload is empty", " \n": "payload is empty", `{"a":1`: "payload ends too early at byte 6", `{"a":NaN}`: "unexpected character at byte 5",
		`{"a":Infinity}`: "unexpected character at byte 5", `{"a":-Infinity}`: "expected a digit at byte 6", `{"a":01}`: "leading zero at byte 6",
		`{"a":1.}`: "after the point at byte 7", `{"a":1e}`: "in the exponent at byte 7", `{"a":1}x`: "after the value at byte 7", `{a:1}`: "key in double quotes at byte 1",
		`{"a" 1}`: "expected : after the key at byte 5", `[1 2]`: "expected , or ] at byte 3", `[1,]`: "unexpected character at byte 3", `{"a":1,}`: "in double quotes at byte 7",
		`"a`: "ends inside a string at byte 2", `"\x"`: "bad escape at byte 2", `"\u12g4"`: `bad \u escape at byte 5`, "\"a\nb\"": "control character in a string at byte 2",
		"{\"a\":\"\xff\"}": "invalid UTF-8 at byte 6", "\xff": "invalid UTF-8 at byte 0", "tru": "expected true at byte 3", `{"a"`: "expected : after the key at byte 4",
		strings.Repeat("[", 65): "nested deeper than 64 at byte 64", "{": "payload ends too early at byte 1", "\ufeff{": "byte order mark", ",": "unexpected character",
	} {
		recs, err := build(t, Config{Codec: "json"}).Decode(nil, "t", []byte(payload))
		if err == nil || len(recs) != 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %d records, %v, want %s", payload, len(recs), err, want)
		}
	}
	if err := checkJSON(strings.Repeat("[", 64) + strings.Repeat("]", 64)); err != nil {
		t.Error(err)
	}
}

// TestScannerAgrees compares the scanner with encoding/json on texts that are
// nearly JSON.
func TestScannerAgrees(t *testing.T) {
	piece := rapid.SampledFrom([]string{"{", "}", "[", "]", ",", ":", `"`, `"a"`, "1", "-", "0", ".", "e", "E", "+", "true", "null", " ", "\n", `\`, "u00e4", "ä", "\x01", `{"a":1}`, "[1,2]"})
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(t, "pieces"), "")
		if got, want := checkJSON(s) == nil, json.Valid([]byte(s)); got != want {
			t.Fatalf("%q: got %v, want %v: %v", s, got, want, checkJSON(s))
		}
	})
}

func FuzzJSONDecode(f *testing.F) {
	for _, s := range []string{telemetry, `[{"a":[1,null,"x\u0000"]},2]`, `{"a":{"a":1e400}}`, `"\ud800"`, "[[[[]]]]", `{"t":1700000000}`} {
		f.Add([]byte(s), "a.b", "t")
	}
	f.Fuzz(func(t *testing.T, payload []byte, path, at string) {
		flat := Config{Codec: "json", Device: "{json:id}", JSON: JSONConfig{Each: true, Time: JSONTime{Path: at}}}
		picked := Config{Codec: "json", JSON: JSONConfig{Values: []JSONValue{{Path: path}, {Name: "-i", Path: path, Type: "int"}, {Name: "-b", Path: path, Type: "bool"}}}}
		for _, cfg := range []Config{flat, picked} {
			d, err := New(cfg)
			if err != nil {
				return
			}
			recs, err := d.Decode(nil, "t", payload)
			if (err == nil) != (len(recs) > 0) {
				t.Fatalf("%d records and error %v", len(recs), err)
			}
			for i := range recs {
				out, err := RecordJSON{}.Encode(nil, &recs[i], nil)
				if err != nil || !json.Valid(out) {
					t.Fatalf("%v: not JSON: %s", err, out)
				}
			}
		}
	})
}
