package mqtt

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"
)

// dialWebsocket opens a WebSocket (MQTT 3.1.1 section 6). paho's own dialler
// cannot be interrupted.
func (s *dialer) dialWebsocket(ctx context.Context, u *url.URL) (net.Conn, error) {
	var under net.Conn
	stop := func() bool { return true }
	d := websocket.Dialer{Proxy: http.ProxyFromEnvironment, TLSClientConfig: s.tls(), Subprotocols: []string{"mqtt"},
		ReadBufferSize: readBuffer, WriteBufferSize: 4 << 10,
		NetDialContext: func(_ context.Context, network, address string) (c net.Conn, err error) {
			if c, err = s.dialTCP(ctx, network, address); err == nil {
				under = c
				stop = context.AfterFunc(ctx, func() { _ = c.Close() })
			}
			return c, err
		}}
	ws, resp, err := d.DialContext(ctx, u.String(), nil)
	if !stop() {
		return nil, fmt.Errorf("connect %s: %w", u.Redacted(), context.Cause(ctx)) // closed meanwhile
	}
	switch {
	case err != nil && resp != nil:
		return nil, fmt.Errorf("connect %s: %w: %s", u.Redacted(), err, resp.Status)
	case err != nil && u.Scheme == "wss":
		return nil, s.tlsError(err)
	case err != nil:
		return nil, fmt.Errorf("connect %s: %w", u.Redacted(), err)
	}
	return &socket{Conn: ws, under: under}, nil
}

// socket makes a stream of the binary messages of a WebSocket.
type socket struct {
	*websocket.Conn
	under net.Conn
	rest  io.Reader // of the message being read
}

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	for {
		if s.rest == nil {
			var err error
			if _, s.rest, err = s.NextReader(); err != nil {
				return 0, err
			}
		}
		n, err := s.rest.Read(p)
		if err == io.EOF {
			s.rest, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (s *socket) Write(p []byte) (int, error) {
	if err := s.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetDeadline implements net.Conn.
func (s *socket) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// Close implements net.Conn.
func (s *socket) Close() error {
	t := time.AfterFunc(goodbyeWait, func() { _ = s.under.Close() })
	defer t.Stop()
	return s.Conn.Close()
}
