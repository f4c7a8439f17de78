package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// readBuffer is what one read takes at most.
const readBuffer = 64 << 10

// smallPacket is what is waited for as a whole; a larger packet that is not yet
// there is read piece by piece.
const smallPacket = 4 << 10

// conn is the connection that paho is given. Read takes every PUBLISH for the
// inbox and hands on the rest; acknowledgements are written beside what paho
// writes.
type conn struct {
	net.Conn // the connection as dialled, secured or not
	in       *bufio.Reader
	inbox    *inbox
	filters  int           // how many codes the SUBACK must have
	max      int           // largest PUBLISH taken whole, bytes after the fixed header
	timeout  time.Duration // for one write
	pass     []byte        // rest of a packet that paho is reading
	open     bool          // CONNACK has been seen
	large    *large        // packet being read piece by piece; nil when none is
	pinged   atomic.Bool   // a PINGREQ was written and not yet answered
	subID    atomic.Uint32 // packet identifier that paho gave its SUBSCRIBE

	writeMu sync.Mutex // guards out and the writing side of the connection; taken before ackMu
	out     []byte     // acknowledgements being written
	try     *paced     // for writes that do not block; nil when the connection cannot

	ackMu sync.Mutex // guards acks
	acks  []byte     // acknowledgements to be written
	kick  chan struct{}

	failMu sync.Mutex // guards cause
	cause  error      // why we closed the connection; nil when we did not

	bye       atomic.Bool   // a DISCONNECT was written: the broker closes the connection
	eof       chan struct{} // nothing can be read any more
	eofOnce   sync.Once
	closed    chan struct{}
	closeOnce sync.Once
}

// lingerWait is how long a connection stays open for the broker to close it.
const lingerWait = 300 * time.Millisecond

// newConn wraps a dialled connection for a source that subscribes to filters.
func newConn(c net.Conn, box *inbox, cfg *Config) *conn {
	k := &conn{Conn: c, in: bufio.NewReaderSize(c, readBuffer), inbox: box, filters: len(cfg.Topics),
		max: int(cfg.MaxPayload) + maxTopic, timeout: cfg.Timeout, kick: make(chan struct{}, 1),
		eof: make(chan struct{}), closed: make(chan struct{})}
	k.try, _ = c.(*paced)
	go k.flusher()
	return k
}

// Write implements net.Conn for paho. Waiting acknowledgements go first, so
// that a DISCONNECT comes last. paho writes each packet whole.
func (c *conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.writeAcks(); err != nil {
		return 0, c.explain(err)
	}
	switch {
	case len(p) == 0:
	case p[0]>>4 == typePingreq:
		c.pinged.Store(true)
	case p[0]>>4 == typeSubscribe:
		p = append([]byte(nil), p...)
		c.subID.Store(uint32(renumber(p, subscribeID)))
	}
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, c.explain(err)
	}
	n, err := c.Conn.Write(p)
	_ = c.Conn.SetWriteDeadline(time.Time{}) // a deadline gone by would fail tryWrite
	if len(p) > 0 && p[0]>>4 == typeDisconnect && err == nil {
		c.bye.Store(true)
	}
	return n, c.explain(err)
}

// ack has acknowledgements written, in order. It does not block: what the
// socket does not take at once is written by flusher. After close it does
// nothing, since the broker sends the messages again.
func (c *conn) ack(packets []byte) {
	if len(packets) == 0 {
		return
	}
	c.ackMu.Lock()
	c.acks = append(c.acks, packets...)
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

// takeAcks moves waiting acknowledgements behind those being written. writeMu is held.
func (c *conn) takeAcks() {
	c.ackMu.Lock()
	defer c.ackMu.Unlock()
	c.out = append(c.out, c.acks...)
	c.acks = c.acks[:0]
}

// writeAcks writes every waiting acknowledgement. writeMu is held.
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

// flusher writes acknowledgements that could not be written at once.
func (c *conn) flusher() {
	for {
		select {
		case <-c.kick:
			c.writeMu.Lock()
			err := c.writeAcks()
			c.writeMu.Unlock()
			if err != nil {
				_ = c.fail(fmt.Errorf("write acknowledgements: %w", err))
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

// errClosedByBroker says that the broker ended the connection.
var errClosedByBroker = errors.New("the broker closed the connection")

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
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errClosedByBroker
	}
	return c.fail(err)
}

// ended notes that nothing can be read any more.
func (c *conn) ended() { c.eofOnce.Do(func() { close(c.eof) }) }

// forget reads on until nothing can be read any more, and drops it: nothing of
// it is acknowledged, the broker sends it again. A connection that is closed
// with bytes unread is reset, and the broker may lose what it was sent last:
// acknowledgements.
func (c *conn) forget() {
	_, _ = io.Copy(io.Discard, c.in)
	c.ended()
}

// linger waits, after a DISCONNECT, for the broker to close the connection
// (MQTT 3.1.1 section 3.14.4).
func (c *conn) linger() {
	if !c.bye.Load() {
		return
	}
	t := time.NewTimer(lingerWait)
	defer t.Stop()
	select {
	case <-c.eof:
	case <-c.closed:
	case <-t.C:
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.linger()
	err := net.ErrClosed
	c.closeOnce.Do(func() {
		close(c.closed)
		err = c.Conn.Close()
	})
	return err
}
