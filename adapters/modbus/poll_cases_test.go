package modbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/goburrow/modbus"
	"pgregory.net/rapid"
)

// row returns n spans of one register each, side by side.
func row(n int) (out []span) {
	for i := range n {
		out = append(out, span{readHolding, i, 1})
	}
	return out
}

// pollOf returns a poll whose clock the test sets.
func pollOf(t testing.TB, spans []span, l *Limits) (*poll, *time.Time) {
	t.Helper()
	p, err := newPoll(spans, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	p.now = func() time.Time { return now }
	return p, &now
}

// TestPollCost states what learning costs: runs, and requests beside the plan.
func TestPollCost(t *testing.T) {
	gap := 10
	for _, tc := range []struct {
		name        string
		spans       []span
		unit        fakeUnit
		runs, extra int // at most
		plan        int // requests in the end
		held        int
	}{
		{"all goes", row(125), fakeUnit{limit: 125}, 0, 0, 1, 0},
		{"the first register", row(125), fakeUnit{limit: 125, bad: map[int]bool{0: true}}, 1, 7, 1, 1},
		{"one register", row(125), fakeUnit{limit: 125, bad: map[int]bool{70: true}}, 1, 7, 2, 1},
		{"the last register", row(125), fakeUnit{limit: 125, bad: map[int]bool{124: true}}, 1, 8, 1, 1},
		{"three registers", row(125), fakeUnit{limit: 125, bad: map[int]bool{10: true, 60: true, 100: true}}, 3, 18, 4, 3},
		{"a limit of 16", row(125), fakeUnit{limit: 16}, 1, 1, 8, 0},
		{"a limit of 100, by exception 3", row(125), fakeUnit{limit: 100, code: 3}, 1, 7, 2, 0},
		{"a gap", append(row(20), span{readHolding, 25, 2}, span{readHolding, 27, 4}), fakeUnit{limit: 125, bad: map[int]bool{23: true}}, 1, 7, 2, 0},
		{"an area of 40", row(125), fakeUnit{limit: 125, bad: area(50, 90)}, 12, 80, 2, 40},
		{"a function it does not know", row(125), fakeUnit{limit: 0, code: 1}, 16, 126, 0, 125},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := pollOf(t, tc.spans, &Limits{Gap: &gap})
			u, asked, runs := &tc.unit, 0, 0
			for ; ; runs++ {
				missing := checkRun(t, p, u)
				asked += len(u.asked)
				if u.refuse == 0 && !p.stale && missing == 0 {
					break
				}
				if runs > 50 {
					t.Fatalf("nothing learned in %d runs", runs)
				}
			}
			extra := asked - (runs+1)*tc.plan
			t.Logf("%d runs, %d requests beside the plan of %d", runs, extra, len(p.plan))
			if runs > tc.runs || extra > tc.extra || len(p.plan) != tc.plan || len(p.heldOff()) != tc.held {
				t.Errorf("%d runs, %d requests beside the plan of %d, %d held off: want at most %d and %d, %d, %d", runs, extra, len(p.plan), len(p.heldOff()), tc.runs, tc.extra, tc.plan, tc.held)
			}
		})
	}
}

func area(from, to int) map[int]bool {
	bad := map[int]bool{}
	for a := from; a < to; a++ {
		bad[a] = true
	}
	return bad
}

// TestPollTriesAgain: what is held off comes back when the device gives it.
func TestPollTriesAgain(t *testing.T) {
	p, now := pollOf(t, row(20), &Limits{})
	u := &fakeUnit{limit: 125, bad: map[int]bool{3: true, 9: true}}
	settle(t, p, u, 10)
	if held := p.heldOff(); !slices.Equal(held, []span{{readHolding, 3, 1}, {readHolding, 9, 1}}) {
		t.Fatalf("held off: %v", held)
	}
	r, _ := p.run(context.Background(), u.ask)
	if want := "held off since 2027-01-15 08:00:00 UTC, as the device refuses holding 3+1: modbus: exception '2' (illegal data address), function '131'"; r[3].err == nil || r[3].err.Error() != want || exception(r[3].err) != illegalAddress {
		t.Errorf("%v, want %s", r[3].err, want)
	}
	u.bad = map[int]bool{9: true}
	*now = now.Add(retryHeld - time.Second)
	if checkRun(t, p, u) != 1 || len(u.asked) != 3 {
		t.Errorf("before its time: %v", u.asked)
	}
	*now = now.Add(2 * time.Second)
	if checkRun(t, p, u) != 0 || len(u.asked) != 5 || u.refuse != 1 {
		t.Errorf("in its time: %v, refused %d", u.asked, u.refuse)
	}
	if checkRun(t, p, u) != 0 || len(u.asked) != 2 || u.refuse != 0 {
		t.Errorf("after its time: %v", u.asked)
	}

	u.bad = nil
	p.forget()
	if checkRun(t, p, u) != 0 || len(u.asked) != 3 || len(p.heldOff()) != 0 {
		t.Errorf("forgotten: %v", u.asked)
	}
	u.bad = map[int]bool{0: true}
	settle(t, p, u, 10)
	p.forget()
	checkRun(t, p, u)
	if len(u.asked) != 1 {
		t.Errorf("forgotten twice: %v", u.asked)
	}
	*now = now.Add(forgetEvery)
	p.forget()
	checkRun(t, p, u)
	if len(u.asked) != 2 {
		t.Errorf("not forgotten after %s: %v", forgetEvery, u.asked)
	}
}

