package gatewaytest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// plant is a device like a broker: it keeps what was not acknowledged and
// sends it again on the next connection, with no window of its own.
type plant struct {
	w    *Witness
	free chan struct{} // closed when the test is over: what was leaked on purpose goes

	mu    sync.Mutex // guards what follows
	cut   bool
	value int // the last published, for a polled source
	kept  []int
	line  *line
	wg    sync.WaitGroup
}

// line is one connection.
type line struct {
	p      *plant
	in     chan int
	broken chan struct{}
	news   chan struct{}
	sent   map[int]bool
}

var errLine = errors.New("dial plant: connection refused")

func newPlant(tb testing.TB, w *Witness) *plant {
	p := &plant{w: w, free: make(chan struct{})}
	tb.Cleanup(func() { close(p.free) })
	return p
}

func (p *plant) conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line == nil {
		return 0
	}
	return 1
}

func (p *plant) publish(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.value = n
	p.kept = append(p.kept, n)
	if p.line != nil {
		select {
		case p.line.news <- struct{}{}:
		default:
		}
	}
}

func (p *plant) dial() (*line, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return nil, errLine
	}
	if p.line != nil { // a second connection takes the session over, as with one client id
		close(p.line.broken)
	}
	l := &line{p: p, in: make(chan int), broken: make(chan struct{}), news: make(chan struct{}, 1), sent: map[int]bool{}}
	p.line = l
	p.wg.Go(l.serve)
	return l, nil
}

// serve sends what is kept, in order.
func (l *line) serve() {
	for {
		n := l.next()
		if n == 0 {
			select {
			case <-l.news:
			case <-l.broken:
				return
			}
			continue
		}
		l.p.w.Sent(n)
		select {
		case l.in <- n:
		case <-l.broken:
			return
		}
	}
}

func (l *line) next() int {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	for _, n := range l.p.kept {
		if !l.sent[n] {
			l.sent[n] = true
			return n
		}
	}
	return 0
}

// ack is dropped in silence when the connection is gone, as paho does.
func (l *line) ack(n int) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.p.line != l {
		return
	}
	for i, k := range l.p.kept {
		if k == n {
			l.p.kept = append(l.p.kept[:i:i], l.p.kept[i+1:]...)
			l.p.w.Acked(n)
			return
		}
	}
}

func (l *line) close() {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.p.line == l {
		l.p.line = nil
		close(l.broken)
	}
}

func (p *plant) setCut(cut bool) {
	p.mu.Lock()
	l := p.line
	p.cut = cut
	p.mu.Unlock()
	if cut && l != nil {
		l.close()
	}
}

func (p *plant) stop() {
	p.setCut(true)
	p.wg.Wait()
}

const fakeInFlight = 8

// harness is a device with a source that has one fault, or none ("").
func harness(fault string) Harness {
	return Harness{
		Acks: true, InFlight: fakeInFlight,
		Number: func(r *gateway.Record) (int, bool) {
			if len(r.Values) != 1 {
				return 0, false
			}
			return int(r.Values[0].Int()), true
		},
		Start: func(tb testing.TB, w *Witness) *Device {
			p := newPlant(tb, w)
			return &Device{Source: &subscriber{p: p, fault: fault}, Publish: p.publish, Conns: p.conns,
				Cut: func() { p.setCut(true) }, Restore: func() { p.setCut(false) }, Stop: p.stop}
		},
	}
}

// polledHarness is the same for a source that asks for the present value.
func polledHarness(fault string) Harness {
	h := harness("")
	h.Acks, h.Latest = false, true
	h.Start = func(tb testing.TB, w *Witness) *Device {
		p := newPlant(tb, w)
		return &Device{Source: &poller{p: p, fault: fault}, Publish: func(n int) { p.mu.Lock(); p.value = n; p.mu.Unlock() },
			Cut: func() { p.setCut(true) }, Restore: func() { p.setCut(false) }, Stop: p.stop}
	}
	return h
}

// poller reads the value every two milliseconds.
type poller struct {
	p     *plant
	fault string
}

// Run implements gateway.Source.
func (s *poller) Run(ctx context.Context, in *gateway.Intake) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	free := make(chan struct{}, fakeInFlight/2)
	for range cap(free) {
		free <- struct{}{}
	}
	last := 0
	for {
		s.p.mu.Lock()
		n, cut := s.p.value, s.p.cut
		s.p.mu.Unlock()
		if cut {
			return errLine
		}
		in.Up()
		if s.fault == "backwards" && last > 3 {
			n, last = last-1, 0
		} else {
			last = n
		}
		select {
		case <-free:
			in.Deliver([]gateway.Record{numbered(n)}, func(error) { free <- struct{}{} })
		default: // the queue is behind: a missed poll
			if s.fault == "unbounded" {
				in.Deliver([]gateway.Record{numbered(n)}, nil)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func numbered(n int) gateway.Record {
	return gateway.Record{Device: "pump", Name: "count", Values: []gateway.Value{gateway.IntValue("n", int64(n))}}
}
