package config

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// rule is a text that is right and one that is not; of that exactly one fault
// is expected, which contains want.
type rule struct{ name, good, bad, want string }

// fileRules are the rules of the file and its sections.
func fileRules() []rule {
	return []rule{
		{"id needed", okAll, "gateway: {}\n" + okSources + okSinks, "w.yaml:1:10: gateway.id: must not be empty"},
		{"id section", okAll, okSources + okSinks, "gateway.id: must not be empty"},
		{"id form", okAll, "gateway: {id: \"a b\"}\n" + okSources + okSinks, `w.yaml:1:15: gateway.id: "a b" is not an identity`},
		{"sources needed", okAll, okGateway + okSinks, "sources: must not be empty: needs at least one source"},
		{"sources empty", okAll, okGateway + "sources: []\n" + okSinks, "w.yaml:2:10: sources: must not be empty"},
		{"sinks empty", okAll, okGateway + okSources + "sinks:\n", "w.yaml:4:1: sinks: must not be empty"},
		{"sources a list", okAll, okGateway + "sources: {a: b}\n" + okSinks, "sources: must be a list, not a mapping"},
		{"source a mapping", okAll, okGateway + "sources: [deck]\n" + okSinks, `sources[0]: must be a mapping with name and type, not the text "deck"`},
		{"section key", "log: {level: warn}\n" + okAll, "log: {levle: warn}\n" + okAll, `w.yaml:1:7: log: unknown option "levle": did you mean "level"? allowed: format, level`},
		{"section name", "http: {listen: \"\"}\n" + okAll, "htpp: {listen: \"\"}\n" + okAll, `unknown section "htpp": did you mean "http"?`},
		{"enum", "log: {format: json}\n" + okAll, "log: {format: xml}\n" + okAll, `w.yaml:1:15: log.format: must be one of text, json, not the text "xml"`},
		{"loopback", "http: {listen: \"[::1]:80\"}\n" + okAll, "http: {listen: \"0.0.0.0:80\"}\n" + okAll, "reachable from other machines"},
		{"loopback host", "http: {listen: \"localhost:80\"}\n" + okAll, "http: {listen: \":80\"}\n" + okAll, "reachable from other machines"},
		{"listen port", "http: {listen: \"127.0.0.1:0\"}\n" + okAll, "http: {listen: \"127.0.0.1\"}\n" + okAll, "must be address and port"},
		{"buffer size", "buffer: {max_bytes: 16MiB}\n" + okAll, "buffer: {max_bytes: 16MB}\n" + okAll, "buffer.max_bytes: must be at least 16MiB"},
		{"segment", "buffer: {segment_bytes: 128MiB}\n" + okAll, "buffer: {segment_bytes: 129MiB}\n" + okAll, "buffer.segment_bytes: must be 64KiB to 128MiB"},
		{"buffer dir", "buffer: {dir: q}\n" + okAll, "buffer: {dir: \"\"}\n" + okAll, "buffer.dir: must not be empty"},
		{"size form", "buffer: {max_bytes: 8GiB}\n" + okAll, "buffer: {max_bytes: 8 gigs}\n" + okAll, `must be a size such as 64MiB, not the text "8 gigs"`},
		{"timeout", "shutdown: {timeout: 2m}\n" + okAll, "shutdown: {timeout: 0s}\n" + okAll, "shutdown.timeout: must be more than 0"},
	}
}

