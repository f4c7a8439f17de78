//go:build interop

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/kafka"
	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// TestInteropEncodings writes records of every kind to Apache Kafka in every
// encoding, with and without Apicurio Registry, reads them with kcat and has
// fastavro, Google's protobuf and the CloudEvents SDK for Python say what they
// are. The schema is the one that the registry gives back.
func TestInteropEncodings(t *testing.T) {
	dir := t.TempDir()
	broker, err := peers.StartKafka(mkdir(t, dir, "kafka"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Kill() })
	began := time.Now()
	registry, err := peers.StartApicurio(mkdir(t, dir, "apicurio"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Kill() })
	t.Logf("Apicurio answers after %s", time.Since(began).Round(10*time.Millisecond))
	bench := encodeBench{t, broker, filepath.Join(dir, "state")}

	for _, encoding := range []string{"avro", "protobuf"} {
		for _, url := range []string{"", registry.URL} {
			topic := fmt.Sprintf("%s.%t", encoding, url != "")
			bench.topic(topic)
			bench.send(topic, 1, func(c *kafka.Config) { c.Encoding = encoding; c.SchemaRegistry.URLs = urls(url) })
			bench.judge(bench.read(topic), encoding, url)
		}
	}
	for name, change := range map[string]func(*kafka.Config){
		"binary.raw":      func(c *kafka.Config) { c.CloudEvents = "binary" },
		"structured.raw":  func(c *kafka.Config) { c.CloudEvents = "structured" },
		"binary.json":     func(c *kafka.Config) { c.CloudEvents, c.Encoding, c.Trace = "binary", "json", "on" },
		"structured.json": func(c *kafka.Config) { c.CloudEvents, c.Encoding, c.Trace = "structured", "json", "on" },
	} {
		bench.topic(name)
		bench.send(name, 1, change)
		bench.judgeEvents(bench.read(name))
	}

	if err := registry.Kill(); err != nil {
		t.Fatal(err)
	}
	avro := func(c *kafka.Config) { c.Encoding = "avro"; c.SchemaRegistry.URLs = urls(registry.URL) }
	bench.send("avro.true", 101, avro) // the id is known
	before, after := bench.read("avro.true")[:len(oddRecords())], bench.read("avro.true")[len(oddRecords()):]
	if len(after) != len(before) || !bytes.Equal(before[0].Value[:5], after[0].Value[:5]) {
		t.Errorf("%d records without the registry, which begin with % x and not % x", len(after), after[0].Value[:5], before[0].Value[:5])
	}
	bench.topic("new.topic")
	if err := bench.try("new.topic", 1, avro); err == nil || !strings.Contains(err.Error(), "records wait in the queue") {
		t.Errorf("sent without an id: %v", err)
	}
	if err := registry.Start(); err != nil { // empty now
		t.Fatal(err)
	}
	bench.send("new.topic", 1, avro)
	bench.judge(bench.read("new.topic"), "avro", registry.URL)
}

func urls(url string) []string {
	if url == "" {
		return nil
	}
	return []string{url}
}

// encodeBench sends to a broker and judges what arrives.
type encodeBench struct {
	t      *testing.T
	broker *peers.Kafka
	state  string
}

func (b *encodeBench) topic(name string) {
	b.t.Helper()
	if err := b.broker.CreateTopic(name, 3, nil); err != nil {
		b.t.Fatal(err)
	}
}

// try sends the records of the test, numbered from first.
func (b *encodeBench) try(topic string, first uint64, change func(*kafka.Config)) error {
	c := kafka.NewConfig()
	c.Brokers, c.Topic = []string{b.broker.Addr}, topic
	change(c)
	sink, err := c.Sink(gateway.Env{GatewayID: "ship-042", Name: "shore", State: b.state})
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	batch := &gateway.Batch{Lane: gateway.LaneTelemetry, Generation: "g1", Replayed: true}
	for i, r := range oddRecords() {
		batch.Items = append(batch.Items, gateway.Item{Seq: first + uint64(i), Record: r})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for { // a young broker is not ready for everything at once
		if err = sink.Connect(ctx); err == nil {
			err = sink.Send(ctx, batch)
		}
		if err == nil || strings.Contains(err.Error(), "records wait") {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond): // the forwarder's back-off
		case <-ctx.Done():
			return err
		}
	}
}

