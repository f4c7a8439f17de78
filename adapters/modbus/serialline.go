package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	// breather is the least silence after something that was not understood,
	// and for which a second answer is listened for where one may be owed:
	// longer than a USB adapter keeps bytes back (16 ms).
	breather = 25 * time.Millisecond
	// grace is the same for a unit that has not answered yet.
	grace = 100 * time.Millisecond
	// busyLimit is how long the silence before a request is waited for.
	busyLimit = time.Second
	// writeLimit is how long a request may take beyond its time at the baud rate.
	writeLimit = time.Second
	// fastBytes is how long an answer must be to tell the speed of the port.
	fastBytes = 16
	// fastAnswers is how many tell it.
	fastAnswers = 3
	// writeStep is how often a write that is stuck looks whether it is still wanted.
	writeStep = 50 * time.Millisecond
)

var (
	errOwed   = errors.New("not asked: it answers so late that earlier answers may still come (raise its timeout)")
	errDoubt  = errors.New("two answers came to one request")
	errStale  = errors.New("the answer may be to an earlier request")
	errNotOut = errors.New("the request could not be sent")
)

// serialLine is a line without transaction identifiers: a serial port, or RTU
// or ASCII carried by something else. One goroutine asks.
type serialLine struct {
	name   string
	medium io.ReadWriteCloser
	ear    *ear
	f      framing
	char   time.Duration
	gap    time.Duration // silence between frames
	timer  *time.Timer

	units    map[byte]*debtor
	heard    []byte    // since the request
	last     time.Time // when the line was last used
	odd      bool      // what was heard last was not understood
	echo     echoing
	fast     int // answers in a row that came faster than the baud rate
	exchange uint64
	answered bool // a unit has answered on this line

	late    atomic.Int64 // answers that came after their request was given up
	foreign atomic.Int64 // frames that were nobody's answer
}

// dropped returns how many late and how many foreign frames were dropped.
func (l *serialLine) dropped() (late, foreign int64) { return l.late.Load(), l.foreign.Load() }

// echoing says whether the port hears what it sends.
type echoing int

const (
	echoUnknown echoing = iota
	echoYes
	echoNo
)

func newSerialLine(name string, m io.ReadWriteCloser, f framing, s *Serial) *serialLine {
	l := &serialLine{name: name, medium: m, f: f, char: s.charTime(), gap: s.silence(),
		timer: time.NewTimer(time.Hour), units: map[byte]*debtor{}, last: time.Now()}
	l.timer.Stop()
	var char time.Duration
	if _, network := m.(net.Conn); !network {
		char = l.char
	}
	l.ear = newEar(m, char)
	if s.RS485.ReceiveOwn {
		l.echo = echoYes
	}
	return l
}

// Close ends Ask, also that of another goroutine.
func (l *serialLine) Close() error {
	err := l.medium.Close()
	<-l.ear.gone
	return err
}

// Ask sends q and waits for its answer: see line. The time-out counts from the
// end of the request; the time the answer takes at the baud rate comes on top.
func (l *serialLine) Ask(ctx context.Context, q *request) ([]byte, error) {
	if q.unit == 0 {
		return nil, fmt.Errorf("ask %s: unit 0 is all units, nobody answers (give the unit its number)", l.name)
	}
	d := l.units[q.unit]
	if d == nil {
		d = &debtor{}
		l.units[q.unit] = d
	}
	if d.forget(time.Now()); d.full() {
		return nil, &silence{0, errOwed}
	}
	if s := d.sign(q); s != nil {
		if _, err := l.ask(ctx, s, d); err != nil && exception(err) == 0 {
			return nil, err
		}
	}
	return l.ask(ctx, q, d)
}

// ask repeats q while old answers come.
func (l *serialLine) ask(ctx context.Context, q *request, d *debtor) ([]byte, error) {
	l.exchange++
	for range maxDebts + 1 {
		data, err := l.once(ctx, q, d)
		if err != errStale && err != errDoubt {
			return data, err
		}
	}
	return nil, &silence{q.timeout, errStale}
}

// once makes one request and waits for its answer.
func (l *serialLine) once(ctx context.Context, q *request, d *debtor) ([]byte, error) {
	adu, err := l.f.encode(q.unit, q.pdu())
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", q, err)
	}
	x := &expected{q.unit, q, d}
	if err := l.hush(ctx, x); err != nil {
		return nil, err
	}
	l.ear.expect(l.napFor(q))
	start := time.Now()
	if err := l.send(ctx, adu, start); err != nil {
		return nil, err
	}
	// The drivers of many adapters say that all is sent before it is.
	sent := start.Add(time.Duration(len(adu)) * l.char)
	if now := time.Now(); now.After(sent) {
		sent = now
	}
	l.last, l.heard = sent, l.heard[:0]
	r := reception{l: l, x: x, adu: adu, sent: sent, deadline: sent.Add(q.timeout + l.onLine(q))}
	p, err := r.wait(ctx)
	l.odd = err != nil && len(l.heard) > 0
	switch {
	case err == errDoubt: // both came
	case err == errStale:
		d.owe(q, r.until, l.exchange)
	case err != nil:
		d.owe(q, owed(q, sent), 0)
	case !r.until.IsZero(): // taken for that to an earlier one of the same requests
		d.owe(q, r.until, l.exchange)
	}
	if err != nil {
		return nil, err
	}
	l.answered = true
	// Some ports are faster than the baud rate they are set to: USB devices
	// without a real line, pseudo terminals.
	if n := len(l.heard); n >= fastBytes {
		if l.fast++; l.last.Sub(sent) >= time.Duration(n)*l.char/2 {
			l.fast = 0
		}
	}
	return q.answer(p)
}

