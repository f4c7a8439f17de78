package modbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// job does j. The error says that the line is lost, or that ctx has ended.
func (w *worker) job(ctx context.Context, j *job) error {
	w.j = j
	var err error
	switch {
	case j.g != nil:
		err = w.poll(ctx, j.g)
	case j == &j.u.lookup:
		err = w.lookup(ctx, j.u)
	default:
		err = w.probe(ctx, j.u)
	}
	if !w.many {
		return err
	}
	select {
	case w.wake <- struct{}{}: // what is due next may be sooner than others believe
	default:
	}
	return err
}

// poll polls a group and delivers what it found.
func (w *worker) poll(ctx context.Context, g *group) error {
	s := w.s
	if !s.reserve() {
		s.skip(g)
		return nil
	}
	err := w.who(ctx, g.u)
	if err == nil {
		err = w.read(ctx, g)
	} else {
		s.mu.Lock()
		s.settle(g, err)
		s.mu.Unlock()
		s.flight.Add(-1)
	}
	if isLost(err) || ctx.Err() != nil {
		return err
	}
	return nil
}

// read is a poll for which there is room in the queue.
func (w *worker) read(ctx context.Context, g *group) error {
	s := w.s
	g.w, g.cause = w, nil
	if g.renew.Swap(false) {
		g.poll.forget()
	}
	start := s.now()
	first := s.taken(g, start)
	if g.mode == toSearch {
		return w.search(ctx, g)
	}
	if first || len(g.saved.of) == 0 || start-g.saved.since > min(g.every, savedFor)+2*g.u.Timeout {
		g.saved.clear()
		g.saved.since = start
	}
	since := g.saved.since
	results, err := g.poll.run(ctx, g.ask)
	s.count.polls.Add(1)
	took := s.now() - since
	s.noteRefused(g)
	g.open = g.poll.learned(err) && g.poll.unfinished()
	s.mu.Lock()
	over, buried := s.settle(g, err)
	s.mu.Unlock()
	if !over {
		s.flight.Add(-1)
		return err
	}
	w.deliver(g, results, took)
	if buried != nil {
		w.bury(buried, g, err)
	}
	return err
}

