package mqtt

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a connection on which we publish.
const (
	// maxTold is the longest keep-alive that brokers in clouds accept.
	maxTold = 20 * time.Minute
	// slowest is the rate, bytes per second, at which the largest message must
	// pass before the broker thinks that we are gone: 9.6 kbit/s.
	slowest = 1000
	// linkSlice is what is written at once.
	linkSlice = 16 << 10
	// maxAnswer is the largest packet a broker may send to one who only publishes.
	maxAnswer = 4
)

// errNoProgress says that a connection was given up since nothing moved on it.
var errNoProgress = errors.New("the broker is silent: nothing was confirmed and nothing was taken")

// uplink is one connection on which we publish. paho is not in it: what is
// needed of MQTT to publish at QoS 1 is five packets, and which of them were
// confirmed must outlive the connection.
type uplink struct {
	net.Conn          // as dialled, secured or not
	tcp      net.Conn // what is below it; nil when it cannot be told
	in       *bufio.Reader
	every    time.Duration // the keep-alive
	acks     chan uint16   // packet identifiers that the broker confirmed
	closed   chan struct{}
	once     sync.Once
	readers  sync.WaitGroup

	writeMu sync.Mutex   // guards the writing side
	wrote   atomic.Int64 // when something was last written, time since begin
	moved   atomic.Int64 // when there was last progress, or nothing to wait for
	open    atomic.Int64 // messages on their way, and the PINGREQ
	pinged  atomic.Bool  // one is
	begin   time.Time

	causeMu sync.Mutex // guards cause
	cause   error      // why it was closed
}

// told is the keep-alive that the broker is told, in seconds. It is longer than
// ours by what the largest message takes on a slow link: no PINGREQ can go
// between its bytes.
func (c *SinkConfig) told() int {
	d := c.KeepAlive + time.Duration(c.MaxPayload)*time.Second/slowest
	return int(min(d, maxTold).Seconds() + 0.999)
}

// connectPacket builds CONNECT (section 3.1).
func connectPacket(c *SinkConfig, password string) []byte {
	text := func(p []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint16(p, uint16(len(s))), s...)
	}
	flags := byte(0) // a session that stays
	if c.User != "" {
		flags |= 0x80
	}
	if password != "" {
		flags |= 0x40
	}
	body := append(text(nil, "MQTT"), 4, flags)
	body = binary.BigEndian.AppendUint16(body, uint16(c.told()))
	body = text(body, c.ClientID)
	if c.User != "" {
		body = text(body, c.User)
	}
	if password != "" {
		body = text(body, password)
	}
	return append(appendHeader(nil, 1<<4, len(body)), body...)
}

