package gateway

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// LaterError says that a batch cannot be sent yet although the far side is
// fine, for instance because a large record of it is still on its way to a
// store of objects. The forwarder gives the batch up as if it had never been
// sent, goes on with the other lanes, and reads it again, as another *Batch,
// when After has passed or the sink wakes it (Waker). The order within the
// lane is kept: nothing of it is sent meanwhile.
//
// A sink returns it before anything of the batch is on its way: what was
// confirmed of it would be sent again.
type LaterError struct {
	After time.Duration // when to ask again; a second at least
	Err   error         // what it waits for, as a person reads it
}

// Error implements error.
func (e *LaterError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *LaterError) Unwrap() error { return e.Err }

// Waker is a Sink that tells when what it put off with a LaterError may be
// sent. Every lane it put off is tried then.
type Waker interface{ Wake() <-chan struct{} }

// rewinder is a Reader that can read again what was not released;
// *buffer.Cursor is one.
type rewinder interface{ Rewind(lane int) }

// Pauses of a lane that cannot go on.
const (
	unreadablePause = 5 * time.Second // until a lane is read again that could not be
	leastPark       = time.Second
	// steadyLane is how long nothing was sent to the sink when a lane that cannot
	// be read makes it down. While other lanes flow it is up.
	steadyLane = 30 * time.Second
)

// place is why a lane is parked.
type place struct {
	until time.Time
	err   error // of the last try; nil = the lane is not parked and has gone well
	put   bool  // by the sink, with a LaterError
}

// parking is which lanes of a sink wait while the others go on.
type parking struct {
	mu     sync.Mutex // guards places: the status reads them
	places map[int]place

	fresh bool // a read has failed since the link was last judged by it; the forwarder's own
}

// park makes a lane wait.
func (p *parking) park(lane int, x place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.places == nil {
		p.places = map[int]place{}
	}
	p.places[lane] = x
}

// leave notes that a lane goes on.
func (p *parking) leave(lane int, put bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x, ok := p.places[lane]; ok && x.put == put {
		delete(p.places, lane)
	}
}

// parked reports whether a lane must not be read now.
func (p *parking) parked(lane int, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	x, ok := p.places[lane]
	return ok && now.Before(x.until)
}

// wake lets every lane that the sink put off be tried now.
func (p *parking) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for lane, x := range p.places {
		if x.put {
			x.until = time.Time{}
			p.places[lane] = x
		}
	}
}

// due returns a timer for the first lane that may be tried again, nil when none waits.
func (p *parking) due(now time.Time) *time.Timer {
	p.mu.Lock()
	defer p.mu.Unlock()
	var first time.Time
	for _, x := range p.places {
		if x.until.After(now) && (first.IsZero() || x.until.Before(first)) {
			first = x.until
		}
	}
	if first.IsZero() {
		return nil
	}
	return time.NewTimer(first.Sub(now))
}

// unreadable returns why a lane cannot be read, nil when all can.
func (p *parking) unreadable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	low := -1
	for lane, x := range p.places {
		if !x.put && (low < 0 || lane < low) {
			low, err = lane, x.err
		}
	}
	return err
}

// Waiting implements Peeker for the lanes that are not parked.
func (f *forwarder) Waiting(lane int) bool {
	return f.peek.Waiting(lane) && !f.parking.parked(lane, time.Now())
}

// unreadable parks a lane that cannot be read, for instance because the key of
// its records is missing: the others must not wait for a person.
func (f *forwarder) unreadable(lane int, err error) {
	name := f.laneName(lane)
	f.parking.park(lane, place{until: time.Now().Add(unreadablePause), err: fmt.Errorf("read lane %s: %w", name, err)})
	f.parking.fresh = true
}

// isLater reports whether err only puts a batch off.
func isLater(err error) bool {
	var l *LaterError
	return errors.As(err, &l)
}

// later gives the batch up when err is a *LaterError, and parks its lane.
func (f *forwarder) later(err error) bool {
	var l *LaterError
	if !errors.As(err, &l) {
		return false
	}
	pause := max(l.After, leastPark)
	if f.letterbox.owns(f.batch) {
		f.letterbox.postpone()
		f.batch = nil
		return true
	}
	if f.batch.Replayed {
		f.replay.later(pause)
		f.batch = nil
		return true
	}
	q, ok := f.queue.(rewinder)
	if !ok {
		return false
	}
	f.drop()
	q.Rewind(f.lane)
	f.parking.park(f.lane, place{until: time.Now().Add(pause), err: l.Err, put: true})
	return true
}

// drop forgets the batch, which is read again.
func (f *forwarder) drop() {
	clear(f.letters)
	f.batch, f.letters, f.unread, f.notices = nil, f.letters[:0], 0, 0
	f.held, f.decided = false, false
	f.chunk = buffer.Chunk{}
	f.pieces = pieces{givenUp: f.pieces.givenUp}
}

// judge says what the link is worth when nothing is left to send: down, when a
// lane cannot be read and nothing else has been sent for a while.
func (f *forwarder) judge() {
	err := f.parking.unreadable()
	if err == nil {
		f.proven()
		return
	}
	f.doubt = false // the far side is not in question
	last := f.lastSent.Load()
	idle := last == 0 || f.clock.Now().Sub(time.Unix(0, last)) >= steadyLane
	if f.parking.fresh && idle {
		f.link.down(fmt.Errorf("sink %s: %w", f.name, err), unreadablePause)
	} else if !idle {
		f.link.up()
	}
	f.parking.fresh = false
}

// woken returns what the sink wakes parked lanes with; nil = it does not.
func (f *forwarder) woken() <-chan struct{} {
	if w, ok := f.sink.(Waker); ok {
		return w.Wake()
	}
	return nil
}

// listen takes a signal of the sink, if there is one, without waiting.
func (f *forwarder) listen() {
	select {
	case <-f.woken():
		f.parking.wake()
	default:
	}
}

func (f *forwarder) laneName(lane int) string {
	if lane < len(f.lanes) && f.lanes[lane].Name != "" {
		return f.lanes[lane].Name
	}
	return Lane(lane).String()
}

// parkedFacts says which lanes wait and why.
func (f *forwarder) parkedFacts() []Fact {
	f.parking.mu.Lock()
	defer f.parking.mu.Unlock()
	var out []Fact
	for lane := range f.lanes {
		x, ok := f.parking.places[lane]
		if !ok {
			continue
		}
		out = append(out, Fact{Name: "lane " + f.laneName(lane) + " waits", Value: x.err.Error(), Warn: !x.put})
	}
	return out
}

// later gives the batch up; its records come again after the pause.
func (r *replayer) later(pause time.Duration) {
	r.batch, r.full = nil, false
	r.notBefore = time.Now().Add(pause)
}
