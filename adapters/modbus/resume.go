package modbus

import "context"

// unreadError says that a span was not read because the device refused a
// request for more than that: it is still searched for what it minds.
type unreadError struct{ cause error }

func (e *unreadError) Error() string {
	return "not read yet: the device refuses something near it: " + e.cause.Error()
}

func (e *unreadError) Unwrap() error { return e.cause }

// alone reports whether e asks for one item and nothing else.
func (e *entry) alone() bool {
	if len(e.items) != 1 {
		return false
	}
	x := &e.t.items[e.items[0]]
	return int(e.q.address) == x.address && int(e.q.count) == x.length
}

// left reports whether x was left unread because of a refusal.
func (t *table) left(x *item) bool {
	return x.held == nil && x.got < 0 && (x.err == nil || t.judge(x.err) == refused)
}

// unfinished reports whether a run that was not disturbed has left something to
// search for.
func (p *poll) unfinished() bool {
	for _, t := range p.tables {
		if len(t.searches) > 0 {
			return true
		}
		for i := range t.items {
			if x := &t.items[i]; t.left(x) || x.held != nil && x.held.guess && !x.due.After(p.now()) {
				return true
			}
		}
	}
	return false
}

// learned reports whether a run that ended with err was not disturbed: all was
// well, or the line is to be closed for an answer that told something.
func (p *poll) learned(err error) bool { return (err == nil || p.broken != nil) && !p.trouble }

// resume goes on with what the last run had to leave, without reading the plan
// again. Nothing of it is a result; the next run knows more. The error is that
// of run.
func (p *poll) resume(ctx context.Context, ask asker) error {
	p.extra, p.broken, p.trouble = extraRequests, nil, false
	for _, t := range p.tables {
		for i := range t.items {
			t.unread = t.unread || t.left(&t.items[i])
		}
		if err := p.mend(ctx, ask, t); err != nil {
			return err
		}
	}
	return nil
}