func (b *encodeBench) send(topic string, first uint64, change func(*kafka.Config)) {
	b.t.Helper()
	if err := b.try(topic, first, change); err != nil {
		b.t.Fatalf("%s: %v", topic, err)
	}
}

func (b *encodeBench) read(topic string) []peers.Message {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := peers.Kcat(ctx, b.broker.Addr, topic)
	if err != nil || len(all) == 0 {
		b.t.Fatalf("%s: %d messages: %v", topic, len(all), err)
	}
	return all
}

// decode has the foreign decoders read messages.
func (b *encodeBench) decode(messages []peers.Message, encoding, url string) []map[string]any {
	b.t.Helper()
	python, err := peers.Python()
	if err != nil {
		b.t.Fatal(err)
	}
	var in bytes.Buffer
	for _, m := range messages {
		line, err := json.Marshal(map[string]any{"encoding": encoding, "registry": url, "value": m.Value, "key": m.Key, "headers": m.Headers})
		if err != nil {
			b.t.Fatal(err)
		}
		in.Write(append(line, '\n'))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "testdata/decode.py", "../../docs")
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &errOut
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("decode %s: %v\n%s", encoding, err, errOut.String())
	}
	var all []map[string]any
	for line := range bytes.Lines(out.Bytes()) {
		var one map[string]any
		if err := json.Unmarshal(line, &one); err != nil {
			b.t.Fatalf("%v: %s", err, line)
		}
		all = append(all, one)
	}
	if len(all) != len(messages) {
		b.t.Fatalf("%d of %d messages decoded", len(all), len(messages))
	}
	return all
}

// judge wants every field of every record as it was sent.
func (b *encodeBench) judge(messages []peers.Message, encoding, url string) {
	b.t.Helper()
	got := b.decode(messages, encoding, url)
	for i, r := range oddRecords() {
		want := plainly(&r, uint64(1+i))
		if g, w := asJSON(got[i]), asJSON(want); g != w {
			b.t.Errorf("%s, registry %q: got\n%s\nwant\n%s", encoding, url, g, w)
		}
	}
}

// judgeEvents wants the attributes and data of every event.
func (b *encodeBench) judgeEvents(messages []peers.Message) {
	b.t.Helper()
	for i, e := range b.decode(messages, "cloudevents", "") {
		r := &oddRecords()[i]
		if e["id"] != fmt.Sprintf("ship-042/g1/telemetry/%d", 1+i) || e["source"] != "/gateways/ship-042/"+r.Source || e["type"] != "io.waystation.record" ||
			e["specversion"] != "1.0" || e["subject"] != r.Device {
			b.t.Errorf("event %v", e)
		}
		at := r.Time
		if at.IsZero() {
			at = r.Received
		}
		if e["micros"] != strconv.FormatInt(at.UnixMicro(), 10) {
			b.t.Errorf("time %v, want %v", e["micros"], at.UnixMicro())
		}
		if doc, ok := e["data"].(map[string]any); ok && e["kind"] == "application/vnd.waystation.record+json" {
			if doc["source"] != r.Source || doc["name"] != r.Name {
				b.t.Errorf("data %v", doc)
			}
		} else if r.Payload == nil || e["kind"] != r.ContentType || e["data"] != "hex "+hex.EncodeToString(r.Payload) && asJSON(e["data"]) != string(r.Payload) && e["data"] != string(r.Payload) {
			b.t.Errorf("data %T %v of type %v, payload %s", e["data"], e["data"], e["kind"], r.Payload)
		}
		if m := messages[i].Headers; m["content-type"] == "" || m["seq"] != strconv.Itoa(1+i) {
			b.t.Errorf("headers %v", m)
		}
	}
}

