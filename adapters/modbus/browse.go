package modbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	mostReopen = 3           // times in a row that a line is opened anew
	reopenWait = time.Second // before that
	// A unit that owes too many late answers is not asked until they have come,
	// or are taken for lost (debtTime).
	owedWait  = time.Second
	mostOwed  = 3 * int(debtTime/owedWait)
	leastWait = 200 * time.Millisecond // for an answer, once it is known how fast they come
)

// explorer looks around on one line.
type explorer struct {
	b     *gateway.Browse
	o     browseOptions
	c     *Config
	creds *gateway.Credentials

	line    line
	next    time.Time     // when the next request may be made
	slowest time.Duration // answer so far; 0 = none came
	late    int64         // answers that came too late, as the line counted them
	timeout time.Duration // for answers
	patient bool          // the unit seems to be gone: wait as long as is allowed
	left    int           // requests that the unit may still be asked
	reopens int           // in a row

	done, total int // of the progress
}

// found is what was found of one unit.
type found struct {
	unit    int
	tags    []gateway.Tag
	sunspec []string // its models, with where they are
	words   int      // registers that it takes in a request; 0 = all that Modbus allows
	tables  []foundTable
	order   string // of the bytes of values of several registers; "" = not to be told
}

// foundTable is what was found of one table.
type foundTable struct {
	name   string
	ranges []Range // that can be read
	points []foundPoint
	zeros  int // registers and bits that are left out because they were 0
}

// foundPoint is a point with what is to be said of it.
type foundPoint struct {
	Point
	comment string
}

var (
	errEnough = errors.New("the number of requests that --set requests allows is reached")
	errNobody = errors.New("no unit answered")
)

// browse implements gateway.Browser. It uses functions that read and no others.
func browse(ctx context.Context, b *gateway.Browse) error {
	c, err := browseConfig(b.URL, b.Options)
	if err != nil {
		return err
	}
	o, err := readOptions(b.Options, c.URL)
	if err != nil {
		return err
	}
	c.Timeout = o.timeout
	e := &explorer{b: b, o: o, c: c, timeout: o.timeout, left: 1, creds: gateway.NewCredentials("", c.TLS)}
	if err := e.creds.Load(); err != nil {
		return err
	}
	if err := e.open(ctx); err != nil {
		return err
	}
	defer e.close()
	all, err := e.explore(ctx)
	if len(all) == 0 {
		return err
	}
	if err != nil {
		b.Note("ended early: %v; what was found until then follows", err)
	}
	return e.write(all)
}

