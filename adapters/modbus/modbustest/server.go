package modbustest

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Server is one plant: units, and lines on which a master reaches them. Every
// line leads to every unit. Its zero value is not fit for use: see New.
type Server struct {
	units  [256]atomic.Pointer[Unit]
	faults script
	stats  stats

	number  atomic.Int64 // requests so far: their order
	gateway atomic.Int64 // nanoseconds until exception 11 for a silent unit; below 0: silence

	ending sync.WaitGroup // goroutines of the lines

	mu     sync.Mutex // guards what follows
	lines  []*listener
	links  map[*link]struct{}
	conns  int // of links
	most   int // of conns; 0: no limit
	cut    bool
	closed bool
}

// stats are what a server counted.
type stats struct {
	requests, answers, exceptions, unknown, broken, collisions, connections atomic.Int64
}

// Counters are what a server has seen since it was made.
type Counters struct {
	Requests    int64 `json:"requests"`    // well-formed ones, to whatever unit
	Answers     int64 `json:"answers"`     // frames sent, those with exceptions and those spoilt by a fault included
	Exceptions  int64 `json:"exceptions"`  // answers that were exceptions
	Unknown     int64 `json:"unknown"`     // requests to units that are not there
	Broken      int64 `json:"broken"`      // frames from the master that were none: check sum, length, protocol identifier
	Collisions  int64 `json:"collisions"`  // requests lost because something else was on the line (pty with Baud)
	Connections int64 `json:"connections"` // accepted
}

// New makes a plant without units and lines.
func New() *Server {
	s := &Server{links: map[*link]struct{}{}}
	s.gateway.Store(-1)
	return s
}

// Unit returns the unit with this identifier, which is made when it is not
// there. A new unit has every register, all zero.
func (s *Server) Unit(id byte) *Unit {
	if u := s.units[id].Load(); u != nil {
		return u
	}
	s.units[id].CompareAndSwap(nil, newUnit(id))
	return s.units[id].Load()
}

// Remove takes a unit from the line: from now on nobody answers for it.
func (s *Server) Remove(id byte) { s.units[id].Store(nil) }

// Gateway makes the server behave as a gateway between TCP and a serial line:
// for a unit that is dead or not there it answers exception 11 after a time,
// on lines with MBAP. A time below 0 brings back the silence.
func (s *Server) Gateway(after time.Duration) { s.gateway.Store(int64(after)) }

// Fault gives the faults of the next requests to any unit, one after the other
// and over again. It is for requests whose unit has no fault of its own.
func (s *Server) Fault(f ...Fault) { s.faults.set(f, false) }

// FaultOnce is like Fault, without the repetition.
func (s *Server) FaultOnce(f ...Fault) { s.faults.set(f, true) }

// FaultFunc asks choose for the fault of every request; nil ends it. It must
// not block.
func (s *Server) FaultFunc(choose func(Request) Fault) { s.faults.choose(choose) }

// Counters returns what was counted until now.
func (s *Server) Counters() Counters {
	c := &s.stats
	return Counters{c.requests.Load(), c.answers.Load(), c.exceptions.Load(), c.unknown.Load(), c.broken.Load(),
		c.collisions.Load(), c.connections.Load()}
}

// Requests returns what the units remember, in the order in which it came.
func (s *Server) Requests() []Request {
	var out []Request
	for id := range s.units {
		if u := s.units[id].Load(); u != nil {
			out = append(out, u.Requests()...)
		}
	}
	slices.SortFunc(out, func(a, b Request) int { return cmp.Compare(a.N, b.N) })
	return out
}

// Conns is how many connections are open. A pty counts as none, a UDP socket
// neither.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// MaxConns limits the connections that may be open at once, as devices do; one
// more is closed at once. 0 is no limit.
func (s *Server) MaxConns(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = n
}

// Cut closes every connection and refuses new ones; a pty is pulled.
func (s *Server) Cut() {
	s.mu.Lock()
	s.cut = true
	lines := slices.Clone(s.lines)
	s.mu.Unlock()
	for _, l := range lines {
		l.unplug()
	}
	s.closeLinks(true)
}

// Restore ends Cut: the lines are back under the same addresses.
func (s *Server) Restore() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosed
	}
	s.cut = false
	lines := slices.Clone(s.lines)
	s.mu.Unlock()
	var errs []error
	for _, l := range lines {
		errs = append(errs, l.plug())
	}
	return errors.Join(errs...)
}

// Hang closes the connections that are open; a master may come back at once.
func (s *Server) Hang() { s.closeLinks(false) }

// Close ends everything and waits for it. It may be called again.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	lines := slices.Clone(s.lines)
	s.mu.Unlock()
	for _, l := range lines {
		l.unplug()
		if l.remove != nil {
			l.remove()
		}
	}
	s.closeLinks(true)
	s.ending.Wait()
}

var errClosed = errors.New("the server is closed")

// closeLinks closes connections, or also what serves ptys and datagrams.
func (s *Server) closeLinks(all bool) {
	s.mu.Lock()
	links := make([]*link, 0, len(s.links))
	for l := range s.links {
		if all || l.counted {
			links = append(links, l)
		}
	}
	s.mu.Unlock()
	for _, l := range links {
		l.close()
	}
}

// enter makes a link known, unless the server is cut or closed.
func (s *Server) enter(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut || s.closed || l.counted && s.most > 0 && s.conns >= s.most {
		return false
	}
	s.links[l] = struct{}{}
	if l.counted {
		s.conns++
		s.stats.connections.Add(1)
	}
	return true
}

func (s *Server) leave(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.links[l]; there && l.counted {
		s.conns--
	}
	delete(s.links, l)
}
