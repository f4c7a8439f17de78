package mqtttest

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Event is a packet seen on the wire.
type Event struct {
	Conn    int       // which connection, 1, 2, 3 …
	Type    byte      // MQTT control packet type: 3 PUBLISH, 4 PUBACK, 5 PUBREC, 12 PINGREQ …
	Out     bool      // from the broker to the client
	ID      uint16    // packet identifier; 0 when it has none
	First   byte      // first byte of the packet, with its flags
	Topic   string    // of a PUBLISH
	Payload string    // of a PUBLISH; of an acknowledgement that of the message it acknowledges
	At      time.Time // when it passed
}

// stream cuts one direction of a connection into packets.
type stream struct{ buf []byte }

// feed adds bytes and calls fn for every packet they complete.
func (s *stream) feed(p []byte, fn func(first byte, body []byte)) {
	s.buf = append(s.buf, p...)
	for {
		size, n, i := 0, 0, 1
		for ; i < len(s.buf) && i < 5; i++ {
			size |= int(s.buf[i]&0x7f) << (7 * (i - 1))
			if s.buf[i]&0x80 == 0 {
				n = i + 1
				break
			}
		}
		if n == 0 || len(s.buf) < n+size {
			return
		}
		fn(s.buf[0], s.buf[n:n+size])
		s.buf = append([]byte(nil), s.buf[n+size:]...)
	}
}

// event reads what the spy shows of a packet.
func event(first byte, body []byte) Event {
	e := Event{Type: first >> 4, First: first, At: time.Now()}
	if e.Type == 3 && len(body) >= 2 {
		n := 2 + int(body[0])<<8 + int(body[1])
		if n > len(body) {
			return e
		}
		e.Topic, body = string(body[2:n]), body[n:]
		if first>>1&3 > 0 && len(body) >= 2 {
			e.ID, body = uint16(body[0])<<8|uint16(body[1]), body[2:]
		}
		e.Payload = string(body)
		return e
	}
	if len(body) >= 2 && e.Type >= 4 && e.Type <= 11 {
		e.ID = uint16(body[0])<<8 | uint16(body[1])
	}
	return e
}

// spied is a connection of the broker that is watched.
type spied struct {
	net.Conn
	b       *Broker
	number  int
	mu      sync.Mutex // guards what follows
	in, out stream
	sent    map[uint16]string // payloads by packet identifier
	closed  sync.Once
	gone    chan struct{}
	holds   atomic.Bool // holds Broker.pubMu while its session is handed over
}

// Read implements net.Conn: what the client sends.
func (c *spied) Read(p []byte) (int, error) {
	if err := c.b.swallow(c); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if err := c.b.swallow(c); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in.feed(p[:max(n, 0)], func(first byte, body []byte) {
		e := event(first, body)
		e.Conn = c.number
		if e.Type == 4 || e.Type == 5 {
			e.Payload = c.sent[e.ID]
		}
		c.b.note(e)
	})
	return n, err
}

// Write implements net.Conn: what the broker sends. It is noted before it is
// written, lest its acknowledgement is seen first.
func (c *spied) Write(p []byte) (int, error) {
	if err := c.b.swallow(c); err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.out.feed(p, func(first byte, body []byte) {
		e := event(first, body)
		e.Conn, e.Out = c.number, true
		if e.Type == 3 && e.ID != 0 {
			c.sent[e.ID] = e.Payload
		}
		c.b.note(e)
	})
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *spied) Close() error {
	c.closed.Do(func() {
		close(c.gone)
		c.b.forget(c)
	})
	return c.Conn.Close()
}

// reset closes the connection without a goodbye.
func (c *spied) reset(tcp net.Conn) {
	if t, ok := tcp.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = tcp.Close()
	_ = c.Close()
}
