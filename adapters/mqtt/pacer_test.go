package mqtt

import (
	"testing"
	"testing/synctest"
	"time"
)

// feed plays reads to p: each of perRead bytes, one pause apart, or as far
// apart as a window of unacknowledged bytes allows. It stops after d.
func feed(p *pacer, clock *time.Time, d time.Duration, rate float64) {
	for end := clock.Add(d); clock.Before(end); {
		*clock = clock.Add(p.gap())
		p.read(int(rate * p.gap().Seconds()))
	}
}

func fakePacer() (*pacer, *time.Time) {
	now := time.Unix(0, 0)
	return &pacer{now: func() time.Time { return now }}, &now
}

func TestPacerClimbsUnderFlow(t *testing.T) {
	p, clock := fakePacer()
	if p.gap() != gaps[0] {
		t.Fatalf("starts with %s", p.gap())
	}
	feed(p, clock, 3*time.Second, 5e6)
	if p.gap() != gaps[len(gaps)-1] {
		t.Errorf("pauses %s under 5 MB/s", p.gap())
	}
	p.idle()
	if p.gap() != gaps[0] {
		t.Errorf("pauses %s after an idle moment", p.gap())
	}
}

func TestPacerStaysLowUnderLittleFlow(t *testing.T) {
	p, clock := fakePacer()
	feed(p, clock, 10*time.Second, thinBytes/2/gaps[0].Seconds())
	if p.gap() != gaps[0] {
		t.Errorf("pauses %s with a message per read", p.gap())
	}
	feed(p, clock, 10*time.Second, thinBytes/gaps[0].Seconds()+1e3)
	if p.gap() != gaps[1] {
		t.Errorf("pauses %s with a few messages per read", p.gap())
	}
}

// A broker that sends a window of unacknowledged bytes per round trip, however
// long we pause: a longer pause costs throughput and is taken back.
func TestPacerGivesWayToWindow(t *testing.T) {
	const window = 4000
	p, clock := fakePacer()
	var at [4]int
	for range 60_000 {
		*clock = clock.Add(p.gap())
		p.read(window)
		at[p.level]++
	}
	if at[0] < 9*(at[1]+at[2]+at[3]) {
		t.Errorf("reads on the levels: %v", at)
	}
}

// A little loss on every level must not add up.
func TestPacerLossDoesNotAddUp(t *testing.T) {
	p, clock := fakePacer()
	rates := [4]float64{10e6, 9e6, 8.1e6, 7.3e6}
	best := 0.0
	for range 4 * (trialReads + 2) {
		*clock = clock.Add(p.gap())
		p.read(int(rates[p.level] * p.gap().Seconds()))
		best = max(best, rates[p.level])
	}
	if rates[p.level] < keepFraction*best {
		t.Errorf("pauses %s at %.0f%% of the best throughput", p.gap(), 100*rates[p.level]/best)
	}
}

// Bursts with rests between do not make it climb by chance.
func TestPacerBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer()
		for range 200 {
			for range 20 {
				time.Sleep(p.gap())
				p.read(20_000)
			}
			time.Sleep(time.Second)
			p.idle()
		}
		if p.gap() != gaps[0] {
			t.Errorf("pauses %s", p.gap())
		}
	})
}