// napFor is how many bytes are worth waiting for together.
func (l *serialLine) napFor(q *request) int {
	if n := q.answerBytes(); n > 0 && l.fast < fastAnswers {
		return l.f.size(n)
	}
	return 0
}

// onLine is how long the answer to q takes.
func (l *serialLine) onLine(q *request) time.Duration {
	n := q.answerBytes()
	if n == 0 {
		n = maxPDU
	}
	return time.Duration(l.f.size(n)) * l.char
}

// hush waits until the line has been silent for as long as the standard wants,
// and drops what is heard until then.
func (l *serialLine) hush(ctx context.Context, x *expected) error {
	// At a low baud rate the longest frame takes longer: a late answer of
	// another unit is no reason to give up.
	limit := time.Now().Add(max(busyLimit, 2*time.Duration(l.f.size(maxPDU))*l.char))
	began := time.Now()
	l.heard = l.heard[:0]
	for {
		before := len(l.heard)
		if err := l.listen(); err != nil {
			return err
		}
		if len(l.heard) > before {
			l.odd = true
			l.dismiss(x)
		}
		gap := l.gap
		if l.odd {
			gap = max(gap, breather)
		}
		now, free := time.Now(), l.last.Add(gap)
		if !now.Before(free) {
			l.odd = false
			return ctx.Err()
		}
		if now.After(limit) {
			return &silence{now.Sub(began), errors.New("the line is never quiet (another master, or noise)")}
		}
		if err := l.wait(ctx, free); err != nil && err != os.ErrDeadlineExceeded {
			return err
		}
	}
}

// dismiss looks for answers that come too late and strikes them off.
func (l *serialLine) dismiss(x *expected) {
	for len(x.from.debts) > 0 {
		p, used := l.f.find(l.heard, x)
		if p == nil {
			break
		}
		x.from.strike(p)
		l.late.Add(1)
		l.heard = append(l.heard[:0], l.heard[used:]...)
	}
	if len(l.heard) > 2*maxASCII {
		l.heard = append(l.heard[:0], l.heard[len(l.heard)-maxASCII:]...)
	}
}

// listen takes what has come.
func (l *serialLine) listen() error {
	heard, last, err := l.ear.take(l.heard)
	if len(heard) > len(l.heard) && last.After(l.last) {
		l.last = last
	}
	l.heard = heard
	if err != nil {
		return l.broken("read from", err)
	}
	return nil
}

func (l *serialLine) broken(what string, err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("%s %s: the line was closed: %w", what, l.name, err)
	}
	if _, network := l.medium.(net.Conn); network && !l.answered && isGone(err) {
		return fmt.Errorf("%s %s: closed by the far side before any answer: %w (does it speak Modbus/TCP, tcp://, and not the frames of a serial line? Or has it another master already?)", what, l.name, err)
	}
	if isGone(err) {
		return fmt.Errorf("%s %s: it is gone: %w (was the adapter pulled, or the connection closed by the far side?)", what, l.name, err)
	}
	return fmt.Errorf("%s %s: %w", what, l.name, err)
}

// wait returns when something new was heard; os.ErrDeadlineExceeded at until.
func (l *serialLine) wait(ctx context.Context, until time.Time) error {
	d := time.Until(until)
	if d <= 0 {
		return os.ErrDeadlineExceeded
	}
	l.timer.Reset(d)
	defer l.timer.Stop()
	select {
	case <-l.ear.wake:
		return nil
	case <-l.timer.C:
		return os.ErrDeadlineExceeded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send writes a request. A port that takes nothing must not hold up Ask after
// its context has ended.
func (l *serialLine) send(ctx context.Context, adu []byte, start time.Time) error {
	limit := start.Add(time.Duration(len(adu))*l.char + writeLimit)
	w, _ := l.medium.(interface{ SetWriteDeadline(time.Time) error })
	for {
		if w != nil {
			if err := w.SetWriteDeadline(time.Now().Add(writeStep)); err != nil {
				return l.broken("write to", err)
			}
		}
		n, err := l.medium.Write(adu)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return l.broken("write to", err)
		}
		if adu = adu[n:]; len(adu) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(limit) {
			return l.broken("write to", errNotOut)
		}
	}
}
