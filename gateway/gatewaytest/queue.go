package gatewaytest

import (
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// errRefused is what a failing queue answers.
var errRefused = errors.New("no space for the queue (made by gatewaytest)")

// mode is how the queue answers.
type mode int

const (
	taking  mode = iota // done(nil) at once
	stuck               // no answer
	failing             // done(err) at once
)

// queue is a queue in memory that decides when and what it answers, and the
// record of all that was seen on both sides.
type queue struct {
	number func(*gateway.Record) (int, bool)

	mu       sync.Mutex // guards what follows
	changed  chan struct{}
	mode     mode
	closed   bool
	pending  []entry
	unsafe   int                    // records appended and not yet answered
	most     int                    // the largest unsafe ever was
	appends  int                    // records ever appended
	refused  int                    // records answered with an error
	stored   []int                  // numbers in the order they became durable
	times    map[int]gateway.Record // first record of a number, without content
	durable  map[int]bool
	sent     []int
	acked    []int
	ackSet   map[int]bool
	problems []string
	inDone   time.Time // when the done that runs was called; zero when none runs
	runs     int       // calls of Run
	returns  int       // returns of Run
	lastErr  error     // of Run
	ended    chan struct{}
}

// entry is one delivery.
type entry struct {
	numbers []int
	records []gateway.Record // without content, one per number
	size    int
	done    func(error)
}

func newQueue(number func(*gateway.Record) (int, bool)) *queue {
	q := &queue{number: number, changed: make(chan struct{}), times: map[int]gateway.Record{}, durable: map[int]bool{},
		ackSet: map[int]bool{}, ended: make(chan struct{})}
	go q.commit()
	return q
}

// change runs fn under the lock and wakes all that wait.
func (q *queue) change(fn func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	fn()
	close(q.changed)
	q.changed = make(chan struct{})
}

// look runs fn under the lock and returns a channel that is closed at the next change.
func (q *queue) look(fn func()) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	fn()
	return q.changed
}

// append is the queue's end towards the Intake.
func (q *queue) append(_ gateway.Lane, stored iter.Seq[[]byte], done func(error)) {
	e := entry{done: done}
	var dec gateway.RecordDecoder
	for p := range stored {
		e.size++
		var r gateway.Record
		if err := dec.Decode(&r, p); err != nil {
			q.problem("decode a delivered record: %v", err)
			continue
		}
		if n, ok := q.number(&r); ok && n > 0 {
			r.Payload, r.Values, r.Tags = nil, nil, nil
			e.numbers, e.records = append(e.numbers, n), append(e.records, r)
		}
	}
	q.change(func() {
		q.pending = append(q.pending, e)
		q.unsafe, q.appends = q.unsafe+e.size, q.appends+e.size
		q.most = max(q.most, q.unsafe)
	})
}

// commit answers deliveries in order, from one goroutine, as the real queue does.
func (q *queue) commit() {
	defer close(q.ended)
	for {
		var e entry
		var err error
		found, closed := false, false
		wait := q.look(func() {
			found = len(q.pending) > 0 && q.mode != stuck
			closed = q.closed && len(q.pending) == 0
			if found {
				e, q.pending = q.pending[0], q.pending[1:]
				if q.mode == failing {
					err = errRefused
				}
			}
		})
		if closed {
			return
		}
		if !found {
			<-wait
			continue
		}
		q.answer(&e, err)
	}
}

// answer makes a delivery durable, or not, and calls its done.
func (q *queue) answer(e *entry, err error) {
	q.change(func() {
		q.inDone = time.Now()
		q.unsafe -= e.size
		if err != nil {
			q.refused += e.size
			return
		}
		for i, n := range e.numbers {
			q.stored = append(q.stored, n)
			if !q.durable[n] {
				q.durable[n], q.times[n] = true, e.records[i]
			}
		}
	})
	e.done(err) // the Intake's, which counts a panic of the source's
	q.change(func() {
		if took := time.Since(q.inDone); took > time.Second {
			q.problems = append(q.problems, fmt.Sprintf("done blocked the queue for %s: it must not block", took.Round(time.Millisecond)))
		}
		q.inDone = time.Time{}
	})
}

// idle reports whether every delivery is answered. q.mu is held.
func (q *queue) idle() bool { return q.unsafe == 0 && len(q.pending) == 0 && q.inDone.IsZero() }

func (q *queue) setMode(m mode) { q.change(func() { q.mode = m }) }

// close answers what is left and ends the queue's goroutine.
func (q *queue) close() {
	q.change(func() { q.mode, q.closed = taking, true })
}

func (q *queue) sentOne(n int) { q.change(func() { q.sent = append(q.sent, n) }) }

// ackedOne checks an acknowledgement at the moment it is seen.
func (q *queue) ackedOne(n int) {
	q.change(func() {
		if !q.durable[n] {
			q.problems = append(q.problems, fmt.Sprintf("observation %d was acknowledged before the queue had it", n))
		}
		q.acked = append(q.acked, n)
		q.ackSet[n] = true
	})
}

func (q *queue) problem(format string, args ...any) {
	q.change(func() { q.problems = append(q.problems, fmt.Sprintf(format, args...)) })
}

// state describes where things stand, for the message of a failure. q.mu is held.
func (q *queue) state() string {
	s := fmt.Sprintf("%d records appended, %d unanswered, %d refused, %d numbered stored, %d acknowledged, Run called %d and returned %d times",
		q.appends, q.unsafe, q.refused, len(q.stored), len(q.acked), q.runs, q.returns)
	if q.lastErr != nil {
		s += fmt.Sprintf(", last with %q", q.lastErr)
	}
	if !q.inDone.IsZero() {
		s += fmt.Sprintf(", a done has not returned for %s", time.Since(q.inDone).Round(time.Millisecond))
	}
	return s
}
