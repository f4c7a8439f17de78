package codec

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/waystation-iot/waystation/gateway"
)

// build returns the decoder for cfg.
func build(t testing.TB, cfg Config) Decoder {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRaw(t *testing.T) {
	d := build(t, Config{})
	payload := []byte{0, 0xff, '{'}
	recs, err := d.Decode(nil, "deck/1/temp", payload)
	if err != nil || len(recs) != 1 {
		t.Fatal(recs, err)
	}
	r := recs[0]
	if r.Name != "deck/1/temp" || r.Device != r.Name || &r.Payload[0] != &payload[0] || len(r.Payload) != 3 || r.ContentType != "application/octet-stream" || r.Quality != gateway.Good {
		t.Errorf("got %+v", r)
	}
	for _, empty := range [][]byte{nil, {}} {
		recs, err = d.Decode(recs[:1], "a", empty)
		if err != nil || len(recs) != 2 || recs[1].Payload == nil || len(recs[1].Payload) != 0 {
			t.Errorf("empty payload: got %+v, %v", recs, err)
		}
	}
	d = build(t, Config{ContentType: "text/plain; charset=utf-8", Device: "{2}"})
	if recs, _ = d.Decode(nil, "a/b", nil); recs[0].ContentType != "text/plain; charset=utf-8" || recs[0].Device != "b" {
		t.Errorf("got %+v", recs[0])
	}
}

func TestTemplate(t *testing.T) {
	for _, tc := range []struct{ tmpl, topic, want string }{
		{"{topic}", "a/b", "a/b"},
		{"{1}", "a/b", "a"},
		{"{2}", "a/b", "b"},
		{"{3}", "a/b", "a/b"},
		{"{2}-{3}", "a/b/c", "b-c"},
		{"{2}-{3}", "a/b", "a/b"},
		{"{1}{2}", "a/b", "ab"},
		{"x{1}", "a/b", "xa"},
		{"ship", "a/b", "ship"},
		{"{2}", "a//b", "a//b"}, // an empty level is no device
		{"{1}", "/a", "/a"},
		{"{128}", "a", "a"},
		{"{topic}/{topic}", "ü", "ü/ü"},
		{"{1}", "", ""},
	} {
		tm, err := compileTemplate(tc.tmpl, false)
		if err != nil {
			t.Fatalf("%s: %v", tc.tmpl, err)
		}
		for range 2 { // the second time it is known
			if got := tm.expand(tc.topic, ""); got != tc.want {
				t.Errorf("%s of %s: got %q, want %q", tc.tmpl, tc.topic, got, tc.want)
			}
		}
	}
	for tmpl, want := range map[string]string{
		"": "must not be empty", "{": "{ without }", "a}": "} without {", "{0}": "unknown placeholder", "{129}": "unknown placeholder",
		"{-1}": "unknown placeholder", "{+1}": "unknown placeholder", "{x}": "unknown placeholder {x}", "{{1}}": "unknown placeholder",
		"{json:a}": "needs codec: json", "{}": "unknown placeholder",
	} {
		if _, err := compileTemplate(tmpl, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", tmpl, err, want)
		}
	}
}

// TestTemplateModel compares with the obvious way to do it.
func TestTemplateModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, m := rapid.IntRange(1, 6).Draw(t, "n"), rapid.IntRange(1, 6).Draw(t, "m")
		tm, err := compileTemplate(fmt.Sprintf("{%d}:{%d}", n, m), false)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			topic := rapid.StringMatching(`[ab/]{0,9}`).Draw(t, "topic")
			levels, want := strings.Split(topic, "/"), topic
			if n <= len(levels) && m <= len(levels) && levels[n-1] != "" && levels[m-1] != "" {
				want = levels[n-1] + ":" + levels[m-1]
			}
			if got := tm.expand(topic, ""); got != want {
				t.Fatalf("%s: got %q, want %q", topic, got, want)
			}
		}
	})
}

// TestInternIsBounded sends more topics than are kept.
func TestInternIsBounded(t *testing.T) {
	d := build(t, Config{Device: "{1}-{2}"}).(*Raw)
	for i := range 3 * maxInterned {
		topic := fmt.Sprintf("a/%d", i)
		recs, _ := d.Decode(nil, topic, nil)
		if want := fmt.Sprintf("a-%d", i); recs[0].Device != want {
			t.Fatalf("got %s, want %s", recs[0].Device, want)
		}
		if len(d.device.known.m) > maxInterned {
			t.Fatalf("%d kept", len(d.device.known.m))
		}
	}
	long := strings.Repeat("x", 1<<16) + "/y"
	before := len(d.device.known.m)
	if recs, _ := d.Decode(nil, long, nil); recs[0].Device != strings.Repeat("x", 1<<16)+"-y" || len(d.device.known.m) != before {
		t.Error("long device wrong or kept")
	}
}

