package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// drainWait is how long a stopping source waits for what it has delivered to
// be stored and acknowledged.
const drainWait = 1200 * time.Millisecond

// lookWait is how often certificates and passwords in files are looked at.
const lookWait = 30 * time.Second

// source is one subscription to one broker.
type source struct {
	cfg      Config
	name     string
	clientID string
	url      *url.URL
	log      *slog.Logger
	drainFor time.Duration // drainWait; tests set it
	dialer

	lookEvery time.Duration // how often files are looked at; tests set it
}

// Source implements gateway.SourceConfig.
func (c *Config) Source(env gateway.Env) (gateway.Source, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("mqtt %s: %w", env.Name, err)
	}
	s := &source{cfg: *c, drainFor: drainWait, lookEvery: lookWait, name: env.Name, clientID: c.ClientID, url: u, log: env.Log}
	if s.clientID == "" {
		s.clientID = "waystation-" + env.GatewayID + "-" + env.Name
	}
	if s.dialer, err = newDialer(u, c.TLS, env.Dir, c.Password); err != nil {
		return nil, fmt.Errorf("mqtt %s: %w", env.Name, err)
	}
	s.timeout, s.pace = c.Timeout, newPaced
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Run implements gateway.Source: one connection.
func (s *source) Run(ctx context.Context, in *gateway.Intake) error {
	dec, err := codec.New(s.cfg.Codec)
	if err != nil {
		return gateway.Permanent(fmt.Errorf("mqtt %s: %w", s.url.Host, err))
	}
	in.Note("")
	if err := s.creds.Load(); err != nil { // what was renewed while there was no connection
		return fmt.Errorf("mqtt %s: %w", s.url.Host, err)
	}
	version := s.creds.Version()
	r := &run{source: s, in: in, lost: make(chan error, 1), box: newInbox(in, dec, &s.cfg)}
	defer r.close()
	if err := r.connect(ctx); err != nil {
		return fmt.Errorf("mqtt %s: %w", s.url.Host, err)
	}
	if err := r.subscribe(ctx); err != nil {
		return fmt.Errorf("mqtt %s: %w", s.url.Host, r.cause(err))
	}
	in.Up()
	look := time.NewTicker(s.lookEvery)
	defer look.Stop()
	for {
		select {
		case err = <-r.lost:
			return fmt.Errorf("mqtt %s: connection lost: %w", s.url.Host, r.cause(err))
		case <-r.conn.Load().closed:
			return fmt.Errorf("mqtt %s: connection lost: %w", s.url.Host, r.closedWhy())
		case <-ctx.Done():
			r.drain()
			return nil
		case now := <-look.C:
			s.creds.LogWarnings(s.log, now)
			if s.creds.Load() == nil && s.creds.Version() != version {
				r.drain() // nothing is lost: the broker keeps the session
				return fmt.Errorf("mqtt %s: certificates or password have changed: connecting anew", s.url.Host)
			}
		}
	}
}

// Facts implements gateway.Reporter.
func (s *source) Facts() []gateway.Fact { return s.creds.Facts(time.Now()) }

// run is the state of one connection.
type run struct {
	*source
	in     *gateway.Intake
	box    *inbox
	client paho.Client
	lost   chan error
	conn   atomic.Pointer[conn] // set while paho opens the connection, before anything is read
	ending atomic.Bool          // Run returns: a connection opened later is closed at once
}

// openError is why the connection could not be opened, without what paho says
// around it.
type openError struct{ err error }

func (e *openError) Error() string { return e.err.Error() }

// connect opens the connection and the session.
func (r *run) connect(ctx context.Context) error {
	o := paho.NewClientOptions().AddBroker(r.url.String()).SetClientID(r.clientID).SetProtocolVersion(4).
		SetCleanSession(false).SetAutoAckDisabled(true).SetOrderMatters(true).SetResumeSubs(false).
		SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(r.cfg.Timeout).
		SetKeepAlive(r.cfg.KeepAlive).SetPingTimeout(r.cfg.Timeout).SetWriteTimeout(r.cfg.Timeout).
		SetUsername(r.cfg.User).SetPassword(r.password()).
		SetConnectionLostHandler(func(_ paho.Client, err error) {
			select {
			case r.lost <- err:
			default:
			}
		}).
		SetCustomOpenConnectionFn(func(u *url.URL, _ paho.ClientOptions) (net.Conn, error) { return r.open(ctx, u) })
	r.client = paho.NewClient(o)
	err := r.wait(ctx, r.client.Connect())
	if err == nil {
		return nil
	}
	err = r.cause(err)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("connect: the broker did not answer within %s", r.cfg.Timeout)
	}
	return err
}

