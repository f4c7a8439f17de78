package modbus

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goburrow/modbus"

	"github.com/waystation-iot/waystation/gateway"
)

// supervised calls Run again and again, as the gateway does.
func (r *rig) supervised() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		for r.s.Run(ctx, r.in) != nil {
			settled(ctx, 5*time.Second)
		}
		r.runs <- nil
	}()
}

// TestOldAnswers holds that a poll which was interrupted begins anew when the
// line was away for long: a record tells of one moment.
func TestOldAnswers(t *testing.T) {
	c := &Config{URL: "tcp://10.0.0.5", Devices: devices(2)}
	c.Devices[0].Every = time.Hour
	c.Devices[0].Profile = &Profile{Groups: []Group{{Name: "a", Points: append(points(0, 5), points(200, 5)...)}}}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, c)
		r.set(1, func(x *rigUnit) {
			x.value = 1111
			x.once = func(q *request) {
				if q.address == 200 && r.refuse == nil && r.broken == nil && x.value == 1111 {
					r.broken, r.refuse = errCut, errCut
				}
			}
		})
		r.supervised()
		r.after(20 * time.Minute)
		from := len(r.records)
		r.change(func() { r.broken, r.refuse, r.units[1].value = nil, nil, 2222 })
		r.after(5 * time.Minute)
		recs := r.recorded("dev-01", from)
		if len(recs) == 0 {
			t.Fatal("no record")
		}
		for _, v := range recs[0].Values {
			if v.Uint() != 2222 {
				t.Errorf("%s is %d, of twenty minutes ago", v.Name, v.Uint())
			}
		}
		r.end()
	})
}

// TestResumedTime holds that a record of which a part was read before an
// interruption carries a time between the first request and the last answer.
func TestResumedTime(t *testing.T) {
	c := &Config{Devices: devices(1)}
	c.Devices[0].Every = 10 * time.Second
	c.Devices[0].Profile = &Profile{Groups: []Group{{Name: "a", Points: append(points(0, 5), points(200, 5)...)}}}
	rigged(t, c, func(r *rig) {
		n := 0
		r.set(1, func(x *rigUnit) {
			x.once = func(q *request) {
				if q.address == 200 {
					n++
					x.quiet = map[uint16]bool{200: n == 1}
				}
			}
		})
		r.after(5 * time.Second)
		recs, asked := r.recorded("", 0), r.seen(1, 0)
		if len(recs) != 1 || len(asked) != 3 {
			t.Fatalf("%d records, asked %v", len(recs), asked)
		}
		middle := (asked[0].at + asked[2].at + asked[2].took) / 2
		if at := recs[0].Received.Sub(r.s.base); at.Round(time.Millisecond) != middle.Round(time.Millisecond) {
			t.Errorf("record of %s, the middle is %s", at, middle)
		}
	})
}

// TestIdentifyCuts holds that a device which closes the connection when it is
// asked who it is is read all the same.
func TestIdentifyCuts(t *testing.T) {
	c := &Config{URL: "tcp://10.0.0.5", Devices: devices(1)}
	c.Identify = true
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, c)
		r.set(1, func(x *rigUnit) { x.once = func(q *request) { x.lose = q.function == encapsulated } })
		r.supervised()
		r.after(time.Minute)
		if n := r.answers(1, 0); n < 50 {
			t.Errorf("%d answers in a minute", n)
		}
		if n := len(r.opens); n > 5 {
			t.Errorf("opened %d times", n)
		}
		r.end()
	})
}

// TestPoisonFirst holds that a unit whose request makes the line fall does not
// keep the others from being read when it is the first on each new line.
func TestPoisonFirst(t *testing.T) {
	for n := byte(2); n <= 5; n++ {
		for bad := byte(1); bad <= n; bad++ {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &Config{URL: "tcp://10.0.0.5", Devices: devices(int(n))})
				r.set(bad, func(x *rigUnit) { x.lose = true })
				r.supervised()
				r.after(2 * time.Minute)
				for u := byte(1); u <= n; u++ {
					if answers := r.answers(u, 0); u != bad && answers < 70 {
						t.Errorf("%d of %d loses the line: %d answers of unit %d in two minutes", bad, n, answers, u)
					}
				}
				r.end()
			})
		}
	}
}

