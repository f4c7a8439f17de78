package gatewaytest

import (
	"context"
	"errors"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// subscriber is a source with acknowledgements. With fault "" it is right; the
// other faults are the mistakes that the suite must notice.
type subscriber struct {
	p     *plant
	fault string
	dead  bool // state kept over Run, for the fault "state"
}

// outcome is what done said about one observation.
type outcome struct {
	n   int
	err error
}

// session is one call of Run.
type session struct {
	*subscriber
	in       *gateway.Intake
	line     *line
	outcomes chan outcome
	held     []int // acknowledgements kept back by a fault
	open     int   // delivered, not answered
	last     int
}

// Run implements gateway.Source.
func (s *subscriber) Run(ctx context.Context, in *gateway.Intake) error {
	if s.fault == "leak" {
		go func() { <-s.p.free }()
	}
	if s.dead {
		return errLine
	}
	l, err := s.p.dial()
	if err != nil {
		if s.fault == "deaf-dial" {
			<-s.p.free
		}
		return err
	}
	ses := &session{subscriber: s, in: in, line: l, outcomes: make(chan outcome, 4096)}
	if s.fault == "blocking-done" {
		ses.outcomes = make(chan outcome)
	}
	if s.fault != "never-up" {
		in.Up()
	}
	err = ses.loop(ctx)
	if s.fault != "open-line" {
		l.close()
	}
	switch s.fault {
	case "late-done-panics":
		close(ses.outcomes)
	case "state":
		s.dead = true
	case "nil":
		return nil
	case "panic":
		if ctx.Err() == nil {
			panic("line lost")
		}
	case "permanent":
		return gateway.Permanent(err)
	case "waits-for-done":
		for ; ses.open > 0; ses.open-- {
			<-ses.outcomes
		}
	}
	return err
}

func (s *session) loop(ctx context.Context) error {
	stop := ctx.Done()
	if s.fault == "deaf" {
		stop = s.p.free
	}
	for {
		in := s.line.in
		if s.open >= fakeInFlight && s.fault != "unbounded" {
			in = nil
		}
		broken := s.line.broken
		if s.fault == "blind" { // does not notice that the line is gone
			broken = nil
		}
		select {
		case n := <-in:
			s.receive(n)
		case o := <-s.outcomes:
			s.open--
			if err := s.answered(o); err != nil {
				return err
			}
		case <-broken:
			return errors.New("read plant: connection reset")
		case <-stop:
			return ctx.Err()
		}
	}
}

func (s *session) receive(n int) {
	if s.fault == "ack-early" {
		s.line.ack(n)
	}
	r := numbered(n)
	switch s.fault {
	case "own-clock":
		r.Received = time.Now()
	case "reorder":
		if n%2 == 1 {
			s.last = n
			return
		}
		s.deliver(n)
		r = numbered(s.last)
		n = s.last
	case "twice":
		s.deliver(n)
	}
	s.open++
	s.in.Deliver([]gateway.Record{r}, func(err error) { s.outcomes <- outcome{n, err} })
}

func (s *session) deliver(n int) {
	s.open++
	s.in.Deliver([]gateway.Record{numbered(n)}, func(err error) { s.outcomes <- outcome{n, err} })
}

// answered acknowledges, or ends the connection so that the device sends again.
func (s *session) answered(o outcome) error {
	switch {
	case s.fault == "ack-early":
		return o.err
	case o.err != nil && s.fault == "drops":
		return nil
	case o.err != nil && s.fault == "acks-refused":
	case o.err != nil:
		return o.err
	case s.fault == "forgets-acks" && o.n%5 == 0:
		return nil
	case s.fault == "acks-swapped":
		if s.held = append(s.held, o.n); len(s.held) == 2 {
			s.line.ack(s.held[1])
			s.line.ack(s.held[0])
			s.held = s.held[:0]
		}
		return nil
	}
	s.line.ack(o.n)
	return nil
}
