package kafka

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/hamba/avro/v2"
	"pgregory.net/rapid"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// oddBatch holds records that are hard to put into headers and JSON.
func oddBatch() *gateway.Batch {
	at := time.Date(2026, 11, 22, 12, 0, 0, 120000001, time.UTC)
	b := &gateway.Batch{Lane: gateway.LaneTelemetry, Generation: "g1", Replayed: true}
	for _, r := range []gateway.Record{
		{Source: "deck", Device: "deck/temp", Name: "deck/temp", Payload: []byte(`{"t":1.5,"u":"°C"}`), ContentType: "application/json", Received: at, ClockTrusted: true},
		{Source: "engine", Device: "engine-3", Name: "block", Time: at.Add(-time.Second), Received: at, ClockTrusted: true,
			Values: []gateway.Value{gateway.IntValue("rpm", 1480), gateway.FloatValue("load", 0.5)}, Tags: []gateway.Tag{{Key: "vessel", Value: "aurora"}}},
		{Source: "spaced out ü", Device: "a b\x01\xff?", Name: "n", Payload: []byte("plain \"text\""), ContentType: "text/plain", Received: at},
		{Source: "deck", Name: "broken", Payload: []byte(`{"t":`), ContentType: "application/json; charset=utf-8", Quality: gateway.Bad, Reason: "decode json", Received: at, ClockTrusted: true},
		{Source: "deck", Name: "bytes", Payload: []byte{0, 0xff}, Received: at, ClockTrusted: true},
		{Source: "traced", Name: "x", Payload: []byte{}, Tags: []gateway.Tag{
			{Key: "traceparent", Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, {Key: "tracestate", Value: "congo=t61rcWkgMzE"}}},
	} {
		b.Items = append(b.Items, gateway.Item{Seq: uint64(41 + len(b.Items)), Record: r})
	}
	return b
}

// failing is a test, also one of rapid.
type failing interface {
	Helper()
	Fatal(args ...any)
}

// made is what the sink makes of a batch, without a cluster.
func made(t failing, b *gateway.Batch, change func(*Config)) []*sarama.Record {
	t.Helper()
	c := good()
	change(c)
	x, err := c.Sink(gateway.Env{GatewayID: "ship-042", Name: "shore"})
	if err != nil {
		t.Fatal(err)
	}
	s := x.(*Sink)
	s.job.batch = b
	s.arena.begin("ship-042", b)
	for i := range b.Items {
		before := len(s.arena.ptrs)
		size, err := s.record(&b.Items[i], i, 0)
		if err != nil || len(s.arena.ptrs) != before+1 || size != recordSize(s.arena.ptrs[before]) {
			t.Fatal(err)
		}
	}
	return s.arena.ptrs
}

func headersOf(r *sarama.Record) map[string]string {
	m := map[string]string{}
	for _, h := range r.Headers {
		m[string(h.Key)] = string(h.Value)
	}
	return m
}

// TestGoldenRecords compares key, headers and value of every form with
// testdata. UPDATE_GOLDEN=1 writes them.
func TestGoldenRecords(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"raw":                func(*Config) {},
		"json":               func(c *Config) { c.Encoding = "json" },
		"avro":               func(c *Config) { c.Encoding = "avro" },
		"protobuf":           func(c *Config) { c.Encoding = "protobuf" },
		"cloudevents-binary": func(c *Config) { c.CloudEvents, c.Trace = "binary", "on" },
		"cloudevents-only":   func(c *Config) { c.CloudEvents, c.Headers = "binary", false },
		"cloudevents-raw":    func(c *Config) { c.CloudEvents = "structured" },
		"cloudevents-json":   func(c *Config) { c.CloudEvents, c.Encoding, c.Trace, c.TraceSampled = "structured", "json", "on", true },
		"cloudevents-avro":   func(c *Config) { c.CloudEvents, c.Encoding, c.Headers = "structured", "avro", false },
		"cloudevents-by-device": func(c *Config) {
			c.CloudEvents, c.EventSource, c.EventType = "binary", "urn:plant:{device}", "plant.reading"
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			for _, r := range made(t, oddBatch(), change) {
				fmt.Fprintf(&got, "key %q\n", r.Key)
				for _, h := range r.Headers {
					fmt.Fprintf(&got, "header %s %q\n", h.Key, h.Value)
				}
				fmt.Fprintf(&got, "value %q\n\n", r.Value)
			}
			file := filepath.Join("testdata", name+".golden")
			if os.Getenv("UPDATE_GOLDEN") == "1" {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("got\n%s\nwant\n%s", got.Bytes(), want)
			}
		})
	}
}

// The position reaches the value, and records of one chunk do not share it.
func TestPositionInTheValue(t *testing.T) {
	text, _ := codec.Schema("avro")
	schema := avro.MustParse(text)
	for i, r := range made(t, oddBatch(), func(c *Config) { c.Encoding = "avro" }) {
		var got map[string]any
		if err := avro.Unmarshal(schema, r.Value, &got); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%v %v %v %v %v", got["gateway"], got["generation"], got["lane"], got["seq"], got["replayed"]) != fmt.Sprintf("ship-042 g1 telemetry %d true", 41+i) {
			t.Errorf("record %d: %v", i, got)
		}
		if h := headersOf(r); h["schema-fingerprint"] != codec.Fingerprint(text)[:16] || h["content-type"] != codec.AvroContentType {
			t.Errorf("headers %v", h)
		}
	}
}