// appendHeader appends a fixed header (section 2.2).
func appendHeader(dst []byte, first byte, n int) []byte {
	dst = append(dst, first)
	for ; n > 0x7f; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

// newUplink introduces us to the broker on a new connection.
func newUplink(ctx context.Context, c, tcp net.Conn, cfg *SinkConfig, password string) (*uplink, error) {
	u := &uplink{Conn: c, tcp: tcp, in: bufio.NewReaderSize(c, 4<<10), every: cfg.KeepAlive, begin: time.Now(),
		acks: make(chan uint16, maxWindow), closed: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(cfg.Timeout))
	var answer [4]byte
	_, err := c.Write(connectPacket(cfg, password))
	if err == nil {
		_, err = io.ReadFull(u.in, answer[:])
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isReset(err):
		err = errors.New("connect: the broker closes the connection at once: check user, password, client_id and tls")
	case isTimeout(err):
		err = fmt.Errorf("connect: the broker did not answer within %s", cfg.Timeout)
	case err == nil && (answer[0] != typeConnack<<4 || answer[1] != 2):
		err = fmt.Errorf("connect: %w: no CONNACK", errMalformed)
	case err == nil && answer[3] != 0:
		err = refusedError(answer[3])
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	_ = c.SetDeadline(time.Time{})
	u.readers.Go(u.read)
	u.readers.Go(u.watch)
	return u, nil
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func (u *uplink) now() int64 { return int64(time.Since(u.begin)) }

// read takes what the broker says until the connection ends.
func (u *uplink) read() {
	for {
		if err := u.answer(); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errClosedByBroker
			}
			u.fail(err)
			return
		}
	}
}

// answer reads one packet. Of those that a broker may send to a client that
// has subscribed to nothing, PUBACK is the longest.
func (u *uplink) answer() error {
	var p [maxAnswer]byte
	if _, err := io.ReadFull(u.in, p[:2]); err != nil {
		return err
	}
	u.moved.Store(u.now())
	switch {
	case p[0] == typePuback<<4 && p[1] == 2:
		if _, err := io.ReadFull(u.in, p[2:]); err != nil {
			return err
		}
		select {
		case u.acks <- binary.BigEndian.Uint16(p[2:]):
			return nil
		default:
			return fmt.Errorf("%w: more PUBACKs than messages", errMalformed)
		}
	case p[0] == typePingresp<<4 && p[1] == 0:
		if u.pinged.Swap(false) {
			u.open.Add(-1)
		}
		return nil
	case p[0]>>4 == typePublish:
		return errors.New("the broker sends us messages: another client subscribes under our client_id (do this: give this sink a client_id of its own)")
	}
	return fmt.Errorf("%w: packet type %d from the broker", errMalformed, p[0]>>4)
}

// watch gives up a connection on which nothing moves while we wait for
// something, within one and a half keep-alives, and tests an idle one. Bytes
// that the far side's network takes are progress: a large message on a slow
// link takes longer than any time-out.
func (u *uplink) watch() {
	tick := time.NewTicker(u.every / 16)
	defer tick.Stop()
	queued := 0
	for {
		select {
		case <-tick.C:
		case <-u.closed:
			return
		}
		n := max(0, unsent(u.tcp))
		if n < queued || u.open.Load() == 0 {
			u.moved.Store(u.now())
		}
		queued = n
		limit := u.every
		if u.pinged.Load() && u.open.Load() == 1 {
			limit /= 2
		}
		if u.now()-u.moved.Load() > int64(limit) {
			u.fail(errNoProgress)
			return
		}
		if u.open.Load() == 0 && u.now()-u.wrote.Load() >= int64(u.every)-int64(u.every/8) {
			u.ping()
		}
	}
}

// ping sends PINGREQ unless something is being written.
func (u *uplink) ping() {
	if !u.writeMu.TryLock() {
		return
	}
	defer u.writeMu.Unlock()
	if u.pinged.Swap(true) {
		return
	}
	u.open.Add(1)
	if _, err := u.Conn.Write([]byte{typePingreq << 4, 0}); err != nil {
		u.fail(err)
	}
	u.wrote.Store(u.now())
}

// publish writes n messages, all of p. It may take long on a slow link; watch
// ends it when nothing moves.
func (u *uplink) publish(p []byte, n int) error {
	u.writeMu.Lock()
	defer u.writeMu.Unlock()
	if u.open.Add(int64(n)) == int64(n) {
		u.moved.Store(u.now())
	}
	for len(p) > 0 {
		k, err := u.Conn.Write(p[:min(len(p), linkSlice)])
		if err != nil {
			u.fail(err)
			return u.why()
		}
		if p = p[k:]; len(p) > 0 {
			u.moved.Store(u.now())
		}
		u.wrote.Store(u.now())
	}
	return nil
}

// confirmed notes that a message is no longer on its way.
func (u *uplink) confirmed() { u.open.Add(-1) }

// fail closes the connection and keeps the first reason.
func (u *uplink) fail(err error) {
	u.causeMu.Lock()
	if u.cause == nil {
		u.cause = err
	}
	u.causeMu.Unlock()
	u.shut()
}

// shut closes the connection at once.
func (u *uplink) shut() {
	u.once.Do(func() {
		close(u.closed)
		_ = u.Conn.Close()
	})
}

// why is the reason for which the connection was closed.
func (u *uplink) why() error {
	u.causeMu.Lock()
	defer u.causeMu.Unlock()
	return u.cause
}

// dead reports whether the connection is closed.
func (u *uplink) dead() bool {
	select {
	case <-u.closed:
		return true
	default:
		return false
	}
}

// end says goodbye and closes the connection.
func (u *uplink) end() {
	if !u.dead() && u.writeMu.TryLock() {
		_ = u.Conn.SetWriteDeadline(time.Now().Add(goodbyeWait))
		_, _ = u.Conn.Write([]byte{typeDisconnect << 4, 0})
		u.writeMu.Unlock()
	}
	u.fail(net.ErrClosed)
	u.readers.Wait()
}