// who asks a unit who it is, when that is to be done. That it does not answer
// says nothing of the unit.
func (w *worker) who(ctx context.Context, u *unit) error {
	s := w.s
	s.mu.Lock()
	due := u.unnamed > 0 && u.strikes == 0 && (s.line.heard || !u.shy)
	if due {
		u.unnamed--
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	found, err := identity(ctx, via{w}, u.number, u.Timeout)
	if code := exception(err); code != 0 && !isBusy(code) {
		err = nil // it tells nothing
	}
	if err != nil {
		if isLost(err) || ctx.Err() != nil {
			s.mu.Lock()
			u.shy = u.shy || isLost(err)
			s.mu.Unlock()
			return err
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.unnamed, u.shy = 0, false
	u.tags = append(u.fixed[:len(u.fixed):len(u.fixed)], found...) // not those of the device before
	return nil
}

// probe asks a dead unit, with one short request, whether it is back. When it
// is, exchange has noted that already.
func (w *worker) probe(ctx context.Context, u *unit) error {
	w.s.mu.Lock()
	g := u.probed()
	w.s.mu.Unlock()
	if g == nil {
		return w.lookup(ctx, u)
	}
	q := g.least
	_, err := w.exchange(ctx, u, &q)
	s := w.s
	s.mu.Lock()
	u.probe.running = false
	gone, tell := u.dead, s.now()-u.told >= tellEvery
	if tell {
		u.told = s.now()
	}
	switch {
	case !gone:
	case isSilence(err) || isUnreachable(err) || isLost(err):
		s.probed(u, err)
	default: // not asked
		s.queue.put(&u.probe)
	}
	s.mu.Unlock()
	if !gone {
		err = nil
	}
	if !isLost(err) && (isSilence(err) || isUnreachable(err)) { // what ends the line may be a silence as well
		if tell {
			w.bad(g, fmt.Errorf("device lost: %w", err))
		}
		return nil
	}
	return err
}

// lookup looks for SunSpec models. They join what is polled; until then, and
// when there are none, the rest goes on without them.
func (w *worker) lookup(ctx context.Context, u *unit) error {
	s := w.s
	s.mu.Lock()
	if u.looking { // by another worker, as a probe
		u.lookup.running = false
		s.mu.Unlock()
		return nil
	}
	u.looking = true
	s.mu.Unlock()
	found, err := u.Profile.SunSpec.discover(ctx, func(ctx context.Context, q *request) ([]byte, error) { return w.exchange(ctx, u, q) })
	if err == nil {
		err = s.adopt(u, found)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.probe.running, u.lookup.running, u.looking = false, false, false
	j := &u.lookup
	switch {
	case err == nil:
		u.noModels = ""
		j.out()
		return nil
	case isBusy(exception(err)):
		j.due = s.now() + max(u.Every, time.Second)
		s.queue.put(j)
		return nil
	case ctx.Err() != nil:
	case u.dead && (isSilence(err) || isUnreachable(err) || isLost(err)):
		s.probed(u, err)
	case isSilence(err) || isUnreachable(err) || isLost(err):
		if s.strike(u, err) {
			break // its probe goes on with it
		}
		j.due = s.now() + u.Every
		s.queue.put(j)
	default:
		if text := err.Error(); u.noModels != text {
			u.noModels = text
			s.log.Warn("no SunSpec models found", "device", u.Name, "unit", u.number, "error", text)
		}
		j.due = s.now() + probeMax
		s.queue.put(j)
		return nil
	}
	if isLost(err) || ctx.Err() != nil {
		if ctx.Err() != nil && !u.dead {
			s.queue.put(j)
		} else if ctx.Err() != nil {
			s.queue.put(&u.probe)
		}
		return err
	}
	return nil
}

// reserve takes room for one record in what the queue has not answered yet.
func (s *source) reserve() bool {
	if s.flight.Add(1) > s.most {
		s.flight.Add(-1)
		return false
	}
	return true
}

// skip leaves a cycle out because the queue does not answer.
func (s *source) skip(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.running = false
	s.count.queue.Add(g.pass(s.now()))
	if !g.u.dead {
		s.queue.put(&g.job)
	}
}

// deliver makes a record of what a poll found. Room was reserved for it.
func (w *worker) deliver(g *group, results []reading, took time.Duration) {
	s := w.s
	g.mu.Lock() // until it is encoded: the values may be the reporter's own
	defer g.mu.Unlock()
	values := w.report(g, results)
	if len(values) == 0 {
		s.flight.Add(-1)
		return
	}
	s.mu.Lock()
	tags := g.u.tags
	s.mu.Unlock()
	r := &w.rec[0]
	*r = gateway.Record{Device: g.u.Name, Name: g.name, Values: values, Tags: tags}
	if allBad(w.values) {
		r.Quality, r.Reason = gateway.Bad, w.values[0].Reason
	}
	s.delivering.Lock()
	defer s.delivering.Unlock()
	w.in.Stamp(r)
	r.Received = r.Received.Add(-took / 2) // the middle between request and answer
	w.in.DeliverLazy(w.rec[:], g.done)
}

// report decodes what a poll found and returns what is to be reported of it.
// g.mu is held.
func (w *worker) report(g *group, results []reading) []gateway.Value {
	w.values = g.decoder.values(w.values[:0], results)
	if g.decoder.rebased() {
		w.s.urgentSave.Store(true)
	}
	if g.whole.Swap(false) {
		g.reporter.force()
	}
	return g.reporter.take(w.values, time.Now())
}

// allBad reports whether no value could be read.
func allBad(values []gateway.Value) bool {
	for i := range values {
		if values[i].Quality != gateway.Bad {
			return false
		}
	}
	return true
}

// bad delivers a record without any value, which says why there is none.
func (w *worker) bad(g *group, why error) {
	if !w.s.reserve() {
		w.s.count.queue.Add(1)
		return
	}
	results := make([]reading, len(g.decoder.spans()))
	for i := range results {
		results[i].err = why
	}
	w.deliver(g, results, 0)
}

// bury says in a record of each group that the unit is lost, besides that of
// the poll which found it out.
func (w *worker) bury(u *unit, but *group, err error) {
	w.s.mu.Lock()
	groups := u.groups
	w.s.mu.Unlock()
	for _, g := range groups {
		if g != but {
			w.bad(g, fmt.Errorf("device lost: %w", err))
		}
	}
}

// mourn says in a record of each group that the line is lost.
func (s *source) mourn(in *gateway.Intake, err error) {
	s.mu.Lock()
	var groups []*group
	for _, u := range s.units {
		if !u.dead { // of those it is known
			groups = append(groups, u.groups...)
		}
	}
	s.mu.Unlock()
	w := &worker{bus: &bus{s: s, in: in}}
	for _, g := range groups {
		g.whole.Store(true)
		w.bad(g, fmt.Errorf("line lost: %w", err))
		g.whole.Store(true)
	}
}

// noteRefused notes what the device refuses, for the facts.
func (s *source) noteRefused(g *group) {
	held := g.poll.heldOff()
	if len(held) == g.held {
		return
	}
	g.held = len(held)
	text := ""
	if len(held) > 0 {
		text = rangesOf(held)
		var wrong *lengthError
		if code := exception(g.cause); code != 0 {
			text += ": " + codeName(code)
		} else if errors.As(g.cause, &wrong) {
			text += fmt.Sprintf(": it answers with %d bytes instead of %d", wrong.got, wrong.want)
		}
	}
	s.mu.Lock()
	g.refused = text
	s.mu.Unlock()
}

// rangesOf names spans in few words: "holding 120-123 and 130, input 7".
func rangesOf(spans []span) string {
	const most = 4 // ranges that are named
	var parts []string
	for i := 0; i < len(spans); {
		from, table := spans[i], tableOf(spans[i].function)
		end := from.end()
		for i++; i < len(spans) && spans[i].function == from.function && spans[i].address <= end; i++ {
			end = max(end, spans[i].end())
		}
		name := fmt.Sprintf("%s %d", table, from.address)
		if end > from.address+1 {
			name = fmt.Sprintf("%s %d-%d", table, from.address, end-1)
		}
		parts = append(parts, name)
	}
	if len(parts) > most {
		parts = append(parts[:most], fmt.Sprintf("%d more", len(parts)-most))
	}
	return strings.Join(parts, ", ")
}

// codeName names an exception (MODBUS Application Protocol V1.1b3 section 7).
func codeName(code byte) string {
	names := [...]string{1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "device failure", 8: "memory parity error"}
	if int(code) < len(names) && names[code] != "" {
		return names[code]
	}
	return fmt.Sprintf("exception %d", code)
}

// errRenewed ends a session because certificates have changed.
var errRenewed = errors.New("certificates have changed")
