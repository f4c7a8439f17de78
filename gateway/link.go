package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// link is the state of one connection. It logs when the state changes, not at
// each try.
type link struct {
	log   *slog.Logger
	clock *Clock

	mu      sync.Mutex // guards what follows
	state   LinkState
	since   time.Time
	err     string
	retries int64
	panics  int64           // since the start
	told    map[string]bool // shapes of the errors logged since it was last up
	next    time.Time
	upAt    time.Time // monotonic; zero while not up
}

func newLink(log *slog.Logger, clock *Clock) *link {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &link{log: log, clock: clock, state: Starting, since: clock.Now()}
}

// set changes the state. It reports whether it was another one before.
func (l *link) set(s LinkState) bool {
	if l.state == s {
		return false
	}
	l.state, l.since = s, l.clock.Now()
	return true
}

func (l *link) trying() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = time.Time{}
	if l.state != Down { // after a failure it is "down" until it is up
		l.set(Connecting)
	}
}

func (l *link) up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.set(Up) {
		return
	}
	if l.retries > 0 {
		l.log.Info("up again", "tries", l.retries)
	} else {
		l.log.Info("up")
	}
	l.err, l.retries, l.told, l.next, l.upAt = "", 0, nil, time.Time{}, time.Now()
}

// down notes a failure and when the next try is made.
func (l *link) down(err error, pause time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := l.set(Down)
	text := err.Error()
	var p *panicError
	if errors.As(err, &p) {
		l.panics++
	}
	if l.tell(text) || changed {
		attrs := []any{"error", text, "next_try_in", pause.Round(time.Millisecond)}
		if p != nil {
			attrs = append(attrs, "stack", string(p.stack))
		}
		l.log.Warn("down", attrs...)
	}
	l.err, l.upAt = text, time.Time{}
	l.retries++
	l.next = l.clock.Now().Add(pause)
}

// maxTold bounds how many different errors are logged while it is down.
const maxTold = 8

// tell reports whether an error is to be logged: its like was not since it was
// last up. Digits and dots do not count: ports and times change with each try.
// l.mu is held.
func (l *link) tell(text string) bool {
	shape := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '.' {
			return -1
		}
		return r
	}, text)
	if l.told[shape] || len(l.told) >= maxTold {
		return false
	}
	if l.told == nil {
		l.told = map[string]bool{}
	}
	l.told[shape] = true
	return true
}

// panicked notes a panic in a callback.
func (l *link) panicked(where string, value any) {
	l.mu.Lock()
	l.panics++
	l.mu.Unlock()
	l.log.Error("panic in "+where, "panic", value, "stack", string(debug.Stack()))
}

// end notes that it will not be tried again, and why.
func (l *link) end(s LinkState, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next, l.upAt = time.Time{}, time.Time{}
	if err != nil {
		l.err = err.Error()
	}
	if l.set(s) && s == Failed {
		l.log.Error("failed for good; it is tried again when the gateway is restarted", "error", err)
	}
}

// upFor is how long the link has been up.
func (l *link) upFor() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.upAt.IsZero() {
		return 0
	}
	return time.Since(l.upAt)
}

func (l *link) status() Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Link{State: l.state, Since: l.since, Error: l.err, Retries: l.retries, Panics: l.panics}
	if !l.next.IsZero() {
		next := l.next
		s.NextTry = &next
	}
	return s
}

// backoff gives growing pauses with jitter.
type backoff struct {
	min, max time.Duration
	n        int
}

// next returns a pause: min doubling up to max, each spread over half to all
// of it, so that a fleet does not knock in step.
func (b *backoff) next() time.Duration {
	d := b.max
	if b.n < 16 {
		d = min(b.max, b.min<<b.n)
	}
	b.n++
	return d/2 + rand.N(d/2+1)
}

func (b *backoff) reset() { b.n = 0 }

// panicError is a panic that was recovered.
type panicError struct {
	value any
	stack []byte
}

// Error implements error. The stack is logged and not part of the message.
func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// recovered runs fn and turns a panic into a *panicError.
func recovered(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{r, debug.Stack()}
		}
	}()
	return fn()
}
