package modbus

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// kill has units stop answering.
func (r *rig) kill(units ...byte) {
	for _, u := range units {
		r.set(u, func(x *rigUnit) { x.dead = true })
	}
}

// TestRetryWaits holds that a request without an answer is made again only after
// the polls that are due, and that what others wait for is short.
func TestRetryWaits(t *testing.T) {
	c := &Config{Devices: devices(10)}
	rigged(t, c, func(r *rig) {
		r.after(10 * time.Second)
		died := r.s.now()
		r.kill(5)
		r.after(10 * time.Second)
		var first, again int
		all := r.seen(0, died)
		for i, a := range all {
			if a.unit == 5 && first == 0 {
				first = i
			} else if a.unit == 5 && again == 0 {
				again = i
			}
		}
		if all[first].took != time.Second || all[again].took != waitLeast {
			t.Errorf("waited %s, then %s", all[first].took, all[again].took)
		}
		others := map[byte]bool{}
		for _, a := range all[first+1 : again] {
			others[a.unit] = true
		}
		if len(others) != 9 {
			t.Errorf("asked again after %d of 9 other polls that were due", len(others))
		}
	})
}

// TestSlowNotDead holds that a unit whose answers take long of a sudden, but not
// too long, is not given up.
func TestSlowNotDead(t *testing.T) {
	rigged(t, &Config{Devices: devices(5)}, func(r *rig) {
		r.after(10 * time.Second)
		r.kill(2) // everybody is waited for less now
		r.after(5 * time.Second)
		r.set(1, func(x *rigUnit) { x.takes = 700 * time.Millisecond })
		r.after(10 * time.Minute)
		from := r.s.now()
		r.after(time.Minute)
		if n := r.answers(1, from); n < 55 {
			t.Errorf("%d answers of a slow unit in a minute", n)
		}
	})
}

// TestBackOff holds the pauses between the probes of a dead unit, that each is
// one short request, and that the first answer brings everything back at once,
// with one line in the log each way.
func TestBackOff(t *testing.T) {
	c := &Config{Devices: devices(3)}
	c.Devices[1].Profile = &Profile{Groups: []Group{{Name: "a", Points: points(0, 50)}, {Name: "b", Every: time.Minute, Points: points(200, 3)}, {Name: "c", Points: points(100, 20)}}}
	rigged(t, c, func(r *rig) {
		r.after(10 * time.Second)
		r.kill(2)
		r.after(10 * time.Second)
		dead, records := r.s.now(), len(r.records)
		r.after(2 * time.Hour)
		probes, others := r.seen(2, dead), map[uint16]int{}
		for i := 1; i < len(probes); i++ {
			pause := probes[i].at - probes[i-1].at
			if pause > probeMax+patienceProbe || i > 10 && pause < probeMax*3/4 {
				t.Errorf("pause %d was %s", i, pause)
			}
			others[probes[i].address]++
			if probes[i].took > waitLeast && probes[i].took < time.Second {
				t.Errorf("probe %d took %s", i, probes[i].took)
			}
		}
		if others[0] < 2 || others[100] < 2 || others[200] < 5 { // the smallest, the one that was read last, and all in turn
			t.Errorf("probes by register: %v", others)
		}
		if len(probes) < 25 || len(probes) > 45 {
			t.Errorf("%d probes in two hours", len(probes))
		}
		told := r.recorded("dev-02", records)
		if n := len(probes) - len(told); n < 1 || n > 6 { // not of those within a minute of another
			t.Errorf("%d records of %d probes", len(told), len(probes))
		}
		for i := 1; i < len(told); i++ {
			if d := told[i].Received.Sub(told[i-1].Received); d < tellEvery {
				t.Errorf("records of the loss %s apart", d)
			}
		}
		if strings.Count(r.log.String(), "\n") != 1 || !strings.Contains(r.log.String(), `"device does not answer" device=dev-02 unit=2 error="no answer within`) {
			t.Errorf("log: %s", r.log.String())
		}
		r.set(2, func(x *rigUnit) { x.dead = false })
		r.after(probeMax + patienceProbe)
		back := r.seen(2, dead)[len(probes):]
		if len(back) < 4 || back[3].at-back[0].at > 100*time.Millisecond {
			t.Errorf("after the first answer: %+v", back[:min(4, len(back))])
		}
		if log := r.log.String(); strings.Count(log, "\n") != 2 || !strings.Contains(log, `"device answers again" device=dev-02 unit=2 after=2h`) {
			t.Errorf("log: %s", log)
		}
		if late, off := r.s.count.late.Load(), r.s.count.off.Load(); late > 3 || off < 14_000 {
			t.Errorf("%d cycles late, %d off", late, off)
		}
	})
}

