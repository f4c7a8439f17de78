package modbus

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// mostFacts is how many units, and how many groups with something refused, the
// facts name.
const mostFacts = 16

// counts is what the source counts since its start.
type counts struct {
	polls                   atomic.Int64 // made
	late, queue, line, off  atomic.Int64 // cycles left out, by reason
	silences, exceptions    atomic.Int64
	answers, answerTime     atomic.Int64 // and their time, ns
	reopens                 atomic.Int64
	unstored                atomic.Int64 // records that the queue refused
	lateFrames, foreignOnes atomic.Int64 // of lines that were closed
}

// load is how busy the line is, over the last minute in slots.
type load struct {
	slots [loadSlots]time.Duration
	slot  int64 // number of the newest
	start time.Duration
	total time.Duration
}

const (
	loadSlots = 6
	loadSlot  = 10 * time.Second
)

func (l *load) begin(now time.Duration) {
	l.roll(now)
	if l.start == 0 {
		l.start = now
	}
}

// roll begins new slots as time goes on.
func (l *load) roll(now time.Duration) {
	slot := int64(now / loadSlot)
	for n := min(slot-l.slot, loadSlots); n > 0; n-- {
		l.slots[(slot-n+1)%loadSlots] = 0
	}
	l.slot = max(slot, l.slot)
}

// used notes that the line was used. s.mu is held.
func (s *source) used(from, to time.Duration) {
	l := &s.load
	l.roll(to)
	l.slots[l.slot%loadSlots] += to - from
	l.total += to - from
}

// percent is how busy the line was.
func (l *load) percent(now time.Duration) float64 {
	l.roll(now)
	var sum time.Duration
	for _, d := range l.slots {
		sum += d
	}
	over := min(now-l.start, (loadSlots-1)*loadSlot+now%loadSlot)
	if over <= 0 {
		return 0
	}
	return min(100, 100*float64(sum)/float64(over))
}

// frameCounter is a line that counts what it dropped: answers that came too
// late, and frames that nobody asked for.
type frameCounter interface{ dropped() (late, foreign int64) }

// leave adds up what the line of b dropped, which is closed now.
func (s *source) leave(b *bus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.over = true
	if c, ok := b.line.(frameCounter); ok {
		late, foreign := c.dropped()
		s.count.lateFrames.Add(late)
		s.count.foreignOnes.Add(foreign)
	}
}

// frames are the late and foreign frames so far, never fewer than before.
func (s *source) frames() (late, foreign int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	late, foreign = s.count.lateFrames.Load(), s.count.foreignOnes.Load()
	if b := s.current.Load(); b != nil {
		if c, ok := b.line.(frameCounter); ok && !b.over {
			l, f := c.dropped()
			late, foreign = late+l, foreign+f
		}
	}
	return late, foreign
}

// Facts implements gateway.Reporter.
func (s *source) Facts() (all []gateway.Fact) {
	if s.creds != nil {
		all = s.creds.Facts(time.Now())
	}
	late, foreign := s.frames()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base.IsZero() {
		return all
	}
	now := s.now()
	c := &s.count
	answer := "answer"
	if !s.connected() {
		answer = "answered when there was a line"
	}
	all = append(all, gateway.Fact{Name: "devices", Value: fmt.Sprintf("%d of %d %s", s.line.well, len(s.units), answer)})
	line := fmt.Sprintf("%.0f %% busy over the last minute; %d polls, %d left out (%d late, %d for the queue, %d without a line), %d of devices that did not answer",
		s.load.percent(now), c.polls.Load(), c.late.Load()+c.queue.Load()+c.line.Load(), c.late.Load(), c.queue.Load(), c.line.Load(), c.off.Load())
	if late+foreign > 0 {
		line += fmt.Sprintf("; %d answers came too late, %d frames were nobody's", late, foreign)
	}
	all = append(all, gateway.Fact{Name: "line", Value: line})
	ill, refused := 0, 0
	for _, u := range s.units {
		if u.strikes > 0 || u.dead {
			if ill++; ill <= mostFacts {
				all = append(all, s.illness(u, now))
			}
		}
		if u.noModels != "" {
			all = append(all, gateway.Fact{Name: "device " + u.Name, Value: u.noModels, Warn: true})
		}
		for _, g := range u.groups {
			if g.refused != "" {
				if refused++; refused <= mostFacts {
					all = append(all, gateway.Fact{Name: "refused by " + u.Name, Value: g.refused + " (group " + g.name + ")"})
				}
			}
		}
	}
	if more := max(0, ill-mostFacts); more > 0 {
		all = append(all, gateway.Fact{Name: "more devices", Value: fmt.Sprintf("%d more do not answer", more), Warn: true})
	}
	return all
}

// illness says how a unit is doing that does not answer. s.mu is held.
func (s *source) illness(u *unit, now time.Duration) gateway.Fact {
	text := fmt.Sprintf("unit %d has not answered for %s: %s", u.number, (now - u.since).Round(time.Second), u.why)
	if u.dead {
		switch wait := (u.probe.due - now).Round(time.Second); {
		case !s.connected():
			text += "; asked again when the line is open"
		case wait <= 0:
			text += "; asked again now"
		default:
			text += fmt.Sprintf("; asked again in %s", wait)
		}
	}
	return gateway.Fact{Name: "device " + u.Name, Value: text, Warn: true}
}

// connected reports whether there is an open line. s.mu is held.
func (s *source) connected() bool {
	b := s.current.Load()
	return b != nil && !b.over
}

// Measures implements gateway.Measurer.
func (s *source) Measures() (all []gateway.Measure) {
	c := &s.count
	add := func(name, help string, counter bool, v float64, labels ...gateway.Tag) {
		all = append(all, gateway.Measure{Name: name, Help: help, Counter: counter, Value: v, Labels: labels})
	}
	add("polls_total", "Polls made since the start.", true, float64(c.polls.Load()))
	for _, m := range []struct {
		reason string
		n      int64
	}{{"late", c.late.Load()}, {"queue", c.queue.Load()}, {"line", c.line.Load()}, {"off", c.off.Load()}} {
		add("polls_missed_total", "Cycles left out since the start: the line was too busy (late), the queue did not answer (queue), there was no line (line), the device did not answer (off).",
			true, float64(m.n), gateway.Tag{Key: "reason", Value: m.reason})
	}
	late, foreign := s.frames()
	add("silences_total", "Requests without an answer in time since the start.", true, float64(c.silences.Load()))
	add("exceptions_total", "Requests that a device refused since the start.", true, float64(c.exceptions.Load()))
	add("frames_late_total", "Answers that came too late and were dropped since the start.", true, float64(late))
	add("frames_foreign_total", "Frames that nobody asked for, dropped since the start.", true, float64(foreign))
	add("reconnects_total", "Lines that were lost and opened anew at once since the start.", true, float64(c.reopens.Load()))
	add("records_unstored_total", "Records of polls that the queue refused since the start.", true, float64(c.unstored.Load()))
	add("answers_total", "Answers since the start, refusals counted.", true, float64(c.answers.Load()))
	add("answer_seconds_total", "Time that they took.", true, time.Duration(c.answerTime.Load()).Seconds())
	s.mu.Lock()
	defer s.mu.Unlock()
	add("bus_busy_seconds_total", "Time in which the line was used since the start.", true, s.load.total.Seconds())
	for _, u := range s.units {
		up := 0.0
		if u.well() {
			up = 1
		}
		add("device_up", "1 while the device answers.", false, up, gateway.Tag{Key: "device", Value: u.Name})
	}
	return all
}
