package kafkatest

import (
	"context"
	"io"
	"net"
	"sync"
)

// Fault is something that happens to a connection at a ProduceRequest.
type Fault int

// The faults.
const (
	Pass      Fault = iota // nothing
	CutBefore              // the connection closes instead of the request being written
	CutMiddle              // half the request is written, then the connection closes
	CutAfter               // the broker gets the request and answers; the answer is lost with the connection
	Stall                  // the broker gets the request; nothing is ever heard of it
)

// Line dials connections and lets the planned faults happen, one for each
// ProduceRequest in the order of their writing.
type Line struct {
	mu   sync.Mutex // guards plan, sent and down
	plan []Fault
	sent int
	down bool

	hit chan struct{} // one token for each fault that happened
}

// NewLine returns a line without faults.
func NewLine() *Line { return &Line{hit: make(chan struct{}, 1000)} }

// Plan adds faults for the next ProduceRequests.
func (l *Line) Plan(f ...Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plan = append(l.plan, f...)
}

// Clear drops the faults that have not happened.
func (l *Line) Clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plan = nil
}

// Down makes dials fail until called with false.
func (l *Line) Down(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
}

// Sent counts the ProduceRequests seen, whatever became of them.
func (l *Line) Sent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// Hit receives a token for each fault that happened.
func (l *Line) Hit() <-chan struct{} { return l.hit }

// Dial opens a connection with the faults of the line.
func (l *Line) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	down := l.down
	l.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: io.ErrClosedPipe}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &faulty{Conn: c, line: l, closed: make(chan struct{})}, nil
}

// next returns the fault for a ProduceRequest.
func (l *Line) next() Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if len(l.plan) == 0 {
		return Pass
	}
	f := l.plan[0]
	l.plan = l.plan[1:]
	if f != Pass {
		select {
		case l.hit <- struct{}{}:
		default:
		}
	}
	return f
}

// faulty is a connection of a Line. A write and a read may run at once; each
// kind by one goroutine at a time.
type faulty struct {
	net.Conn
	line   *Line
	mu     sync.Mutex // guards fault
	fault  Fault
	once   sync.Once
	closed chan struct{}
}

// Write implements net.Conn. sarama writes each request with one call.
func (c *faulty) Write(b []byte) (int, error) {
	if len(b) < 8 || b[4] != 0 || b[5] != 0 { // api_key 0: Produce
		return c.Conn.Write(b)
	}
	f := c.line.next()
	c.mu.Lock()
	c.fault = f
	c.mu.Unlock()
	switch f {
	case CutBefore:
		_ = c.Close()
		return 0, net.ErrClosed
	case CutMiddle:
		n, _ := c.Conn.Write(b[:len(b)/2])
		_ = c.Close()
		return n, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// Read implements net.Conn.
func (c *faulty) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	f := c.fault
	c.mu.Unlock()
	switch f {
	case CutAfter:
		_ = c.Close()
		return 0, io.EOF
	case Stall:
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

// Close implements net.Conn.
func (c *faulty) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