// memberRules are the rules of sources and sinks.
func memberRules() []rule {
	return []rule{
		{"duration unit", src("keep_alive: 10s"), src("keep_alive: 10"), `must be a duration such as 500ms, 10s or 2m, not 10: add a unit, for instance 10s`},
		{"duration sign", src("keep_alive: 0s"), src("keep_alive: -10s"), "keep_alive: must not be negative"},
		{"lane", src("lane: bulk"), src("lane: alrm"), `lane: must be one of alarm, telemetry, bulk, not the text "alrm": did you mean "alarm"?`},
		{"name form", okAll, strings.Replace(okAll, "deck,", "Deck,", 1), `sources[0].name: "Deck" is not a name`},
		{"name reserved", strings.Replace(okAll, "shore", "waystation", 1), strings.Replace(okAll, "deck,", "waystation,", 1), "is the name of the gateway's own records"},
		{"name needed", okAll, strings.Replace(okAll, "name: deck, ", "", 1), "sources[0].name: must not be empty"},
		{"type needed", okAll, strings.Replace(okAll, "type: kafka, ", "", 1), "sinks[0].type: must not be empty: one of kafka"},
		{"type known", okAll, strings.Replace(okAll, "mqtt", "mqqt", 1), `sources[0].type: unknown type "mqqt": did you mean "mqtt"? types of sources: mqtt`},
		{"type role", okAll, strings.Replace(okAll, "mqtt", "kafka", 1), `type "kafka" is a sink, it cannot be used as a source`},
		{"text quoted", src(`client_id: "true"`), src("client_id: true"), `must be text, not true: write it in quotes: "true"`},
		{"text number", src("client_id: 042"), src("client_id: [a]"), "client_id: must be text, not a list"},
		{"bool", src("clean: true"), src("clean: yes"), `must be true or false, not the text "yes": write true`},
		{"whole", src("offset: -7"), src("offset: 7.5"), "offset: must be a whole number, not 7.5"},
		{"octal", src("offset: 10"), src("offset: 010"), "write it without leading zeros"},
		{"range", src("qos: 2"), src("qos: 300"), "qos: must be a whole number from 0 to 255, not 300"},
		{"enum number", src("qos: 0"), src("qos: 3"), "qos: must be one of 0, 1, 2, not 3"},
		{"float", src("scale: 1e-3"), src("scale: .inf"), "scale: must be a number, not .inf"},
		{"list of text", source("topics: [a, b]"), source("topics: a/b"), "topics: must be a list of text, not the text \"a/b\": write [a/b]"},
		{"list item", source("topics: [a, b]"), source("topics: [a, {b: c}]"), "topics[1]: must be text, not a mapping"},
		{"list empty", source("topics: [a]"), source("topics: []"), "sources[0].topics: must not be empty: list at least one topic filter"},
		{"map of text", src("props: {a: 1}"), src("props: {a: [1]}"), "props.a: must be text, not a list"},
		{"nested key", src("tls: {ca: x}"), src("tls: {ca: x, insecur: true}"), `tls: unknown option "insecur": did you mean "insecure"?`},
		{"nested struct", src("codec: {kind: json}"), src("codec: json"), "codec: must be a mapping of options"},
		{"nested enum", src("codec: {kind: json}"), src("codec: {kind: xml}"), "codec.kind: must be one of raw, json"},
		{"struct list key", src("wills: [{topic: a, retain: true}]"), src("wills: [{topic: a, retian: true}]"), `wills[0]: unknown option "retian": did you mean "retain"?`},
		{"struct list type", src("wills: [{retain: false}]"), src("wills: [{retain: 1}]"), "wills[0].retain: must be true or false, not 1: write true"},
		{"wrapped field error", src("tls: {ca: x}"), src("tls: {insecure: true}"), "sources[0].tls.ca: must not be empty"},
		{"secret env", src("password: env:WS_PASSWORD"), src("password: env:WS_NONE"), "password: read secret: environment variable WS_NONE is not set"},
		{"secret empty", src("password: plain"), src("password: env:WS_EMPTY"), "secret env:WS_EMPTY is empty"},
		{"secret file", src("password: \"1234\""), src("password: file:/no/such"), "/no/such: no such file"},
		{"no value", src("tls: {ca: x}"), src("client_id: "), "client_id: has no value: must be text"},
		{"duplicate key", src("offset: 1"), src("offset: 1, offset: 2"), `key "offset" comes twice: first in line 3`},
		{"tags", src("tags: {a: b}"), src("tags: {\"\": b}"), "sources[0].tags: a tag needs a name"},
		{"anchor", "x-t: &t [a]\n" + source("topics: *t"), source("topics: *t"), "alias *t has no anchor &t before it"},
		{"merge", "x-t: &t {qos: 2}\n" + src("<<: *t"), "x-t: &t [2]\n" + src("<<: *t"), "<< needs a mapping, not 2"},
		{"yaml tag", src("client_id: !!str 5"), src("client_id: !foo 5"), "tags such as !foo are not used"},
		{"one document", "---\n" + okAll, okAll + "---\na: b\n", "second document"},
		{"crash of an adapter", src("client_id: p"), src("client_id: panic"), "the checks of this adapter failed (a bug)"},
	}
}

