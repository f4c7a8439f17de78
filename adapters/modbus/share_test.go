package modbus

import (
	"testing"
	"time"
)

// TestEightOfTwenty holds that 8 dead of 20 units do not make the longest gap of
// the others grow by more than a twentieth, once they are known to be dead, and
// take no more than a tenth of the time.
func TestEightOfTwenty(t *testing.T) {
	c := &Config{Devices: devices(20)}
	c.Timeout = 50 * time.Millisecond
	rigged(t, c, func(r *rig) {
		r.after(10 * time.Second)
		died := r.s.now()
		r.kill(2, 3, 7, 8, 11, 15, 19, 20)
		r.after(20 * time.Second)
		known := r.s.now()
		r.after(30 * time.Minute)
		for _, u := range []byte{1, 4, 5, 6, 9, 10, 12, 13, 14, 16, 17, 18} {
			if gap := r.gap(u, died); gap > 1250*time.Millisecond {
				t.Errorf("longest gap of unit %d while others die: %s", u, gap)
			}
			if gap := r.gap(u, known); gap > 1050*time.Millisecond {
				t.Errorf("longest gap of unit %d: %s", u, gap)
			}
		}
		if share := float64(r.silence(died)) / float64(r.s.now()-died); share > 0.1 {
			t.Errorf("dead units take %.3f of the time", share)
		}
	})
}

// TestEightOfTwentyDefault is the same with the default time-out: no gap grows
// by more than that time-out and a little, and few do.
func TestEightOfTwentyDefault(t *testing.T) {
	rigged(t, &Config{Devices: devices(20)}, func(r *rig) {
		r.after(10 * time.Second)
		died := r.s.now()
		dead := []byte{2, 3, 7, 8, 11, 15, 19, 20}
		r.kill(dead...)
		r.after(time.Hour)
		all := r.seen(0, died)
		full := 0
		for _, a := range all {
			if isSilence(a.err) && a.took == time.Second {
				full++
			}
		}
		if full > 1+8*5 { // the first silence, and every fourth probe: after 8s, 4m, then about every 18m
			t.Errorf("%d whole time-outs were waited for in an hour", full)
		}
		if gap := r.gap(1, died); gap > 2500*time.Millisecond {
			t.Errorf("longest gap of a healthy unit: %s", gap)
		}
		if n := r.answers(1, died); n < 3560 {
			t.Errorf("a healthy unit was polled %d times in an hour", n)
		}
		if share := float64(r.silence(died)) / float64(r.s.now()-died); share > 0.05 {
			t.Errorf("dead units take %.3f of the time", share)
		}
	})
}

// TestEightOf32 holds that on a slow line that is nearly full, and on one that
// is more than full, the healthy units keep 85 % of their rate.
func TestEightOf32(t *testing.T) {
	for _, every := range []time.Duration{time.Second, 500 * time.Millisecond} {
		for _, late := range []bool{false, true} {
			rates := [2]int{}
			for i := range rates {
				c := &Config{Devices: devices(32)}
				c.Every = every
				rigged(t, c, func(r *rig) {
					for u := range r.units {
						r.set(u, func(x *rigUnit) { x.takes = 25 * time.Millisecond })
					}
					from := time.Duration(0)
					if late {
						r.after(10 * time.Second)
						from = r.s.now()
					}
					if i == 1 {
						r.kill(1, 5, 6, 12, 17, 22, 30, 32)
					}
					r.after(2 * time.Minute)
					for _, u := range []byte{2, 3, 4, 7, 16, 24, 31} {
						rates[i] += r.answers(u, from)
					}
				})
			}
			if 100*rates[1] < 85*rates[0] || rates[0] == 0 {
				t.Errorf("every %s, dead from the start %v: %d polls with 8 dead, %d with none", every, !late, rates[1], rates[0])
			}
			t.Logf("every %s, dead from the start %v: %.1f %%", every, !late, 100*float64(rates[1])/float64(rates[0]))
		}
	}
}

// TestSilentBlock holds that a unit which does not answer for one group is not
// dead, and that the group takes no more than its share.
func TestSilentBlock(t *testing.T) {
	c := &Config{Devices: devices(2)}
	c.Every = 200 * time.Millisecond
	c.Devices[0].Profile = &Profile{Groups: []Group{{Name: "a", Points: points(0, 5)}, {Name: "b", Points: points(100, 20)}}}
	rigged(t, c, func(r *rig) {
		r.set(1, func(x *rigUnit) { x.quiet = map[uint16]bool{100: true} })
		r.after(time.Minute)
		from := r.s.now()
		r.after(10 * time.Minute)
		if share := float64(r.silence(from)) / float64(10*time.Minute); share > 0.1 {
			t.Errorf("the silent group takes %.3f of the time", share)
		}
		if late, off := r.s.count.late.Load(), r.s.count.off.Load(); late > 600 || off < 2000 {
			t.Errorf("%d cycles late, %d off", late, off)
		}
		good := 0
		for _, a := range r.seen(1, from) {
			if a.address == 0 && a.err == nil {
				good++
			}
		}
		if good < 2700 || r.answers(2, from) < 2700 {
			t.Errorf("%d polls of its other group, %d of another unit, of 3000", good, r.answers(2, from))
		}
	})
}

// TestGoodMoment holds that probes are made in moments in which they hold up
// nobody, where there are any.
func TestGoodMoment(t *testing.T) {
	c := &Config{Devices: devices(10)}
	c.Timeout = 200 * time.Millisecond
	rigged(t, c, func(r *rig) {
		for u := range r.units {
			r.set(u, func(x *rigUnit) { x.takes = 60 * time.Millisecond })
		}
		r.after(10 * time.Second)
		r.kill(4, 5, 6) // between the third and the seventh nothing is due for 340 ms
		r.after(30 * time.Second)
		from := r.s.now()
		r.after(20 * time.Minute)
		for _, u := range []byte{1, 2, 3, 7, 8, 9, 10} {
			if gap := r.gap(u, from); gap > 1001*time.Millisecond {
				t.Errorf("longest gap of unit %d: %s", u, gap)
			}
		}
		if n := len(r.seen(4, from)) + len(r.seen(5, from)) + len(r.seen(6, from)); n < 15 {
			t.Errorf("%d probes in twenty minutes", n)
		}
	})
}

// TestDeadFromTheStart holds that on a line which is full, units that never
// answered do not hold up those that do by more than one time-out at once.
func TestDeadFromTheStart(t *testing.T) {
	c := &Config{Devices: devices(32)}
	c.Every = 500 * time.Millisecond
	rigged(t, c, func(r *rig) {
		for u := range r.units {
			r.set(u, func(x *rigUnit) { x.takes = 25 * time.Millisecond })
		}
		r.kill(9, 10, 11, 12, 13, 14, 15, 16)
		r.after(time.Minute)
		for _, u := range []byte{1, 2, 3, 20, 32} {
			if gap := r.gap(u, 0); gap > 2500*time.Millisecond {
				t.Errorf("longest gap of unit %d: %s", u, gap)
			}
		}
		for u := byte(1); u <= 32; u++ {
			if len(r.seen(u, 0)) == 0 {
				t.Errorf("unit %d was never asked", u)
			}
		}
	})
}
