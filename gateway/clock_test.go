package gateway

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestClockIsBelieved(t *testing.T) {
	yes, no := func() bool { return true }, func() bool { return false }
	for _, c := range []struct {
		at     time.Time
		synced func() bool
		want   bool
	}{
		{time.Unix(0, 0), yes, false},
		{time.Unix(1_000_000, 0), nil, false},
		{time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), yes, false},
		{time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), yes, true},
		{time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), nil, true},
		{time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), no, false},
		{time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC), yes, true},
		{time.Date(2106, 2, 7, 6, 28, 16, 0, time.UTC), yes, true},
	} {
		clock := NewClock(func() time.Time { return c.at }, c.synced)
		if got := clock.Trusted(); got != c.want || !clock.Now().Equal(c.at) {
			t.Errorf("at %s, synchronised %t: trusted %t", c.at, c.synced != nil && c.synced(), got)
		}
	}
	SystemClock().Trusted() // asks the kernel: either answer is right here
}

// The kernel is asked at most every ten seconds, whatever the wall clock does.
func TestClockAsksSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wall, asked, synced := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), 0, false
		clock := NewClock(func() time.Time { return wall }, func() bool { asked++; return synced })
		for range 100 {
			if clock.Trusted() {
				t.Fatal("trusted")
			}
		}
		synced = true
		wall = wall.Add(240 * time.Hour) // a step, not ten seconds
		if clock.Trusted() || asked != 1 {
			t.Fatalf("asked %d times after a step of the clock", asked)
		}
		wait(clockCheckEvery)
		wall = wall.Add(-480 * time.Hour) // a step back
		if !clock.Trusted() || asked != 2 {
			t.Fatalf("asked %d times after ten seconds", asked)
		}
	})
}

// wait lets time pass in a bubble.
func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
