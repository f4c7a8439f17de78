package mqtt

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// dial opens the connection to the broker, paced where it is TCP.
func (s *source) dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	if u.Scheme == "ws" || u.Scheme == "wss" {
		c, err := paho.NewWebsocket(u.String(), s.tls, s.cfg.Timeout, nil, &paho.WebsocketOptions{})
		if err != nil {
			return nil, fmt.Errorf("connect %s: %w", u.Redacted(), err)
		}
		return c, nil
	}
	d := net.Dialer{Timeout: s.cfg.Timeout}
	tcp, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	c := newPaced(tcp)
	if !schemes()[u.Scheme] {
		return c, nil
	}
	cfg := s.tls.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = u.Hostname()
	}
	secured := tls.Client(&buffered{Conn: c, in: newReader(c)}, cfg)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = tcp.Close()
		return nil, fmt.Errorf("connect %s: %w", u.Redacted(), err)
	}
	return secured, nil
}
