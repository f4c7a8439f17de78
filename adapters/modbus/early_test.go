package modbus

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// holes makes a device with n registers of which it refuses every other one.
func holes(n int, every time.Duration) *Config {
	c := &Config{Devices: devices(2)}
	c.Devices[0].Every = every
	c.Devices[0].Profile = &Profile{Groups: []Group{{Name: "main"}}}
	for i := range n {
		c.Devices[0].Profile.Groups[0].Points = append(c.Devices[0].Profile.Groups[0].Points, Point{Name: fmt.Sprintf("p%d", i), Address: i})
	}
	return c
}

// cycle waits until just before the next cycle of the first group.
func (r *rig) cycle() {
	r.s.mu.Lock()
	next := r.s.units[0].groups[0].nominal()
	r.s.mu.Unlock()
	r.after(next - r.s.now() - time.Millisecond)
}

// TestSearchGoesOn holds that the search for what a device refuses does not wait
// for a long period, that it makes no records but one when it is over, and that
// the cycles stay what they were.
func TestSearchGoesOn(t *testing.T) {
	rigged(t, holes(40, time.Hour), func(r *rig) {
		r.set(1, func(u *rigUnit) { u.lacks = func(a int) bool { return a%2 == 1 } })
		r.after(3 * time.Second)
		first := r.recorded("dev-01", 0)
		if len(first) != 1 || first[0].Quality == gateway.Good && first[0].Values[39].Reason == "illegal data address (2)" {
			t.Fatalf("%+v", first)
		}
		for i, v := range first[0].Values {
			if i%2 == 0 && v.Quality == gateway.Bad && v.Reason != "not read yet: the device refuses something near it" {
				t.Errorf("%s: %s", v.Name, v.Reason)
			}
		}
		r.after(time.Minute)
		recs := r.recorded("dev-01", 0)
		if len(recs) != 2 {
			t.Fatalf("%d records after a minute, want 2", len(recs))
		}
		for i, v := range recs[1].Values {
			if want := i%2 == 1; (v.Quality == gateway.Bad) != want || want && v.Reason != "illegal data address (2)" {
				t.Errorf("%s: %s", v.Name, v.Reason)
			}
		}
		asked := len(r.seen(1, 0))
		r.cycle()
		if n := len(r.seen(1, 0)) - asked; n != 0 {
			t.Errorf("asked %d times before the next cycle", n)
		}
		r.after(10 * time.Hour)
		if n := len(r.recorded("dev-01", 0)); n != 12 {
			t.Errorf("%d records in ten hours, want 12", n)
		}
		if late, off := r.s.count.late.Load(), r.s.count.off.Load(); late+off != 0 {
			t.Errorf("%d cycles late, %d off", late, off)
		}
		if r.s.flight.Load() != 0 {
			t.Errorf("%d records in flight", r.s.flight.Load())
		}
	})
}

// TestSearchEnds holds that a search which comes to no end, since the device
// refuses now this and now that, does not keep the line busy, and that one
// which meets other troubles waits for the next cycle.
func TestSearchEnds(t *testing.T) {
	for _, trouble := range []bool{false, true} {
		rigged(t, holes(60, time.Hour), func(r *rig) {
			n := 0
			r.set(1, func(u *rigUnit) {
				u.once = func(*request) {
					if n++; trouble && n > 1 {
						u.code = 4
					}
				}
				u.lacks = func(int) bool { return n%3 != 0 }
			})
			r.after(2 * time.Second)
			r.cycle()
			if asked := len(r.seen(1, 0)); asked > (searchMost+2)*(extraRequests+1) || trouble && asked > 3 {
				t.Errorf("asked %d times in one cycle", asked)
			}
			if n := len(r.recorded("dev-01", 0)); n > 2 {
				t.Errorf("%d records in one cycle", n)
			}
		})
	}
}

// TestSearchDies holds that a device which falls silent during a search is polled
// in its next cycle, and that the search goes on then.
func TestSearchDies(t *testing.T) {
	rigged(t, holes(40, time.Hour), func(r *rig) {
		r.set(1, func(u *rigUnit) { u.lacks = func(a int) bool { return a%2 == 1 } })
		r.after(3 * time.Second)
		r.kill(1)
		r.cycle()
		silent := len(r.seen(1, 0))
		if n := len(r.recorded("dev-01", 0)); n != 1 {
			t.Errorf("%d records", n)
		}
		r.set(1, func(u *rigUnit) { u.dead = false })
		r.after(time.Minute)
		if n := len(r.recorded("dev-01", 0)); n != 3 || len(r.seen(1, 0)) == silent {
			t.Errorf("%d records, want 3", n)
		}
	})
}

// TestSearchShort holds that the search goes on with a device that refuses by
// answers which are too short, after each of which the line is closed, and that
// this is no outage of the line.
func TestSearchShort(t *testing.T) {
	for _, every := range []time.Duration{time.Second, time.Hour} {
		c := holes(20, every)
		c.URL, c.Devices = "tcp://10.0.0.5", c.Devices[:1]
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, c)
			r.set(1, func(u *rigUnit) { u.short, u.lacks = true, func(a int) bool { return a%5 == 4 } })
			r.supervised()
			r.after(2 * time.Minute)
			recs := r.recorded("dev-01", 0)
			for i, v := range recs[len(recs)-1].Values {
				if (v.Quality == gateway.Bad) != (i%5 == 4) {
					t.Errorf("every %s: %s: %s", every, v.Name, v.Reason)
				}
			}
			for _, rec := range r.recorded("", 0) {
				if strings.Contains(rec.Reason, "line lost") {
					t.Error(every, rec.Device, rec.Reason)
				}
			}
			if every == time.Hour && len(recs) > 3 {
				t.Errorf("%d records in two minutes", len(recs))
			}
			r.end()
		})
	}
}