func asJSON(x any) string {
	text, _ := json.Marshal(x)
	return string(text)
}

// plainly is a record in the words of testdata/decode.py.
func plainly(r *gateway.Record, seq uint64) map[string]any {
	nanos := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return strconv.FormatInt(t.UnixNano(), 10)
	}
	tags := map[string]string{}
	for _, x := range r.Tags {
		tags[x.Key] = x.Value
	}
	values := [][]string{}
	for i := range r.Values {
		v, text := &r.Values[i], ""
		switch v.Kind() {
		case gateway.KindBool:
			text = strconv.FormatBool(v.Bool())
		case gateway.KindInt:
			text = strconv.FormatInt(v.Int(), 10)
		case gateway.KindUint:
			text = strconv.FormatUint(v.Uint(), 10)
		case gateway.KindFloat:
			text = fmt.Sprintf("%016x", math.Float64bits(v.Float()))
		case gateway.KindString:
			text = v.Text()
		case gateway.KindBytes:
			text = hex.EncodeToString([]byte(v.Text()))
		}
		values = append(values, []string{v.Name, v.Kind().String(), text, v.Unit, v.Quality.String(), v.Reason})
	}
	var payload any
	if r.Payload != nil {
		payload = hex.EncodeToString(r.Payload)
	}
	return map[string]any{
		"position": []string{"ship-042", "g1", "telemetry", strconv.FormatUint(seq, 10), "true"}, "source": r.Source, "device": r.Device, "name": r.Name,
		"time": nanos(r.Time), "received": nanos(r.Received), "clock_trusted": r.ClockTrusted, "quality": r.Quality.String(), "reason": r.Reason,
		"tags": maps.Clone(tags), "values": values, "payload": payload, "content_type": r.ContentType, "replaced": false,
	}
}

// oddRecords are records of one device with every kind of value and what is
// hard about each.
func oddRecords() []gateway.Record {
	at := time.Date(2026, 11, 22, 12, 0, 0, 123456789, time.UTC)
	flow := gateway.FloatValue("flow", 3.5)
	flow.Unit, flow.Quality, flow.Reason = "l/min", gateway.Uncertain, "old"
	return []gateway.Record{
		{Source: "engine", Device: "engine-3", Name: "all kinds", Time: at.Add(-time.Second), Received: at, ClockTrusted: true,
			Tags: []gateway.Tag{{Key: "vessel", Value: "aurora"}, {Key: "ü", Value: ""}},
			Values: []gateway.Value{
				gateway.BoolValue("yes", true), gateway.BoolValue("no", false), gateway.IntValue("min", math.MinInt64), gateway.IntValue("zero", 0),
				gateway.UintValue("small", 7), gateway.UintValue("max long", math.MaxInt64), gateway.UintValue("beyond", math.MaxInt64+1), gateway.UintValue("max", math.MaxUint64),
				gateway.FloatValue("pi", math.Pi), gateway.FloatValue("nan", math.NaN()), gateway.FloatValue("inf", math.Inf(1)), gateway.FloatValue("-inf", math.Inf(-1)),
				gateway.FloatValue("-0", math.Copysign(0, -1)), gateway.FloatValue("tiny", 5e-324), gateway.StringValue("text", "ü😀\x00\n"), gateway.StringValue("no text", ""),
				gateway.BytesValue("bytes", "\x00\xff"), gateway.BytesValue("no bytes", ""), gateway.BadValue("level", "exception 2"), flow,
			}},
		{Source: "deck", Device: "engine-3", Name: "payload", Payload: []byte(`{"t":1.5}`), ContentType: "application/json", Received: at, Quality: gateway.Bad, Reason: "stuck"},
		{Source: "deck", Device: "engine-3", Name: "bytes", Payload: []byte{0, 0xff, 10}, ContentType: "application/octet-stream", Received: time.Unix(-1, 1).UTC(), ClockTrusted: true},
		{Source: "deck", Device: "engine-3", Name: "text", Payload: []byte("plain"), ContentType: "text/plain", Received: at, ClockTrusted: true},
	}
}
