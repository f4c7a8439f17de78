package config

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

func TestDescribe(t *testing.T) {
	var b strings.Builder
	for _, a := range fakes() {
		if err := Describe(&b, a); err != nil {
			t.Fatal(err)
		}
	}
	if err := DescribeTop(&b); err != nil {
		t.Fatal(err)
	}
	if err := Types(&b, fakes()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"mqtt as a source: An MQTT broker.\n",
		"\n  name: text (required)\n",
		"\n  lane: text\n      Lane of its records, one of buffer.lanes:",
		"\n  rules: a list of mappings\n      What becomes of single records:",
		"\n          above: a number\n",
		"\n  policy: lowest-lane | oldest | reject | thin (default lowest-lane)\n",
		"\n  lanes: a list of mappings (default [{name: alarm, share: 0, max_delay: 0s}, {name: telemetry, share: 10, max_delay: 1s}, {name: bulk, share: 5, max_delay: 1s}])\n",
		"\n      share: a whole number, in percent\n",
		"\n  username: text\n      User name.\n",
		"\n  password: a secret: env:NAME, file:PATH, credential:NAME or the text itself\n",
		"\n  url: text (required)\n      Address of the broker.\n      Example: url: \"tcp://127.0.0.1:1883\"\n",
		"\n  topics: a list of text (required)\n",
		"\n  qos: 0 | 1 | 2 (default 1)\n",
		"\n  keep_alive: a duration such as 500ms, 10s or 2m (default 30s)\n",
		"\n  max_payload: a size such as 64MiB (default 0B)\n",
		"\n  clean: true or false (default false)\n",
		"\n  offset: a whole number, in mm (default 0)\n",
		"\n  props: a mapping of names to text\n",
		"\n  tls: a mapping of options\n      TLS options.\n      ca: text\n",
		"\n      kind: raw | json (default raw)\n",
		"\n  wills: a list of mappings\n      Messages left behind.\n      topic: text\n",
		"kafka as a sink: A Kafka cluster.\n",
		"\n  id: text (required)\n",
		"\n  max_bytes: a size such as 64MiB (default 1GiB)\n",
		"\n  timeout: a duration such as 500ms, 10s or 2m (default 10s)\n",
		"\n  listen: text (default \"127.0.0.1:8100\")\n",
		"  mqtt         source       An MQTT broker.\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("not in the description: %q", want)
		}
	}
	if t.Failed() {
		t.Log(b.String())
	}
}

func TestDescribeReportsWriteErrors(t *testing.T) {
	w, err := os.Open(os.DevNull) // not open for writing
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if Describe(w, fakes()[0]) == nil || DescribeTop(w) == nil || Types(w, fakes()) == nil {
		t.Error("write error lost")
	}
}

func TestMarkdown(t *testing.T) {
	md := Markdown(fakes())
	for _, want := range []string{
		"## buffer\n",
		"| `max_bytes` | a size such as 64MiB | `1GiB` |",
		"| `id` | text | **required** |",
		"### source: type mqtt\n",
		"| `wills[].retain` | true or false |",
		"| `tls.ca` | text |  | File with the certificates trusted. |",
		"| `codec.kind` | raw \\| json | `raw` | Name of the codec. |",
		"Topic \\| template. Example: `\"fleet.{source}\"`",
	} {
		if !strings.Contains(md, want) {
			t.Errorf("not in the documentation: %q\n%s", want, md)
		}
	}
	for line := range strings.Lines(md) {
		if strings.HasPrefix(line, "|") && strings.Count(strings.ReplaceAll(line, "\\|", ""), "|") != 5 {
			t.Errorf("broken row %q", line)
		}
	}
}

