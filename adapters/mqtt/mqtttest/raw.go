package mqtttest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// Raw is a broker of which the test writes every byte.
type Raw struct {
	tb     testing.TB
	listen net.Listener
}

// NewRaw listens on loopback, secured when cfg is not nil.
func NewRaw(tb testing.TB, cfg *tls.Config) *Raw {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	if cfg != nil {
		l = tls.NewListener(l, cfg)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return &Raw{tb: tb, listen: l}
}

// Addr is host:port.
func (r *Raw) Addr() string { return r.listen.Addr().String() }

// Line is one connection of a Raw.
type Line struct {
	net.Conn
	tb testing.TB
	in *bufio.Reader
}

// Accept waits for a connection.
func (r *Raw) Accept() *Line {
	r.tb.Helper()
	c, err := r.listen.Accept()
	if err != nil {
		r.tb.Fatal(err)
	}
	r.tb.Cleanup(func() { _ = c.Close() })
	return &Line{Conn: c, tb: r.tb, in: bufio.NewReader(c)}
}

// Next reads one packet; ok is false at the end of the connection.
func (l *Line) Next() (first byte, body []byte, ok bool) {
	l.tb.Helper()
	_ = l.SetReadDeadline(time.Now().Add(20 * time.Second))
	first, err := l.in.ReadByte()
	size := 0
	for shift := 0; err == nil && shift < 28; shift += 7 {
		var b byte
		if b, err = l.in.ReadByte(); err == nil {
			if size |= int(b&0x7f) << shift; b&0x80 == 0 {
				break
			}
		}
	}
	body = make([]byte, size)
	if err == nil {
		_, err = io.ReadFull(l.in, body)
	}
	if ne, timeout := err.(net.Error); timeout && ne.Timeout() {
		l.tb.Errorf("waited 20s for a packet")
	}
	return first, body, err == nil
}

// Expect reads packets until one of the type comes and returns its body.
func (l *Line) Expect(kind byte) []byte {
	l.tb.Helper()
	for {
		first, body, ok := l.Next()
		if !ok {
			l.tb.Fatalf("connection ended before a packet of type %d came", kind)
		}
		if first>>4 == kind {
			return body
		}
	}
}

// End reads until the client has closed the connection, and returns the packets.
func (l *Line) End() (types []byte) {
	l.tb.Helper()
	for {
		first, _, ok := l.Next()
		if !ok {
			return types
		}
		types = append(types, first>>4)
	}
}

// Send writes bytes at once.
func (l *Line) Send(parts ...[]byte) {
	l.tb.Helper()
	_ = l.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if _, err := l.Write(bytes.Join(parts, nil)); err != nil {
		l.tb.Logf("send: %v", err)
	}
}

// SendSlow writes bytes one by one, each a segment of its own.
func (l *Line) SendSlow(parts ...[]byte) {
	l.tb.Helper()
	for _, b := range bytes.Join(parts, nil) {
		l.Send([]byte{b})
	}
}

// Handshake answers CONNECT and SUBSCRIBE with the codes.
func (l *Line) Handshake(codes ...byte) {
	l.tb.Helper()
	l.Connect()
	l.Subscribed(codes...)
}

// Connect answers CONNECT.
func (l *Line) Connect() {
	l.tb.Helper()
	l.Expect(1)
	l.Send(Connack(0))
}

// Subscribed answers SUBSCRIBE with the codes.
func (l *Line) Subscribed(codes ...byte) {
	l.tb.Helper()
	body := l.Expect(8)
	l.Send(Packet(0x90, append([]byte{body[0], body[1]}, codes...)))
}

// Packet builds a packet from its first byte and what follows the length.
func Packet(first byte, body []byte) []byte {
	p := []byte{first}
	for n := len(body); ; {
		b := byte(n & 0x7f)
		if n >>= 7; n > 0 {
			p = append(p, b|0x80)
			continue
		}
		p = append(p, b)
		return append(p, body...)
	}
}

// Connack builds a CONNACK with a return code.
func Connack(code byte) []byte { return []byte{0x20, 2, 0, code} }

// Publish builds a PUBLISH; id is left out at QoS 0.
func Publish(topic string, qos byte, id uint16, payload []byte) []byte {
	body := append([]byte{byte(len(topic) >> 8), byte(len(topic))}, topic...)
	if qos > 0 {
		body = append(body, byte(id>>8), byte(id))
	}
	return Packet(3<<4|qos<<1, append(body, payload...))
}
