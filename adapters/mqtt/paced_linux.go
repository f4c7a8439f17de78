package mqtt

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// paced reads a TCP connection in few large pieces under flow. One wake-up of
// a Go process costs more than handling a hundred small messages, and the
// runtime is woken for every segment that arrives. While messages flow, paced
// therefore sleeps a few milliseconds before it reads, with the socket's
// low-water mark (SO_RCVLOWAT) raised so that nothing wakes it meanwhile.
// After a small read the mark is 1 again: a single message is never delayed.
type paced struct {
	net.Conn
	raw  syscall.RawConn
	pace pacer
	low  int  // the low-water mark as set
	flow bool // the last read was large: sleep before the next
	last time.Time
}

// Bounds of paced reading.
const (
	flowBytes = 200       // a read of more means flow
	highMark  = 128 << 10 // low-water mark while asleep: a full buffer ends the sleep early
)

// newPaced wraps a TCP connection; any other is returned as it is.
func newPaced(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	return &paced{Conn: c, raw: raw, low: 1, pace: newPacer()}
}

// Read implements net.Conn.
func (r *paced) Read(p []byte) (n int, err error) {
	early := 0 // what was taken before the pause was over
	if r.flow {
		if early, err = r.rest(p, r.pace.gap()-time.Since(r.last)); err != nil {
			return early, err
		}
	}
	ctrl := r.raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), p[early:])
		return true // take what is there, whatever the mark
	})
	if ctrl != nil {
		return early, ctrl // deadline, closed
	}
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		if n, err = 0, nil; early == 0 {
			r.mark(1) // always before a read that may park
			n, err = r.Conn.Read(p)
		}
	case err != nil:
		return early, err
	case n == 0 && len(p) > early:
		return early, io.EOF
	}
	n = max(n, 0) + early
	r.last = time.Now()
	r.flow = n > flowBytes && n < len(p) // a full buffer is read on at once
	if n > flowBytes {
		r.pace.read(n)
		r.mark(highMark)
	} else {
		r.pace.idle()
		r.mark(1)
	}
	return n, err
}

// ackLead is how long before the end of a pause the TCP acknowledgement is sent
// under light flow.
const ackLead = time.Millisecond

// rest sleeps for d and returns how much it has read into p meanwhile.
//
// A broker that leaves Nagle's algorithm on (mosquitto's default) has one small
// segment under way and holds back what follows until that is acknowledged. Our
// kernel acknowledges with the read, or with the PUBACK after the commit, and
// what was held back would wait for the read after. So a little before the
// pause is over what is there is read and acknowledged at once (tcp(7),
// TCP_QUICKACK, which acts only on an empty receive queue); the rest comes in
// time for the read that ends the pause. Under dense flow segments are full,
// and nothing is held back.
func (r *paced) rest(p []byte, d time.Duration) (n int, err error) {
	if d <= ackLead || r.pace.dense() {
		if d > 0 {
			time.Sleep(d)
		}
		return 0, nil
	}
	time.Sleep(d - ackLead)
	ctrl := r.raw.Read(func(fd uintptr) bool {
		if n, err = syscall.Read(int(fd), p); n > 0 {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1) // best effort
		}
		return true
	})
	n = max(n, 0)
	switch {
	case ctrl != nil:
		return n, ctrl
	case err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR):
		return n, err // the kernel says it only once
	case n == 0, n == len(p): // nothing yet or the end, which the read that follows finds out; or enough
		return n, nil
	}
	time.Sleep(ackLead)
	return n, nil
}

// mark sets the low-water mark.
func (r *paced) mark(n int) {
	if r.low == n {
		return
	}
	r.low = n
	_ = r.raw.Control(func(fd uintptr) { // best effort: with a mark of 1 it only costs wake-ups
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
	})
}

// tryWrite writes what the socket takes at once and never blocks. ok is false
// when the connection cannot do that.
func (r *paced) tryWrite(p []byte) (n int, ok bool) {
	err := r.raw.Write(func(fd uintptr) bool {
		var e error
		if n, e = syscall.Write(int(fd), p); e != nil {
			n = 0
		}
		return true
	})
	return n, err == nil
}
