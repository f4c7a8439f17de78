package modbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"syscall"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	// goodbyeWait bounds how long a secured connection may take to say goodbye.
	goodbyeWait = 200 * time.Millisecond
	portPlain   = "502"
	portSecured = "802" // mbaps, Modbus/TCP Security Protocol Specification v2.1 section 5
)

// open opens the line of c. tc is for tls lines.
func open(ctx context.Context, c *Config, tc *tls.Config) (line, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("read url: %w", err)
	}
	if c.Connect > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, c.Connect, fmt.Errorf("no answer within %s", c.Connect))
		defer cancel()
		ctx = limited
	}
	switch u.Scheme {
	case "tcp", "tls":
		return openStream(ctx, c, u, tc)
	case "udp":
		return openDatagrams(ctx, u)
	case "rtu", "ascii":
		return openSerial(ctx, c)
	case "rtu+tcp", "ascii+tcp", "rtu+udp":
		return openFramed(ctx, c)
	}
	return nil, fmt.Errorf("open %s: there is no line of the kind %q", c.URL, u.Scheme)
}

// openStream opens a line over TCP or TLS.
func openStream(ctx context.Context, c *Config, u *url.URL, tc *tls.Config) (line, error) {
	port := portPlain
	if u.Scheme == "tls" {
		port = portSecured
	}
	raw, err := dial(ctx, "tcp", withPort(u, port))
	if err != nil {
		return nil, err
	}
	conn, settle := newSocket(raw)
	if u.Scheme == "tls" {
		if conn, err = secure(ctx, conn, u, tc); err != nil {
			return nil, err
		}
	}
	l := newMBAP(u.Scheme+" "+withPort(u, port), conn, &stream{from: conn})
	if c.Pipeline > 1 {
		return newPipeline(l, c.Pipeline), nil
	}
	l.settle = settle
	return l, nil
}

// openDatagrams opens a line over UDP. Nothing is sent: whether the device is
// there shows with the first request.
func openDatagrams(ctx context.Context, u *url.URL) (line, error) {
	raw, err := dial(ctx, "udp", withPort(u, portPlain))
	if err != nil {
		return nil, err
	}
	conn, settle := newSocket(raw)
	l := newMBAP("udp "+withPort(u, portPlain), conn, &datagrams{from: conn})
	l.settle = settle
	return l, nil
}

// withPort is the host and port of u.
func withPort(u *url.URL, port string) string {
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// dial opens a connection. TCP asks by itself every few seconds whether the far
// side is still there, so that a connection which nobody reads ends as well.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}}
	c, err := d.DialContext(ctx, network, address)
	if err == nil {
		return c, nil
	}
	cause := err
	if ctx.Err() != nil {
		cause = context.Cause(ctx)
	} else if op := (*net.OpError)(nil); errors.As(err, &op) {
		cause = op.Err // the rest of it is said here
	}
	if hint := dialHint(err, ctx.Err() != nil); hint != "" {
		return nil, fmt.Errorf("connect %s %s: %w (%s)", network, address, cause, hint)
	}
	return nil, fmt.Errorf("connect %s %s: %w", network, address, cause)
}

// dialHint says what to do about a connection that does not come about.
func dialHint(err error, late bool) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the host is there, the port is closed: is Modbus/TCP switched on in the device, and is the port right (usually 502, 802 with TLS; of a serial server the one that is set in it)? Some devices refuse when another master holds their only connection"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no way to this address: check cable, address, netmask and gateway of both sides; ping it"
	case errors.As(err, &dns):
		return "use the IP address, or make the name resolve"
	case late, errors.Is(err, syscall.ETIMEDOUT):
		return "is the device on, the address right, and does a firewall let the port through? ping it"
	}
	return ""
}

// secure makes a TLS connection of conn (Modbus/TCP Security: TLS 1.2 or later,
// both sides show certificates).
func secure(ctx context.Context, conn net.Conn, u *url.URL, tc *tls.Config) (net.Conn, error) {
	if tc == nil {
		tc = &tls.Config{}
	}
	tc = tc.Clone()
	tc.MinVersion = max(tc.MinVersion, tls.VersionTLS12)
	if tc.ServerName == "" {
		tc.ServerName = u.Hostname()
	}
	t := tls.Client(conn, tc)
	err := t.HandshakeContext(ctx)
	if err == nil {
		return &secured{t, conn}, nil
	}
	_ = conn.Close()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("connect tls %s: secure the connection: %w%s", withPort(u, portSecured), err, tlsHint(err))
}

// tlsHint says in brackets what to do about an error of a secured connection.
func tlsHint(err error) string {
	var record tls.RecordHeaderError
	hint := gateway.TLSHint(err, time.Now())
	switch {
	case errors.As(err, &record):
		hint = "the device does not speak TLS on this port: use its TLS port, usually 802, or tcp:// if the link is trusted"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		hint = "the device closed the connection: it may not speak TLS on this port (usually 802), want a certificate of ours (tls.cert, tls.key), or serve another master"
	}
	if hint == "" {
		return ""
	}
	return " (" + hint + ")"
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

// receiving and sending are what is done when a line is lost.
const receiving, sending = "receive", "send"

// lost says how a line ended, and what a person may do.
func (l *mbap) lost(doing string, err error) error {
	var step *outOfStep
	switch {
	case errors.As(err, &step):
		return fmt.Errorf("%s: received %w", l.address, err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		how := "closed by the device"
		if errors.Is(err, syscall.ECONNRESET) {
			how = "reset by the device"
		}
		var part error
		if doing == receiving {
			part = l.in.partial() // only who receives may look
		}
		switch {
		case part != nil:
			how += fmt.Sprintf(" after %s", part)
		case !l.answered:
			how += " before any answer (many devices serve one master at a time: is another one connected, a SCADA system or a second gateway?)"
		}
		return fmt.Errorf("%s: %s: %w", l.address, how, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %s: %w (nothing listens there: is Modbus over UDP switched on in the device, and is the port right?)", l.address, doing, err)
	}
	return fmt.Errorf("%s: %s: %w%s", l.address, doing, err, tlsHint(err))
}
