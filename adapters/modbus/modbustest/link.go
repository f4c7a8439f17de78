package modbustest

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// stillness is how long an RTU line must be silent for an unfinished request to
// have ended. The standard has 3.5 characters, which no process can tell from
// being woken late.
const stillness = 20 * time.Millisecond

// wire is what a link reads and writes: a connection, one datagram, a pty.
type wire interface {
	io.ReadWriteCloser
	SetReadDeadline(t time.Time) error
}

// link is one connection, one pty, or one UDP socket.
type link struct {
	s       *Server
	wire    wire
	framing framing
	mbap    bool
	counted bool   // among Conns
	echo    bool   // the master hears all that it sends
	ended   func() // called when it closes; may be nil
	pace    *pace  // of a line with a speed, else nil

	once sync.Once
	done chan struct{} // closed with the link

	// Of the goroutine that reads.
	pdu, out []byte
	request  []byte // bytes of the request being served
	collided bool   // something was sent while an answer was on the line
	rnd      uint32

	mu       sync.Mutex // held while bytes go out: an answer is not cut in two by a late one; guards previous
	previous []byte
}

func newLink(s *Server, w wire, f framing) *link {
	_, isMBAP := f.(mbap)
	return &link{s: s, wire: w, framing: f, mbap: isMBAP, done: make(chan struct{}), rnd: 1}
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		_ = l.wire.Close()
		if l.ended != nil {
			l.ended()
		}
	})
}

// run serves a stream until it ends.
func (l *link) run() {
	defer l.s.leave(l)
	defer l.close()
	var buf [maxASCII + mbapHeader]byte
	have, deaf := 0, false
	var silence time.Duration // that ends what has begun; 0: none does
	var last time.Time        // something was heard
	for {
		n, err := l.wire.Read(buf[have:])
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if err != nil && !late {
			return
		}
		// A busy machine may wake us by bytes that came after the deadline.
		if silence > 0 && (late || time.Since(last) >= silence) {
			if rest, _ := l.take(buf[:have], true); rest < 0 {
				return
			}
			copy(buf[:], buf[have:have+n])
			have, deaf = 0, l.crashed()
		}
		if n > 0 {
			l.heard(buf[have:have+n], have == 0)
		}
		if n > 0 && !deaf { // after a broken request a slave waits for silence
			rest, ok := l.take(buf[:have+n], false)
			if rest < 0 {
				return
			}
			deaf = l.crashed() || !ok
			have = copy(buf[:], buf[have+n-rest:have+n])
		}
		if l.pace != nil && have == 0 {
			l.pace.hearing.Store(false)
		}
		before := silence
		if silence = l.silence(have, deaf); silence > 0 {
			last = time.Now()
			_ = l.wire.SetReadDeadline(last.Add(silence))
		} else if before > 0 {
			_ = l.wire.SetReadDeadline(time.Time{})
		}
	}
}

// silence is what ends a request of which there are so many bytes, or the
// deafness after a broken one. A stream with lengths in it may pause for as
// long as it likes, one in ASCII for a second (serial line section 2.5.2.1).
func (l *link) silence(have int, deaf bool) time.Duration {
	_, isASCII := l.framing.(*ascii)
	switch {
	case deaf:
		return stillness
	case have == 0 || l.mbap:
		return 0
	case isASCII:
		return time.Second
	}
	return stillness
}

// crashed reports, once, that something was sent while an answer was on the line.
func (l *link) crashed() bool {
	was := l.collided
	l.collided = false
	return was
}

// heard is called for all that comes in.
func (l *link) heard(b []byte, first bool) {
	if l.pace != nil {
		l.pace.heard(time.Now(), first)
	}
	if l.echo {
		l.mu.Lock()
		defer l.mu.Unlock()
		_, _ = l.wire.Write(b)
	}
}

// take serves the requests in b and returns how many bytes are left, -1 when
// the link is to end. ok is false when something broken was among them.
func (l *link) take(b []byte, ended bool) (rest int, ok bool) {
	ok = true
	for len(b) > 0 {
		f, n, good := l.framing.split(b, ended)
		if n == 0 {
			return len(b), ok
		}
		if !good {
			l.s.stats.broken.Add(1)
			if l.mbap {
				return -1, false // messaging section 4.4.2.2: the stream is lost
			}
			_, isASCII := l.framing.(*ascii) // there a colon begins anew
			ok = ok && isASCII
			b = b[n:]
			continue
		}
		l.request = b[:n]
		if !l.serve(f) {
			return -1, ok
		}
		b = b[n:]
	}
	return 0, ok
}

