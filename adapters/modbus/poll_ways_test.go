package modbus

import (
	"context"
	"slices"
	"testing"

	"github.com/goburrow/modbus"
)

// TestRunsAroundWalls: a span that holds a wall is still read alone, with what lies in it.
func TestRunsAroundWalls(t *testing.T) {
	spans := []span{{readHolding, 0, 1}, {readHolding, 0, 4}, {readHolding, 6, 1}}
	slices.SortFunc(spans, byAddress)
	g := grouping{125, []wall{{1, 2}}}
	if ends := g.runs(spans); !slices.Equal(ends, []int{2, 3}) {
		t.Errorf("runs end at %v", ends)
	}
}

// TestGaps holds the gaps that are read over when a profile says nothing.
func TestGaps(t *testing.T) {
	for _, tc := range []struct {
		function byte
		second   int
		want     int
	}{{readHolding, 11, 1}, {readHolding, 12, 2}, {readCoils, 161, 1}, {readCoils, 162, 2}} {
		if p, err := newPoll([]span{{tc.function, 0, 1}, {tc.function, tc.second, 1}}, &Limits{}, nil); err != nil || len(p.plan) != tc.want {
			t.Errorf("function %d, 0 and %d: %v, %v", tc.function, tc.second, p.blocks(), err)
		}
	}
}

// says makes the unit answer the nth request and those after it with an exception.
func (u *fakeUnit) says(code byte, nth int) {
	u.asked = nil
	u.fail = func(*request) error {
		if len(u.asked) < nth {
			return nil
		}
		return &modbus.ModbusError{FunctionCode: 0x83, ExceptionCode: code}
	}
}

// askedIn returns what was asked for in a run.
func askedIn(t *testing.T, p *poll, u *fakeUnit) (out []string) {
	t.Helper()
	u.asked = nil
	if _, err := p.run(context.Background(), u.ask); err != nil {
		t.Fatal(err)
	}
	for i := range u.asked {
		out = append(out, u.asked[i].String())
	}
	return out
}

