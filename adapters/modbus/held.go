package modbus

import (
	"context"
	"fmt"
	"time"
)

// heldError says that a span is not asked for because the device refuses it.
type heldError struct {
	span  span
	cause error // *modbus.ModbusError
	since time.Time
	guess bool // it was not asked for alone yet
}

func (e *heldError) Error() string {
	return fmt.Sprintf("held off since %s, as the device refuses %s: %v", e.since.UTC().Format("2006-01-02 15:04:05 UTC"), e.span.text(), e.cause)
}

func (e *heldError) Unwrap() error { return e.cause }

// heldOff returns the spans that are not asked for because the device refuses them.
func (p *poll) heldOff() (out []span) {
	for _, t := range p.tables {
		for i := range t.items {
			if t.items[i].held != nil {
				out = append(out, t.items[i].span)
			}
		}
	}
	return out
}

// forget lets everything that is held off be tried again, for instance because
// the device was away and may not be the same any more. It does so at most
// once every ten minutes.
func (p *poll) forget() {
	now := p.now()
	if !p.forgot.IsZero() && now.Sub(p.forgot) < forgetEvery {
		return
	}
	p.forgot = now
	for _, t := range p.tables {
		for i := range t.items {
			t.items[i].due = now
		}
	}
}

// retry tries what is held off, each alone, when its time has come.
func (p *poll) retry(ctx context.Context, ask asker, t *table) error {
	if t.held == 0 {
		return nil
	}
	now := p.now()
	for i := range t.items {
		x := &t.items[i]
		if x.held == nil || x.due.After(now) || p.extra == 0 {
			continue
		}
		p.extra--
		e := entry{t, []int{i}, p.request(t, x.address, x.end())}
		switch how, err := p.ask(ctx, ask, &e); how {
		case ended:
			return err
		case failed:
			p.trouble = true
			return nil
		case refused:
			if !x.held.guess && t.unknown(err) {
				t.putOff(now.Add(retryHeld))
			}
			x.held, x.due = &heldError{x.span, err, x.held.since, false}, now.Add(retryHeld)
			if p.broken != nil {
				return p.broken
			}
		default:
			t.release(x)
			p.stale = true
		}
	}
	return nil
}

// unknown reports whether err seems to say that the device has no such function.
func (t *table) unknown(err error) bool { return t.ok == 0 && exception(err) == illegalFunction }

// hold stops asking for x. If the device does not seem to know the function at
// all, the rest is held off too and tried span by span.
func (p *poll) hold(t *table, x *item, cause error) {
	now := p.now()
	if t.unknown(cause) {
		t.searches = t.searches[:1]
		for i := range t.items {
			if y := &t.items[i]; y.held == nil {
				y.held, y.due = &heldError{y.span, cause, now, true}, now
				t.held++
			}
		}
	}
	if x.held == nil {
		t.held++
	}
	x.held, x.due = &heldError{x.span, cause, now, false}, now.Add(retryHeld)
}

// release asks for x again, and for what was only supposed to be refused.
func (t *table) release(x *item) {
	for i := range t.items {
		if y := &t.items[i]; y == x || y.held != nil && y.held.guess {
			y.err, y.held = &unreadError{y.held.cause}, nil // for this run
			t.held--
		}
	}
}

// putOff waits longer with what was tried before.
func (t *table) putOff(until time.Time) {
	for i := range t.items {
		if x := &t.items[i]; x.held != nil && !x.held.guess {
			x.due = until
		}
	}
}
