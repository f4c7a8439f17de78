package modbus

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// unit is one device of the line. It is kept over reconnects. source.mu guards
// what follows the mark.
type unit struct {
	Device // with everything filled in
	number byte
	limits *Limits
	fixed  []gateway.Tag // of the configuration
	probe  job           // asks a dead unit whether it is back
	lookup job           // looks for SunSpec models

	// Guarded by source.mu.
	groups   []*group
	models   []Group       // SunSpec models that were found
	noModels string        // why none were
	unnamed  int           // how often it may still be asked who it is
	shy      bool          // the line was lost when it was asked
	looking  bool          // its models are being looked for
	tags     []gateway.Tag // fixed and what it told of itself; replaced, never changed
	health
}

// group is what is polled together of a unit. It is kept over reconnects.
type group struct {
	job
	name     string
	poll     *poll
	least    request       // the smallest of its requests
	strikes  int           // polls given up in a row; source.mu guards it
	failedAt time.Duration // of the last poll that was given up; source.mu guards it
	refused  string        // what the device refuses, for facts; source.mu guards it
	searches int           // runs of a search since the last cycle; source.mu guards it

	ask  func(context.Context, *request) ([]byte, error) // g.request, made once
	done func(error)                                     // made once

	// Of the poll being made.
	w     *worker
	heard bool // the unit has answered in this cycle
	bears bool // it may still ask for patience
	mode  early
	open  bool // what the device refuses is still searched for
	saved savedAnswers
	cause error // why the last request went wrong
	held  int   // spans that were held off when refused was made
	renew atomic.Bool
	whole atomic.Bool // the next report is to be whole

	mu       sync.Mutex // guards decoder, reporter
	decoder  *decoder
	reporter *reporter
}

// newUnit makes a unit of its configuration.
func (s *source) newUnit(d Device) (*unit, error) {
	u := &unit{Device: d, number: byte(d.Unit)}
	u.limits = &d.Profile.Limits
	for k, v := range d.Tags {
		u.fixed = append(u.fixed, gateway.Tag{Key: k, Value: v})
	}
	slices.SortFunc(u.fixed, func(a, b gateway.Tag) int { return strings.Compare(a.Key, b.Key) })
	u.tags = u.fixed
	u.probe = job{u: u, every: probeMin}
	u.lookup = job{u: u, every: d.Every}
	for i := range d.Profile.Groups {
		g, err := s.newGroup(u, &d.Profile.Groups[i])
		if err != nil {
			return nil, err
		}
		u.groups = append(u.groups, g)
	}
	return u, nil
}

// newGroup makes a group of its configuration.
func (s *source) newGroup(u *unit, c *Group) (*group, error) {
	g := &group{name: c.Name, job: job{u: u, every: c.Every}}
	if g.every <= 0 {
		g.every = u.Every
	}
	g.job.g = g
	var err error
	if g.decoder, err = compile(u.Profile, c); err != nil {
		return nil, fmt.Errorf("group %s of %s: %w", c.Name, u.Name, err)
	}
	if g.poll, err = newPoll(g.decoder.spans(), u.limits, c.Select); err != nil {
		return nil, fmt.Errorf("group %s of %s: %w", c.Name, u.Name, err)
	}
	g.least = smallestOf(g.poll.blocks(), c.Select)
	g.reporter = newReporter(u.Report, u.Heartbeat, g.decoder)
	g.ask = g.request
	g.done = func(err error) {
		s.flight.Add(-1)
		if err != nil { // it is polled data and cannot be asked for again: the next record is to be whole
			s.count.unstored.Add(1)
			g.whole.Store(true)
		}
	}
	return g, nil
}

// jobs goes through all jobs of u.
func (u *unit) jobs() iter.Seq[*job] {
	return func(yield func(*job) bool) {
		for _, g := range u.groups {
			if !yield(&g.job) {
				return
			}
		}
		_ = yield(&u.probe) && yield(&u.lookup)
	}
}

