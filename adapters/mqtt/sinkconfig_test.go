package mqtt

import (
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

func TestSinkConfigFaults(t *testing.T) {
	good := func() *SinkConfig {
		c := sinkDefaults()
		c.URL, c.Topic = "tcp://127.0.0.1:1883", "fleet/{name}"
		return c
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*SinkConfig){
		"url: \"\" is not a broker's address": func(c *SinkConfig) { c.URL = "" },
		"topic: is required":                  func(c *SinkConfig) { c.Topic = "" },
		"topic: \"a/#\" holds + or #":         func(c *SinkConfig) { c.Topic = "a/#" },
		"topic: {nme} is not a placeholder":   func(c *SinkConfig) { c.Topic = "a/{nme}" },
		"topic: a brace has no counterpart":   func(c *SinkConfig) { c.Topic = "a/{name" },
		"encoding: \"avro\" is not one of":    func(c *SinkConfig) { c.Encoding = "avro" },
		"password: needs a user":              func(c *SinkConfig) { c.Password = "x" },
		"keep_alive: 100ms is out of range":   func(c *SinkConfig) { c.KeepAlive = 100 * time.Millisecond },
		"timeout: 1ms is out of range":        func(c *SinkConfig) { c.Timeout = time.Millisecond },
		"max_payload: 17MiB is out of range":  func(c *SinkConfig) { c.MaxPayload = 17 << 20 },
		"window: 0 is out of range":           func(c *SinkConfig) { c.Window = 0 },
		"window_bytes: 1B is out of range":    func(c *SinkConfig) { c.WindowBytes = 1 },
		"client_id: must be UTF-8":            func(c *SinkConfig) { c.ClientID = "\xff" },
		"tls: has no effect with a tcp://":    func(c *SinkConfig) { c.TLS = &gateway.TLS{} },
	} {
		c := good()
		change(c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v instead of %q", err, want)
		}
	}
	c := good()
	if c.MaxPayload = 16 << 20; c.told() != 1200 {
		t.Errorf("the broker is told %d s", c.told())
	}
	if c.MaxPayload = 10_000; c.told() != 30 {
		t.Errorf("the broker is told %d s", c.told())
	}
}

// What a record brings into a topic cannot make it a filter, nothing, or one
// of the broker's own.
func TestSinkTopics(t *testing.T) {
	for want, c := range map[string][2]string{
		"a/x_y_z/b":     {"a/{name}/b", "x+y#z"},
		"_SYS/x":        {"{name}", "$SYS/x"},
		"a/$x":          {"a/{name}", "$x"},
		"$aws/things/q": {"$aws/things/{name}", "q"},
		"_":             {"{name}", ""},
		"gw/l/s/n/_n_":  {"{gateway}/{lane}/{source}/{device}/{name}", "n"},
		"x_":            {"x{name}", "\x00"},
		"bad_":          {"{name}", "bad\xff"},
	} {
		top, err := parseTopic(c[0])
		if err != nil {
			t.Fatal(err)
		}
		r := gateway.Record{Source: "s", Name: c[1]}
		if c[1] == "n" {
			r.Device, r.Name = "n", "+n#"
		}
		if got := string(appendTopic(nil, top, &place{"gw", "l"}, &r)); got != want {
			t.Errorf("%s of %q: %q instead of %q", c[0], c[1], got, want)
		}
	}
	top, _ := parseTopic("{name}")
	if got := appendTopic(nil, top, &place{}, &gateway.Record{Name: strings.Repeat("é", 40000)}); len(got) > maxTopicBytes || !validText(string(got)) {
		t.Errorf("%d bytes", len(got))
	}
}