// A structured event is JSON with every required attribute, and its data are
// the value that the same encoding gives without it.
func TestStructuredEvents(t *testing.T) {
	for _, encoding := range []string{"raw", "json", "avro", "protobuf"} {
		bare := made(t, oddBatch(), func(c *Config) { c.Encoding = encoding })
		for i, r := range made(t, oddBatch(), func(c *Config) { c.Encoding, c.CloudEvents, c.Trace = encoding, "structured", "on" }) {
			var e map[string]json.RawMessage
			if err := json.Unmarshal(r.Value, &e); err != nil {
				t.Fatalf("%v: %s", err, r.Value)
			}
			text := func(k string) (s string) { _ = json.Unmarshal(e[k], &s); return s }
			if text("specversion") != "1.0" || text("id") != fmt.Sprintf("ship-042/g1/telemetry/%d", 41+i) || text("type") != "io.waystation.record" || text("subject") == "" {
				t.Errorf("%s", r.Value)
			}
			if u, err := url.Parse(text("source")); err != nil || u.String() == "" || text("traceparent") != headersOf(r)["traceparent"] {
				t.Errorf("%s", r.Value)
			}
			data := []byte(e["data"])
			if e["data_base64"] != nil {
				data, _ = base64.StdEncoding.DecodeString(text("data_base64"))
			} else if strings.HasPrefix(text("datacontenttype"), "text/") {
				data = []byte(text("data"))
			}
			if !bytes.Equal(data, bare[i].Value) || (e["data"] != nil) == (e["data_base64"] != nil) {
				t.Errorf("%s: data %q, want %q", encoding, data, bare[i].Value)
			}
			if h := headersOf(r); h["content-type"] != eventContentType || h["ce_id"] != "" {
				t.Errorf("headers %v", h)
			}
		}
	}
}

// Whatever names a device has, the attributes are fit for CloudEvents.
func TestAttributesAreFit(t *testing.T) {
	reference := regexp.MustCompile(`^(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})+$`)
	rapid.Check(t, func(t *rapid.T) {
		word := func(name string) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, name)) }
		b := &gateway.Batch{Generation: word("generation"), Gateway: word("gateway"), Items: []gateway.Item{{Record: gateway.Record{Source: word("source"), Device: word("device"), Payload: []byte(word("payload"))}}}}
		h := headersOf(made(t, b, func(c *Config) { c.CloudEvents = "binary" })[0])
		if !reference.MatchString(h["ce_source"]) {
			t.Fatalf("source %q", h["ce_source"])
		}
		if got, err := url.PathUnescape(h["ce_source"]); err != nil || b.Gateway != "" && got != "/gateways/"+b.Gateway+"/"+b.Items[0].Record.Source {
			t.Fatalf("source %q of %q", h["ce_source"], got)
		}
		for _, k := range []string{"ce_id", "ce_subject"} {
			if strings.ContainsFunc(h[k], func(r rune) bool { return r != '\ufffd' && unfitForEvents(r) }) || string([]rune(h[k])) != h[k] {
				t.Fatalf("%s %q", k, h[k])
			}
		}
		if !json.Valid(made(t, b, func(c *Config) { c.CloudEvents = "structured" })[0].Value) {
			t.Fatal("not JSON")
		}
	})
}

