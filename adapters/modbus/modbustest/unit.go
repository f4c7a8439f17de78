package modbustest

import (
	"sync"
	"sync/atomic"
	"time"
)

// The tables, by the names that Allow and Compute use.
const (
	Coil     = "coil"
	Discrete = "discrete"
	Holding  = "holding"
	Input    = "input"
	FIFO     = "fifo"
)

// Request is one well-formed request, as a unit got it.
type Request struct {
	N        int64     // number among all requests to the server, from 1
	At       time.Time // when its last byte was there
	Unit     byte
	Function byte
	Address  int // first register or bit; of function 43 the first object
	Count    int // registers or bits; 1 for functions 5, 6 and 22; of function 43 the read device id code
	// WriteAddress and WriteCount are those of function 23.
	WriteAddress, WriteCount int
	ID                       uint16 // transaction identifier, 0 on lines without
}

const defaultLog = 256 // requests that a unit remembers

// Unit is one unit of a plant.
type Unit struct {
	id     byte
	faults script
	polls  atomic.Int64

	mu       sync.Mutex // guards what follows
	words    [2]words   // holding, input
	bits     [2]words   // coils, discrete inputs: 0 or 1
	fifos    map[int][]uint16
	identity map[byte]string
	allowed  map[string][]extent
	compute  func(table string, addr int) (uint16, bool)
	limitW   int // registers in a request
	limitB   int // bits
	log      []Request
	logNext  int // place of the oldest when the log is full
	logMax   int
}

type extent struct{ from, to int }

// words is a table of 65536 cells, of which those that were set take memory.
type words struct{ pages *[256]*[256]uint16 }

func (w *words) get(addr int) uint16 {
	if w.pages == nil || w.pages[addr>>8] == nil {
		return 0
	}
	return w.pages[addr>>8][addr&0xff]
}

func (w *words) set(addr int, v uint16) {
	addr &= 0xffff
	if w.pages == nil {
		w.pages = new([256]*[256]uint16)
	}
	if w.pages[addr>>8] == nil {
		w.pages[addr>>8] = new([256]uint16)
	}
	w.pages[addr>>8][addr&0xff] = v
}

func newUnit(id byte) *Unit {
	return &Unit{id: id, limitW: maxReadWords, limitB: maxReadBits, logMax: defaultLog}
}

// SetHolding sets holding registers from addr on. As with the other tables an
// address is that on the line, from 0, and what goes beyond 65535 comes to the
// beginning.
func (u *Unit) SetHolding(addr int, v ...uint16) { u.setWords(&u.words[0], addr, v) }

// SetInput sets input registers.
func (u *Unit) SetInput(addr int, v ...uint16) { u.setWords(&u.words[1], addr, v) }

func (u *Unit) setWords(w *words, addr int, v []uint16) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, x := range v {
		w.set(addr+i, x)
	}
}

// SetCoil sets coils.
func (u *Unit) SetCoil(addr int, v ...bool) { u.setBits(&u.bits[0], addr, v) }

// SetDiscrete sets discrete inputs.
func (u *Unit) SetDiscrete(addr int, v ...bool) { u.setBits(&u.bits[1], addr, v) }

func (u *Unit) setBits(w *words, addr int, v []bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, x := range v {
		n := uint16(0)
		if x {
			n = 1
		}
		w.set(addr+i, n)
	}
}

// Holding returns a holding register, as it was set or written.
func (u *Unit) Holding(addr int) uint16 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.words[0].get(addr & 0xffff)
}

// Coil returns a coil, as it was set or written.
func (u *Unit) Coil(addr int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.bits[0].get(addr&0xffff) != 0
}

// SetFIFO sets the queue that function 24 reads at addr. More than 31 registers
// are answered with exception 3, as the standard wants.
func (u *Unit) SetFIFO(addr int, v ...uint16) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fifos == nil {
		u.fifos = map[int][]uint16{}
	}
	u.fifos[addr] = append([]uint16{}, v...)
}

// SetIdentity sets what function 43/14 tells, by object id: 0 to 2 are the
// basic ones, up to 0x7F the regular, from 0x80 the extended. Without objects
// the function is refused.
func (u *Unit) SetIdentity(objects map[byte]string) {
	own := make(map[byte]string, len(objects))
	for k, v := range objects {
		own[k] = v
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.identity = own
}

// Compute sets a function that makes values on the fly; where it says false the
// table is taken. It runs in the goroutine of the connection, without a lock:
// it may call Polls or the setters. nil ends it.
func (u *Unit) Compute(f func(table string, addr int) (uint16, bool)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.compute = f
}

// Allow opens addresses from to to of a table. With the first of them all else
// of that table is refused with exception 2.
func (u *Unit) Allow(table string, from, to int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.allowed == nil {
		u.allowed = map[string][]extent{}
	}
	u.allowed[table] = append(u.allowed[table], extent{from, to})
}

// Limit refuses requests for more registers or bits than that with exception 3.
// 0 leaves the limit of the standard.
func (u *Unit) Limit(words, bits int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.limitW, u.limitB = maxReadWords, maxReadBits
	if words > 0 {
		u.limitW = min(words, maxReadWords)
	}
	if bits > 0 {
		u.limitB = min(bits, maxReadBits)
	}
}

// Fault gives the faults of the next requests to this unit, one after the other
// and over again. Without any the unit is well.
func (u *Unit) Fault(f ...Fault) { u.faults.set(f, false) }

// FaultOnce is like Fault, without the repetition.
func (u *Unit) FaultOnce(f ...Fault) { u.faults.set(f, true) }

// FaultFunc asks choose for the fault of every request; nil ends it. It must
// not block.
func (u *Unit) FaultFunc(choose func(Request) Fault) { u.faults.choose(choose) }

// Polls is how many requests came to this unit.
func (u *Unit) Polls() int64 { return u.polls.Load() }

// Log sets how many requests the unit remembers, 256 without; 0 is none.
func (u *Unit) Log(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.log, u.logNext, u.logMax = nil, 0, n
}

// Requests returns the last requests, the oldest first. See Log.
func (u *Unit) Requests() []Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append(append([]Request{}, u.log[u.logNext:]...), u.log[:u.logNext]...)
}

// note remembers a request.
func (u *Unit) note(q *Request) {
	u.polls.Add(1)
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case len(u.log) < u.logMax:
		u.log = append(u.log, *q)
	case u.logMax > 0:
		u.log[u.logNext] = *q
		u.logNext = (u.logNext + 1) % len(u.log)
	}
}
