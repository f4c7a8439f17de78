package modbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/goburrow/modbus"
)

// What a poll may spend on learning.
const (
	extraRequests = 8                // beside those of the plan, in one run
	retryHeld     = time.Hour        // after which a span that is held off is tried again
	forgetEvery   = 10 * time.Minute // least time between two forgets that count
)

// poll reads the spans of a group in the fewest requests, and learns from what
// the device refuses: spans that cannot be read are held off, gaps that cannot
// be bridged are not, and a length that is too much is not asked for again
// (split.go). It is kept over reconnects, and belongs to one goroutine.
type poll struct {
	spans   []span
	tables  []*table
	where   []place   // of each span
	results []reading // parallel to spans
	sel     *Select
	plan    []entry
	stale   bool  // plan no longer fits what was learned
	broken  error // a short answer in this run: the line is to be closed
	trouble bool  // this run learned no more, as the device has other troubles
	extra   int   // requests that this run may still make beside the plan
	now     func() time.Time
	forgot  time.Time
}

// place is where the answer for a span is kept.
type place struct{ table, item int }

// entry is one request of the plan.
type entry struct {
	t     *table
	items []int // of t, ascending
	q     request
}

// table is what a poll reads with one function, and what it knows of that.
type table struct {
	function byte
	limit    int    // of the profile
	items    []item // in the order of byAddress, without equals
	fixed    []wall // of the profile
	learned  []wall // gaps and seams that the device refuses, ascending

	ok       int       // longest request that went
	short    int       // shortest that was refused for its length; 0 = none
	searches []*search // for what made the device refuse
	unread   bool      // items were left out in this run because of a refusal
	held     int       // items held off
	row      bool      // the last search ended at its first item: the next may too
}

// item is a span, however many points want it.
type item struct {
	span
	data  []byte // room for the answer
	got   int    // bytes of it that this run has read; -1 = none
	err   error  // why not
	held  *heldError
	due   time.Time // when it is tried again, if held
	doubt bool      // being searched
}

