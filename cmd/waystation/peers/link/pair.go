package link

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	packet = 1400      // bytes that are lost together
	chunk  = 32 << 10  // bytes read at once from a link without a rate
	flying = 4096      // packets under way on one connection, at most
	idle   = time.Hour // after that a lost connection is ended
)

// pair is one connection through the line: two sockets and two pumps.
type pair struct {
	link           *Link
	client, server net.Conn
	lost           atomic.Bool
	gone           chan struct{} // closed when it has ended
	once           sync.Once
}

// segment is bytes under way.
type segment struct {
	data []byte
	due  time.Time // of its arrival
}

// carry moves bytes both ways until one side ends.
func (l *Link) carry(client, server net.Conn) {
	p := &pair{link: l, client: client, server: server, gone: make(chan struct{})}
	l.mu.Lock()
	l.pairs[p] = struct{}{}
	l.mu.Unlock()
	if l.ctx.Err() != nil { // Close came between
		p.reset()
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(client, server, &l.up) })
	pumps.Go(func() { p.pump(server, client, &l.down) })
	pumps.Wait()
	p.finish(func(c net.Conn) { _ = c.Close() })
	l.mu.Lock()
	delete(l.pairs, p)
	l.mu.Unlock()
}

// pump reads packets from one side and has them written to the other when they
// arrive. When the sender has ended, what is under way still arrives, and then
// the other side is ended too.
func (p *pair) pump(from, to net.Conn, d *direction) {
	way := make(chan segment, flying)
	var writer sync.WaitGroup
	writer.Go(func() { p.deliver(to, way) })
	p.collect(from, d, way)
	close(way)
	writer.Wait()
}

// collect reads until the sender or the link ends.
func (p *pair) collect(from net.Conn, d *direction, way chan<- segment) {
	for {
		size := chunk
		if now := p.link.current(); now.Rate > 0 || now.Loss > 0 {
			size = packet
		}
		data := make([]byte, size)
		n, err := from.Read(data)
		if n > 0 && !p.lost.Load() && !p.send(data[:n], d, way) {
			return
		}
		if err != nil {
			return
		}
	}
}

// send puts bytes on the line; false says that the connection has ended.
func (p *pair) send(data []byte, d *direction, way chan<- segment) bool {
	if !p.link.speaks() {
		return false
	}
	profile := p.link.current()
	left := d.occupy(len(data), profile.Rate)
	if !p.pause(time.Until(left)) {
		return false
	}
	d.bytes.Add(int64(len(data)))
	select {
	case way <- segment{data, left.Add(profile.Delay + p.link.stall(profile.Loss))}:
		return true
	case <-p.gone:
		return false
	}
}

// deliver writes in order: what is late delays all behind it.
func (p *pair) deliver(to net.Conn, way <-chan segment) {
	defer p.end(to)
	for s := range way {
		if !p.pause(time.Until(s.due)) || !p.link.speaks() {
			return
		}
		if p.lost.Load() {
			continue
		}
		if _, err := to.Write(s.data); err != nil {
			p.reset()
			return
		}
	}
}

// end tells the receiver that its peer has ended; on a lost connection nobody
// is told, and the pair lives until Reset or Close.
func (p *pair) end(to net.Conn) {
	if p.lost.Load() {
		p.pause(idle)
		return
	}
	if tcp, ok := to.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
		return
	}
	_ = to.Close()
}

// pause waits; false says that the connection has ended.
func (p *pair) pause(d time.Duration) bool {
	if d <= 0 {
		select {
		case <-p.gone:
			return false
		default:
			return true
		}
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.gone:
		return false
	}
}

func (p *pair) reset() { p.finish(reset) }

// finish ends both sockets, once.
func (p *pair) finish(end func(net.Conn)) {
	p.once.Do(func() {
		close(p.gone)
		end(p.client)
		end(p.server)
	})
}

// reset closes with RST.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// occupy has the line send n bytes after all it was given before, and returns
// when it has.
func (d *direction) occupy(n, rate int) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); d.busy.Before(now) {
		d.busy = now
	}
	if rate > 0 {
		d.busy = d.busy.Add(time.Duration(n) * time.Second / time.Duration(rate))
	}
	return d.busy
}

func (l *Link) current() Profile {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.profile
}

// stall is how much later a packet arrives because it was lost.
func (l *Link) stall(loss float64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if loss <= 0 || l.random.Float64() >= loss {
		return 0
	}
	return minRTO + time.Duration(l.random.Int64N(int64(maxRTO-minRTO)))
}
