package mqtt

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// goodbyeWait bounds how long a secured connection may take to say goodbye.
const goodbyeWait = 200 * time.Millisecond

// dialer opens connections to a broker.
type dialer struct {
	timeout time.Duration
	creds   *gateway.Credentials
	tls     func() *tls.Config      // of creds; tests set it
	pace    func(net.Conn) net.Conn // wraps a TCP connection
}

// newDialer makes the dialer for an address; opts may be nil, password empty.
func newDialer(u *url.URL, opts *gateway.TLS, dir string, password gateway.Secret) (dialer, error) {
	switch {
	case !schemes()[u.Scheme]:
		opts = nil
	case opts == nil:
		opts = &gateway.TLS{}
	}
	var secrets []gateway.NamedSecret
	if password != "" {
		secrets = append(secrets, gateway.NamedSecret{Option: "password", Secret: password})
	}
	creds := gateway.NewCredentials(dir, opts, secrets...)
	return dialer{creds: creds, tls: creds.TLS, pace: func(c net.Conn) net.Conn { return c }}, creds.Load()
}

// password is what the broker is told.
func (s *dialer) password() string { return s.creds.Secret(0) }

// dial opens the connection to the broker, paced where it is TCP.
func (s *dialer) dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if u.Scheme == "ws" || u.Scheme == "wss" {
		return s.dialWebsocket(ctx, u)
	}
	c, err := s.dialTCP(ctx, "tcp", u.Host)
	if err != nil || !schemes()[u.Scheme] {
		return c, err
	}
	cfg := s.tls()
	if cfg.ServerName == "" {
		cfg.ServerName = u.Hostname()
	}
	t := tls.Client(&buffered{Conn: c, in: newReader(c)}, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, s.tlsError(err)
	}
	return &secured{Conn: t, under: c}, nil
}

// dialTCP opens a paced TCP connection.
func (s *dialer) dialTCP(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return s.pace(c), nil
}

// tlsError adds what to do to an error of the handshake.
func (s *dialer) tlsError(err error) error {
	if hint := s.creds.Hint(err, time.Now()); hint != "" {
		return fmt.Errorf("connect: secure the connection: %w (%s)", err, hint)
	}
	return fmt.Errorf("connect: secure the connection: %w", err)
}

// secured is a TLS connection whose end cannot hang on a peer that does not read.
type secured struct {
	*tls.Conn
	under net.Conn
}

// Close implements net.Conn.
func (c *secured) Close() error {
	t := time.AfterFunc(goodbyeWait, func() { _ = c.under.Close() })
	defer t.Stop()
	return c.Conn.Close()
}