// serve answers one request; false ends the link.
func (l *link) serve(f frame) bool {
	if l.pace != nil && !l.pace.received(l, len(l.request)) {
		l.s.stats.collisions.Add(1)
		return true
	}
	q := Request{N: l.s.number.Add(1), At: time.Now(), Unit: f.unit, ID: f.id}
	l.s.stats.requests.Add(1)
	whole := parse(f.pdu, &q)
	if f.unit == 0 && !l.mbap {
		l.broadcast(f, &q, whole)
		return true
	}
	u := l.s.units[f.unit].Load()
	if u == nil {
		l.s.stats.unknown.Add(1)
		return l.silent(f, &Fault{})
	}
	u.note(&q)
	fault := u.faults.take(&q)
	if fault.good() {
		fault = l.s.faults.take(&q)
	}
	switch {
	case fault.Dead:
		return l.silent(f, &fault)
	case fault.Cut:
		l.close()
		return false
	case fault.Exception != 0:
		l.pdu = append(l.pdu[:0], q.Function|0x80, fault.Exception)
	default:
		l.pdu = u.serve(l.pdu[:0], f.pdu, &q, whole)
	}
	if l.pdu[0]&0x80 != 0 {
		l.s.stats.exceptions.Add(1)
	}
	return l.answer(frame{f.unit, f.id, l.pdu}, &fault)
}

// broadcast is for all units and is not answered (serial line section 2.1).
func (l *link) broadcast(f frame, q *Request, whole bool) {
	for id := range l.s.units {
		if u := l.s.units[id].Load(); u != nil && id != 0 {
			u.note(q)
			l.pdu = u.serve(l.pdu[:0], f.pdu, q, whole)
		}
	}
}

// silent is what a unit that does not answer looks like.
func (l *link) silent(f frame, fault *Fault) bool {
	if fault.Echo { // that comes from the master's own adapter
		return l.send(append(l.out[:0], l.request...), &Fault{}, false)
	}
	after := time.Duration(l.s.gateway.Load())
	if after < 0 || !l.mbap {
		return true
	}
	if !l.wait(after) {
		return false
	}
	l.pdu = append(l.pdu[:0], f.pdu[0]|0x80, exNoTarget)
	l.s.stats.exceptions.Add(1)
	return l.answer(frame{f.unit, f.id, l.pdu}, &Fault{})
}

// wait lets time pass; false when the link has ended.
func (l *link) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.done:
		return false
	}
}

// answer sends an answer with what is wrong with it; false ends the link.
func (l *link) answer(f frame, fault *Fault) bool {
	l.out = l.spoil(l.out[:0], f, fault)
	late := fault.Late
	if l.pace != nil { // on such a line the others go on during a delay
		late = max(late, fault.Delay)
	}
	if late > 0 {
		return l.late(late, fault)
	}
	if !l.wait(fault.Delay) {
		return false
	}
	return l.send(l.out, fault, false)
}

// late sends the answer from a goroutine of its own. For datagrams and
// connections alike the order of answers is then that of their times.
func (l *link) late(after time.Duration, fault *Fault) bool {
	out, copied := append([]byte{}, l.out...), *fault
	l.s.ending.Go(func() {
		if l.wait(after) {
			l.send(out, &copied, true)
		}
	})
	return true
}

// send brings an answer onto the line; false ends the link.
func (l *link) send(b []byte, fault *Fault, late bool) bool {
	l.s.stats.answers.Add(1)
	cut := fault.CutAfter > 0 && fault.CutAfter < len(b)
	if cut {
		b = b[:fault.CutAfter]
	}
	if !l.seize() {
		return true
	}
	defer l.mu.Unlock()
	var ok bool
	switch {
	case l.pace != nil:
		ok = l.pace.send(l, b, sending{fault.Dribble, late})
	case fault.Dribble > 0:
		ok = l.dribble(b, fault.Dribble)
	default:
		_, err := l.wire.Write(b)
		ok = err == nil
	}
	if fault.CutAfter > 0 {
		l.close()
		return false
	}
	if ok && !late {
		l.previous = append(l.previous[:0], b...)
	}
	return ok
}

// seize takes the line for an answer. On a line with a speed two answers at
// once spoil each other: what comes second is lost in the first.
func (l *link) seize() bool {
	if l.pace == nil {
		l.mu.Lock()
		return true
	}
	if l.mu.TryLock() {
		return true
	}
	l.pace.jam.Store(true)
	l.s.stats.collisions.Add(1)
	return false
}

// dribble writes byte by byte. Its pauses are counted from the first.
func (l *link) dribble(b []byte, pause time.Duration) bool {
	begin := time.Now()
	for i := range b {
		if !l.wait(time.Until(begin.Add(time.Duration(i) * pause))) {
			return false
		}
		if _, err := l.wire.Write(b[i : i+1]); err != nil {
			return false
		}
	}
	return true
}