// TestSunSpecBack holds that models are looked for again on a device that was
// away: it may be another one, with its registers elsewhere.
func TestSunSpecBack(t *testing.T) {
	c := &Config{Devices: devices(2)}
	spec := &SunSpec{Bases: []int{40000}, Models: []SunSpecModel{{IDs: []int{101}, Group: Group{Name: "inverter", Points: points(2, 20)}}}}
	c.Devices[0].Profile = &Profile{SunSpec: spec}
	rigged(t, c, func(r *rig) {
		r.change(func() { r.sunspec = map[byte]bool{1: true} })
		r.after(10 * time.Second)
		r.kill(1)
		r.after(time.Minute)
		r.set(1, func(x *rigUnit) { x.dead = false })
		from := r.s.now()
		r.after(5 * time.Minute)
		looked := 0
		var before []asked
		for _, a := range r.seen(1, from) {
			if a.err == nil && a.address == 40000 {
				looked++
			}
			if a.err == nil && looked == 0 {
				before = append(before, a)
			}
		}
		if looked != 1 || len(before) > 1 { // the probe
			t.Errorf("looked %d times for the models of a device that is back, and asked before: %v", looked, before)
		}
	})
}

// TestDiscoverBusy holds that a device which asks for patience in the middle of
// its models is not taken for one with fewer of them.
func TestDiscoverBusy(t *testing.T) {
	for _, code := range []byte{4, 5, 6} {
		for _, at := range []uint16{40000, 40002, 40070} {
			m := sunspecMap(40000, 1, 66, 103, 6)
			m.fail = func(q *request) error {
				if q.address == at {
					return &modbus.ModbusError{FunctionCode: 0x83, ExceptionCode: code}
				}
				return nil
			}
			if got, err := sunspecProfile().discover(t.Context(), m.ask); code != 4 && exception(err) != code || at != 40000 && exception(err) != code || len(got) > 0 {
				t.Errorf("exception %d at %d: %v, %v", code, at, places(got), err)
			}
		}
	}
}

// counterSpec is a device whose counter is in a SunSpec model.
func counterSpec() *Profile {
	p := Point{Name: "n", Address: 2, Type: "uint16", Counter: true}
	return &Profile{SunSpec: &SunSpec{Bases: []int{40000}, Models: []SunSpecModel{{IDs: []int{101}, Group: Group{Name: "inverter", Points: []Point{p}}}}}}
}

// TestStateOfModels holds that the counters of models which were not found since
// the start, as at night, stay stored.
func TestStateOfModels(t *testing.T) {
	dir := t.TempDir()
	run := func(asleep bool, value uint16) (last gateway.Value) {
		synctest.Test(t, func(t *testing.T) {
			c := &Config{Devices: devices(2)}
			c.Devices[0].Profile = counterSpec()
			c.Devices[1].Profile = &Profile{Groups: []Group{{Name: "main", Points: []Point{{Name: "m", Type: "uint16", Counter: true}}}}}
			r := newRig(t, c)
			r.s.env.State = dir
			r.sunspec = map[byte]bool{1: true}
			r.set(1, func(x *rigUnit) { x.value, x.dead = value, asleep })
			r.start()
			r.after(10 * time.Second)
			r.end()
			if recs := r.recorded("dev-01", 0); len(recs) > 0 {
				last = recs[len(recs)-1].Values[0]
			}
		})
		return last
	}
	run(false, 65500)
	if v := run(false, 10); v.Uint() != 65546 {
		t.Fatalf("counted to %d", v.Uint())
	}
	run(true, 0)
	if v := run(false, 20); v.Uint() != 65556 {
		t.Errorf("after a night: counted to %d, want 65556", v.Uint())
	}
	text, err := os.ReadFile(filepath.Join(dir, keptFile))
	if err != nil || !strings.Contains(string(text), "dev-02/main") {
		t.Errorf("%s, %v", text, err)
	}
}

