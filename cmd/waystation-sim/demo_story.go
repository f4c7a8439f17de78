package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// phaseBack and phaseAgain follow the outage, until and after the backlog is
// gone.
const (
	phaseBack  = "link back: the queue drains"
	phaseAgain = "backlog gone: records flow through again"
)

// event is one turn of the story.
type event struct {
	at    time.Duration // after the first message
	phase string        // what follows, in words
	do    func() error
}

// viewEvery is how often the view is drawn or a line is printed.
func (d *demo) viewEvery() time.Duration {
	if d.view.terminal {
		return 200 * time.Millisecond
	}
	return time.Second
}

// events is the story, in order.
func (d *demo) events(ctx context.Context) []event {
	t, link := d.times, d.plant.kafka.link
	return []event{
		{0, "all well: records flow through", func() error {
			d.plant.startDevices(context.WithoutCancel(ctx)) // cleanUp stops them
			return nil
		}},
		{t.cut, "link cut: records pile up in the queue", func() error { return link.Cut(d.opts.mode) }},
		{t.kill, "gateway killed (SIGKILL): the broker keeps what devices send", d.child.kill},
		{t.restart, "gateway started again, link still cut", d.child.start},
		{t.restore, phaseBack, func() error {
			link.Restore()
			return nil
		}},
		{t.stop, "devices stopped: draining", d.plant.stopDevices},
	}
}

// tell lets the events happen in their time.
func (d *demo) tell(ctx context.Context) error {
	d.begun = time.Now()
	tick := time.NewTicker(d.viewEvery())
	defer tick.Stop()
	for _, e := range d.events(ctx) {
		timer := time.NewTimer(time.Until(d.begun.Add(e.at)))
		for waiting := true; waiting; {
			select {
			case <-timer.C:
				waiting = false
			case <-tick.C:
				d.view.draw(d.snapshot())
			case <-d.child.ended():
				timer.Stop()
				return d.died()
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		d.enter(e.phase)
		if err := e.do(); err != nil {
			return err
		}
	}
	return nil
}

// died reports that the gateway ended though nobody told it to.
func (d *demo) died() error {
	err := d.child.life.err
	d.child.life = nil
	return fmt.Errorf("run gateway: it ended by itself while %q: %w", d.phase, orNil(err))
}

// drain waits until nothing is under way any more, or drainLimit past the
// duration. It returns what is wrong with the gateway's own account.
func (d *demo) drain(ctx context.Context) (faults []string, err error) {
	bound := time.NewTimer(time.Until(d.begun.Add(d.times.end + drainLimit)))
	defer bound.Stop()
	tick := time.NewTicker(d.viewEvery())
	defer tick.Stop()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	_, first, _ := d.poller.status()
	empty := 0 // answer in which the queue was first seen empty
	for {
		select {
		case <-poll.C:
			_, n, _ := d.poller.status()
			switch {
			case n < first+2 || !d.drained(): // an answer may be from before the devices stopped
				empty = 0
			case empty == 0:
				empty = n
			case n > empty:
				return d.account(), nil
			}
		case <-tick.C:
			d.view.draw(d.snapshot())
		case <-bound.C:
			return append(d.account(), d.stuck()), nil
		case <-d.child.ended():
			return nil, d.died()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// drained reports whether nothing waits at the broker or in the gateway.
func (d *demo) drained() bool {
	s, _, err := d.poller.status()
	if err != nil || len(s.Sinks) == 0 || d.plant.broker.counts().Waiting > 0 {
		return false
	}
	for _, sink := range s.Sinks {
		if sink.Waiting > 0 {
			return false
		}
	}
	return true
}

// stuck says why the draining took too long.
func (d *demo) stuck() string {
	s, _, err := d.poller.status()
	if err != nil {
		return fmt.Sprintf("not drained within %s: the gateway does not say its status: %v", d.times.end+drainLimit, err)
	}
	text := fmt.Sprintf("not drained within %s: %d messages wait at the MQTT broker", d.times.end+drainLimit, d.plant.broker.counts().Waiting)
	for _, sink := range s.Sinks {
		text += fmt.Sprintf(", %d for %s (%s %s)", sink.Waiting, sink.Name, sink.Link.State, sink.Link.Error)
	}
	return text
}

// account checks what the gateway says about itself.
func (d *demo) account() (faults []string) {
	s, _, err := d.poller.status()
	if err != nil {
		return []string{fmt.Sprintf("the gateway does not say its status: %v", err)}
	}
	if !s.Books.Balanced {
		faults = append(faults, "the gateway says that its books do not balance")
	}
	for _, sink := range s.Sinks {
		if sink.Lost > 0 || sink.DeadLettered > 0 {
			faults = append(faults, fmt.Sprintf("the gateway says that %s lost %d records and refused %d", sink.Name, sink.Lost, sink.DeadLettered))
		}
	}
	return faults
}

// judge reads Kafka and compares it with what the plant knows.
func (d *demo) judge(ctx context.Context) (*Verdict, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, judgeLimit, errors.New("reading Kafka took too long"))
	defer cancel()
	report := d.plant.report(true)
	j := newJudge(report.Devices, d.plant.cfg.Devices, d.opts.repeats)
	j.v.Redelivered = report.Broker.Redelivered
	j.v.WorstDelay, j.v.WorstDevice = d.tail.result()
	return judgeKafka(ctx, j, []string{d.plant.kafka.addr}, nil)
}

// enter begins a phase.
func (d *demo) enter(phase string) {
	d.phase = phase
	d.view.draw(d.snapshot())
}

func (d *demo) snapshot() snapshot {
	s := snapshot{phase: d.phase, total: d.opts.duration}
	if !d.begun.IsZero() {
		s.elapsed = time.Since(d.begun)
	}
	if d.plant != nil {
		s.plant = d.plant.report(false)
		s.devices = len(d.plant.fleet.devices)
	}
	if d.child != nil {
		s.alive = d.child.life != nil
	}
	if d.poller != nil {
		s.gateway, s.answers, s.err = d.poller.status()
	}
	if _, sent, waiting, _ := s.sums(); d.phase == phaseBack && s.err == nil && waiting*20 < sent && s.elapsed > d.times.restore+time.Second {
		d.phase, s.phase = phaseAgain, phaseAgain
	}
	return s
}
