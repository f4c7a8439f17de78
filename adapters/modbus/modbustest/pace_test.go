package modbustest

import (
	"testing"
	"time"
)

// Being woken late does not add up: a request that follows at once is counted
// from where the answer should have ended.
func TestPaceDoesNotAddUpItsErrors(t *testing.T) {
	base := time.Now()
	ms := func(n int) time.Time { return base.Add(time.Duration(n) * time.Millisecond) }
	for name, c := range map[string]struct {
		lag         time.Duration
		heard, want time.Time
	}{
		"on time":            {0, ms(2), ms(2)},
		"at once, 3 ms late": {3 * time.Millisecond, ms(4), ms(1)},
		"never before it":    {3 * time.Millisecond, ms(3), ms(0)},
		"much later":         {3 * time.Millisecond, ms(50), ms(50)},
	} {
		p := newPace(9600, rtuBits, nil)
		p.free, p.lag = base, c.lag
		p.heard(c.heard, true)
		if !p.start.Equal(c.want) {
			t.Errorf("%s: begins at %s, want %s", name, p.start.Sub(base), c.want.Sub(base))
		}
	}
	if p := newPace(9600, rtuBits, nil); p.char != 1145833 || p.gap != 4010415 {
		t.Errorf("a character of %d ns, a gap of %d", p.char, p.gap)
	}
}
