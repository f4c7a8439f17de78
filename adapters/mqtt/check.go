package mqtt

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/waystation-iot/waystation/gateway"
)

// Check implements gateway.Checker. It connects under a name of its own with a
// session that ends with the connection, so that a gateway that runs keeps its
// own; messages that arrive meanwhile are copies and are thrown away.
func (c *Config) Check(ctx context.Context, env gateway.Env, report func(gateway.Finding)) {
	tell := func(level gateway.Level, what, detail, fix string) {
		report(gateway.Finding{Level: level, What: what, Detail: detail, Fix: fix})
	}
	built, err := c.Source(env)
	if err != nil {
		tell(gateway.Fail, "options", err.Error(), "")
		return
	}
	s := built.(*source)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	what := "broker " + s.url.Host
	client := paho.NewClient(s.checkOptions(ctx))
	defer client.Disconnect(100)
	began := time.Now()
	if err := s.await(ctx, client.Connect()); err != nil {
		tell(gateway.Fail, what, strings.TrimPrefix(err.Error(), "network Error : "), s.connectHint(err))
		return
	}
	tell(gateway.OK, what, fmt.Sprintf("connected as %s in %s", s.who(), time.Since(began).Round(time.Millisecond)), "")
	for _, topic := range c.Topics {
		if strings.HasPrefix(topic, "$share/") {
			tell(gateway.OK, "topic "+topic, "not tried: a shared subscription would take messages from the gateway", "")
			continue
		}
		token := client.Subscribe(topic, byte(c.QoS), func(paho.Client, paho.Message) {})
		if err := s.await(ctx, token); err != nil {
			tell(gateway.Fail, "topic "+topic, "subscribe: "+err.Error(), "")
			return
		}
		s.tellGranted(token, topic, tell)
	}
}

// Check implements gateway.Checker. It connects as the check of a source does,
// and publishes nothing: whether it may shows when the first message is refused.
func (c *SinkConfig) Check(ctx context.Context, env gateway.Env, report func(gateway.Finding)) {
	id := c.ClientID
	if id == "" {
		id = "waystation-" + env.GatewayID + "-to-" + env.Name
	}
	as := &Config{URL: c.URL, ClientID: id, User: c.User, Password: c.Password, TLS: c.TLS, KeepAlive: c.KeepAlive, Timeout: c.Timeout}
	as.Check(ctx, env, report)
}

// connectHint says what to do about a connection that does not come about.
func (s *source) connectHint(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "bad user name or password"), strings.Contains(text, "not Authorized"):
		return "check user and password, and that the broker lets client " + s.clientID + "-check in"
	case strings.Contains(text, "connection refused"):
		return "start the broker, or correct url"
	case strings.Contains(text, "no such host"):
		return "correct url, or make the name resolve"
	}
	return ""
}

// tellGranted reports what the broker says to a subscription.
func (s *source) tellGranted(token paho.Token, topic string, tell func(level gateway.Level, what, detail, fix string)) {
	code := byte(0x80)
	if t, ok := token.(*paho.SubscribeToken); ok {
		code = t.Result()[topic]
	}
	switch {
	case code > 2:
		tell(gateway.Fail, "topic "+topic, "the broker refuses the subscription", "allow "+s.who()+" to read it, or correct topics")
	case int(code) < s.cfg.QoS:
		tell(gateway.Note, "topic "+topic, fmt.Sprintf("granted at QoS %d only: messages are lost whenever the link is", code), "let the broker allow QoS 1")
	case code == 0:
		tell(gateway.Note, "topic "+topic, "subscribed at QoS 0: messages are lost whenever the link is", "set qos: 1")
	default:
		tell(gateway.OK, "topic "+topic, fmt.Sprintf("granted at QoS %d (a broker may grant and yet deliver nothing that its rules forbid)", code), "")
	}
}

// who is how the broker knows us.
func (s *source) who() string {
	if s.cfg.User == "" {
		return "nobody in particular (no user)"
	}
	return "user " + s.cfg.User
}

// checkOptions are those of a connection that leaves nothing behind.
func (s *source) checkOptions(ctx context.Context) *paho.ClientOptions {
	return paho.NewClientOptions().AddBroker(s.url.String()).SetClientID(s.clientID + "-check").SetProtocolVersion(4).
		SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(s.cfg.Timeout).
		SetKeepAlive(s.cfg.KeepAlive).SetPingTimeout(s.cfg.Timeout).SetWriteTimeout(s.cfg.Timeout).
		SetUsername(s.cfg.User).SetPassword(s.password()).
		SetCustomOpenConnectionFn(func(u *url.URL, _ paho.ClientOptions) (net.Conn, error) {
			c, err := s.dial(ctx, u)
			if err == nil {
				context.AfterFunc(ctx, func() { _ = c.Close() })
			}
			return c, err
		})
}

// await waits for a token, at most as long as the option timeout says.
func (s *source) await(ctx context.Context, t paho.Token) error {
	limited, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, fmt.Errorf("the broker did not answer within %s", s.cfg.Timeout))
	defer cancel()
	select {
	case <-t.Done():
		return t.Error()
	case <-limited.Done():
		return context.Cause(limited)
	}
}
