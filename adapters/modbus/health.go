package modbus

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// How a unit that does not answer is treated; docs/decisions/0019 has why.
const (
	strikesDead   = 3                      // polls given up in a row
	probeMin      = time.Second            // pause before the first probe of a dead unit
	probeMax      = 5 * time.Minute        // and the longest
	probeFull     = 4                      // every so many probes wait for the whole time-out
	waitLeast     = 50 * time.Millisecond  // the shortest time-out there is
	waitTimes     = 3                      // a shortened one is so many times what was seen,
	waitMargin    = 20 * time.Millisecond  // and this
	shareParts    = 10                     // one part in so many of the time is for those that owe an answer
	shareSaved    = 250 * time.Millisecond // of which so much is kept for later
	suspectTimes  = 10                     // time-outs for which a silence makes us wait shorter for others too
	patienceProbe = 5 * time.Second        // how long a probe waits for a good moment
	tellEvery     = time.Minute            // least time between two records that say so
	busyTimes     = 3                      // times that a unit may ask for patience in one cycle
	busyPause     = 100 * time.Millisecond // before it is asked again, doubled each time
)

// health is how a unit is doing.
type health struct {
	proven  bool          // it has answered since the start
	dead    bool          // it is only probed
	strikes int           // polls without any answer in a row
	since   time.Duration // of the first of them
	why     string        // the last of them
	probes  int           // since it is dead
	spoke   *group        // the last that was read as a whole
	turn    uint          // probes ever: whose turn it is to be asked for, see probed
	told    time.Duration // when a record said so last
	seen    time.Duration // how long its answers take, nearly the longest
	heardAt time.Duration // of its last answer
}

// well reports whether a unit answers.
func (h *health) well() bool { return h.proven && !h.dead && h.strikes == 0 }

// lineHealth is what is known of all units of the line together. source.mu
// guards it.
type lineHealth struct {
	well    int           // units that answer
	heard   bool          // one has since the line was opened
	opened  time.Duration // when that was
	seen    time.Duration // how long answers take at most
	suspect time.Duration // until then a silence is likely
	credit  time.Duration // time that may be spent on units that owe an answer
	accrued time.Duration // when credit was made up
	free    time.Duration // since when there is some
	fresh   time.Duration // from then on a unit that was never asked may go before a poll
}

// busyError says that a unit asked for patience (exceptions 5 and 6). It is no
// exception to a poll: the unit is asked again.
type busyError struct{ code byte }

func (e *busyError) Error() string { return fmt.Sprintf("the device is busy (exception %d)", e.code) }

func isBusy(code byte) bool { return code == 5 || code == 6 }

// unreachable says that the gateway answered in the place of a unit which it
// does not reach (exceptions 10 and 11). To a poll it is a silence.
type unreachable struct{ code byte }

func (e *unreachable) Error() string {
	if e.code == 10 {
		return "the gateway has no way to the device (exception 10)"
	}
	return "the gateway got no answer from the device (exception 11)"
}

func isUnreachable(err error) bool {
	var e *unreachable
	return errors.As(err, &e)
}

// lostLine ends a session: the line is to be closed.
type lostLine struct{ err error }

func (e *lostLine) Error() string { return e.err.Error() }
func (e *lostLine) Unwrap() error { return e.err }

func isLost(err error) bool {
	var e *lostLine
	return errors.As(err, &e)
}

// owes reports whether j is a poll that was given up the last time.
func (j *job) owes() bool { return j.g != nil && j.g.strikes > 0 }

// others is how many units answer that j would hold up: without its own, unless
// only this group of it does not answer. s.mu is held.
func (s *source) others(j *job) int {
	if j.u.well() && !j.owes() {
		return s.line.well - 1
	}
	return s.line.well
}

// limit is how long an answer is waited for in j: the time-out of the unit, or
// less while others would wait as well and an answer is not likely. s.mu is held.
func (s *source) limit(j *job) time.Duration {
	u, owes := j.u, j.owes()
	if s.others(j) == 0 || u.dead && u.probes%probeFull == probeFull-1 || owes && j.g.strikes%probeFull == probeFull-1 {
		return u.Timeout
	}
	if j.tries == 0 && !owes {
		if !u.proven && u.strikes == 0 || u.well() && s.now() >= s.line.suspect {
			return u.Timeout
		}
	}
	seen := u.seen
	if seen == 0 {
		seen = s.line.seen
	}
	return min(u.Timeout, max(waitTimes*seen+waitMargin, waitLeast))
}

