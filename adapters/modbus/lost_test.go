package modbus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// returned waits for Run to return an error.
func (r *rig) returned(within time.Duration) error {
	r.t.Helper()
	r.settle()
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case err := <-r.runs:
		return err
	case <-t.C:
		r.t.Fatalf("Run has not returned within %s", within)
		return nil
	}
}

// TestCutEveryFifth holds that a device which closes the connection at every
// fifth request costs no poll: the line is opened anew at once.
func TestCutEveryFifth(t *testing.T) {
	rigged(t, &Config{URL: "tcp://10.0.0.5", Devices: devices(3)}, func(r *rig) {
		r.change(func() { r.cutEvery = 5 })
		r.after(time.Minute)
		for u := byte(1); u <= 3; u++ {
			if n := r.answers(u, 0); n < 59 {
				t.Errorf("%d answers of unit %d in a minute", n, u)
			}
		}
		if n := len(r.opens); n < 40 {
			t.Errorf("opened %d times", n)
		}
		for i := 1; i < len(r.opens); i++ {
			if r.opens[i]-r.opens[i-1] < reopenAfter {
				t.Errorf("opened again after %s", r.opens[i]-r.opens[i-1])
			}
		}
		for _, rec := range r.recorded("", 0) {
			if rec.Quality != gateway.Good {
				t.Error(rec.Device, rec.Reason)
			}
		}
		if r.s.count.reopens.Load() != int64(len(r.opens)-1) {
			t.Errorf("%d reconnects counted, %d made", r.s.count.reopens.Load(), len(r.opens)-1)
		}
	})
}

// TestReopenPause holds that a device which closes the connection after every
// answer is not knocked at without a pause.
func TestReopenPause(t *testing.T) {
	c := &Config{URL: "tcp://10.0.0.5", Devices: devices(3)}
	c.Every = 5 * time.Millisecond
	rigged(t, c, func(r *rig) {
		r.change(func() { r.cutEvery = 2 })
		r.after(10 * time.Second)
		if n := len(r.opens); n < 300 {
			t.Errorf("opened %d times", n)
		}
		for i := 1; i < len(r.opens); i++ {
			if d := r.opens[i] - r.opens[i-1]; d < reopenAfter {
				t.Fatalf("opened again after %s", d)
			}
		}
	})
}

// TestLostLine holds that a line which is lost twice without an answer in
// between ends Run, with what a person needs to know; that each group has one
// record of it, and no more when the line cannot be opened again.
func TestLostLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &Config{URL: "tcp://10.0.0.5:1502", Devices: devices(3)})
		r.start()
		r.after(5 * time.Second)
		from := len(r.records)
		r.change(func() { r.broken = errCut })
		err := r.returned(2 * time.Second)
		if len(r.opens) != 2 {
			t.Errorf("opened %d times, want 2", len(r.opens))
		}
		for _, want := range []string{"modbus 10.0.0.5:1502: read unit ", "(dev-0", "holding 100+10: closed by the device"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("no %q in %q", want, err)
			}
		}
		lost := r.recorded("", from)
		if len(lost) != 3 {
			t.Errorf("%d records of the loss, want one of each group", len(lost))
		}
		for _, rec := range lost {
			if rec.Quality != gateway.Bad || !strings.Contains(rec.Reason, "line lost: ") || len(rec.Values) != 10 {
				t.Errorf("%+v", rec)
			}
		}
		r.change(func() { r.refuse = errors.New("connect tcp 10.0.0.5:1502: connection refused") })
		for range 5 {
			r.start()
			if err := r.returned(time.Second); !strings.Contains(err.Error(), "connection refused") {
				t.Error(err)
			}
			r.stop()
		}
		if n := len(r.records) - from; n != 3 {
			t.Errorf("%d records while the line cannot be opened", n-3)
		}
		r.after(time.Minute)
		r.change(func() { r.refuse, r.broken = nil, nil })
		r.start()
		r.after(100 * time.Millisecond)
		if n := len(r.records) - from; n != 6 {
			t.Errorf("%d records at once when the line is open again, want 3", n-3)
		}
		if n := r.s.count.line.Load(); n < 170 || n > 200 {
			t.Errorf("%d cycles counted without a line", n)
		}
		r.end()
	})
}

