package modbustest

import (
	"sync"
	"time"
)

// Fault is what goes wrong with one answer. The zero value is a good answer.
// Several may go together, in the order in which a real line would have them.
type Fault struct {
	Dead  bool          // no answer
	Delay time.Duration // the answer comes that much later, and the line waits for it
	// Late sends the answer after that time, whatever is asked and answered in
	// the meantime.
	Late    time.Duration
	Dribble time.Duration // time between any two bytes
	// Garble turns that many bits over, in one run, at a place that differs
	// from answer to answer; with MBAP, which has no check sum, among the first
	// eight bytes, so that a careful master can always tell.
	Garble        int
	WrongUnit     bool   // the answer comes from the next unit
	WrongID       bool   // the transaction identifier of another request, with MBAP
	WrongProtocol bool   // a protocol identifier that is not 0, with MBAP
	WrongFunction bool   // the answer is to another function: 3 instead of 4 and so on
	Short, Long   int    // so many registers fewer or more than asked (bytes, of bits); the byte count agrees
	WrongCount    bool   // the byte count disagrees with the bytes
	Exception     byte   // refuses with this code
	Cut           bool   // the connection is closed instead of an answer
	CutAfter      int    // the connection is closed after so many bytes of the answer
	StopAfter     int    // the answer ends after so many bytes, the line stays
	Echo          bool   // the master hears its own request before the answer (RS-485)
	Noise         []byte // bytes before the answer
	Trail         []byte // bytes behind the answer
	Stale         bool   // the answer before this one once more instead, byte for byte
	Twice         bool   // the answer twice
}

// good reports whether f is none.
func (f *Fault) good() bool {
	return !f.Dead && f.Delay == 0 && f.Late == 0 && f.Dribble == 0 && f.Garble == 0 && !f.WrongUnit && !f.WrongID &&
		!f.WrongProtocol && !f.WrongFunction && f.Short == 0 && f.Long == 0 && !f.WrongCount && f.Exception == 0 && !f.Cut &&
		f.CutAfter == 0 && f.StopAfter == 0 && !f.Echo && f.Noise == nil && f.Trail == nil && !f.Stale && !f.Twice
}

// script gives the fault of each request.
type script struct {
	mu     sync.Mutex // guards what follows
	faults []Fault
	once   bool
	next   int
	pick   func(Request) Fault
}

func (s *script) set(f []Fault, once bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.once, s.next, s.pick = f, once, 0, nil
}

func (s *script) choose(pick func(Request) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.next, s.pick = nil, 0, pick
}

// take returns the fault of the next request.
func (s *script) take(q *Request) Fault {
	s.mu.Lock()
	pick := s.pick
	if pick == nil && s.next < len(s.faults) {
		defer s.mu.Unlock()
		f := s.faults[s.next]
		s.next++
		if s.next == len(s.faults) && !s.once {
			s.next = 0
		}
		return f
	}
	s.mu.Unlock()
	if pick == nil {
		return Fault{}
	}
	return pick(*q) // outside of the lock: it may set another script
}