// TestPollInterrupted: a search that the device interrupts goes on in the next
// run, and until then nothing is asked for that holds what was refused.
func TestPollInterrupted(t *testing.T) {
	p, _ := pollOf(t, row(20), &Limits{})
	u := &fakeUnit{limit: 125, bad: map[int]bool{7: true}}
	u.says(6, 4)
	if got, want := askedIn(t, p, u), []string{"holding 0+20", "holding 0+10", "holding 0+5", "holding 0+7"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	u.says(6, 3)
	if got, want := askedIn(t, p, u), []string{"holding 0+5", "holding 10+10", "holding 4+3"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	u.fail = nil
	settle(t, p, u, 3)
}

// TestPollOtherTroubles: what failed for reasons of the moment is not asked for
// again in the same run because something else was refused.
func TestPollOtherTroubles(t *testing.T) {
	p, _ := pollOf(t, []span{{readHolding, 0, 1}, {readHolding, 100, 1}}, &Limits{})
	u := &fakeUnit{limit: 125, bad: map[int]bool{100: true}}
	u.fail = func(q *request) error {
		if q.address == 0 {
			return &modbus.ModbusError{FunctionCode: 0x83, ExceptionCode: 4}
		}
		return nil
	}
	if got, want := askedIn(t, p, u), []string{"holding 0+1", "holding 100+1", "holding 100+1"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// TestPollReadsLittle: where the length cannot be the reason, a search does not
// read again what it knows to go.
func TestPollReadsLittle(t *testing.T) {
	p, _ := pollOf(t, row(100), &Limits{})
	u := &fakeUnit{limit: 125}
	settle(t, p, u, 1)
	u.bad = map[int]bool{80: true}
	if got, want := askedIn(t, p, u), []string{"holding 0+100", "holding 0+50", "holding 49+26", "holding 74+13", "holding 74+7"}; len(got) < 5 || !slices.Equal(got[:5], want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// TestPollKeepsToWhatGoes: a length that may be too much is not tried for nothing.
func TestPollKeepsToWhatGoes(t *testing.T) {
	var spans []span
	for i := range 5 {
		spans = append(spans, span{readHolding, 4 * i, 4})
	}
	for i := range 18 {
		spans = append(spans, span{readHolding, 20 + i, 1})
	}
	p, _ := pollOf(t, spans, &Limits{})
	u := &fakeUnit{limit: 18}
	for runs := 0; ; runs++ {
		checkRun(t, p, u)
		if u.refuse == 0 && !p.stale {
			break
		}
		if runs == 1 {
			t.Errorf("the second run still tries: %v", u.asked)
		}
		if runs > 5 {
			t.Fatal("it does not end")
		}
	}
	if tb := p.tables[0]; tb.ok != 18 || tb.short != 20 || len(p.plan) != 3 {
		t.Errorf("%d goes, %d does not, %d requests", tb.ok, tb.short, len(p.plan))
	}
}

// TestPollUnlearnsLength: when a longer request goes, it was not for the length.
func TestPollUnlearnsLength(t *testing.T) {
	p, _ := pollOf(t, append(row(20), span{readHolding, 200, 40}), &Limits{})
	u := &fakeUnit{limit: 125, seams: []int{10}}
	u.fail = func(q *request) error {
		if q.address == 200 {
			return &modbus.ModbusError{FunctionCode: 0x83, ExceptionCode: 6}
		}
		return nil
	}
	checkRun(t, p, u)
	if p.tables[0].short != 11 {
		t.Fatalf("%d is too long", p.tables[0].short)
	}
	u.fail = nil
	settle(t, p, u, 5)
	if tb := p.tables[0]; tb.short != 0 || !slices.Equal(tb.learned, []wall{{9, 11}}) || len(p.plan) != 3 {
		t.Errorf("%d is too long, walls %v, %d requests", tb.short, tb.learned, len(p.plan))
	}
}

// TestPollOverlaps: spans over one another that a device refuses together, and
// one within another that it refused once.
func TestPollOverlaps(t *testing.T) {
	p, _ := pollOf(t, []span{{readHolding, 0, 10}, {readHolding, 5, 10}, {readHolding, 200, 40}}, &Limits{})
	u := &fakeUnit{limit: 125}
	u.fail = func(q *request) error {
		if q.address == 0 && q.count == 15 {
			return &modbus.ModbusError{FunctionCode: 0x83, ExceptionCode: illegalAddress}
		}
		return nil
	}
	checkRun(t, p, u)
	checkRun(t, p, u)
	if tb := p.tables[0]; p.stale || !slices.Equal(tb.learned, []wall{{0, 15}}) || len(u.asked) != 3 {
		t.Errorf("walls %v, asked %v", tb.learned, u.asked)
	}

	p, _ = pollOf(t, []span{{readHolding, 0, 20}, {readHolding, 5, 1}}, &Limits{})
	u = &fakeUnit{limit: 125}
	u.fail = func(*request) error {
		if len(u.asked) == 1 {
			return &modbus.ModbusError{FunctionCode: 0x83, ExceptionCode: illegalAddress}
		}
		return nil
	}
	if got, want := askedIn(t, p, u), []string{"holding 0+20", "holding 0+20", "holding 5+1"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// TestPollHeldTogether: when a function seems unknown, what is held off for that
// is not searched too; and a device with other troubles is not asked on.
func TestPollHeldTogether(t *testing.T) {
	p, now := pollOf(t, []span{{readHolding, 0, 1}, {readHolding, 1, 1}, {readHolding, 200, 1}, {readHolding, 201, 1}}, &Limits{})
	u := &fakeUnit{code: illegalFunction}
	if got, want := askedIn(t, p, u), []string{"holding 0+2", "holding 200+2", "holding 0+1", "holding 1+1", "holding 200+1", "holding 201+1"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	*now = now.Add(retryHeld)
	u.says(6, 1)
	if got, want := askedIn(t, p, u), []string{"holding 0+1"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// TestPollShortAnswers: each of them ends a run, and yet the map is learned.
func TestPollShortAnswers(t *testing.T) {
	p, _ := pollOf(t, row(20), &Limits{})
	u := &fakeUnit{limit: 125, cut: true, bad: map[int]bool{0: true, 10: true}}
	if n := settle(t, p, u, 20); n != 8 || len(p.heldOff()) != 2 || len(p.plan) != 2 {
		t.Errorf("%d runs, held off %v, plan %v", n, p.heldOff(), p.blocks())
	}

	// Also when it comes for what a refusal has left unread.
	p, _ = pollOf(t, row(20), &Limits{})
	u = &fakeUnit{limit: 125, bad: map[int]bool{0: true}}
	cut := &lengthError{"holding 1+19", 0, 38}
	u.fail = func(q *request) error {
		if q.address == 1 {
			return cut
		}
		return nil
	}
	_, err := p.run(context.Background(), u.ask)
	if last := u.asked[len(u.asked)-1]; err != cut || last.String() != "holding 1+19" {
		t.Errorf("%v after %v", err, u.asked)
	}
}