// TestBlackHole holds that a TCP line on which nobody answers any more is opened
// anew, also when some units were dead before, and a serial line is not.
func TestBlackHole(t *testing.T) {
	for _, n := range []int{1, 12} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, &Config{URL: "rtu+tcp://10.0.0.5:4001", Devices: devices(n)})
			r.start()
			r.after(10 * time.Second)
			for u := range r.units {
				r.kill(u)
			}
			from := r.s.now()
			r.after(8 * time.Second)
			if len(r.opens) != 2 {
				t.Fatalf("opened %d times, %s after the line fell silent", len(r.opens), r.s.now()-from)
			}
			err := r.returned(10 * time.Second)
			if !strings.Contains(err.Error(), "no device has answered for ") {
				t.Error(err)
			}
			r.stop()
			for range 5 { // until all are dead
				r.start()
				_ = r.returned(time.Minute)
				r.stop()
			}
			for u := range r.units {
				r.set(u, func(x *rigUnit) { x.dead = false })
			}
			r.start()
			at := r.s.now()
			r.after(1500 * time.Millisecond)
			for u := range r.units {
				if r.answers(u, at) == 0 {
					t.Errorf("unit %d was not asked at once on the new line", u)
				}
			}
			r.end()
		})
	}
	c := &Config{URL: "tcp://10.0.0.5", Devices: devices(12)}
	c.Devices[0].Every = time.Minute
	rigged(t, c, func(r *rig) {
		r.after(10 * time.Second)
		r.kill(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) // one answers, and is asked once a minute
		r.after(time.Hour)
		if len(r.opens) > 2 { // once, before it is known that they are dead
			t.Errorf("opened %d times although one device answers", len(r.opens))
		}
	})
}

// TestPoison holds that a request which makes the line fall harms nobody but its
// unit.
func TestPoison(t *testing.T) {
	rigged(t, &Config{URL: "tcp://10.0.0.5", Devices: devices(5)}, func(r *rig) {
		r.after(10 * time.Second)
		r.set(3, func(x *rigUnit) { x.lose = true })
		r.after(time.Minute)
		from := r.s.now()
		r.after(10 * time.Minute)
		for _, u := range []byte{1, 2, 4, 5} {
			if n := r.answers(u, from); n < 590 {
				t.Errorf("%d answers of unit %d in ten minutes", n, u)
			}
		}
		if n := len(r.seen(3, from)); n > 10 {
			t.Errorf("asked %d times in ten minutes for what makes the line fall", n)
		}
	})
}

// TestSunSpec holds that models are looked for before they are polled, that a
// device without any harms nobody, that one that is silent is asked like a dead
// one, and that what was found is kept when the line is opened anew.
func TestSunSpec(t *testing.T) {
	c := &Config{URL: "tcp://10.0.0.5", Devices: devices(4)}
	spec := &SunSpec{Bases: []int{40000}, Models: []SunSpecModel{{IDs: []int{101}, Group: Group{Name: "inverter", Points: points(2, 20)}}}}
	for i := range 3 {
		c.Devices[i].Profile = &Profile{SunSpec: spec}
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, c)
		r.sunspec = map[byte]bool{1: true, 3: true} // unit 2 is something else
		r.kill(3)
		r.start()
		r.after(10 * time.Minute)
		n := 0
		for i, a := range r.seen(1, 0) {
			if a.address == 40004 {
				n++
			} else if i == 0 && a.address != 40000 || n > 0 {
				t.Errorf("request %d is of %d", i, a.address)
			}
		}
		if n < 595 {
			t.Errorf("%d polls of a model", n)
		}
		if n := r.answers(4, 0); n < 590 {
			t.Errorf("%d polls of another unit", n)
		}
		if n := len(r.seen(2, 0)); n < 1 || n > 12 {
			t.Errorf("looked %d times for models where there are none", n)
		}
		if n := len(r.seen(3, 0)); n < 8 || n > 40 {
			t.Errorf("asked %d times for models of a silent unit", n)
		}
		warned := 0
		for _, f := range r.s.Facts() {
			if f.Warn {
				warned++
			}
		}
		if warned != 2 {
			t.Errorf("%d warnings: %+v", warned, r.s.Facts())
		}
		r.sunspecAgain()
		r.end()
	})
}