// observe notes how long an answer for u took, be it that of a gateway in its
// place: the next one is waited for as long. s.mu is held.
func (s *source) observe(u *unit, took time.Duration) {
	if took > u.seen {
		u.seen = took
	} else {
		u.seen -= (u.seen - took) / 64
	}
	if u.seen > s.line.seen {
		s.line.seen = u.seen
	} else {
		s.line.seen -= (s.line.seen - u.seen) / 64
	}
}

// answered notes that u has answered, be it with an exception. s.mu is held.
func (s *source) answered(u *unit, took time.Duration) {
	u.heardAt, s.line.heard = s.now(), true
	s.observe(u, took)
	if u.well() {
		return
	}
	if u.dead {
		s.revive(u)
	}
	u.proven, u.strikes, u.why = true, 0, ""
	s.line.well++
	s.queue.sort(u)
}

// silent notes that a request of j was not answered. s.mu is held.
func (s *source) silent(j *job, took time.Duration) {
	now, u := s.now(), j.u
	first := j.tries == 0 && !j.owes()
	if first && u.strikes == 0 && !u.dead {
		u.since = now - took
	}
	if s.others(j) == 0 {
		return
	}
	switch {
	case first && u.well():
		s.line.suspect = now + suspectTimes*u.Timeout
	case first && !u.proven && u.strikes == 0:
		s.line.fresh = now + took // those that answer get as much time
	default:
		s.accrue(now)
		s.line.credit -= took
	}
}

// accrue makes up the time that may be spent on those that owe an answer. s.mu
// is held.
func (s *source) accrue(now time.Duration) {
	l := &s.line
	spent := l.credit < 0
	l.credit = min(l.credit+(now-l.accrued)/shareParts, shareSaved)
	l.accrued = now
	if spent && l.credit >= 0 {
		l.free = now
	}
}

// strike notes that a poll of u was given up without any answer, and reports
// whether u is dead now. s.mu is held.
func (s *source) strike(u *unit, why error) bool {
	if u.well() {
		s.line.well--
	}
	if u.strikes == 0 && u.since <= u.heardAt {
		u.since = s.now()
	}
	u.strikes++
	u.why = why.Error()
	s.queue.sort(u)
	if u.strikes < strikesDead || u.dead {
		return false
	}
	u.dead, u.probes, u.told = true, 0, s.now()
	for j := range u.jobs() {
		j.out()
	}
	s.postpone(u)
	s.log.Warn("device does not answer", "device", u.Name, "unit", u.number, "error", u.why, "since", (s.now() - u.since).Round(time.Millisecond))
	return true
}

// postpone makes the next probe of u due after a pause that grows, with jitter.
// s.mu is held.
func (s *source) postpone(u *unit) {
	pause := probeMax
	if u.probes < 16 {
		pause = min(probeMax, probeMin<<u.probes)
	}
	pause -= rand.N(pause / 4)
	u.probe.due = s.now() + pause
	s.queue.put(&u.probe)
}

// probed notes that a probe of u was not answered. s.mu is held.
func (s *source) probed(u *unit, why error) {
	u.probes++
	u.why = why.Error()
	now := s.now()
	for _, g := range u.groups {
		s.count.off.Add(g.advance(now))
	}
	s.postpone(u)
}

// revive makes u a unit like any other again: all of it is polled at once.
// s.mu is held.
func (s *source) revive(u *unit) {
	now := s.now()
	u.dead = false
	u.probe.out()
	for _, g := range u.groups {
		s.count.off.Add(max(0, g.advance(now)-1))
		g.soon(now)
		g.strikes = 0
		g.whole.Store(true)
		g.renew.Store(true) // it may be another device
		if !g.running {
			s.queue.put(&g.job)
		}
	}
	s.askWho(u)
	if u.Profile.SunSpec != nil && !u.looking { // it may have other models, elsewhere
		u.lookup.due = now
		s.queue.put(&u.lookup)
	}
	s.log.Info("device answers again", "device", u.Name, "unit", u.number, "after", (now - u.since).Round(time.Millisecond))
}

// askWho has u asked who it is with its next poll, and once more if it is silent
// then. s.mu is held.
func (s *source) askWho(u *unit) {
	if u.Identify {
		if u.unnamed = 2; u.shy {
			u.unnamed = 1
		}
	}
}
