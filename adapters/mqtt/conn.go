package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// readBuffer is what one read takes at most.
const readBuffer = 64 << 10

// conn is the connection that paho is given. Read hands it every packet but
// PUBLISH at QoS 0 and 1, which go to the inbox; PUBACKs are written beside
// what paho writes.
type conn struct {
	net.Conn // the connection as dialled, secured or not
	in       *bufio.Reader
	inbox    *inbox
	max      int           // largest PUBLISH taken whole, bytes after the fixed header
	timeout  time.Duration // for one write
	pass     []byte        // rest of a packet that paho is reading

	writeMu sync.Mutex // guards out and the writing side of the connection; taken before ackMu
	out     []byte     // PUBACKs being written
	try     *paced     // for writes that do not block; nil when the connection cannot

	ackMu sync.Mutex // guards acks
	acks  []byte     // PUBACKs to be written
	kick  chan struct{}

	failMu sync.Mutex // guards cause
	cause  error      // why we closed the connection; nil when we did not

	closed    chan struct{}
	closeOnce sync.Once
}

// newConn wraps a dialled connection. transport is the TCP connection under a
// secured one, or the same.
func newConn(c net.Conn, box *inbox, maxBody int, timeout time.Duration) *conn {
	k := &conn{Conn: c, in: bufio.NewReaderSize(c, readBuffer), inbox: box, max: maxBody, timeout: timeout,
		kick: make(chan struct{}, 1), closed: make(chan struct{})}
	k.try, _ = c.(*paced)
	go k.flusher()
	return k
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
	first, header, remaining, err := c.header()
	if err != nil {
		return err
	}
	diverted := first>>4 == typePublish && first>>1&3 != 2
	if diverted && remaining > c.max {
		return c.oversize(first, header, remaining)
	}
	size := header + remaining
	if size > readBuffer || !diverted {
		return c.whole(first, header, size, diverted)
	}
	packet, err := c.peek(size)
	if err != nil {
		return err
	}
	m, err := parsePublish(first, packet[header:])
	if err != nil {
		return err
	}
	if err := c.inbox.add(c, m); err != nil {
		return err
	}
	_, err = c.in.Discard(size)
	return err
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

// whole reads a packet into memory of its own: one for paho, or a large PUBLISH.
func (c *conn) whole(first byte, header, size int, diverted bool) error {
	if err := c.inbox.flush(c); err != nil {
		return err
	}
	if size-header > c.max+maxTopic {
		return fmt.Errorf("%w: packet type %d of %d bytes", errMalformed, first>>4, size)
	}
	packet := make([]byte, size)
	if _, err := io.ReadFull(c.in, packet); err != nil {
		return err
	}
	if !diverted {
		c.pass = packet
		return nil
	}
	m, err := parsePublish(first, packet[header:])
	if err != nil {
		return err
	}
	if err := c.inbox.add(c, m); err != nil {
		return err
	}
	return c.inbox.flush(c)
}

// Bounds of what is kept of a PUBLISH that is too large.
const (
	maxTopic  = 2 + 65535 + 2 // topic with its length, and the packet identifier
	keepBytes = 4 << 10
)

// oversize reads the head of a PUBLISH that is too large to store, skips the
// rest and has the head stored as a record of bad quality.
func (c *conn) oversize(first byte, header, remaining int) error {
	if err := c.inbox.flush(c); err != nil {
		return err
	}
	if _, err := c.in.Discard(header); err != nil {
		return err
	}
	head := make([]byte, min(remaining, maxTopic+keepBytes))
	if _, err := io.ReadFull(c.in, head); err != nil {
		return err
	}
	m, err := parsePublish(first, head)
	if err != nil {
		return err
	}
	size := remaining - len(head) + len(m.payload)
	m.payload = m.payload[:min(len(m.payload), keepBytes)]
	for left := remaining - len(head); left > 0; { // in pieces: Discard takes an int and this one may be large
		n, err := c.in.Discard(min(left, readBuffer))
		if left -= n; err != nil {
			return err
		}
	}
	return c.inbox.addBad(c, m, fmt.Sprintf("payload of %d bytes exceeds max_payload; the first %d are kept", size, len(m.payload)))
}

// Write implements net.Conn for paho. Waiting PUBACKs go first, so that a
// DISCONNECT comes last. paho writes each packet whole.
func (c *conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.writeAcks(); err != nil {
		return 0, err
	}
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	_ = c.Conn.SetWriteDeadline(time.Time{}) // a deadline gone by would fail tryWrite
	return n, c.explain(err)
}

// ack has PUBACKs written for ids, in order. It does not block: what the socket
// does not take at once is written by flusher. After close it does nothing,
// since the broker sends the messages again.
func (c *conn) ack(ids []uint16) {
	c.ackMu.Lock()
	c.acks = appendPuback(c.acks, ids)
	c.ackMu.Unlock()
	if c.try != nil && c.writeMu.TryLock() {
		c.takeAcks()
		n, _ := c.try.tryWrite(c.out)
		c.out = c.out[:copy(c.out, c.out[n:])]
		left := len(c.out)
		c.writeMu.Unlock()
		if left == 0 {
			return
		}
	}
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// takeAcks moves waiting PUBACKs behind those being written. writeMu is held.
func (c *conn) takeAcks() {
	c.ackMu.Lock()
	defer c.ackMu.Unlock()
	c.out = append(c.out, c.acks...)
	c.acks = c.acks[:0]
}

// writeAcks writes every waiting PUBACK. writeMu is held.
func (c *conn) writeAcks() error {
	c.takeAcks()
	if len(c.out) == 0 {
		return nil
	}
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	n, err := c.Conn.Write(c.out)
	_ = c.Conn.SetWriteDeadline(time.Time{})
	c.out = c.out[:copy(c.out, c.out[n:])]
	return err
}

// flusher writes PUBACKs that could not be written at once.
func (c *conn) flusher() {
	for {
		select {
		case <-c.kick:
			c.writeMu.Lock()
			err := c.writeAcks()
			c.writeMu.Unlock()
			if err != nil {
				_ = c.fail(fmt.Errorf("write PUBACK: %w", err))
				return
			}
		case <-c.closed:
			return
		}
	}
}

// fail closes the connection and keeps why, for Read to return: paho takes
// "use of closed network connection" for a wanted end and would report nothing.
func (c *conn) fail(cause error) error {
	c.failMu.Lock()
	if c.cause == nil {
		c.cause = cause
	}
	cause = c.cause
	c.failMu.Unlock()
	_ = c.Close()
	return cause
}

// why returns why we closed the connection, nil when we did not.
func (c *conn) why() error {
	c.failMu.Lock()
	defer c.failMu.Unlock()
	return c.cause
}

// explain returns our own reason for err when there is one.
func (c *conn) explain(err error) error {
	if err == nil {
		return nil
	}
	if cause := c.why(); cause != nil {
		return cause
	}
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return c.fail(err)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.closeOnce.Do(func() {
		close(c.closed)
		err = c.Conn.Close()
		c.inbox.release()
	})
	return err
}
