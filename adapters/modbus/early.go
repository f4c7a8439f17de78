package modbus

import (
	"context"
	"time"
)

// early says why a group is due before its cycle.
type early uint8

const (
	onTime   early = iota
	toSearch       // to go on searching for what the device refuses
	toShow         // to record what can be read, now that this is known
)

const (
	searchPause = time.Second     // between two runs of a search
	searchMost  = 256             // such runs in one cycle
	savedFor    = 5 * time.Second // how long answers of an interrupted poll are used, besides time-outs
)

// taken prepares for a run of g, and reports whether it is the first for its
// record.
func (s *source) taken(g *group, now time.Duration) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.early == toSearch && now >= g.nominal() {
		g.early = onTime
	}
	if g.mode = g.early; g.mode == onTime {
		g.searches = 0
	}
	g.bears = g.busy < busyTimes
	return g.tries+g.cuts+g.busy == 0
}

// nominal is when the cycle of j begins.
func (j *job) nominal() time.Duration { return j.phase + time.Duration(j.cycle)*j.every }

// back makes j due in its cycle again. That is the next one at most, also when
// phases have changed.
func (j *job) back(now time.Duration) { j.set(min(j.cycle, j.cycleAt(now)+1)) }

// pass leaves out what j is due for, and returns how many cycles that are.
func (j *job) pass(now time.Duration) int64 {
	if j.early == onTime {
		return 1 + j.advance(now)
	}
	j.back(now)
	return 0
}

// goOn has a search that is not finished go on soon, with runs that make no
// record, and what it has found recorded when it is: it must not take hours
// because the period is long. g is due in its next cycle. s.mu is held.
func (s *source) goOn(g *group, now time.Duration) {
	if g.u.dead || g.due-now <= searchPause || g.mode == toShow {
		return
	}
	switch {
	case g.open && g.searches < searchMost:
		g.early, g.due = toSearch, now+searchPause
		g.searches++
	case g.mode == toSearch:
		g.early, g.due = toShow, now
	default:
		return
	}
	s.queue.put(&g.job)
}

// search goes on with the search of g. What comes in between ends it until the
// next cycle: it is that one's poll that tells.
func (w *worker) search(ctx context.Context, g *group) error {
	s := w.s
	g.saved.clear()
	err := g.poll.resume(ctx, g.ask)
	s.flight.Add(-1)
	s.noteRefused(g)
	learned := g.poll.learned(err)
	g.open = learned && g.poll.unfinished()
	g.saved.clear()
	g.heard = false
	s.mu.Lock()
	defer s.mu.Unlock()
	g.running = false
	g.back(s.now())
	if learned {
		s.goOn(g, s.now())
	}
	if !g.u.dead {
		s.queue.put(&g.job)
	}
	return err
}