func TestRawAllocs(t *testing.T) {
	dst, payload := make([]gateway.Record, 0, 1), []byte("x")
	for _, tmpl := range []string{"{topic}", "{2}", "{1}-{2}"} {
		d := build(t, Config{Device: tmpl})
		if n := testing.AllocsPerRun(100, func() { dst, _ = d.Decode(dst[:0], "a/b", payload) }); n != 0 {
			t.Errorf("%s: %v allocations", tmpl, n)
		}
	}
}

func TestValidate(t *testing.T) {
	good := []Config{
		{}, DefaultConfig(), {Codec: "raw", Device: "{1}"},
		{Codec: "json", Device: "{json:id}", JSON: JSONConfig{Values: []JSONValue{{Path: "a", Type: "int"}, {Name: "b", Path: "a"}}, Time: JSONTime{Path: "t", Format: "unix_ms"}}},
	}
	for _, c := range good {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	values := func(v ...JSONValue) Config { return Config{Codec: "json", JSON: JSONConfig{Values: v}} }
	for _, tc := range []struct {
		cfg       Config
		key, want string
	}{
		{Config{Codec: "xml"}, "codec", "unknown codec"},
		{Config{Device: "{0}"}, "device", "unknown placeholder"},
		{Config{ContentType: "json"}, "content_type", "media type"},
		{Config{ContentType: "a/b\n"}, "content_type", "media type"},
		{Config{Codec: "json", JSON: JSONConfig{Device: "{"}}, "json.device", "without"},
		{Config{Codec: "json", JSON: JSONConfig{Name: "{9"}}, "json.name", "without"},
		{Config{JSON: JSONConfig{Each: true}}, "json", "no effect"},
		{values(JSONValue{Name: "a"}), "json.values[0].path", "must not be empty"},
		{values(JSONValue{Path: "a"}, JSONValue{Name: "a", Path: "b"}), "json.values[1].name", "already the name of values[0]"},
		{values(JSONValue{Path: "a", Type: "double"}), "json.values[0].type", "unknown type"},
		{values(make([]JSONValue, 1001)...), "json.values", "at most 1000"},
		{Config{Codec: "json", JSON: JSONConfig{Time: JSONTime{Format: "iso"}}}, "json.time.format", "unknown format"},
	} {
		err := tc.cfg.Validate()
		fe, ok := errors.AsType[*gateway.FieldError](err)
		if !ok || fe.Key != tc.key || !strings.Contains(fe.Msg, tc.want) {
			t.Errorf("got %v, want %s: %s", err, tc.key, tc.want)
		}
		if _, err := New(tc.cfg); err == nil {
			t.Errorf("New takes %+v", tc.cfg)
		}
	}
	bad := Config{Codec: "xml", Device: "{", ContentType: "x"}
	if n := strings.Count(bad.Validate().Error(), "\n"); n != 2 {
		t.Errorf("got %d lines, want all three faults", n+1)
	}
}

func FuzzTopicTemplate(f *testing.F) {
	f.Add("{2}-{3}", "a/b/c", "{}")
	f.Add("{json:a.b}", "t", `{"a":{"b":1}}`)
	f.Add("{topic", "", "")
	f.Fuzz(func(t *testing.T, tmpl, topic, doc string) {
		tm, err := compileTemplate(tmpl, true)
		if err != nil {
			return
		}
		first := tm.expand(topic, doc)
		if again := tm.expand(topic, doc); again != first {
			t.Errorf("got %q, then %q", first, again)
		}
		if first == "" && topic != "" {
			t.Error("empty device")
		}
	})
}

func BenchmarkRawDecode(b *testing.B) {
	payload := bytes.Repeat([]byte("x"), 200)
	for _, tmpl := range []string{"{topic}", "{2}", "{2}-{3}"} {
		b.Run(tmpl, func(b *testing.B) {
			d, dst := build(b, Config{Device: tmpl}), make([]gateway.Record, 0, 1)
			b.ReportAllocs()
			b.SetBytes(200)
			for b.Loop() {
				dst, _ = d.Decode(dst[:0], "ship/engine/3/telemetry", payload)
			}
		})
	}
}
