package mqtt

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// SinkConfig says which broker to forward to and how.
type SinkConfig struct {
	URL         string         `yaml:"url" doc:"Broker: tcp://host:1883, tls://host:8883, ws://host/path or wss://host/path." example:"tls://broker.example:8883"`
	Topic       string         `yaml:"topic" doc:"Topic to publish to. May hold {gateway} {source} {device} {name} {lane} {tag.KEY}; + and # become '_'. {device} is the name when a record has no device." example:"fleet/{gateway}/{name}"`
	Encoding    string         `yaml:"encoding" enum:"raw,json" doc:"Payload: json (the whole record with its place in the queue, by which a consumer drops repeats) or raw (the payload byte for byte; JSON for a record that has none)."`
	Retained    bool           `yaml:"retained" doc:"Have the broker keep the last message of each topic for those who subscribe later."`
	ClientID    string         `yaml:"client_id" doc:"Client identifier; waystation-<gateway>-to-<name> when empty. No other client may have it."`
	User        string         `yaml:"user" doc:"User name."`
	Password    gateway.Secret `yaml:"password" doc:"Password, as env:NAME, file:PATH or credential:NAME."`
	TLS         *gateway.TLS   `yaml:"tls" doc:"Options of a tls:// or wss:// connection."`
	KeepAlive   time.Duration  `yaml:"keep_alive" doc:"Time after which an idle connection is tested, and after which one that makes no progress is given up. Not below twice the round trip."`
	Timeout     time.Duration  `yaml:"timeout" doc:"Limit for connecting."`
	MaxPayload  gateway.Size   `yaml:"max_payload" doc:"Largest payload the broker takes. A record that makes a larger one is refused and goes to the dead letters."`
	Window      int            `yaml:"window" doc:"Messages on their way and not yet confirmed, at most. At most so many arrive twice when the connection is lost."`
	WindowBytes gateway.Size   `yaml:"window_bytes" doc:"The same in bytes; one message is always allowed."`
}

// sinkDefaults returns the default configuration.
func sinkDefaults() *SinkConfig {
	return &SinkConfig{Encoding: codec.NameJSON, KeepAlive: 20 * time.Second, Timeout: 10 * time.Second,
		MaxPayload: 256 << 10, Window: 64, WindowBytes: 256 << 10}
}

// Bounds of the options.
const (
	maxWindow = 4096
	// maxSinkPayload keeps a PUBLISH within what four length bytes can say
	// (section 2.2.3) with room to spare.
	maxSinkPayload = 16 << 20
)

// Validate implements gateway.SinkConfig.
func (c *SinkConfig) Validate() error {
	var errs []error
	bad := func(key, hint, format string, args ...any) {
		errs = append(errs, &gateway.FieldError{Key: key, Msg: fmt.Sprintf(format, args...), Hint: hint})
	}
	validateURL(c.URL, c.TLS, bad)
	if c.Topic == "" {
		bad("topic", `for instance topic: "fleet/{gateway}/{name}"`, "is required")
	} else if _, err := parseTopic(c.Topic); err != nil {
		bad("topic", "allowed are {gateway} {source} {device} {name} {lane} {tag.KEY}", "%s", err)
	}
	if c.Encoding != codec.NameRaw && c.Encoding != codec.NameJSON {
		bad("encoding", "", "%q is not one of raw, json", c.Encoding)
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
	if c.KeepAlive < time.Second || c.KeepAlive > maxTold {
		bad("keep_alive", "20s suits most", "%s is out of range: 1s to 20m", c.KeepAlive)
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > 10*time.Minute {
		bad("timeout", "", "%s is out of range: 100ms to 10m", c.Timeout)
	}
	if c.MaxPayload < 1 || c.MaxPayload > maxSinkPayload {
		bad("max_payload", "", "%s is out of range: 1B to 16MiB", c.MaxPayload)
	}
	if c.Window < 1 || c.Window > maxWindow {
		bad("window", "", "%d is out of range: 1 to %d", c.Window, maxWindow)
	}
	if c.WindowBytes < 1<<10 || c.WindowBytes > maxSinkPayload {
		bad("window_bytes", "", "%s is out of range: 1KiB to 16MiB", c.WindowBytes)
	}
	if c.TLS != nil {
		errs = append(errs, c.TLS.Validate())
	}
	return errors.Join(errs...)
}

// Sink implements gateway.SinkConfig. It opens no connection.
func (c *SinkConfig) Sink(env gateway.Env) (gateway.Sink, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("mqtt %s: %w", env.Name, err)
	}
	s := &Sink{cfg: *c, url: u, addr: "mqtt " + env.Name, gateway: env.GatewayID, log: env.Log, nextID: 1}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.ClientID == "" {
		s.cfg.ClientID = "waystation-" + env.GatewayID + "-to-" + env.Name
	}
	s.topic, _ = parseTopic(c.Topic) // checked by Validate
	if s.enc, err = codec.NewEncoder(c.Encoding); err != nil {
		return nil, fmt.Errorf("%s: %w", s.addr, err)
	}
	if s.dialer, err = newDialer(u, c.TLS, env.Dir, c.Password); err != nil {
		return nil, fmt.Errorf("%s: %w", s.addr, err)
	}
	s.timeout = c.Timeout
	s.window = s.cfg.Window
	s.tell("")
	return s, nil
}
