package modbus

import (
	"errors"
	"time"
)

// settle decides what follows a poll of g that ended with err, and reports
// whether it is over: a record is to be made. buried is its unit when that was
// declared dead. s.mu is held.
func (s *source) settle(g *group, err error) (over bool, buried *unit) {
	now, u := s.now(), g.u
	g.running = false
	switch {
	case err == nil:
		g.strikes, u.spoke = 0, g
		s.later(g, now)
		s.goOn(g, now)
		return true, nil
	case isLost(err):
		if !s.line.heard { // it may have been anybody's request: another goes first on the next line
			g.blind++
			g.due = now
			s.queue.put(&g.job)
			return false, nil
		}
		if g.cuts++; g.cuts == 1 {
			s.again(g, now)
			return false, nil
		}
	case isUnreachable(err):
	case isSilence(err):
		if g.tries++; g.tries <= *u.Retries {
			s.again(g, now)
			return false, nil
		}
	default:
		var busy *busyError
		if !errors.As(err, &busy) { // not read: Run ends, or another worker lost the line
			s.queue.put(&g.job)
			return false, nil
		}
		g.due = now + busyPause<<g.busy
		g.busy++
		s.queue.put(&g.job)
		return false, nil
	}
	// When it was given up before, and the unit has answered since, then it is the
	// group that gets no answer and not the unit.
	alone := g.strikes > 0 && u.heardAt > g.failedAt
	g.strikes, g.failedAt = g.strikes+1, now
	if !g.heard && !alone && s.strike(u, err) {
		buried = u
	}
	s.later(g, now)
	if g.open { // the line was closed for an answer that was too short
		s.goOn(g, now)
	}
	return true, buried
}

// again has g polled once more, after the other polls that are due. s.mu is held.
func (s *source) again(g *group, now time.Duration) {
	if g.u.dead {
		return
	}
	s.queue.ripen(now)
	g.due, g.deadline = now, max(g.deadline, s.queue.last()+1)
	s.queue.put(&g.job)
}

// later has g polled in its next cycle. s.mu is held.
func (s *source) later(g *group, now time.Duration) {
	missed := g.advance(now)
	if g.strikes > 0 || g.u.strikes > 0 || g.u.dead {
		s.count.off.Add(missed)
	} else {
		s.count.late.Add(missed)
	}
	g.saved.clear()
	g.heard, g.blind = false, 0
	if !g.u.dead {
		s.queue.put(&g.job)
	}
}

// take returns what is to be done now, or how long there is nothing. s.mu is held.
func (s *source) take(now time.Duration) (*job, time.Duration) {
	q := &s.queue
	q.ripen(now)
	s.accrue(now)
	var j *job
	wait := s.trial(now)
	if wait == 0 {
		wait = never
		j = s.impatient(now)
	}
	if j == nil {
		j = q.good.first()
	}
	if j == nil && wait == never {
		j = q.fresh.first()
	}
	if j == nil && wait == never {
		if j = q.poor.first(); j != nil {
			if wait = s.hold(j, now); wait > 0 {
				j = nil
			}
		}
	}
	if j == nil {
		if next := q.waiting.first(); next != nil {
			wait = min(wait, next.due-now)
		}
		return nil, wait
	}
	j.out()
	j.running = true
	return j, 0
}

// trial is how long only those that answer are asked, after the line was opened:
// until one of them has answered, but not for long. A unit that makes the line
// fall would else do so before anybody has answered, and a line that is lost so
// is not opened again at once. s.mu is held.
func (s *source) trial(now time.Duration) time.Duration {
	if s.line.heard || s.line.well == 0 {
		return 0
	}
	return max(0, s.line.opened+patienceProbe-now)
}

const never = time.Duration(1<<63 - 1)

// impatient returns a job that has waited long enough behind those of units that
// answer, nil when there is none. s.mu is held.
func (s *source) impatient(now time.Duration) *job {
	if j := s.queue.fresh.first(); j != nil && now-j.due >= firstWithin && now >= s.line.fresh {
		return j
	}
	if j := s.queue.poor.first(); j != nil && s.waited(j, now) >= patience(j) && (s.line.credit >= 0 || s.others(j) == 0) {
		return j
	}
	return nil
}

// waited is how long a job has waited although there was time to spend on it.
// s.mu is held.
func (s *source) waited(j *job, now time.Duration) time.Duration {
	return now - max(j.due, s.line.free)
}

// patience is how long a job of a unit that owes an answer waits for a moment
// in which it holds up nobody.
func patience(j *job) time.Duration {
	if j.g == nil {
		return patienceProbe
	}
	return min(max(j.every, time.Second), patienceProbe)
}

// hold is how long a job of a unit that owes an answer has to wait: for time
// that may be spent on it, and for a moment in which it holds up nobody. After a
// request that may have made the line fall another goes first. s.mu is held.
func (s *source) hold(j *job, now time.Duration) time.Duration {
	next, left := s.queue.waiting.first(), patience(j)-s.waited(j, now)
	if j.blind > 1 && !s.line.heard && next != nil {
		return min(next.due-now, left)
	}
	if s.others(j) == 0 {
		return 0
	}
	switch {
	case j.cuts > 0 && !s.line.heard && next != nil:
		return min(next.due-now, left)
	case j.u.well() && !j.owes():
		return 0
	case s.line.credit < 0:
		return -s.line.credit * shareParts
	case next == nil || next.due-now >= s.limit(j):
		return 0
	}
	return min(next.due-now, left)
}
