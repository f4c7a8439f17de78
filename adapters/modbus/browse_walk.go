package modbus

import (
	"context"
	"fmt"
	"strings"
)

// mostSilent is after how many requests without an answer in a row a table is left.
const mostSilent = 8

// run is a block that could be read, and was, once or twice.
type run struct {
	unit          byte
	function      byte
	from, n       int
	first, second []byte
}

func (r *run) request() *request {
	return &request{unit: r.unit, function: r.function, address: uint16(r.from), count: uint16(r.n)}
}

// walk finds what can be read of one table of one unit.
type walk struct {
	*explorer
	unit, function byte
	base           int // progress before it
	keep           int // requests that are left for others
	words          int // most that the unit takes in a request; 0 = no limit was found
	runs           []*run
	silent         int  // requests without an answer in a row
	gone           bool // there is no such table
}

// most is how much may be asked for in a request.
func (w *walk) most() int {
	switch {
	case w.function == readCoils || w.function == readDiscrete:
		return maxBits
	case w.words > 0:
		return w.words
	}
	return maxWords
}

// ranges walks through addresses: it reads as much as possible at once, halves
// what is refused until it is known where it ends, and passes over what cannot
// be read in steps that become longer.
func (w *walk) ranges(ctx context.Context, from, to int) error {
	refused, begun := from-1, from // refused is the last address known to be, begun where the search does
	for at := from; at <= to && !w.gone; {
		w.b.Progress(min(w.base+at-w.o.from, w.total), w.total, fmt.Sprintf("unit %d: %s %d", w.unit, tableOf(w.function), at))
		n, err := w.reach(ctx, at, to, refused >= from)
		switch {
		case err != nil:
			return err
		case w.gone:
		case n == 0:
			refused = at
			step := stepAfter(at - begun)
			at += step - at%step
		case refused > from-1 && at-refused > 1 && !w.has(at-1):
			if err := w.back(ctx, refused, at); err != nil {
				return err
			}
			at += n
			refused, begun = from-1, at
		default:
			at += n
			refused, begun = from-1, at
		}
	}
	return nil
}

// stepAfter is how far is gone where nothing could be read for so many
// addresses. Maps begin at round numbers, and what belongs together is not far.
func stepAfter(n int) int {
	switch {
	case n < 2:
		return 1
	case n < 10:
		return 2
	case n < 500:
		return 10
	}
	return 50
}

// has reports whether an address was read.
func (w *walk) has(at int) bool {
	for _, r := range w.runs {
		if at >= r.from && at < r.from+r.n {
			return true
		}
	}
	return false
}

// reach reads as many from at on as can be read at once and keeps them; 0 when
// there are none. search says that there probably are none.
func (w *walk) reach(ctx context.Context, at, to int, search bool) (int, error) {
	bad := min(w.most(), to-at+1) + 1 // that many cannot be read
	if search && bad > 3 {
		if n, err := w.read(ctx, at, 2); err != nil || n == 0 {
			return 0, err
		}
	}
	n, err := w.read(ctx, at, bad-1)
	if err != nil || n > 0 || w.gone {
		return n, err
	}
	bad--
	good, least := 0, 0
	for _, few := range []int{1, 2} { // some give values of two registers whole or not at all
		if few >= bad || good > 0 {
			break
		}
		if good, err = w.read(ctx, at, few); err != nil || w.gone {
			return 0, err
		}
		least = few
	}
	if good == 0 {
		return 0, nil
	}
	for bad-good > least {
		mid := (good + bad) / 2 / least * least
		n, err := w.read(ctx, at, mid)
		if err != nil {
			return good, err
		}
		if n > 0 {
			good = n
		} else {
			bad = mid
		}
	}
	return good, w.limit(ctx, at+good, least, good)
}

// limit finds out whether a block of some length ended at end because a request
// may not be longer: then what follows it can be read.
func (w *walk) limit(ctx context.Context, end, least, length int) error {
	if w.most() == maxBits || end+least-1 > w.o.to {
		return nil
	}
	kept := len(w.runs)
	n, err := w.read(ctx, end, least)
	w.runs = w.runs[:kept] // it is read again with what follows
	if err == nil && n > 0 {
		w.words = length
	}
	return err
}

// back finds where a block begins that was found after addresses were passed
// over, and reads what lies before at.
func (w *walk) back(ctx context.Context, refused, at int) error {
	least := max(refused+1, at-w.most())
	from := at // the first that is known to be readable
	for low := least - 1; from-low > 1; {
		mid := (low + from) / 2
		kept := len(w.runs)
		n, err := w.read(ctx, mid, at-mid)
		if err != nil {
			return err
		}
		if n == 0 {
			low = mid
			continue
		}
		if from < at { // the shorter one is in it
			w.runs = append(w.runs[:kept-1], w.runs[kept:]...)
		}
		from = mid
	}
	return nil
}

// read reads n addresses from at on and keeps them, in the place of a shorter
// block from the same address. It returns n, or 0 when they are refused.
func (w *walk) read(ctx context.Context, at, n int) (int, error) {
	if w.left <= w.keep {
		return 0, errEnough
	}
	w.patient = w.silent >= mostSilent/2
	r := &run{unit: w.unit, function: w.function, from: at, n: n}
	data, err := w.ask(ctx, r.request())
	switch {
	case exception(err) == 1:
		w.gone = len(w.runs) == 0
		return 0, nil
	case exception(err) == 10 || exception(err) == 11:
		return 0, w.missing(fmt.Errorf("the gateway does not reach it: %w", err))
	case exception(err) != 0:
		w.silent = 0
		return 0, nil
	case isSilence(err):
		return 0, w.missing(err)
	case err != nil:
		return 0, err
	}
	w.silent = 0
	r.first = append([]byte(nil), data...)
	if last := len(w.runs) - 1; last >= 0 && w.runs[last].from == at && w.runs[last].n < n {
		w.runs[last] = r
	} else {
		w.runs = append(w.runs, r)
	}
	return n, nil
}

// missing counts requests without an answer: some do not answer what they do
// not have, which is slow, and others are gone.
func (w *walk) missing(err error) error {
	if w.silent++; w.silent < mostSilent {
		return nil
	}
	w.gone = true
	w.b.Note("unit %d: the rest of %s is left out: %v", w.unit, tableOf(w.function), err)
	return nil
}

// findSunSpec looks for the map of a SunSpec device and lists its models. The
// range is what they take.
func (e *explorer) findSunSpec(ctx context.Context, f *found) (taken Range, err error) {
	ask := func(ctx context.Context, q *request) ([]byte, error) {
		q.unit = byte(f.unit)
		return e.ask(ctx, q)
	}
	for _, base := range (&SunSpec{}).sunspecBases() {
		data, err := ask(ctx, &request{function: readHolding, address: uint16(base), count: sunspecHead})
		if err != nil && exception(err) == 0 && !isSilence(err) {
			return taken, err
		}
		if err != nil || string(data) != "SunS" {
			continue
		}
		models, err := chain(ctx, ask, base+sunspecHead)
		if err != nil {
			e.b.Note("unit %d: a SunSpec map at %d, but %v", f.unit, base, err)
			return taken, nil
		}
		end := base + sunspecHead
		for _, m := range models {
			f.sunspec = append(f.sunspec, fmt.Sprintf("%d at %d (%d registers)", m.id, m.at, m.length))
			end = m.at + sunspecHead + m.length
		}
		e.b.Note("unit %d: SunSpec models %s", f.unit, strings.Join(f.sunspec, ", "))
		return Range{"holding", base, end - 1}, nil
	}
	return taken, nil
}
