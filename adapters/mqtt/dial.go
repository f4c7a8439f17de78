package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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
	tls     *tls.Config
	pace    func(net.Conn) net.Conn // wraps a TCP connection
}

// newDialer makes the dialer for an address; opts may be nil.
func newDialer(u *url.URL, opts *gateway.TLS, dir string) (d dialer, err error) {
	if schemes()[u.Scheme] {
		if opts == nil {
			opts = &gateway.TLS{}
		}
		d.tls, err = opts.Config(dir)
	}
	return d, err
}

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
	cfg := s.tls.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = u.Hostname()
	}
	t := tls.Client(&buffered{Conn: c, in: newReader(c)}, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, tlsError(err)
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
func tlsError(err error) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("connect: %w: set tls.ca to the file with the authority's certificate", err)
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