// TestPollUnknownFunction: once all was tried, one request in an hour is enough.
func TestPollUnknownFunction(t *testing.T) {
	p, now := pollOf(t, row(30), &Limits{})
	u := &fakeUnit{code: 1}
	settle(t, p, u, 10)
	*now = now.Add(retryHeld + time.Second)
	if checkRun(t, p, u); len(u.asked) != 1 {
		t.Errorf("after an hour: %v", u.asked)
	}
	if checkRun(t, p, u); len(u.asked) != 0 {
		t.Errorf("after that: %v", u.asked)
	}
}

// TestPollOneRefusal: a device that refuses once what it gives before and after.
func TestPollOneRefusal(t *testing.T) {
	p, _ := pollOf(t, row(60), &Limits{})
	u := &fakeUnit{limit: 125}
	settle(t, p, u, 1)
	n := 0
	u.fail = func(*request) error {
		if n++; n == 1 {
			return &modbus.ModbusError{FunctionCode: 0x83, ExceptionCode: illegalAddress}
		}
		return nil
	}
	for range 3 {
		checkRun(t, p, u)
	}
	if len(u.asked) != 1 || p.stale || len(p.heldOff()) != 0 || p.tables[0].short != 0 || len(p.tables[0].learned) != 0 {
		t.Errorf("%v: learned %v", u.asked, p.tables[0])
	}
}

// TestPollErrors: which errors end a run, and which are of a block alone.
func TestPollErrors(t *testing.T) {
	lost := errors.New("connection reset")
	exc := func(code byte) error {
		return fmt.Errorf("unit 3: %w", &modbus.ModbusError{FunctionCode: 0x84, ExceptionCode: code})
	}
	for _, tc := range []struct {
		err error
		end bool
	}{{lost, true}, {&silence{after: time.Second}, true}, {exc(10), true}, {exc(11), true}, {exc(4), false}, {exc(5), false}, {exc(6), false}, {exc(8), false}, {exc(99), false}} {
		p, _ := pollOf(t, []span{{readHolding, 0, 2}, {readHolding, 200, 2}, {readHolding, 400, 1}}, &Limits{})
		u := &fakeUnit{limit: 125, fail: func(q *request) error {
			if q.address == 200 {
				return tc.err
			}
			return nil
		}}
		for range 3 { // nothing is learned
			u.asked = nil
			r, err := p.run(context.Background(), u.ask)
			if (err != nil) != tc.end || tc.end && !errors.Is(err, tc.err) {
				t.Errorf("%v: the run ends with %v", tc.err, err)
			}
			if r[0].err != nil || !errors.Is(r[1].err, tc.err) {
				t.Errorf("%v: %v", tc.err, r)
			}
			if tc.end != (r[2].err != nil) || tc.end && !errors.Is(r[2].err, tc.err) || len(u.asked) != 3 && !tc.end {
				t.Errorf("%v: the last block: %v, asked %v", tc.err, r[2].err, u.asked)
			}
		}
	}
	// An answer that is too short would be taken apart wrongly.
	p, _ := pollOf(t, row(3), &Limits{})
	var short *lengthError
	if _, err := p.run(context.Background(), func(context.Context, *request) ([]byte, error) { return []byte{1, 2}, nil }); !errors.As(err, &short) {
		t.Errorf("short answer: %v", err)
	}
}