// newPoll returns a poll for spans, which are all of one group. sel is nil but
// for groups that write first.
func newPoll(spans []span, lim *Limits, sel *Select) (*poll, error) {
	p := &poll{spans: spans, sel: sel, where: make([]place, len(spans)), results: make([]reading, len(spans)), now: time.Now}
	var errs []error
	unique := map[byte][]span{}
	for _, s := range spans {
		if sel != nil {
			if s.function != readHolding && s.function != readWrite {
				errs = append(errs, fmt.Errorf("read %s: with select only holding registers can be read (function 23)", s.text()))
				continue
			}
			s.function = readWrite
		}
		if err := lim.fits(s); err != nil {
			errs = append(errs, err)
		}
		unique[s.function] = append(unique[s.function], s)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for _, f := range []byte{readCoils, readDiscrete, readHolding, readInput, readWrite, readFIFO} {
		if len(unique[f]) > 0 {
			p.tables = append(p.tables, newTable(unique[f], lim))
		}
	}
	for i, s := range spans {
		p.where[i] = p.find(s)
	}
	p.replan()
	if sel != nil && len(p.plan) > 1 {
		e := &p.plan[1]
		return nil, fmt.Errorf("read %s: with select all points of a group must fit one request, and this one does not (make a group of its own for it)", e.t.items[e.items[0]].text())
	}
	return p, nil
}

// newTable takes the spans of one function.
func newTable(spans []span, lim *Limits) *table {
	slices.SortFunc(spans, byAddress)
	spans = slices.Compact(spans)
	f := spans[0].function
	t := &table{function: f, limit: lim.limit(f), fixed: lim.walls(spans)}
	if f == readWrite { // in one request or not at all
		t.fixed = lim.forbidden(f)
	}
	for _, s := range spans {
		size := 2 * s.length
		if bits(f) {
			size = (s.length + 7) / 8
		} else if f == readFIFO {
			size = 2 * maxFIFO
		}
		t.items = append(t.items, item{span: s, data: make([]byte, size)})
	}
	return t
}

// find returns where s is kept.
func (p *poll) find(s span) place {
	if p.sel != nil {
		s.function = readWrite
	}
	for i, t := range p.tables {
		if t.function == s.function {
			j, _ := slices.BinarySearchFunc(t.items, s, func(x item, s span) int { return byAddress(x.span, s) })
			return place{i, j}
		}
	}
	return place{}
}

// request makes the request for a run of items.
func (p *poll) request(t *table, from, to int) request {
	q := request{function: t.function, address: uint16(from), count: uint16(to - from)}
	if t.function == readWrite {
		q.writeAt, q.write = uint16(p.sel.Address), p.sel.Values
	}
	return q
}

// hull returns where the items begin, and where they end.
func (t *table) hull(items []int) (from, to int) {
	from = t.items[items[0]].address
	for _, i := range items {
		to = max(to, t.items[i].end())
	}
	return from, to
}

// replan makes the plan anew: without what is held off or searched.
func (p *poll) replan() {
	p.plan, p.stale = p.plan[:0], false
	for _, t := range p.tables {
		for i := range t.items {
			t.items[i].doubt = false
		}
		for _, s := range t.searches {
			for _, i := range s.items[s.lo:s.hi] {
				t.items[i].doubt = true
			}
		}
		p.plan = append(p.plan, p.entries(t, func(x *item) bool { return x.held == nil && !x.doubt })...)
	}
}

// entries returns the requests for those items of t that are wanted.
func (p *poll) entries(t *table, wanted func(*item) bool) (out []entry) {
	var which []int
	var spans []span
	for i := range t.items {
		if wanted(&t.items[i]) {
			which, spans = append(which, i), append(spans, t.items[i].span)
		}
	}
	if len(which) == 0 {
		return nil
	}
	begin := 0
	for _, end := range t.runs(spans) {
		from, to := t.hull(which[begin:end])
		out = append(out, entry{t, which[begin:end], p.request(t, from, to)})
		begin = end
	}
	return out
}

// runs groups spans of t with all that is known. A length that may be too much
// for the device is only tried where it spares a request.
func (t *table) runs(spans []span) []int {
	if t.function == readFIFO {
		ends := make([]int, len(spans))
		for i := range ends {
			ends[i] = i + 1
		}
		return ends
	}
	g := grouping{t.limit, t.walls()}
	if t.short > 0 {
		g.limit = min(t.limit, t.short-1)
	}
	ends := g.runs(spans)
	if t.short > 0 && t.ok < g.limit {
		g.limit = t.ok
		if safe := g.runs(spans); len(safe) == len(ends) {
			return safe
		}
	}
	return ends
}

// walls returns all that no request of t may hold.
func (t *table) walls() []wall {
	walls := slices.Concat(t.fixed, t.learned)
	for i := range t.items {
		if x := &t.items[i]; x.held != nil {
			walls = append(walls, wall{x.address, x.end()})
		}
	}
	for _, s := range t.searches {
		from, to := t.hull(s.items[s.lo:s.hi])
		walls = append(walls, wall{from, to})
	}
	sortWalls(walls)
	return walls
}

// blocks returns the requests of the plan.
func (p *poll) blocks() []block {
	out := make([]block, len(p.plan))
	for i := range p.plan {
		e := &p.plan[i]
		out[i].span = span{e.t.function, int(e.q.address), int(e.q.count)}
		for _, x := range e.items {
			for n, w := range p.where {
				if p.tables[w.table] == e.t && w.item == x {
					out[i].spans = append(out[i].spans, n)
				}
			}
		}
	}
	return out
}

// run reads the group. The results are parallel to the spans, and valid until
// the next run. The error is that of the line, or that a gateway does not reach
// the unit: what was read before it stays, the rest carries it. A refusal is
// no error of the run.
func (p *poll) run(ctx context.Context, ask func(context.Context, *request) ([]byte, error)) ([]reading, error) {
	for _, t := range p.tables {
		t.unread = false
		for i := range t.items {
			t.items[i].got, t.items[i].err = -1, nil
		}
	}
	if p.stale {
		p.replan()
	}
	p.extra, p.broken, p.trouble = extraRequests, nil, false
	err := p.work(ctx, ask)
	for i, w := range p.where {
		x := &p.tables[w.table].items[w.item]
		r := &p.results[i]
		switch {
		case x.got >= 0:
			*r = reading{data: x.data[:x.got]}
		case x.held != nil:
			*r = reading{err: x.held}
		case x.err != nil:
			*r = reading{err: x.err}
		default:
			*r = reading{err: err}
		}
	}
	return p.results, err
}

// work makes the requests of the plan, and then those to learn from.
func (p *poll) work(ctx context.Context, ask asker) error {
	for i := range p.plan {
		e := &p.plan[i]
		switch how, err := p.ask(ctx, ask, e); how {
		case ended:
			return err
		case refused:
			e.t.refused(e.items, err)
			p.stale = true
		}
		if p.broken != nil {
			return p.broken
		}
	}
	for _, t := range p.tables {
		if err := p.mend(ctx, ask, t); err != nil {
			return err
		}
	}
	return nil
}

// codes of exceptions (MODBUS Application Protocol V1.1b3 section 7).
const (
	illegalFunction = modbus.ExceptionCodeIllegalFunction
	illegalValue    = modbus.ExceptionCodeIllegalDataValue
	gatewayNoPath   = modbus.ExceptionCodeGatewayPathUnavailable
	gatewayNoAnswer = modbus.ExceptionCodeGatewayTargetDeviceFailedToRespond
)
