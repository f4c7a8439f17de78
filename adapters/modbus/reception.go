package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/goburrow/modbus"
)

// reception is the wait for the answer to one request.
type reception struct {
	l        *serialLine
	x        *expected
	adu      []byte    // the request, for its echo
	sent     time.Time // end of the request on the line
	deadline time.Time

	at    int       // in l.heard: what is before is done with
	quiet bool      // the echo was dropped, or there is none
	until time.Time // of the debt that an answer was taken for
	stale bool      // an old answer came
	odd   error     // a frame of the unit that answers nothing
}

// wait returns the answer. The error is a *silence, errStale, errDoubt, that of
// ctx, or that of a line that is broken.
func (r *reception) wait(ctx context.Context) (*modbus.ProtocolDataUnit, error) {
	l := r.l
	for {
		broken := l.listen()
		if p := r.look(); p != nil {
			return p, r.sure(ctx, p)
		}
		if broken != nil {
			return nil, broken
		}
		limit := r.deadline
		if r.spoiled() {
			limit = minTime(limit, l.last.Add(max(l.gap, breather)))
		}
		err := l.wait(ctx, limit)
		switch {
		case err == nil:
		case err != os.ErrDeadlineExceeded:
			return nil, err
		case l.ear.pending(): // came in that moment
		case r.stale:
			return nil, errStale
		default:
			return nil, r.silence()
		}
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// look finds the answer in what was heard.
func (r *reception) look() *modbus.ProtocolDataUnit {
	l, d := r.l, r.x.from
	if !r.dropEcho() {
		return nil
	}
	for {
		p, used := l.f.find(l.heard[r.at:], r.x)
		if p == nil {
			break
		}
		r.at += used
		v, until := d.judge(p, r.x.q, l.exchange)
		switch v {
		case itsAnswer:
			if until.IsZero() && !r.stale {
				r.learn()
			}
			r.until = until
			return p
		case oldAnswer:
			// Its own follows soon, unless it was this.
			l.late.Add(1)
			r.stale, r.until = true, until
			r.deadline = minTime(r.deadline, time.Now().Add(d.soon(r.x.q)))
		default:
			l.foreign.Add(1)
			if _, err := r.x.q.answer(p); err != nil && err != errForeign {
				r.odd = err
			}
		}
	}
	for {
		unit, _, n := l.f.whole(l.heard[r.at:])
		if n == 0 || unit == r.x.unit {
			break
		}
		l.foreign.Add(1)
		if r.at += n; r.odd == nil {
			r.odd = fmt.Errorf("a frame of unit %d (wrong unit, or another master on the line)", unit)
		}
	}
	if over := len(l.heard) - maxHeard; over > 0 { // of somebody who never stops
		l.heard = append(l.heard[:0], l.heard[len(l.heard)-maxASCII:]...)
		r.at = 0
	}
	return nil
}

// dropEcho drops what the port heard of the request itself; false when more
// must come to tell.
func (r *reception) dropEcho() bool {
	l := r.l
	if r.quiet || len(l.heard) == 0 {
		return true
	}
	if n := min(len(l.heard), len(r.adu)); !bytes.Equal(l.heard[:n], r.adu[:n]) {
		r.quiet = true
		if l.echo == echoUnknown {
			l.echo = echoNo
		}
		return true
	}
	// A read of coils can look like its own answer.
	if l.echo == echoNo {
		if p, _ := l.f.find(l.heard, r.x); p != nil && answers(r.x.q, p) {
			r.quiet = true
			return true
		}
	}
	if len(l.heard) < len(r.adu) {
		return false
	}
	r.quiet, l.echo, r.at = true, echoYes, len(r.adu)
	return true
}

// learn notes how long the unit takes until it answers.
func (r *reception) learn() {
	d := r.x.from
	took := max(1, r.l.last.Sub(r.sent)-r.l.onLine(r.x.q))
	d.turn = max(took, d.turn*7/8)
}

// soon is when an answer to a request made just now should have begun.
func (d *debtor) soon(q *request) time.Duration {
	if d.turn == 0 {
		return min(q.timeout, grace)
	}
	return min(q.timeout, 2*d.turn+breather)
}

// sure listens on where another answer may be owed that looks the same. A unit
// that was asked then answers twice, and which is which cannot be told.
func (r *reception) sure(ctx context.Context, p *modbus.ProtocolDataUnit) error {
	l, d := r.l, r.x.from
	if r.until.IsZero() && !d.doubtful(p) {
		return nil
	}
	limit := l.last.Add(d.soon(r.x.q))
	for {
		if err := l.listen(); err != nil {
			return err
		}
		if len(l.heard) > r.at {
			return errDoubt
		}
		if err := l.wait(ctx, limit); err == os.ErrDeadlineExceeded && !l.ear.pending() {
			return nil
		} else if err != nil && err != os.ErrDeadlineExceeded {
			return err
		}
	}
}

// spoiled reports whether as much was heard as the answer has, and it was not
// understood: nothing will follow then.
func (r *reception) spoiled() bool {
	n := r.x.q.answerBytes()
	var wrong *lengthError
	return errors.As(r.odd, &wrong) || n > 0 && len(r.l.heard)-r.at >= r.l.f.size(n)
}

// silence says why there is no answer.
func (r *reception) silence() error {
	s := &silence{after: r.x.q.timeout, heard: r.odd}
	if now := time.Now(); now.Before(r.deadline) {
		s.after = now.Sub(r.sent).Round(time.Millisecond)
	}
	if rest := r.l.heard[r.at:]; s.heard == nil && len(rest) > 0 {
		s.heard = describeNoise(rest, r.l.f.size(r.x.q.answerBytes()))
	}
	if s.heard == nil && r.l.echo == echoYes && r.at > 0 {
		s.heard = errors.New("the request itself (the port hears what it sends; the unit did not answer)")
	}
	return s
}

// describeNoise says what bytes that are no frame may come from.
func describeNoise(heard []byte, want int) error {
	same := true
	for _, b := range heard {
		same = same && b == heard[0]
	}
	switch {
	case same && (heard[0] == 0 || heard[0] == 0xFF):
		return fmt.Errorf("%d bytes that are all %#02x (are A and B swapped, is the line without bias, is the baud rate right?)", len(heard), heard[0])
	case len(heard) < want:
		return fmt.Errorf("%d bytes of %d, no frame (was the answer cut short, are baud rate and parity right?)", len(heard), want)
	}
	return fmt.Errorf("%d bytes without a right check sum (noise, two units of one number, or the wrong baud rate or parity)", len(heard))
}