// TestIgnoredProbe holds that a device comes back after an outage that never
// answers its smallest request.
func TestIgnoredProbe(t *testing.T) {
	c := &Config{Devices: devices(2)}
	c.Devices[1].Profile = &Profile{Groups: []Group{{Name: "a", Points: points(0, 50)}, {Name: "b", Points: points(200, 3)}}}
	rigged(t, c, func(r *rig) {
		r.set(2, func(x *rigUnit) { x.quiet = map[uint16]bool{200: true} })
		r.after(time.Minute)
		r.set(2, func(x *rigUnit) { x.dead = true })
		r.after(time.Hour)
		r.set(2, func(x *rigUnit) { x.dead = false })
		r.after(4 * probeMax)
		from := r.s.now()
		r.after(time.Minute)
		if n := r.answers(2, from); n < 30 {
			t.Errorf("%d answers in a minute, long after it came back", n)
		}
	})
}

// TestIgnoredProbeAlone holds the same for a device that is alone on a TCP line,
// which is opened anew while it is silent.
func TestIgnoredProbeAlone(t *testing.T) {
	c := &Config{URL: "tcp://10.0.0.5", Devices: devices(1)}
	c.Devices[0].Profile = &Profile{Groups: []Group{{Name: "a", Points: points(200, 3)}, {Name: "b", Points: points(300, 4)}, {Name: "c", Points: points(0, 50)}}}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, c)
		r.start()
		r.set(1, func(x *rigUnit) { x.dead, x.quiet = true, map[uint16]bool{200: true, 300: true} })
		for tries := 0; r.answers(1, 0) == 0 && tries < 12; tries++ {
			if tries == 6 {
				r.set(1, func(x *rigUnit) { x.dead = false })
			}
			select {
			case <-r.runs:
				r.stop()
				r.start()
			case <-time.After(30 * time.Second):
			}
		}
		r.after(time.Minute)
		if n := r.answers(1, 0); n < 30 {
			t.Errorf("%d answers, long after it came back", n)
		}
		r.end()
	})
}

// TestRecordsOfLoss holds what a reader of the records sees of a device that is
// lost and found.
func TestRecordsOfLoss(t *testing.T) {
	c := &Config{Devices: devices(2)}
	c.Devices[0].Profile = &Profile{Groups: []Group{{Name: "a", Points: points(0, 5)}, {Name: "slow", Every: time.Hour, Points: points(100, 20)}}}
	rigged(t, c, func(r *rig) {
		r.after(10 * time.Second)
		from := len(r.records)
		r.kill(1)
		r.after(20 * time.Second)
		seen := map[string]int{}
		for _, rec := range r.recorded("dev-01", from) {
			if rec.Quality == gateway.Good {
				continue
			}
			seen[rec.Name]++
			if rec.Quality != gateway.Bad || rec.Reason == "" || len(rec.Values) == 0 || rec.Values[0].Quality != gateway.Bad || rec.Values[0].Reason == "" {
				t.Errorf("%+v", rec)
			}
		}
		if seen["slow"] != 1 { // it was not polled, and yet it is known
			t.Errorf("records of the loss: %v", seen)
		}
		from = len(r.records)
		r.set(1, func(x *rigUnit) { x.dead = false })
		r.after(time.Minute)
		good := map[string]int{}
		for _, rec := range r.recorded("dev-01", from) {
			if rec.Quality == gateway.Good {
				good[rec.Name]++
			}
		}
		if good["a"] < 20 || good["slow"] != 1 {
			t.Errorf("records after it was found: %v", good)
		}
	})
}

// TestNobodyAnswers holds that there is no cap when nobody is held up: all are
// asked with their back-off alone, with the whole time-out; a serial line stays
// open.
func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &Config{Devices: devices(4)})
		r.kill(1, 2, 3, 4)
		r.start()
		r.after(10 * time.Minute)
		for _, a := range r.seen(0, 0) {
			if a.took != time.Second {
				t.Fatalf("waited %s only", a.took)
			}
		}
		if r.in.Status("").State == gateway.Up {
			t.Error("up although nobody ever answered")
		}
		r.set(3, func(x *rigUnit) { x.dead = false })
		r.after(probeMax)
		if r.in.Status("").State != gateway.Up || len(r.opens) != 1 {
			t.Errorf("state %s, opened %d times", r.in.Status("").State, len(r.opens))
		}
		r.end()
	})
}