// explore finds units and looks at each.
func (e *explorer) explore(ctx context.Context) (all []*found, err error) {
	span := e.o.to - e.o.from + 1
	e.total = len(e.o.units) + len(e.o.tables)*span
	units, err := e.scan(ctx)
	if err != nil {
		return nil, err
	}
	e.total = e.done + len(units)*len(e.o.tables)*span
	for _, u := range units {
		f, err := e.look(ctx, u)
		all = append(all, f)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// scan finds the units that are there.
func (e *explorer) scan(ctx context.Context) (units []int, err error) {
	behind := false
	var silent error
	for _, u := range e.o.units {
		e.tell(1, fmt.Sprintf("is unit %d there?", u))
		e.left = 1
		_, err := e.ask(ctx, &request{unit: byte(u), function: readHolding, count: 1})
		switch code := exception(err); {
		case code == 10 || code == 11:
			behind = true
		case isSilence(err):
			silent = err
		case err != nil && code == 0:
			return nil, err
		default:
			units = append(units, u)
			e.b.Note("unit %d is there", u)
		}
		if len(units) > 0 && !e.o.given && len(e.o.units) < 10 {
			break // the device itself; others only when asked for
		}
	}
	switch {
	case len(units) > 0:
		return units, nil
	case behind:
		return nil, fmt.Errorf("%w at %s: it is a gateway that reaches none of the units asked (try --set units=1-247)", errNobody, e.c.URL)
	case !e.o.given && len(e.o.units) < 10:
		return nil, fmt.Errorf("%w at %s: asked 1 and 255: %w (for other units: --set units=1-247)", errNobody, e.c.URL, silent)
	}
	return nil, fmt.Errorf("%w at %s: %w (check wiring, baud rate and parity, and that no other master is on the line; a slow device needs --set timeout=3s)", errNobody, e.c.URL, silent)
}

// look looks at one unit. What it returns is never nil.
func (e *explorer) look(ctx context.Context, unit int) (f *found, err error) {
	f = &found{unit: unit}
	e.left = e.o.requests
	if f.tags, err = identify(ctx, askedBy(e.ask), byte(unit), e.timeout); err != nil && !isSilence(err) {
		return f, err
	}
	for _, t := range f.tags {
		e.b.Note("unit %d: %s %s", unit, t.Key, t.Value)
	}
	extra, err := e.findSunSpec(ctx, f)
	if err != nil {
		return f, err
	}
	var runs []*run
	share := e.left
	for i, table := range e.o.tables {
		w := &walk{explorer: e, unit: byte(unit), function: functionOf(table), base: e.done}
		w.keep = share * (len(e.o.tables) - i - 1) / len(e.o.tables)
		err = w.ranges(ctx, e.o.from, e.o.to)
		if table == "holding" && err == nil && extra.To > e.o.to {
			err = w.ranges(ctx, max(extra.From, e.o.to+1), extra.To)
		}
		runs = append(runs, w.runs...)
		if w.words > 0 && (f.words == 0 || w.words < f.words) {
			f.words = w.words
		}
		e.done = w.base + e.o.to - e.o.from + 1
		if errors.Is(err, errEnough) {
			e.b.Note("unit %d: %s: not all of the range was looked at: %v", unit, table, err)
		} else if err != nil {
			break
		}
	}
	if err == nil || errors.Is(err, errEnough) {
		err = e.again(ctx, runs)
	}
	f.guess(runs)
	return f, err
}

// again reads what can be read a second time, to see what changes.
func (e *explorer) again(ctx context.Context, runs []*run) error {
	if len(runs) == 0 {
		return nil
	}
	if err := pause(ctx, e.o.wait); err != nil {
		return err
	}
	e.left = len(runs) + 1
	for _, r := range runs {
		e.tell(0, fmt.Sprintf("unit %d: %s %d once more", r.unit, tableOf(r.function), r.from))
		data, err := e.ask(ctx, r.request())
		switch {
		case err == nil:
			r.second = append([]byte(nil), data...)
		case !isSilence(err) && exception(err) == 0:
			return err
		}
	}
	return nil
}

// askedBy is a line made of a function.
type askedBy func(ctx context.Context, q *request) ([]byte, error)

// Ask implements line.
func (f askedBy) Ask(ctx context.Context, q *request) ([]byte, error) { return f(ctx, q) }

// Close implements line.
func (askedBy) Close() error { return nil }

// ask makes one request, no sooner than the rate allows, and opens the line
// anew when it is lost.
func (e *explorer) ask(ctx context.Context, q *request) ([]byte, error) {
	if e.left <= 0 {
		return nil, errEnough
	}
	e.left--
	for owed := 0; ; {
		if e.line == nil { // it was lost, and did not open again
			if err := e.reopen(ctx); err != nil {
				return nil, err
			}
		}
		if err := pause(ctx, time.Until(e.next)); err != nil {
			return nil, err
		}
		began := time.Now()
		e.next = began.Add(time.Duration(float64(time.Second) / e.o.rate))
		q.timeout = e.timeout
		if e.patient {
			q.timeout = e.o.timeout
		}
		data, err := e.line.Ask(ctx, q)
		if isOwed(err) && owed < mostOwed {
			owed++
			e.next = began.Add(owedWait)
			continue
		}
		if err == nil || exception(err) != 0 || isSilence(err) {
			e.adapt(time.Since(began), err)
			return data, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if e.reopens++; e.reopens > mostReopen {
			return nil, err
		}
		e.b.Note("opening the line anew: %v", err)
		if err := e.reopen(ctx); err != nil {
			return nil, err
		}
	}
}

// adapt makes the time-out follow the slowest answer: those who are not there
// are many, and are waited for in full.
func (e *explorer) adapt(took time.Duration, err error) {
	if d, ok := e.line.(interface{ dropped() (late, foreign int64) }); ok {
		if late, _ := d.dropped(); late > e.late { // it was too short
			e.late = late
			e.slowest = min(2*max(e.slowest, leastWait), e.o.timeout)
		}
	}
	if !isSilence(err) {
		e.reopens = 0
		e.slowest = max(e.slowest, took)
	}
	if e.slowest > 0 {
		e.timeout = min(max(4*e.slowest, leastWait), e.o.timeout)
	}
}

func (e *explorer) open(ctx context.Context) (err error) {
	var tc *tls.Config
	if e.c.TLS != nil {
		tc = e.creds.TLS()
	}
	e.line, err = open(ctx, e.c, tc)
	e.late = 0
	return err
}

func (e *explorer) reopen(ctx context.Context) error {
	e.close()
	if err := pause(ctx, reopenWait); err != nil {
		return err
	}
	return e.open(ctx)
}

func (e *explorer) close() {
	if e.line != nil {
		_ = e.line.Close()
		e.line = nil
	}
}

// tell shows the progress, n steps on.
func (e *explorer) tell(n int, what string) {
	e.done += n
	e.b.Progress(min(e.done, e.total), e.total, what)
}

// pause waits; the error is that of ctx.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