// open opens the connection for paho.
func (r *run) open(ctx context.Context, u *url.URL) (net.Conn, error) {
	c, err := r.dial(ctx, u)
	if err != nil {
		return nil, &openError{err}
	}
	k := newConn(c, r.box, &r.cfg)
	r.conn.Store(k)
	if r.ending.Load() {
		_ = k.Close()
	}
	return k, nil
}

// wait waits for a token.
func (r *run) wait(ctx context.Context, t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case err := <-r.lost:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// subscribe subscribes to every filter, on every connection: a broker that
// restarted without its sessions remembers none. Retained messages arrive
// again with it and carry the tag retained=true.
func (r *run) subscribe(ctx context.Context) error {
	filters := make(map[string]byte, len(r.cfg.Topics))
	for _, t := range r.cfg.Topics {
		filters[t] = byte(r.cfg.QoS)
	}
	stop := context.AfterFunc(ctx, func() { _ = r.conn.Load().Close() }) // SubscribeMultiple may block
	defer stop()
	token := r.client.SubscribeMultiple(filters, nil)
	limited, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	if err := r.wait(limited, token); err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("subscribe: the broker did not answer within %s", r.cfg.Timeout)
		}
		return fmt.Errorf("subscribe: %w", err)
	}
	return r.granted(token)
}

// granted checks what the broker granted: a refusal (0x80) is no error to paho.
func (r *run) granted(t paho.Token) error {
	st, ok := t.(*paho.SubscribeToken)
	if !ok {
		return nil
	}
	var refused []string
	for filter, code := range st.Result() {
		switch {
		case code > 2:
			refused = append(refused, filter)
		case int(code) < r.cfg.QoS:
			r.in.Note("the broker granted %s only QoS %d: messages are lost whenever the link is", filter, code)
		}
	}
	if r.cfg.QoS == 0 {
		r.in.Note("subscribed at QoS 0: messages are lost whenever the link is; set qos: 1")
	}
	if len(refused) > 0 {
		sort.Strings(refused)
		return fmt.Errorf("subscribe: the broker refused %s: allow user %q (client %s) to read it, or correct topics",
			strings.Join(refused, ", "), r.cfg.User, r.clientID)
	}
	return nil
}

// drain waits a moment for what was delivered to be stored and acknowledged.
func (r *run) drain() {
	t := time.NewTimer(r.drainFor)
	defer t.Stop()
	select {
	case <-r.box.end():
	case <-t.C:
		r.log.Warn("stopping with messages not yet stored; the broker sends them again")
	}
}

// close says goodbye and closes the connection. Nothing is delivered after it.
func (r *run) close() {
	r.box.end()
	r.ending.Store(true)
	if c := r.conn.Load(); c != nil && !r.client.IsConnectionOpen() {
		_ = c.Close() // ends a handshake that would hold up Disconnect
	}
	r.client.Disconnect(100)
	if c := r.conn.Load(); c != nil {
		_ = c.Close()
	}
	r.box.stop()
}

// closedWhy returns why the connection was closed. When paho did it, it says
// so a little later.
func (r *run) closedWhy() error {
	if why := r.cause(nil); why != nil {
		return why
	}
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case err := <-r.lost:
		return err
	case <-t.C:
		return net.ErrClosed
	}
}

// cause prefers our own reason for a closed connection.
func (r *run) cause(err error) error {
	if c := r.conn.Load(); c != nil {
		if why := c.why(); why != nil {
			return why
		}
	}
	var open *openError
	if errors.As(err, &open) {
		return open.err
	}
	return err
}
