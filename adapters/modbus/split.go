package modbus

import (
	"context"
	"errors"
	"slices"
)

// outcome is how a request ended.
type outcome int

const (
	went    outcome = iota
	refused         // the device cannot read this: something to learn from
	failed          // an exception that says nothing of what was asked for
	ended           // the line failed, or a gateway does not reach the unit
)

// search finds what made a device refuse a request. What it holds begins at
// the same span throughout, so that a span, a gap and a length are found in the
// same way: the longest beginning that goes and the shortest that does not
// differ by one span, and that one, or the way to it, or the length is it.
type search struct {
	items  []int // of the table, ascending: what was refused
	lo, hi int   // items[:lo] goes, items[:hi] is refused
	err    error // the last refusal
	alone  bool  // the one that is left goes alone
	bridge bool  // and so does the gap before it
	sure   bool  // items[:hi] was refused more than once
}

// refused begins a search.
func (t *table) refused(items []int, err error) {
	s := &search{items: items, hi: len(items), err: err}
	if t.unknown(err) {
		t.row = true
	}
	t.searches = append(t.searches, s)
}

// ask makes one request for items of t and keeps the answer.
func (p *poll) ask(ctx context.Context, ask asker, e *entry) (outcome, error) {
	t, q := e.t, &e.q
	data, err := ask(ctx, q)
	if err == nil {
		limit := t.short
		err = t.take(e, data)
		p.stale = p.stale || t.short != limit
	}
	if err == nil {
		return went, nil
	}
	how := t.judge(err)
	if how == ended {
		return ended, err
	}
	if exception(err) == 0 {
		p.broken = err
	}
	why := err
	if how == refused && !e.alone() {
		why = &unreadError{err}
	}
	for _, i := range e.items {
		t.items[i].err = why
	}
	return how, err
}

// judge says what an error means. A short answer is how some devices refuse
// what they do not have, or more than they give at once. Function 23 is not
// learned from: it may be what is written that the device refuses. Of a FIFO
// queue, illegal value means that there is more in it than fits the answer
// (section 6.18).
func (t *table) judge(err error) outcome {
	var cut *lengthError
	short := errors.As(err, &cut) && cut.got < cut.want
	switch code := exception(err); {
	case short && t.function != readWrite && t.function != readFIFO:
		return refused
	case code == 0, code == gatewayNoPath, code == gatewayNoAnswer:
		return ended
	case code > illegalValue, t.function == readWrite, t.function == readFIFO && code == illegalValue:
		return failed
	}
	return refused
}

// take copies the answer for each item: data is valid until the next request.
func (t *table) take(e *entry, data []byte) error {
	if t.function == readFIFO {
		for _, i := range e.items {
			x := &t.items[i]
			x.got, x.err = copy(x.data, data), nil
		}
		return nil
	}
	n := int(e.q.count)
	want := 2 * n
	if bits(t.function) {
		want = (n + 7) / 8
	}
	if len(data) != want {
		return &lengthError{e.q.String(), len(data), want}
	}
	for _, i := range e.items {
		x := &t.items[i]
		off := x.address - int(e.q.address)
		if bits(t.function) {
			copyBits(x.data, data, off, x.length)
		} else {
			copy(x.data, data[2*off:])
		}
		x.got, x.err = len(x.data), nil
	}
	if t.ok = max(t.ok, n); t.ok >= t.short { // it was not for its length, then
		t.short = 0
	}
	return nil
}

// copyBits copies n bits of src from bit off on to the beginning of dst; the
// rest of the last byte is 0.
func copyBits(dst, src []byte, off, n int) {
	shift := uint(off % 8)
	src = src[off/8:]
	for i := range (n + 7) / 8 {
		b := src[i] >> shift
		if shift > 0 && i+1 < len(src) {
			b |= src[i+1] << (8 - shift)
		}
		dst[i] = b
	}
	if n%8 != 0 {
		dst[n/8] &= 1<<(n%8) - 1
	}
}

// mend makes the requests beside the plan: it goes on with searches, reads what
// they left out, and tries what is held off once its time has come.
func (p *poll) mend(ctx context.Context, ask asker, t *table) error {
	for _, s := range t.searches {
		for _, i := range s.items[s.lo:s.hi] {
			if x := &t.items[i]; x.got < 0 && x.err == nil {
				if x.err = s.err; s.hi > 1 {
					x.err = &unreadError{s.err}
				}
			}
		}
	}
	for p.extra > 0 && (len(t.searches) > 0 || t.unread) {
		var how outcome
		var err error
		if len(t.searches) > 0 {
			how, err = p.search(ctx, ask, t)
		} else {
			how, err = p.rest(ctx, ask, t)
		}
		if how == ended {
			return err
		}
		if how == failed { // the device has other troubles now
			p.trouble = true
			return nil
		}
	}
	return p.retry(ctx, ask, t)
}

