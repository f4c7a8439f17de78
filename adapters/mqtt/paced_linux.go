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
	if r.flow {
		if d := r.pace.gap() - time.Since(r.last); d > 0 {
			time.Sleep(d)
		}
	}
	ctrl := r.raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), p)
		return true // take what is there, whatever the mark
	})
	if ctrl != nil {
		return 0, ctrl // deadline, closed
	}
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		r.mark(1) // always before a read that may park
		n, err = r.Conn.Read(p)
	case err != nil:
		return 0, err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	r.last = time.Now()
	r.flow = n > flowBytes && n < len(p) // a full buffer is read on at once
	if n > flowBytes {
		r.pace.read(n)
		r.mark(highMark)
	} else {
		r.pace.idle()
		r.mark(1)
	}
	return max(n, 0), err
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