// sunspecAgain is the second half of TestSunSpec: the silent unit comes back,
// and the line is opened anew.
func (r *rig) sunspecAgain() {
	r.t.Helper()
	r.set(3, func(x *rigUnit) { x.dead = false })
	from := r.s.now()
	r.after(probeMax + time.Minute)
	if n := r.answers(3, from); n < 55 {
		r.t.Errorf("%d answers of a unit that is back", n)
	}
	group := r.s.units[0].groups[0]
	r.change(func() { r.broken = errCut })
	r.after(time.Second)
	_ = r.returned(5 * time.Second)
	r.stop()
	r.change(func() { r.broken = nil })
	r.start()
	from = r.s.now()
	r.after(5 * time.Second)
	if a := r.seen(1, from); len(a) < 5 || a[0].address != 40000 || r.s.units[0].groups[0] != group {
		r.t.Errorf("on a new line: %+v", a)
	}
}

// TestRenewed holds that certificates and the like which are renewed are taken
// up by opening the line anew, which costs no poll and is no outage.
func TestRenewed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &Config{URL: "tcp://10.0.0.5", Devices: devices(3)})
		r.s.creds = gateway.NewCredentials("", nil, gateway.NamedSecret{Option: "secret", Secret: gateway.Secret("file:" + file)})
		r.start()
		r.after(time.Minute)
		write("another")
		r.after(2 * lookWait)
		if len(r.opens) != 2 {
			t.Errorf("opened %d times, want 2", len(r.opens))
		}
		for u := byte(1); u <= 3; u++ {
			if n := r.answers(u, 0); n < 119 {
				t.Errorf("%d answers of unit %d in two minutes", n, u)
			}
		}
		for _, rec := range r.recorded("", 0) {
			if rec.Quality != gateway.Good {
				t.Error(rec.Reason)
			}
		}
		r.end()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		r.s.creds = gateway.NewCredentials("", nil, gateway.NamedSecret{Option: "secret", Secret: gateway.Secret("file:" + file)})
		r.start()
		if err := r.returned(time.Second); !strings.Contains(err.Error(), "modbus 10.0.0.5: read secret: ") {
			t.Error(err)
		}
		r.stop()
	})
}

// TestPanic holds that a panic of any worker is that of Run, where it is known
// what to do about it, and that the next Run polls everything again.
func TestPanic(t *testing.T) {
	for _, pipeline := range []int{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			c := &Config{URL: "tcp://10.0.0.5", Pipeline: pipeline, Devices: devices(6)}
			r := newRig(t, c)
			ctx, cancel := context.WithCancel(context.Background())
			r.set(4, func(x *rigUnit) { x.once = func(*request) { r.mu.Unlock(); panic("a bug") } })
			var got any
			func() {
				defer func() { got = recover() }()
				_ = r.s.Run(ctx, r.in)
			}()
			if got != "a bug" {
				t.Fatalf("recovered %v", got)
			}
			cancel()
			r.set(4, func(x *rigUnit) { x.once = nil })
			r.change(func() { r.active = 0 })
			r.start()
			from := r.s.now()
			r.after(10 * time.Second)
			for u := byte(1); u <= 6; u++ {
				if n := r.answers(u, from); n < 9 {
					t.Errorf("%d answers of unit %d in ten seconds", n, u)
				}
			}
			r.end()
		})
	}
}