// TestPollUnderFaults: whatever comes in between, no value is wrong, and in the
// end the map is learned.
func TestPollUnderFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spans := drawSpans(t, readCoils, 40, 200)
		u := drawUnit(t, 200)
		p, err := newPoll(spans, &Limits{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		faults := rapid.SampledFrom([]error{nil, nil, nil, nil, &silence{}, &modbus.ModbusError{ExceptionCode: 4}, &modbus.ModbusError{ExceptionCode: 6}, &modbus.ModbusError{ExceptionCode: 11}})
		u.fail = func(*request) error { return faults.Draw(t, "fault") }
		for range 10 {
			u.asked = u.asked[:0]
			results, err := p.run(context.Background(), u.ask)
			if len(u.asked) > len(spans)+extraRequests {
				t.Fatalf("%d requests in one run", len(u.asked))
			}
			for i, r := range results {
				if (r.err == nil) == (r.data == nil) || r.err == nil && !slices.Equal(r.data, answerOf(nil, spans[i])) {
					t.Fatalf("%v: %v and %v, the run ended with %v", spans[i], r.data, r.err, err)
				}
			}
		}
		u.fail = nil
		settle(t, p, u, enough(spans))
		for _, s := range p.heldOff() {
			if u.can(s) {
				t.Fatalf("%v is held off, and can be read", s)
			}
		}
	})
}

// TestPollSelect: function 23 writes and reads at once, and is not learned from.
func TestPollSelect(t *testing.T) {
	sel := &Select{Address: 900, Values: []uint16{4, 5}}
	p, err := newPoll([]span{{readHolding, 30, 2}, {readHolding, 0, 1}}, &Limits{}, sel)
	if err != nil {
		t.Fatal(err)
	}
	u := &fakeUnit{limit: 125, bad: map[int]bool{31: true}}
	for range 3 {
		u.asked = nil
		if r, err := p.run(context.Background(), u.ask); err != nil || exception(r[0].err) != illegalAddress || exception(r[1].err) != illegalAddress || len(u.asked) != 1 {
			t.Fatalf("%v, %v, asked %v", r, err, u.asked)
		}
	}
	u.bad = nil
	r, err := p.run(context.Background(), u.ask)
	if q := u.asked[1]; err != nil || !slices.Equal(r[0].data, answerOf(nil, span{readWrite, 30, 2})) || !slices.Equal(r[1].data, answerOf(nil, span{readWrite, 0, 1})) ||
		q.function != readWrite || q.address != 0 || q.count != 32 || q.writeAt != 900 || !slices.Equal(q.write, []uint16{4, 5}) {
		t.Errorf("%v, %v, asked %v", r, err, u.asked)
	}
	if b := p.blocks(); len(b) != 1 || !slices.Equal(b[0].spans, []int{1, 0}) {
		t.Errorf("blocks %v", b)
	}
}

// TestPollFIFO: a queue gives what it has; a queue that is too full is not learned from.
func TestPollFIFO(t *testing.T) {
	p, _ := pollOf(t, []span{{readFIFO, 7, 31}, {readFIFO, 8, 31}}, &Limits{})
	code := byte(3)
	ask := func(_ context.Context, q *request) ([]byte, error) {
		if q.address == 8 {
			return nil, &modbus.ModbusError{FunctionCode: 0x98, ExceptionCode: code}
		}
		return []byte{1, 2, 3, 4}, nil
	}
	r, err := p.run(context.Background(), ask)
	if err != nil || !slices.Equal(r[0].data, []byte{1, 2, 3, 4}) || exception(r[1].err) != 3 || len(p.heldOff()) != 0 {
		t.Errorf("%v, %v, held off %v", r, err, p.heldOff())
	}
	code = illegalAddress
	if _, err = p.run(context.Background(), ask); err != nil || !slices.Equal(p.heldOff(), []span{{readFIFO, 8, 31}}) {
		t.Errorf("%v, held off %v", err, p.heldOff())
	}
	empty := func(context.Context, *request) ([]byte, error) { return nil, nil }
	if r, err = p.run(context.Background(), empty); err != nil || r[0].data == nil || len(r[0].data) != 0 {
		t.Errorf("an empty queue: %v, %v", r, err)
	}
}

// TestPollAllocates nothing once the map is learned.
func TestPollAllocates(t *testing.T) {
	p, _ := pollOf(t, append(row(100), span{readCoils, 3, 9}, span{readCoils, 40, 1}), &Limits{})
	u := &fakeUnit{limit: 60, bad: map[int]bool{70: true}}
	settle(t, p, u, 20)
	answers := map[span][]byte{}
	key := func(q *request) span { return span{q.function, int(q.address), int(q.count)} }
	for i := range p.plan {
		q := &p.plan[i].q
		answers[key(q)] = answerOf(nil, key(q))
	}
	ctx := context.Background()
	ask := func(_ context.Context, q *request) ([]byte, error) { return answers[key(q)], nil }
	if n := testing.AllocsPerRun(100, func() {
		if _, err := p.run(ctx, ask); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%g allocations in a run", n)
	}
}
