package mqtt

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// validity is a change to a good configuration.
type validity struct {
	name   string
	change func(*Config)
	key    string // of the fault; "" when it is good
}

func TestValidateAddress(t *testing.T) {
	validate(t, []validity{
		{"tcp", func(*Config) {}, ""},
		{"mqtt", func(c *Config) { c.URL = "mqtt://[::1]:1883" }, ""},
		{"tls", func(c *Config) { c.URL, c.TLS = "tls://h:8883", &gateway.TLS{CA: "x"} }, ""},
		{"websocket without port", func(c *Config) { c.URL = "wss://h/mqtt?token=1" }, ""},
		{"no url", func(c *Config) { c.URL = "" }, "url"},
		{"no scheme", func(c *Config) { c.URL = "127.0.0.1:1883" }, "url"},
		{"unknown scheme", func(c *Config) { c.URL = "http://h:1883" }, "url"},
		{"no host", func(c *Config) { c.URL = "tcp://:1883" }, "url"},
		{"no port", func(c *Config) { c.URL = "tcp://h" }, "url"},
		{"port 0", func(c *Config) { c.URL = "tcp://h:0" }, "url"},
		{"port too large", func(c *Config) { c.URL = "ws://h:70000" }, "url"},
		{"path", func(c *Config) { c.URL = "tcp://h:1883/plant/#" }, "url"},
		{"credentials", func(c *Config) { c.URL = "tcp://u:p@h:1883" }, "url"},
		{"tls without tls", func(c *Config) { c.TLS = &gateway.TLS{} }, "tls"},
		{"cert without key", func(c *Config) { c.URL, c.TLS = "ssl://h:1", &gateway.TLS{Cert: "x"} }, "tls.cert"},
	})
}

func TestValidateRest(t *testing.T) {
	validate(t, []validity{
		{"no topic", func(c *Config) { c.Topics = nil }, "topics"},
		{"filters", func(c *Config) {
			c.Topics = []string{"#", "+", "+/+/#", "/", "//", "a b", "$SYS/#", "$share/g/a/+", "$share/g//", "$queue", "ä/+"}
		}, ""},
		{"empty filter", func(c *Config) { c.Topics = []string{"a", ""} }, "topics[1]"},
		{"# inside", func(c *Config) { c.Topics = []string{"a/#/b"} }, "topics[0]"},
		{"# beside text", func(c *Config) { c.Topics = []string{"a#"} }, "topics[0]"},
		{"+ beside text", func(c *Config) { c.Topics = []string{"a/b+"} }, "topics[0]"},
		{"NUL", func(c *Config) { c.Topics = []string{"a\x00"} }, "topics[0]"},
		{"not UTF-8", func(c *Config) { c.Topics = []string{"\xff"} }, "topics[0]"},
		{"too long", func(c *Config) { c.Topics = []string{strings.Repeat("a", 65536)} }, "topics[0]"},
		{"share without group", func(c *Config) { c.Topics = []string{"$share//a"} }, "topics[0]"},
		{"share without filter", func(c *Config) { c.Topics = []string{"$share/g"} }, "topics[0]"},
		{"share with empty filter", func(c *Config) { c.Topics = []string{"$share/g/"} }, "topics[0]"},
		{"share with wildcard", func(c *Config) { c.Topics = []string{"$share/+/a"} }, "topics[0]"},
		{"twice", func(c *Config) { c.Topics = []string{"a", "b", "a"} }, "topics[2]"},
		{"qos 0", func(c *Config) { c.QoS = 0 }, ""},
		{"qos 2", func(c *Config) { c.QoS = 2 }, "qos"},
		{"password without user", func(c *Config) { c.Password = "env:X" }, "password"},
		{"user", func(c *Config) { c.User, c.Password = "u", "env:X" }, ""},
		{"long user", func(c *Config) { c.User = strings.Repeat("u", 65536) }, "user"},
		{"client id", func(c *Config) { c.ClientID = "a\x00" }, "client_id"},
		{"keep-alive", func(c *Config) { c.KeepAlive = 100 * time.Millisecond }, "keep_alive"},
		{"keep-alive of a day", func(c *Config) { c.KeepAlive = 24 * time.Hour }, "keep_alive"},
		{"timeout", func(c *Config) { c.Timeout = time.Millisecond }, "timeout"},
		{"no payload", func(c *Config) { c.MaxPayload = 0 }, "max_payload"},
		{"payload above the queue", func(c *Config) { c.MaxPayload = 28 << 20 }, "max_payload"},
		{"in flight", func(c *Config) { c.MaxInflight = 0 }, "max_inflight"},
		{"in flight beyond identifiers", func(c *Config) { c.MaxInflight = 65536 }, "max_inflight"},
		{"bytes below payload", func(c *Config) { c.MaxBytes = 1 << 20 }, "max_inflight_bytes"},
		{"bytes beyond 32 bits", func(c *Config) { c.MaxBytes = 5 << 30 }, "max_inflight_bytes"},
		{"codec", func(c *Config) { c.Codec.Codec = "xml" }, "codec"},
	})
}

// validate checks each change.
func validate(t *testing.T, tests []validity) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Adapter().NewSource().(*Config)
			c.URL, c.Topics = "tcp://127.0.0.1:1883", []string{"plant/#"}
			tt.change(c)
			err := c.Validate()
			fault, ok := errors.AsType[*gateway.FieldError](err)
			if tt.key == "" && err != nil || tt.key != "" && (!ok || fault.Key != tt.key) {
				t.Errorf("got %v, want a fault in %q", err, tt.key)
			}
		})
	}
}

func TestSourceOpensNothingAndNamesFiles(t *testing.T) {
	c := defaults()
	c.URL, c.Topics, c.TLS = "tls://127.0.0.1:1", []string{"#"}, &gateway.TLS{CA: "missing.pem"}
	if _, err := c.Source(gateway.Env{Name: "deck", Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "missing.pem") {
		t.Errorf("got error %v", err)
	}
	c.TLS, c.User, c.Password = nil, "u", "env:NOT_SET_ANYWHERE"
	if _, err := c.Source(gateway.Env{Name: "deck"}); err == nil || !strings.Contains(err.Error(), "mqtt deck: read password") {
		t.Errorf("got error %v", err)
	}
	c.User, c.Password = "", ""
	src, err := c.Source(gateway.Env{Name: "deck", GatewayID: "ship"})
	if err != nil || src.(*source).clientID != "waystation-ship-deck" {
		t.Errorf("got %v, %v", src, err)
	}
}