// rest reads what refusals have left unread in this run.
func (p *poll) rest(ctx context.Context, ask asker, t *table) (outcome, error) {
	t.unread = false
	for _, e := range p.entries(t, t.left) {
		if p.extra == 0 {
			break
		}
		p.extra--
		how, err := p.ask(ctx, ask, &e)
		if how == refused {
			t.refused(e.items, err)
		}
		if p.broken != nil {
			return ended, p.broken
		}
		if how > refused {
			return how, err
		}
	}
	return went, nil
}

// search makes the next request of the first search of t.
func (p *poll) search(ctx context.Context, ask asker, t *table) (outcome, error) {
	s := t.searches[0]
	p.stale = true
	if s.hi == 1 && (s.sure || len(s.items) > 1) {
		p.hold(t, &t.items[s.items[0]], s.err)
		t.row = len(s.items) > 1
		t.done()
		return went, nil
	}
	try, from, to := t.next(s)
	e := entry{t: t, items: s.items[from:to]}
	if try == theGap {
		begin, end := t.gap(s)
		e.q = p.request(t, begin, end)
	} else {
		begin, end := t.hull(e.items)
		e.q = p.request(t, begin, end)
	}
	p.extra--
	how, err := p.ask(ctx, ask, &e)
	if how > refused {
		return how, err
	}
	if how == refused {
		s.err = err
	}
	if t.learn(s, try, to, how == went) {
		if try == theLast && how == refused {
			p.hold(t, &t.items[s.items[s.lo]], err)
		}
		t.done()
	}
	if p.broken != nil {
		return ended, p.broken
	}
	return how, nil
}

// probe is what a search tries.
type probe int

const (
	aBeginning probe = iota // of what was refused
	theLast                 // span alone
	theGap                  // before it
	theWhole                // once more
)

// next returns what to try, and which of the items are asked for.
func (t *table) next(s *search) (try probe, from, to int) {
	if s.hi == 1 {
		return theWhole, 0, 1
	}
	if s.hi-s.lo == 1 {
		switch begin, end := t.gap(s); {
		case !s.alone:
			return theLast, s.lo, s.hi
		case begin < end && !s.bridge:
			return theGap, s.lo, s.lo
		}
		return theWhole, 0, s.hi
	}
	mid := s.lo + (s.hi-s.lo)/2
	if t.length(s.items[:s.hi]) <= t.ok {
		// Not for its length: begin with what goes, so that the way from it to the next is tried too.
		return aBeginning, max(s.lo-1, 0), t.first(s, mid)
	}
	return aBeginning, 0, t.first(s, mid)
}

// first returns mid, or 1 where the refusals stand in a row and the next one is
// more likely to be at hand than in the middle.
func (t *table) first(s *search, mid int) int {
	if s.lo == 0 && t.row {
		return 1
	}
	return mid
}

// gap returns what lies between the items that go and the one that is left; it
// is empty when end <= begin.
func (t *table) gap(s *search) (begin, end int) {
	_, begin = t.hull(s.items[:s.lo])
	return begin, t.items[s.items[s.lo]].address
}

// length returns how much a request for the items reads.
func (t *table) length(items []int) int {
	from, to := t.hull(items)
	return to - from
}

// learn takes what became of a probe, and reports whether the search is over.
func (t *table) learn(s *search, try probe, to int, ok bool) bool {
	switch {
	case try == aBeginning && ok:
		s.lo, t.row = to, false
	case try == aBeginning:
		s.hi, s.sure = to, true
	case try == theLast && ok:
		s.alone = true
	case try == theGap && ok:
		s.bridge = true
	case try == theGap:
		begin, end := t.gap(s)
		t.wall(begin, end)
		return true
	case try == theWhole && !ok:
		s.sure = true
	default: // the last was refused, or the whole goes now
		return true
	}
	if s.lo == 0 || s.hi-s.lo > 1 {
		return false
	}
	begin, end := t.gap(s)
	from, stop := t.hull(s.items[:s.hi])
	switch {
	case stop == begin: // the same was refused and answered
		return true
	case !s.alone || !s.sure || begin < end && !s.bridge:
		return false
	case stop-from > t.ok:
		if t.short == 0 || stop-from < t.short {
			t.short = stop - from
		}
	case end < begin: // they overlap: the device has reasons of its own
		t.wall(from, stop)
	default:
		t.wall(begin-1, end+1)
	}
	return true
}

// wall remembers that the device gives nothing that holds this.
func (t *table) wall(from, to int) {
	t.learned = append(t.learned, wall{from, to})
	sortWalls(t.learned)
}

// done ends the first search of t.
func (t *table) done() {
	t.searches = slices.Delete(t.searches, 0, 1)
	t.unread = true
}