func TestTraceParent(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	grammar := regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$`) // W3C Trace Context, 3.2.2
	for value, valid := range map[string]bool{
		good: true, "": false, good[:54]: false, good + "-x": false, "01" + good[2:]: true, "01" + good[2:] + "-x": true, "01" + good[2:] + "x": false,
		"ff" + good[2:]: false, strings.ToUpper(good): false, "0g" + good[2:]: false, strings.Replace(good, "-00f", "_00f", 1): false,
		"00-" + strings.Repeat("0", 32) + good[35:]: false, good[:36] + strings.Repeat("0", 16) + "-01": false, "00-4bf92f3577b34da6a3ce929d0e0e473g" + good[35:]: false,
		good[:53] + "0g": false, "01" + good[2:] + "-\x00": false,
	} {
		b := oddBatch()
		b.Items = b.Items[5:]
		b.Items[0].Record.Tags[0].Value = value
		h := headersOf(made(t, b, func(c *Config) { c.Trace = "on" })[0])
		if (h["traceparent"] == value) != valid || !valid && !grammar.MatchString(h["traceparent"]) || (h["tracestate"] != "") != valid {
			t.Errorf("%q: traceparent %q, tracestate %q", value, h["traceparent"], h["tracestate"])
		}
	}
}

// A repeat has the trace it had; any other record has another.
func TestTraceOfARepeat(t *testing.T) {
	trace := func(change func(*gateway.Batch)) string {
		b := oddBatch()
		b.Items = b.Items[:1]
		change(b)
		return headersOf(made(t, b, func(c *Config) { c.Trace, c.TraceSampled = "on", true })[0])["traceparent"]
	}
	first := trace(func(*gateway.Batch) {})
	if again := trace(func(b *gateway.Batch) { b.Replayed = false; b.Items[0].Record.Payload = nil }); again != first || !strings.HasSuffix(first, "-01") {
		t.Errorf("%s, then %s", first, again)
	}
	for what, change := range map[string]func(*gateway.Batch){
		"gateway":    func(b *gateway.Batch) { b.Gateway = "other" },
		"generation": func(b *gateway.Batch) { b.Generation = "g2" },
		"lane":       func(b *gateway.Batch) { b.Lane = gateway.LaneBulk },
		"seq":        func(b *gateway.Batch) { b.Items[0].Seq++ },
		"boundary":   func(b *gateway.Batch) { b.Gateway, b.Generation = "ship-042g", "1" },
	} {
		if trace(change) == first {
			t.Errorf("a record of another %s has the same trace", what)
		}
	}
}

func TestTraceState(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("k%=v,", 33), ",")
	for i := range 33 {
		many = strings.Replace(many, "%", fmt.Sprint(i), 1)
	}
	for s, valid := range map[string]bool{
		"congo=t61": true, "a=1,b=2": true, "a=1, ,\tb=2": true, "t@sys=v": true, "0t@sys=v": true, "a*_-/=x y": true, "": false, ",": false, "a": false, "a=": false,
		"A=1": false, "0a=1": false, "a=1,a=2": false, "a=b=c": false, "a=b\x7f": false, "a@=v": false, "a@0=v": false, "@a=v": false, "a=ü": false, many: false,
		strings.Join(strings.Split(many, ",")[:32], ","): true, strings.Repeat("a", 256) + "=v": true, strings.Repeat("a", 257) + "=v": false,
		"a=" + strings.Repeat("v", 256): true, "a=" + strings.Repeat("v", 257): false, "a@" + strings.Repeat("s", 15) + "=v": false,
	} {
		if validState(s) != valid {
			t.Errorf("%q: valid %v", s, !valid)
		}
	}
}

// Avro and Protobuf are made without allocation, and so is all that goes with
// them in headers.
func TestRecordAllocs(t *testing.T) {
	for _, encoding := range []string{"raw", "json", "avro", "protobuf"} {
		c := good()
		c.Encoding, c.CloudEvents, c.Trace = encoding, "binary", "on"
		x, err := c.Sink(gateway.Env{GatewayID: "ship-042", Name: "shore"})
		if err != nil {
			t.Fatal(err)
		}
		s, b := x.(*Sink), benchBatch(200)
		s.job.batch = b
		round := func() {
			s.arena.begin("ship-042", b)
			for i := range b.Items {
				_, _ = s.record(&b.Items[i], i, 0)
			}
		}
		round()
		if n := testing.AllocsPerRun(20, round); n > 20 { // those of begin, for all 200
			t.Errorf("%s: %v allocations for 200 records", encoding, n)
		}
	}
}

// BenchmarkRecord is value and headers of one record of 12 values.
func BenchmarkRecord(b *testing.B) {
	batch := benchBatch(1)
	batch.Items[0].Record.Payload = nil
	for i := range 12 {
		batch.Items[0].Record.Values = append(batch.Items[0].Record.Values, gateway.FloatValue(fmt.Sprintf("signal.%d", i), float64(i)*1.25))
	}
	bare := func(encoding string) func(*Config) {
		return func(c *Config) { c.Encoding, c.Headers = encoding, false }
	}
	for _, x := range []struct {
		name   string
		change func(*Config)
	}{
		{"json", bare("json")}, {"avro", bare("avro")}, {"protobuf", bare("protobuf")},
		{"avro+headers", func(c *Config) { c.Encoding = "avro" }},
		{"avro+headers+trace", func(c *Config) { c.Encoding, c.Trace = "avro", "on" }},
		{"avro+headers+cloudevents", func(c *Config) { c.Encoding, c.CloudEvents = "avro", "binary" }},
		{"json+structured", func(c *Config) { c.Encoding, c.Headers, c.CloudEvents = "json", false, "structured" }},
	} {
		b.Run(x.name, func(b *testing.B) {
			c := good()
			x.change(c)
			made, err := c.Sink(gateway.Env{GatewayID: "ship-042", Name: "shore"})
			if err != nil {
				b.Fatal(err)
			}
			s, n := made.(*Sink), 0
			s.job.batch = batch
			b.ReportAllocs()
			before := cpu()
			for i := 0; b.Loop(); i++ {
				if i%1000 == 0 {
					s.arena.begin("ship-042", batch)
				}
				n, _ = s.record(&batch.Items[0], 0, 0)
			}
			b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/record")
			b.ReportMetric(float64(n), "B/record")
		})
	}
}
