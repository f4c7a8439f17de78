package kafkatest

import (
	"context"
	"encoding/binary"
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
// ProduceRequest in the order of their writing, or for the requests of another
// kind.
type Line struct {
	mu   sync.Mutex // guards plan, by, sent and down
	plan []Fault
	by   map[int16][]Fault // for other requests, by API key
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

// PlanFor adds faults for the next requests with an API key.
func (l *Line) PlanFor(key int16, f ...Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if key == 0 {
		l.plan = append(l.plan, f...)
		return
	}
	if l.by == nil {
		l.by = make(map[int16][]Fault)
	}
	l.by[key] = append(l.by[key], f...)
}

// Clear drops the faults that have not happened.
func (l *Line) Clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plan, l.by = nil, nil
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

// next returns the fault for a request.
func (l *Line) next(key int16) Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	plan := l.by[key]
	if key == 0 {
		l.sent++
		plan = l.plan
	}
	if len(plan) == 0 {
		return Pass
	}
	f := plan[0]
	if key == 0 {
		l.plan = plan[1:]
	} else {
		l.by[key] = plan[1:]
	}
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
	if len(b) < 8 {
		return c.Conn.Write(b)
	}
	f := c.line.next(int16(binary.BigEndian.Uint16(b[4:]))) // api_key
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