// TestStateOfAdopted holds that counters go on when the models of a device have
// changed, and what they counted since the start is not lost.
func TestStateOfAdopted(t *testing.T) {
	c := &Config{Devices: devices(1)}
	c.Devices[0].Profile = counterSpec()
	rigged(t, c, func(r *rig) {
		u := r.s.units[0]
		model := func(at int) []Group {
			return []Group{{Name: "inverter", Points: []Point{{Name: "n", Address: at, Type: "uint16", Counter: true}}}}
		}
		count := func(raw uint16) uint64 {
			g := u.groups[len(u.groups)-1]
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.decoder.values(nil, []reading{{data: []byte{byte(raw >> 8), byte(raw)}}})[0].Uint()
		}
		r.change(func() { r.units[1].dead = true })
		if err := r.s.adopt(u, model(40004)); err != nil {
			t.Fatal(err)
		}
		count(65500)
		count(10)
		if err := r.s.adopt(u, model(40104)); err != nil {
			t.Fatal(err)
		}
		if n := count(20); n != 65556 {
			t.Errorf("counted to %d, want 65556", n)
		}
		r.after(time.Second)
	})
}

// TestDeliverAtOnce holds that two workers who report of one group, as one that
// polls and one that finds the unit dead, do not get into each other's records.
func TestDeliverAtOnce(t *testing.T) {
	c := &Config{Devices: devices(1)}
	c.Report = "changed"
	c.Devices[0].Profile = &Profile{Groups: []Group{{Name: "main", Points: []Point{{Name: "n", Type: "uint16"}}}}}
	r := newRig(t, c)
	g := r.s.units[0].groups[0]
	var wg sync.WaitGroup
	const each = 5000
	for i := range 2 {
		wg.Go(func() {
			w := &worker{bus: &bus{s: r.s, in: r.in}}
			for n := range each {
				v := 2*n + i
				r.s.flight.Add(1)
				w.deliver(g, []reading{{data: []byte{byte(v >> 8), byte(v)}}}, 0)
			}
		})
	}
	wg.Wait()
	seen := map[uint64]int{}
	for _, rec := range r.records {
		seen[rec.Values[0].Uint()]++
	}
	if len(seen) != 2*each || len(r.records) != 2*each {
		t.Errorf("%d numbers in %d records, want %d", len(seen), len(r.records), 2*each)
	}
}

// TestLookOnce holds that on a line with several workers one of them looks for
// the models of a unit that is back.
func TestLookOnce(t *testing.T) {
	c := &Config{URL: "tcp://10.0.0.5", Pipeline: 4, Devices: devices(2)}
	c.Devices[0].Profile, c.Devices[1].Every = counterSpec(), 7*time.Millisecond
	rigged(t, c, func(r *rig) {
		r.change(func() { r.sunspec = map[byte]bool{1: true} })
		r.kill(1)
		r.after(time.Minute)
		r.set(1, func(x *rigUnit) { x.dead = false })
		from := r.s.now()
		r.after(probeMax)
		n := 0
		for _, a := range r.seen(1, from) {
			if a.err == nil && a.address == 40000 {
				n++
			}
		}
		if n != 1 {
			t.Errorf("looked %d times", n)
		}
	})
}

// TestTagsOfAnother holds that a device which comes in the place of another does
// not go by its name.
func TestTagsOfAnother(t *testing.T) {
	c := &Config{Devices: devices(2)}
	c.Identify = true
	rigged(t, c, func(r *rig) {
		r.after(10 * time.Second)
		r.kill(1)
		r.after(10 * time.Second)
		from := len(r.records)
		r.set(1, func(x *rigUnit) { x.dead, x.codes = false, map[uint16]byte{0: 1} })
		r.after(time.Minute)
		recs := r.recorded("dev-01", from)
		if tags := recs[len(recs)-1].Tags; len(tags) > 0 {
			t.Errorf("tags %v of a device that tells none", tags)
		}
		r.set(1, func(x *rigUnit) { x.dead = true })
		r.after(10 * time.Second)
		n := 0
		r.set(1, func(x *rigUnit) {
			x.dead, x.codes = false, nil
			x.once = func(q *request) {
				if x.code = 0; q.function == encapsulated {
					if n++; n == 1 {
						x.code = 6
					}
				}
			}
		})
		r.after(time.Minute)
		recs = r.recorded("dev-01", from)
		if tags := recs[len(recs)-1].Tags; len(tags) != 1 {
			t.Errorf("tags %v of a device that was busy when it was asked", tags)
		}
	})
}
