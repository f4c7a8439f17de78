package mqtt

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// Config says which broker to read and what.
type Config struct {
	URL         string         `yaml:"url" doc:"Broker: tcp://host:1883, tls://host:8883, ws://host/path or wss://host/path." example:"tcp://127.0.0.1:1883"`
	Topics      []string       `yaml:"topics" doc:"Topic filters to subscribe to; + and # as in MQTT, $share/group/filter for a shared subscription." example:"[\"plant/#\"]"`
	QoS         int            `yaml:"qos" doc:"Quality of service to subscribe with: 1 (nothing is lost) or 0 (may be lost on the way to us)." enum:"0,1"`
	ClientID    string         `yaml:"client_id" doc:"Client identifier; the broker keeps our session under it. waystation-<gateway>-<name> when empty."`
	User        string         `yaml:"user" doc:"User name."`
	Password    gateway.Secret `yaml:"password" doc:"Password, as env:NAME, file:PATH or credential:NAME."`
	TLS         *gateway.TLS   `yaml:"tls" doc:"Options of a tls:// or wss:// connection."`
	KeepAlive   time.Duration  `yaml:"keep_alive" doc:"Time after which an idle connection is tested."`
	Timeout     time.Duration  `yaml:"timeout" doc:"Limit for connecting, for one write and for the answer to a keep-alive."`
	MaxPayload  gateway.Size   `yaml:"max_payload" doc:"Largest payload to store; of a larger one the first 4 KiB are kept in a record of bad quality."`
	MaxInflight int            `yaml:"max_inflight" doc:"Messages received and not yet stored, at most; above it the connection is given up and the broker keeps the rest."`
	MaxBytes    gateway.Size   `yaml:"max_inflight_bytes" doc:"The same in bytes."`
	Codec       codec.Config   `yaml:",inline"`
}

// defaults returns the default configuration.
func defaults() *Config {
	return &Config{QoS: 1, KeepAlive: 20 * time.Second, Timeout: 10 * time.Second, MaxPayload: 8 << 20,
		MaxInflight: 20_000, MaxBytes: 32 << 20, Codec: codec.DefaultConfig()}
}

// Adapter returns the entry for the list of adapters.
func Adapter() gateway.Adapter {
	return gateway.Adapter{Type: "mqtt", Doc: "Reads an MQTT 3.1.1 broker as a client with a persistent session, or forwards to one at QoS 1.",
		NewSource: func() gateway.SourceConfig { return defaults() }, NewSink: func() gateway.SinkConfig { return sinkDefaults() }}
}

// schemes are the URL schemes, and whether the connection is secured.
func schemes() map[string]bool {
	return map[string]bool{"tcp": false, "mqtt": false, "ws": false, "tls": true, "ssl": true, "mqtts": true, "wss": true}
}

// Validate implements gateway.SourceConfig.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, hint, format string, args ...any) {
		errs = append(errs, &gateway.FieldError{Key: key, Msg: fmt.Sprintf(format, args...), Hint: hint})
	}
	validateURL(c.URL, c.TLS, bad)
	if len(c.Topics) == 0 {
		bad("topics", "\"#\" reads everything", "list at least one topic filter")
	}
	for i, t := range c.Topics {
		if err := checkFilter(t); err != nil {
			bad(fmt.Sprintf("topics[%d]", i), "", "%q %s", t, err)
		} else if slices.Index(c.Topics, t) < i {
			bad(fmt.Sprintf("topics[%d]", i), "", "%q is listed twice", t)
		}
	}
	if c.QoS != 0 && c.QoS != 1 {
		bad("qos", "with 1 nothing is lost", "%d is not possible: 0 or 1", c.QoS)
	}
	if c.User == "" && c.Password != "" {
		bad("password", "", "needs a user")
	}
	if !validText(c.ClientID) {
		bad("client_id", "", "must be UTF-8 without NUL, at most 65535 bytes")
	}
	if !validText(c.User) {
		bad("user", "", "must be UTF-8 without NUL, at most 65535 bytes")
	}
	c.validateLimits(bad)
	if c.TLS != nil {
		errs = append(errs, c.TLS.Validate())
	}
	errs = append(errs, c.Codec.Validate())
	return errors.Join(errs...)
}

// validateURL checks the address of the broker.
func validateURL(text string, opts *gateway.TLS, bad func(key, hint, format string, args ...any)) {
	u, err := url.Parse(text)
	if err != nil {
		u = &url.URL{}
	}
	secured, known := schemes()[u.Scheme]
	web := u.Scheme == "ws" || u.Scheme == "wss"
	port, err := strconv.Atoi(u.Port())
	switch {
	case !known || u.Hostname() == "" || u.Opaque != "":
		bad("url", "for example tcp://127.0.0.1:1883", "%q is not a broker's address: tcp, tls, ws or wss, a host and a port are needed", text)
	case (u.Port() != "" || !web) && (err != nil || port < 1 || port > 65535):
		bad("url", "MQTT has 1883, with TLS 8883", "%q needs a port, 1 to 65535", text)
	case u.User != nil:
		bad("url", "use user and password", "must not carry credentials")
	case !web && (u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != ""):
		bad("url", "list topics under topics", "%q has something behind the port", text)
	}
	if opts != nil && known && !secured {
		bad("tls", "use tls:// or wss://", "has no effect with a %s:// address", u.Scheme)
	}
}

// validText checks a text against MQTT 3.1.1 section 1.5.3.
func validText(s string) bool {
	return len(s) <= 65535 && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

func (c *Config) validateLimits(bad func(key, hint, format string, args ...any)) {
	if c.KeepAlive < time.Second || c.KeepAlive > 18*time.Hour {
		bad("keep_alive", "20s suits most", "%s is out of range: 1s to 18h", c.KeepAlive)
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > 10*time.Minute {
		bad("timeout", "", "%s is out of range: 100ms to 10m", c.Timeout)
	}
	if c.MaxPayload < 1 || c.MaxPayload > 27<<20 {
		bad("max_payload", "", "%s is out of range: 1B to 27MiB", c.MaxPayload)
	}
	if c.MaxInflight < 1 || c.MaxInflight > 60_000 {
		bad("max_inflight", "", "%d is out of range: 1 to 60000", c.MaxInflight)
	}
	if c.MaxBytes < c.MaxPayload || c.MaxBytes > 1<<30 {
		bad("max_inflight_bytes", "", "%s is out of range: max_payload (%s) to 1GiB", c.MaxBytes, c.MaxPayload)
	}
}

// checkFilter checks a topic filter against MQTT 3.1.1 section 4.7.
func checkFilter(f string) error {
	if rest, ok := strings.CutPrefix(f, "$share/"); ok {
		group, filter, found := strings.Cut(rest, "/")
		if !found || group == "" || strings.ContainsAny(group, "+#") {
			return errors.New("is not a shared subscription: $share/group/filter")
		}
		f = filter
	}
	if f == "" || !validText(f) {
		return errors.New("is not a topic filter: 1 to 65535 bytes of UTF-8 without NUL")
	}
	levels := strings.Split(f, "/")
	for i, l := range levels {
		if strings.Contains(l, "#") && (l != "#" || i != len(levels)-1) {
			return errors.New("has # where it may not be: alone in the last level")
		}
		if strings.Contains(l, "+") && l != "+" {
			return errors.New("has + where it may not be: alone in a level")
		}
	}
	return nil
}