// TestGateway10And11 holds that a gateway which says that it does not reach a
// device makes that device dead, not the line.
func TestGateway10And11(t *testing.T) {
	for _, code := range []byte{10, 11} {
		rigged(t, &Config{URL: "tcp://10.0.0.5", Devices: devices(3)}, func(r *rig) {
			r.set(2, func(x *rigUnit) { x.code, x.takes = code, 400*time.Millisecond })
			r.after(10 * time.Minute)
			from := r.s.now()
			r.after(10 * time.Minute)
			if n := len(r.seen(2, from)); n > 4 || n == 0 {
				t.Errorf("asked %d times in ten minutes", n)
			}
			if a := r.seen(2, 0); a[2].at-a[1].at < 500*time.Millisecond || a[1].at-a[0].at < 500*time.Millisecond {
				t.Errorf("asked again at once, although the gateway had waited: %+v", a[:3])
			}
			if lost := r.recorded("dev-02", 0); !strings.Contains(lost[0].Reason, "the gateway ") {
				t.Errorf("reason: %s", lost[0].Reason)
			}
			if n := r.answers(1, from); n != 600 || len(r.opens) != 1 {
				t.Errorf("%d polls of another unit, line opened %d times", n, len(r.opens))
			}
			r.set(1, func(x *rigUnit) { x.code = 11 })
			r.set(3, func(x *rigUnit) { x.code = 11 })
			r.after(10 * time.Minute)
			if len(r.opens) != 1 {
				t.Errorf("line opened %d times: the gateway answered", len(r.opens))
			}
		})
	}
}

// TestBusy holds that a unit which asks for patience is asked again soon, not
// for ever, and is not dead; and that a device failure is told in the record.
func TestBusy(t *testing.T) {
	for _, code := range []byte{5, 6} {
		rigged(t, &Config{Devices: devices(1)}, func(r *rig) {
			r.after(5 * time.Second)
			from, records := r.s.now(), len(r.records)
			r.set(1, func(x *rigUnit) { x.code = code })
			r.after(400 * time.Millisecond)
			r.after(10 * time.Second)
			if n := len(r.seen(1, from)); n < 30 || n > 48 {
				t.Errorf("asked %d times in ten seconds", n)
			}
			bad := r.recorded("", records)
			if n := len(bad); n < 9 || n > 11 || bad[0].Quality != gateway.Bad {
				t.Errorf("%d records, %v", n, bad[0].Quality)
			}
			if u := r.s.units[0]; u.dead || u.strikes > 0 {
				t.Error("it answers, and is taken for dead")
			}
			r.set(1, func(x *rigUnit) { x.code = 0; x.once = onceBusy(x, code) })
			records = len(r.records)
			r.after(10 * time.Second)
			for _, rec := range r.recorded("", records)[1:] {
				if rec.Quality != gateway.Good {
					t.Error("busy once:", rec.Reason)
				}
			}
		})
	}
	rigged(t, &Config{Devices: devices(1)}, func(r *rig) {
		r.set(1, func(x *rigUnit) { x.code = 4 })
		r.after(5 * time.Second)
		if recs := r.recorded("", 0); len(recs) < 4 || recs[0].Quality != gateway.Bad || recs[0].Reason == "" {
			t.Errorf("%+v", recs)
		}
	})
}

// onceBusy has a unit ask for patience with every second request.
func onceBusy(x *rigUnit, code byte) func(*request) {
	n := 0
	return func(*request) {
		if n++; n%2 == 1 {
			x.code = code
		} else {
			x.code = 0
		}
	}
}

// TestInterrupted holds that a poll of several requests goes on where it was
// interrupted: what was answered is not asked again.
func TestInterrupted(t *testing.T) {
	c := &Config{Devices: devices(1)}
	c.Devices[0].Profile = &Profile{Groups: []Group{{Name: "a", Points: append(points(0, 5), append(points(100, 5), points(200, 5)...)...)}}}
	rigged(t, c, func(r *rig) {
		r.after(5 * time.Second)
		from, records := r.s.now(), len(r.records)
		n := 0
		r.set(1, func(x *rigUnit) {
			x.once = func(q *request) {
				if q.address == 200 {
					n++
					x.quiet = map[uint16]bool{200: n%2 == 1}
				}
			}
		})
		r.after(20 * time.Second)
		count := map[uint16]int{}
		for _, a := range r.seen(1, from) {
			count[a.address]++
		}
		if d := count[200] - 2*count[0]; count[0] < 8 || d < -2 || d > 2 || count[0]-count[100] > 1 {
			t.Errorf("requests: %v", count)
		}
		for _, rec := range r.recorded("", records) {
			if rec.Quality != gateway.Good || len(rec.Values) != 15 {
				t.Error(rec.Reason, len(rec.Values))
			}
		}
	})
}