func TestRules(t *testing.T) {
	t.Setenv("WS_PASSWORD", "x")
	t.Setenv("WS_EMPTY", "")
	for _, tc := range append(fileRules(), memberRules()...) {
		t.Run(tc.name, func(t *testing.T) {
			parse(t, tc.good)
			fs := faults(t, tc.bad)
			if len(fs) != 1 || !strings.Contains(fs.Error(), tc.want) {
				t.Errorf("want one fault with\n%s\ngot %d:\n%v", tc.want, len(fs), fs)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	cfg := parse(t, okAll)
	want := defaults()
	want.Gateway.ID, want.Dir = "ship-042", "/etc/w"
	want.Sources, want.Sinks = cfg.Sources, cfg.Sinks
	want.Lanes = []Lane{{Name: "alarm"}, {Name: "telemetry", Share: 10, MaxDelay: time.Second}, {Name: "bulk", Share: 5, MaxDelay: time.Second}}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v\nwant %+v", cfg, want)
	}
	s := cfg.Sources[0]
	c := s.Config.(*fakeMQTT)
	if s.Name != "deck" || s.Type != "mqtt" || s.Lane != gateway.LaneTelemetry || c.QoS != 1 || c.KeepAlive != 30*time.Second {
		t.Errorf("source %+v %+v", s, c)
	}
	if k := cfg.Sinks[0].Config.(*fakeKafka); k.Topic != "t" || !reflect.DeepEqual(k.Brokers, []string{"b:9092"}) {
		t.Errorf("sink %+v", k)
	}
}

// TestValues sets every kind of option once.
func TestValues(t *testing.T) {
	cfg := parse(t, `
gateway: {id: g, tags: {vessel: aurora}}
buffer: {dir: q, max_bytes: 1.5GiB, compression: none}
log: {level: debug}
x-shared: &shared
  keep_alive: 1m30s
  qos: 2
sources:
  - <<: *shared
    name: a
    type: mqtt
    lane: alarm
    tags: {z: 1, b: two}
    url: tcp://h
    topics: ["x", y/#]
    qos: 0
    username: "bob"
    password: "s3cret"
    client_id: 007
    max_payload: 64KiB
    clean: true
    scale: -2.5
    offset: 0x10
    props: {k: v}
    tls: {ca: /x.pem, insecure: true}
    codec: {kind: json}
    wills:
      - {topic: w, retain: false}
`+okSinks)
	yes := false
	want := &fakeMQTT{
		fakeUser: fakeUser{"bob", "s3cret"}, URL: "tcp://h", Topics: []string{"x", "y/#"}, ClientID: "007", QoS: 0,
		KeepAlive: 90 * time.Second, MaxBytes: 64 << 10, Clean: true, Scale: -2.5, Offset: 16, Props: map[string]string{"k": "v"},
		TLS: &fakeTLS{"/x.pem", true}, Codec: fakeCodec{"json"}, Will: []fakeWill{{"w", &yes}}, hidden: 1,
	}
	s := cfg.Sources[0]
	if !reflect.DeepEqual(s.Config, want) {
		t.Errorf("got  %+v\nwant %+v", s.Config, want)
	}
	if s.Lane != gateway.LaneAlarm || !reflect.DeepEqual(s.Tags, []gateway.Tag{{Key: "b", Value: "two"}, {Key: "z", Value: "1"}}) {
		t.Errorf("lane %v, tags %v", s.Lane, s.Tags)
	}
	if cfg.Buffer.Dir != "/etc/w/q" || cfg.Buffer.MaxBytes != 3<<29 || cfg.Gateway.Tags["vessel"] != "aurora" || cfg.Log.SlogLevel() >= 0 {
		t.Errorf("got %+v", cfg)
	}
}

// TestAllAtOnce finds every fault of a file in one go, sorted by line.
func TestAllAtOnce(t *testing.T) {
	fs := faults(t, `gateway: {id: ""}
buffer: {max_bytes: lots, compresion: zstd}
sources:
  - name: deck
    type: mqtt
    urll: tcp://h
    topics: a
    qos: high
    keep_alive: soon
  - {name: deck, type: mqtt, url: "tcp://h", topics: ["a", "b##"]}
sinks:
  - {name: shore, type: kafak}
`)
	want := []struct {
		line, col int
		path, msg string
	}{
		{1, 15, "gateway.id", "must not be empty"},
		{2, 21, "buffer.max_bytes", "must be a size"},
		{2, 27, "buffer", "unknown option"},
		{6, 5, "sources[0]", "unknown option"},
		{7, 13, "sources[0].topics", "must be a list of text"},
		{8, 10, "sources[0].qos", "must be a whole number"},
		{9, 17, "sources[0].keep_alive", "must be a duration"},
		{10, 12, "sources[1].name", `name "deck" is taken: the first stands in line 4`},
		{10, 60, "sources[1].topics[1]", "is not a topic filter"},
		{12, 25, "sinks[0].type", "unknown type"},
	}
	if len(fs) != len(want) {
		t.Fatalf("got %d faults, want %d:\n%v", len(fs), len(want), fs)
	}
	for i, w := range want {
		if f := fs[i]; f.Line != w.line || f.Column != w.col || f.Path != w.path || !strings.Contains(f.Msg, w.msg) || f.File != "w.yaml" {
			t.Errorf("fault %d: got %+v, want %+v", i, f, w)
		}
	}
}

func TestRelativeSecret(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pw"), "hunter2\n")
	file := filepath.Join(dir, "w.yaml")
	write(t, file, src("password: file:pw"))
	cfg, err := Load(file, fakes())
	if err != nil || cfg.Dir != dir {
		t.Fatalf("got %v, %v", cfg, err)
	}
}
