package modbustest

import (
	"sync/atomic"
	"time"
)

const (
	rtuBits   = 11 // of a character in RTU mode (serial line section 2.5.1)
	asciiBits = 10 // in ASCII mode (section 2.5.2)
	grain     = time.Millisecond
	prompt    = 10 * time.Millisecond // a request that soon after an answer is counted from its end
)

// pace makes a pty behave as a line with a speed. The bytes of a request are
// taken to have lasted their time, the answer follows after 3.5 characters and
// lasts its own. All times are counted from one another, not from when this
// process was woken: being late by a little does not add up.
type pace struct {
	char, gap time.Duration
	waiting   func() bool         // whether the master has sent something not yet read
	nap       func(time.Duration) // sleeps more exactly than a timer of the runtime

	// Of the goroutine that reads.
	start, last, end time.Time // of the request: first byte, last piece of it, end
	pieces           int
	free             time.Time     // end of the last answer by the account
	lag              time.Duration // how much later than that it really was

	hearing atomic.Bool  // a request is under way
	jam     atomic.Bool  // something else spoke during an answer
	late    atomic.Int64 // when a late answer was last on the line, Unix nanoseconds
}

func newPace(baud, bits int, waiting func() bool) *pace {
	char := time.Duration(bits) * time.Second / time.Duration(baud)
	return &pace{char: char, gap: char * 7 / 2, waiting: waiting, nap: nap}
}

// heard is called for every piece of a request.
func (p *pace) heard(now time.Time, first bool) {
	if !first {
		p.pieces++
		p.last = now
		return
	}
	p.hearing.Store(true)
	p.pieces, p.last, p.start = 1, now, now
	if lag := min(p.lag, now.Sub(p.free)); !p.free.IsZero() && lag > 0 && now.Sub(p.free) < p.lag+prompt {
		p.start = now.Add(-lag)
	}
	p.lag = 0
}

// received waits until a request of n bytes has ended. false: something else
// was on the line, the request is lost.
func (p *pace) received(l *link, n int) bool {
	began := p.last
	if p.pieces == 1 {
		p.end = p.start.Add(time.Duration(n) * p.char)
	} else {
		p.end = maxTime(p.start.Add(time.Duration(n)*p.char), p.last)
	}
	ok := l.until(p.end)
	p.hearing.Store(false)
	p.pieces = 0
	return ok && p.late.Load() <= began.UnixNano()
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sending is how bytes go out.
type sending struct {
	pause time.Duration // between bytes, when it is longer than a character
	late  bool
}

// send brings b onto the line at its speed; false ends the link. What is on the
// line at the same time spoils it.
func (p *pace) send(l *link, b []byte, how sending) bool {
	step := max(p.char, how.pause)
	begin := time.Now()
	if !how.late {
		begin = p.end.Add(p.gap)
	}
	p.jam.Store(false)
	own := append([]byte{}, b...)
	spoilt := false
	for i := 0; i < len(own); {
		next := min(i+max(1, int(grain/step)), len(own))
		if !l.until(begin.Add(time.Duration(next) * step)) {
			return false
		}
		due := int(time.Since(begin) / step)
		due = min(max(next, due), len(own))
		spoilt = spoilt || p.jam.Load() || p.waiting() || how.late && p.hearing.Load()
		for j := i; spoilt && j < due; j++ {
			own[j] ^= 0x5a
		}
		if how.late {
			p.late.Store(time.Now().UnixNano())
		}
		if _, err := l.wire.Write(own[i:due]); err != nil {
			return false
		}
		i = due
	}
	if spoilt {
		l.s.stats.collisions.Add(1)
	}
	if !how.late {
		p.free = begin.Add(time.Duration(len(own)) * step)
		p.lag = time.Since(p.free)
		l.collided = spoilt
	}
	return true
}

// until waits for a moment on a line with a speed, more exactly than a timer of
// the runtime, which wakes a millisecond late; false when the link has ended.
func (l *link) until(t time.Time) bool {
	const fine = 2 * time.Millisecond
	if d := time.Until(t); d > fine && !l.wait(d-fine) {
		return false
	}
	for {
		d := time.Until(t)
		if d <= 0 {
			break
		}
		l.pace.nap(d)
	}
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}