// smallest returns the smallest request of u and its group, nil when nothing is
// known of u yet. That some of it may be refused does not matter: a refusal is
// an answer.
func (u *unit) smallest() (g *group) {
	for _, x := range u.groups {
		if x.least.function == 0 || g != nil && (x.least.count >= g.least.count || x.least.function == readWrite) {
			continue // function 23 writes: only when there is nothing else
		}
		g = x
	}
	return g
}

// probed returns the group whose smallest request the next probe of u makes: the
// one that was answered last, and every second time the smallest of all or one
// group after the other. A device may never answer what it ought to refuse.
func (u *unit) probed() *group {
	u.turn++
	n := uint(len(u.groups))
	if n == 0 {
		return nil
	}
	g := u.spoke
	switch {
	case u.turn%4 == 0:
		g = u.groups[u.turn/4%n]
	case u.turn%2 == 0 || !slices.Contains(u.groups, g):
		g = u.smallest()
	}
	if g == nil || g.least.function == 0 || g.least.function == readWrite {
		return u.smallest()
	}
	return g
}

// smallestOf returns the smallest request of a plan.
func smallestOf(blocks []block, sel *Select) (q request) {
	for _, b := range blocks {
		if q.function == 0 || b.length < int(q.count) {
			q = request{function: b.function, address: uint16(b.address), count: uint16(b.length)}
		}
	}
	if sel != nil {
		q.function, q.writeAt, q.write = readWrite, uint16(sel.Address), sel.Values
	}
	return q
}

// adopt takes up the SunSpec models that were found. When they are the same as
// before, everything learned of them stays.
func (s *source) adopt(u *unit, found []Group) error {
	if reflect.DeepEqual(found, u.models) {
		return nil
	}
	for _, g := range u.groups[len(u.Profile.Groups):] {
		s.keep(g)
	}
	groups := make([]*group, 0, len(found))
	for i := range found {
		g, err := s.newGroup(u, &found[i])
		if err != nil {
			return err
		}
		s.restore(g)
		groups = append(groups, g)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fixed := u.groups[:len(u.Profile.Groups)]
	for _, g := range u.groups[len(fixed):] {
		g.gone = true
		g.out()
	}
	u.groups, u.models = append(fixed[:len(fixed):len(fixed)], groups...), found
	spread(s.env.Name, s.allGroups())
	now := s.now()
	for _, g := range groups {
		g.begin(now)
		if !u.dead {
			s.queue.put(&g.job)
		}
	}
	return nil
}

// allGroups are the groups of all units. s.mu is held.
func (s *source) allGroups() (all []*group) {
	for _, u := range s.units {
		all = append(all, u.groups...)
	}
	return all
}

// savedAnswers are the answers to the requests of a poll that was interrupted:
// what was answered is not asked again when the poll goes on soon.
type savedAnswers struct {
	since time.Duration
	of    []savedAnswer
	data  []byte
}

type savedAnswer struct {
	function       byte
	address, count uint16
	from, to       int
}

func (a *savedAnswers) clear() { a.of, a.data = a.of[:0], a.data[:0] }

func (a *savedAnswers) keep(q *request, data []byte) {
	from := len(a.data)
	a.data = append(a.data, data...)
	a.of = append(a.of, savedAnswer{q.function, q.address, q.count, from, len(a.data)})
}

func (a *savedAnswers) find(q *request) ([]byte, bool) {
	for i := range a.of {
		if x := &a.of[i]; x.function == q.function && x.address == q.address && x.count == q.count {
			return a.data[x.from:x.to], true
		}
	}
	return nil, false
}

// request performs a request of the poll.
func (g *group) request(ctx context.Context, q *request) ([]byte, error) {
	if data, ok := g.saved.find(q); ok {
		return data, nil
	}
	data, err := g.w.exchange(ctx, g.u, q)
	if err == nil {
		g.heard = true
		g.saved.keep(q, data)
		return data, nil
	}
	if code := exception(err); code != 0 {
		g.heard = true
		if isBusy(code) && g.bears {
			err = &busyError{code}
		}
	}
	g.cause = err
	return nil, err
}
