package modbustest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// MBAP names the framing of Modbus/TCP, for Pipe.
const MBAP = "mbap"

// Pipe returns the master's end of a line within this process, in the framing
// MBAP, RTU or ASCII. It knows no addresses and no waiting by the system, so
// that it can be used in a bubble of testing/synctest. It counts among Conns.
func (s *Server) Pipe(mode string) net.Conn {
	f := newMBAP()
	if mode != MBAP {
		f, _ = serial(mode)
	}
	master, slave := newCable()
	if l := newLink(s, slave, f); !s.admit(l) {
		l.close()
	}
	return master
}

// Cable is like Pipe for a serial line that keeps the time of o.Baud, as a pty
// does, in the time of a bubble. o.Link has no meaning.
func (s *Server) Cable(o PTYOptions) net.Conn {
	f, bits := serial(o.Mode)
	master, slave := newCable()
	l := newLink(s, slave, f)
	l.echo = o.Echo
	if o.Baud > 0 {
		l.pace = newPace(o.Baud, bits, slave.waiting)
		l.pace.nap = time.Sleep
	}
	if !s.admit(l) {
		l.close()
	}
	return master
}

// serial is the framing of a serial line and the bits of a character. A mode
// that is none is taken for RTU.
func serial(mode string) (framing, int) {
	if mode == ASCII {
		return newASCII(), asciiBits
	}
	return newRTU(), rtuBits
}

// maxHeld bounds the bytes that wait in one direction of a cable; more are
// lost, as in a port that overruns.
const maxHeld = 64 << 10

// lane is one direction of a cable.
type lane struct {
	mu     sync.Mutex // guards what follows
	held   []byte
	ended  bool
	limit  time.Time     // for reading
	change chan struct{} // closed when any of it has changed
}

// update changes a lane and tells who waits.
func (d *lane) update(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.change)
	d.change = make(chan struct{})
}

// cable is one end of a line within this process. Writing never waits.
type cable struct{ in, out *lane }

func newCable() (a, b *cable) {
	x, y := &lane{change: make(chan struct{})}, &lane{change: make(chan struct{})}
	return &cable{x, y}, &cable{y, x}
}

// Read waits for bytes until the read deadline.
func (c *cable) Read(b []byte) (int, error) {
	for {
		c.in.mu.Lock()
		n := copy(b, c.in.held)
		c.in.held = c.in.held[:copy(c.in.held, c.in.held[n:])]
		ended, limit, change := c.in.ended, c.in.limit, c.in.change
		c.in.mu.Unlock()
		switch {
		case !limit.IsZero() && !time.Now().Before(limit) && n == 0:
			return 0, os.ErrDeadlineExceeded
		case n > 0 || len(b) == 0:
			return n, nil
		case ended:
			return 0, io.EOF
		}
		waitChange(change, limit)
	}
}

func waitChange(change <-chan struct{}, limit time.Time) {
	var timeout <-chan time.Time
	if !limit.IsZero() {
		t := time.NewTimer(time.Until(limit))
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-change:
	case <-timeout:
	}
}

// Write sends b.
func (c *cable) Write(b []byte) (n int, err error) {
	c.out.update(func() {
		if c.out.ended {
			err = io.ErrClosedPipe
			return
		}
		c.out.held = append(c.out.held, b[:min(len(b), maxHeld-len(c.out.held))]...)
		n = len(b)
	})
	return n, err
}

// Close ends both directions.
func (c *cable) Close() error {
	for _, d := range []*lane{c.in, c.out} {
		d.update(func() { d.ended = true })
	}
	return nil
}

// SetReadDeadline limits Read, also one that waits already.
func (c *cable) SetReadDeadline(t time.Time) error {
	c.in.update(func() { c.in.limit = t })
	return nil
}

// SetWriteDeadline does nothing: writing never waits.
func (c *cable) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline.
func (c *cable) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// LocalAddr names no place.
func (c *cable) LocalAddr() net.Addr { return nowhere{} }

// RemoteAddr names no place.
func (c *cable) RemoteAddr() net.Addr { return nowhere{} }

type nowhere struct{}

func (nowhere) Network() string { return "cable" }
func (nowhere) String() string  { return "cable" }

// waiting reports whether there are bytes to read.
func (c *cable) waiting() bool {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return len(c.in.held) > 0
}
