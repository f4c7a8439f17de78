package mqtt

import (
	"fmt"
	"runtime/debug"
)

// Bounds of what is kept of a PUBLISH that is too large.
const (
	maxTopic  = 2 + 65535 + 2 // topic with its length, and the packet identifier
	keepBytes = 4 << 10
)

// large is a packet that is read piece by piece, because it is larger than the
// buffer, is for paho, or comes slowly.
type large struct {
	header int    // length of the fixed header
	packet []byte // what is kept of it, from its first byte
	have   int    // bytes of packet read
	skip   int    // bytes after packet, to be read and forgotten
	cut    int    // what skip was
}

// Read implements net.Conn for paho. It returns only what is not a PUBLISH.
func (c *conn) Read(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			n, err = 0, c.fail(fmt.Errorf("panic while reading: %v\n%s", r, debug.Stack()))
		}
	}()
	for len(c.pass) == 0 {
		if err := c.next(); err != nil {
			c.ended()
			_ = c.inbox.flush(c) // what came before what is malformed
			return 0, c.explain(err)
		}
	}
	n = copy(p, c.pass)
	c.pass = c.pass[n:]
	return n, nil
}

// next takes one packet: a PUBLISH goes to the inbox, anything else to pass.
// Whatever the inbox has collected is delivered before a read that may wait.
func (c *conn) next() error {
	if c.large != nil {
		return c.resume()
	}
	first, header, remaining, err := c.header()
	if err != nil {
		return err
	}
	size := header + remaining
	switch kind := first >> 4; {
	case c.open == (kind == typeConnack):
		return fmt.Errorf("%w: packet type %d before CONNACK, or a second CONNACK", errMalformed, kind)
	case kind != typePublish:
		if err := checkControl(kind, remaining, c.filters); err != nil {
			return err
		}
		c.large = &large{header: header, packet: make([]byte, size)}
		return c.resume()
	case remaining > c.max:
		cut := remaining - min(remaining, maxTopic+keepBytes)
		c.large = &large{header: header, packet: make([]byte, size-cut), skip: cut, cut: cut}
		return c.resume()
	case size > readBuffer || size > smallPacket && c.in.Buffered() < size:
		c.large = &large{header: header, packet: make([]byte, size)}
		return c.resume()
	}
	packet, err := c.peek(size)
	if err != nil {
		return err
	}
	if err := c.take(packet, header, 0); err != nil {
		return err
	}
	_, err = c.in.Discard(size)
	return err
}

// take gives a PUBLISH to the inbox. cut is how many bytes of it were skipped.
func (c *conn) take(packet []byte, header, cut int) error {
	m, err := parsePublish(packet[0], packet[header:])
	if err != nil {
		return err
	}
	size := len(m.payload) + cut
	if size <= c.max-maxTopic {
		return c.inbox.add(c, m)
	}
	m.payload = m.payload[:min(len(m.payload), keepBytes)]
	return c.inbox.addBad(c, m, fmt.Sprintf("payload of %d bytes exceeds max_payload; the first %d are kept", size, len(m.payload)))
}

// header waits for a whole fixed header.
func (c *conn) header() (first byte, header, remaining int, err error) {
	for n := 2; n <= maxHeader; n++ {
		p, err := c.peek(n)
		if err != nil {
			return 0, 0, 0, err
		}
		first, header, remaining, ok, err := fixedHeader(p)
		if err != nil || ok {
			return first, header, remaining, err
		}
	}
	return 0, 0, 0, errMalformed
}

// peek returns the next n bytes, delivering what is collected before a read
// that could wait or move the bytes it points to.
func (c *conn) peek(n int) ([]byte, error) {
	if c.in.Buffered() < n {
		if err := c.inbox.flush(c); err != nil {
			return nil, err
		}
	}
	return c.in.Peek(n)
}

// resume goes on reading the packet in large. While its bytes arrive the
// connection is alive, but the answer to a PINGREQ stands behind them: paho is
// given one, lest it gives up a large message on a slow link each time.
func (c *conn) resume() error {
	l := c.large
	if err := c.inbox.flush(c); err != nil {
		return err
	}
	for l.have < len(l.packet) || l.skip > 0 {
		if l.have < len(l.packet) {
			n, err := c.in.Read(l.packet[l.have:])
			if l.have += n; err != nil {
				return err
			}
		} else {
			n, err := c.in.Discard(min(l.skip, max(1, c.in.Buffered())))
			if l.skip -= n; err != nil {
				return err
			}
		}
		if l.packet[0]>>4 == typePublish && c.pinged.Swap(false) {
			c.pass = []byte{typePingresp << 4, 0}
			return nil
		}
	}
	c.large = nil
	if l.packet[0]>>4 != typePublish {
		return c.control(l.packet)
	}
	return c.take(l.packet, l.header, l.cut)
}

// control passes a packet on to paho.
func (c *conn) control(packet []byte) error {
	switch packet[0] >> 4 {
	case typeConnack:
		if code := packet[len(packet)-1]; code != 0 {
			return refusedError(code)
		}
		c.open = true
	case typeSuback:
		if id := renumber(packet, uint16(c.subID.Load())); id != subscribeID {
			return fmt.Errorf("%w: SUBACK for packet %d", errMalformed, id)
		}
	case typePingresp:
		c.pinged.Store(false)
	}
	c.pass = packet
	return nil
}