// TestExample loads the example as it is, and again with every option that is
// commented out taken in.
func TestExample(t *testing.T) {
	ex := Example(fakes())
	cfg := parse(t, ex)
	c := cfg.Sources[0].Config.(*fakeMQTT)
	if cfg.Gateway.ID != "ship-042" || c.URL != "tcp://127.0.0.1:1883" || c.Topics[0] != "deck/#" {
		t.Errorf("got %+v %+v", cfg, c)
	}
	all := regexp.MustCompile(`(?m)^( *)#([^ ])`).ReplaceAllString(ex, "$1$2")
	all = strings.Replace(all, "file:/etc/waystation/password", "x", 1)
	t.Setenv("WS_KEY", testKey(0))
	t.Setenv("WS_OLD", testKey(1))
	all = strings.NewReplacer("file:queue.key", "env:WS_KEY", "file:http.token", "env:WS_KEY", "file:queue-2024.key", "env:WS_OLD").Replace(all)
	if all == ex {
		t.Error("nothing is commented out")
	}
	_, err := Parse("w.yaml", []byte(all), fakes())
	fs, _ := errors.AsType[Faults](err)
	if len(fs) != 1 || fs[0].Path != "sources[0].tls.ca" { // the example of an empty option
		t.Errorf("got %v\n%s", err, all)
	}
	for _, name := range []string{"keep_alive: 30s", "#max_payload: 0B", "#kind: raw", "wills[].retain", "#lanes: [{name: alarm, share: 0, max_delay: 0s}, {", "rules[].match: "} {
		if !strings.Contains(ex, name) {
			t.Errorf("not in the example: %s\n%s", name, ex)
		}
	}
}

func TestSchema(t *testing.T) {
	var s struct {
		Schema string         `json:"$schema"`
		Defs   map[string]any `json:"$defs"`
	}
	text := Schema(fakes())
	if err := json.Unmarshal(text, &s); err != nil || s.Schema != "https://json-schema.org/draft/2020-12/schema" {
		t.Fatalf("%v\n%s", err, text)
	}
	def := s.Defs["source-mqtt"].(map[string]any)
	props := def["properties"].(map[string]any)
	if def["additionalProperties"] != false || len(props) != 20 || s.Defs["sink-kafka"] == nil {
		t.Errorf("got %d properties\n%s", len(props), text)
	}
	qos := props["qos"].(map[string]any)
	if qos["maximum"] != 255.0 || qos["default"] != 1.0 {
		t.Errorf("qos: %v", qos)
	}
	if req := def["required"].([]any); len(req) != 4 {
		t.Errorf("required: %v", req)
	}
	if props["password"].(map[string]any)["default"] != nil {
		t.Error("a secret has a default")
	}
	if again := Schema(fakes()); string(again) != string(text) {
		t.Error("schema is not the same twice")
	}
}

// lame is an adapter whose struct breaks every rule of CheckDocs.
type lame struct {
	NoDoc  string          `yaml:"no_doc"`
	NoTag  string          `doc:"x"`
	Name   string          `yaml:"name" doc:"Clashes with the shared option."`
	Weird  map[int]string  `yaml:"weird" doc:"x"`
	Func   func()          `yaml:"func" doc:"x"`
	Below  struct{ A int } `yaml:"below" doc:"x"`
	Hidden string          `yaml:"-"`
}

func (*lame) Validate() error                        { return &gateway.FieldError{Key: "weird", Msg: "must not be empty"} }
func (*lame) Sink(gateway.Env) (gateway.Sink, error) { return nil, nil }

func TestCheckDocs(t *testing.T) {
	if err := CheckDocs(fakes()); err != nil {
		t.Errorf("fakes: %v", err)
	}
	err := CheckDocs([]gateway.Adapter{{Type: "lame", Doc: "x", NewSink: func() gateway.SinkConfig { return &lame{} }}, {Type: "none"}})
	for _, want := range []string{
		"lame.NoDoc has no doc tag", "lame.NoTag has no yaml tag", `option "name" of config.lame.Name is taken`,
		"lame.Weird has type map[int]string", "lame.Func has type func()", "A has no yaml tag", "lame.Weird is required and has no example tag", `adapter "none" has no type or no doc`,
		"adapter none is neither source nor sink",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("not found: %s in\n%v", want, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "Hidden") {
		t.Error(`yaml:"-" is an option`)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"topics", "topic", "url", "client_id", "qos", "keep_alive"}
	for in, want := range map[string]string{
		"topcis": "topics", "topik": "topic", "ulr": "url", "URL": "url", "clientId": "client_id", "client-id": "client_id",
		"brokers": "", "q": "", "sos": "qos", "keepalive": "keep_alive", "xyz": "", "topics_list": "topics",
	} {
		if got := nearest(in, words); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 2 * time.Minute: "2m", time.Hour: "1h", 90 * time.Second: "1m30s", time.Hour + time.Second: "1h0m1s", 30 * time.Second: "30s",
		500 * time.Millisecond: "500ms", 10 * time.Minute: "10m", 20 * time.Hour: "20h",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
