package modbus

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// TestSpread holds that the polls of one period lie evenly in it, each unit at
// its rate, and that a line which has time for all leaves none out.
func TestSpread(t *testing.T) {
	c := &Config{Devices: devices(20)}
	rigged(t, c, func(r *rig) {
		r.after(60 * time.Second)
		all := r.seen(0, 10*time.Second)
		for i := 1; i < len(all); i++ {
			if d := all[i].at - all[i-1].at; d < 49*time.Millisecond || d > 51*time.Millisecond {
				t.Fatalf("polls %s apart, want 50ms: %+v %+v", d, all[i-1], all[i])
			}
		}
		for u := byte(1); u <= 20; u++ {
			if n := r.answers(u, 0); n < 59 || n > 61 {
				t.Errorf("unit %d was polled %d times in a minute", u, n)
			}
			if gap := r.gap(u, 0); gap != time.Second {
				t.Errorf("longest gap of unit %d is %s", u, gap)
			}
		}
		if n := r.s.count.late.Load(); n != 0 {
			t.Errorf("%d cycles were left out", n)
		}
	})
}

// TestFirstReadSoon holds that groups with a long period are read soon after
// the start, and then in their turn.
func TestFirstReadSoon(t *testing.T) {
	c := &Config{Devices: devices(4)}
	c.Every = time.Hour
	rigged(t, c, func(r *rig) {
		r.after(2 * time.Second)
		if n := len(r.seen(0, 0)); n != 4 {
			t.Errorf("%d polls in the first two seconds, want 4", n)
		}
		r.after(10*time.Hour - 2*time.Second)
		for u := byte(1); u <= 4; u++ {
			if n := r.answers(u, 0); n != 11 {
				t.Errorf("unit %d was polled %d times in ten hours", u, n)
			}
		}
	})
}

// TestDeadlines holds that a slow group does not hold up a fast one more than
// by one request, and that cycles which cannot be kept are left out and counted.
func TestDeadlines(t *testing.T) {
	c := &Config{Devices: devices(2)}
	c.Devices[0].Every = 100 * time.Millisecond
	c.Devices[1].Profile = &Profile{}
	for i := range 20 {
		c.Devices[1].Profile.Groups = append(c.Devices[1].Profile.Groups, Group{Name: string(rune('a' + i)), Every: 10 * time.Second, Points: points(20*i, 10)})
	}
	rigged(t, c, func(r *rig) {
		r.set(2, func(u *rigUnit) { u.takes = 60 * time.Millisecond })
		r.after(time.Minute)
		if gap := r.gap(1, 2*time.Second); gap > 160*time.Millisecond {
			t.Errorf("longest gap of the fast unit is %s", gap)
		}
		if n := r.answers(1, 0); n < 595 {
			t.Errorf("%d fast polls in a minute, want 600", n)
		}
		r.set(1, func(u *rigUnit) { u.takes = 250 * time.Millisecond }) // cannot be kept
		from, missed := r.s.now(), r.s.count.late.Load()
		r.after(time.Minute)
		missed = r.s.count.late.Load() - missed
		fast, slow := r.answers(1, from), r.answers(2, from)
		if slow < 20*6-4 { // of 120
			t.Errorf("%d slow polls in a minute, want 120", slow)
		}
		if fast < 180 || missed < 340 || int64(fast)+missed < 590 || int64(fast)+missed > 610 {
			t.Errorf("%d fast polls, %d cycles left out: together not 600", fast, missed)
		}
	})
}

// TestUrgent holds that what is urgent waits for one request at most, on a line
// that has no pause.
func TestUrgent(t *testing.T) {
	c := &Config{Devices: devices(1)}
	c.Devices[0].Profile = &Profile{Groups: []Group{{Name: "many", Every: 10 * time.Millisecond}}}
	for i := range 30 { // a poll of 30 requests
		c.Devices[0].Profile.Groups[0].Points = append(c.Devices[0].Profile.Groups[0].Points, points(20*i, 10)...)
	}
	rigged(t, c, func(r *rig) {
		r.set(1, func(u *rigUnit) { u.takes = 20 * time.Millisecond })
		r.after(time.Second)
		want := errors.New("the answer to an errand")
		for range 50 {
			r.after(7 * time.Millisecond)
			from := time.Now()
			err := r.s.current.Load().do(context.Background(), func(context.Context, line) error {
				if took := time.Since(from); took > 20*time.Millisecond {
					t.Errorf("an errand waited for %s", took)
				}
				return &silence{heard: want}
			})
			if !isSilence(err) {
				t.Fatal("an errand returned", err)
			}
		}
		if n := len(r.opens); n != 1 {
			t.Errorf("the line was opened %d times", n)
		}
	})
}

// TestUrgentIdle holds that an errand does not wait for a poll, that its own
// failure of the line opens it anew, and that none hangs when the line is gone.
func TestUrgentIdle(t *testing.T) {
	c := &Config{Devices: devices(1)}
	c.Every = time.Hour
	rigged(t, c, func(r *rig) {
		r.after(2 * time.Second)
		from := time.Now()
		b := r.s.current.Load()
		if err := b.do(context.Background(), func(context.Context, line) error { return errCut }); !errors.Is(err, errCut) || time.Since(from) != 0 {
			t.Error(err, time.Since(from))
		}
		r.after(time.Second)
		if n := len(r.opens); n != 2 {
			t.Errorf("the line was opened %d times, want 2", n)
		}
		if err := b.do(context.Background(), func(context.Context, line) error { return nil }); !errors.Is(err, errClosed) {
			t.Error("on a line that was closed:", err)
		}
	})
}

// TestPipeline holds that several polls are under way at once on a line that
// allows it, and never two of one group.
func TestPipeline(t *testing.T) {
	c := &Config{URL: "tcp://10.0.0.5:502", Pipeline: 4, Devices: devices(8)}
	c.Every = 100 * time.Millisecond
	rigged(t, c, func(r *rig) {
		for u := range r.units {
			r.set(u, func(x *rigUnit) { x.takes = 45 * time.Millisecond })
		}
		r.after(10 * time.Second)
		for u := byte(1); u <= 8; u++ {
			all := r.seen(u, 0)
			if len(all) < 98 {
				t.Errorf("unit %d was polled %d times, want 100", u, len(all))
			}
			for i := 1; i < len(all); i++ {
				if all[i].at < all[i-1].at+all[i-1].took {
					t.Fatalf("two polls of unit %d at once", u)
				}
			}
		}
		if r.most < 3 || r.most > 4 {
			t.Errorf("%d requests at once, want up to 4", r.most)
		}
	})
}

// TestPause holds connect_pause and pause.
func TestPause(t *testing.T) {
	c := &Config{Devices: devices(3), Settle: 700 * time.Millisecond, Pause: 100 * time.Millisecond}
	c.Every = 50 * time.Millisecond
	rigged(t, c, func(r *rig) {
		r.after(5 * time.Second)
		all := r.seen(0, 0)
		if all[0].at < 700*time.Millisecond {
			t.Errorf("the first request came after %s", all[0].at)
		}
		for i := 1; i < len(all); i++ {
			if d := all[i].at - all[i-1].at - all[i-1].took; d < 100*time.Millisecond {
				t.Fatalf("request %d came %s after an answer", i, d)
			}
		}
	})
}

// TestQueueStuck holds that polls are left out and counted while the queue does
// not answer, that no more than the bound are in flight, and that Run ends.
func TestQueueStuck(t *testing.T) {
	c := &Config{Devices: devices(2)}
	c.Every = 10 * time.Millisecond
	rigged(t, c, func(r *rig) {
		r.change(func() { r.stuck = true })
		r.after(time.Minute)
		if n := len(r.pending); n != mostInFlight {
			t.Errorf("%d records in flight, want %d", n, mostInFlight)
		}
		polls, missed := int64(len(r.asked)), r.s.count.queue.Load()
		if polls != mostInFlight || polls+missed < 11_990 || polls+missed > 12_010 {
			t.Errorf("%d polls and %d left out: together not 12000", polls, missed)
		}
		r.mu.Lock()
		r.stuck = false
		pending := r.pending
		r.pending = nil
		r.mu.Unlock()
		for i, done := range pending {
			if i == 0 {
				done(errors.New("no space"))
				continue
			}
			done(nil)
		}
		r.after(time.Second)
		if n := int64(len(r.asked)) - polls; n < 190 {
			t.Errorf("%d polls in a second after the queue answers again", n)
		}
		if n := r.s.count.unstored.Load(); n != 1 {
			t.Errorf("%d records counted as not stored", n)
		}
	})
}

// TestReportAfterRefusal holds that a record which the queue refused is made up
// for: the next one is whole although nothing has changed.
func TestReportAfterRefusal(t *testing.T) {
	c := &Config{Devices: devices(1)}
	c.Devices[0].Report = "change"
	rigged(t, c, func(r *rig) {
		r.change(func() { r.stuck = true })
		r.after(5 * time.Second)
		if n := len(r.records); n != 1 {
			t.Fatalf("%d records of values that do not change", n)
		}
		r.mu.Lock()
		r.stuck = false
		done := r.pending[0]
		r.pending = nil
		r.mu.Unlock()
		done(errors.New("no space"))
		r.after(5 * time.Second)
		if n := len(r.records); n != 2 {
			t.Errorf("%d records after one was refused, want 2", n)
		}
	})
}

// TestTime holds that a record carries the time between request and answer.
func TestTime(t *testing.T) {
	rigged(t, &Config{Devices: devices(1)}, func(r *rig) {
		r.set(1, func(u *rigUnit) { u.takes = 300 * time.Millisecond })
		r.after(3 * time.Second)
		for i, rec := range r.recorded("", 0) {
			if at := rec.Received.Sub(r.s.base); at.Round(time.Millisecond) != (r.asked[i].at + 150*time.Millisecond).Round(time.Millisecond) {
				t.Errorf("request at %s, 300ms, record of %s", r.asked[i].at, at)
			}
			if rec.Source != "line" || rec.Device != "dev-01" || rec.Name != "main" || len(rec.Values) != 10 || rec.Quality != gateway.Good {
				t.Errorf("%+v", rec)
			}
		}
	})
}

// TestTags holds the tags of the configuration and those a device tells of itself.
func TestTags(t *testing.T) {
	c := &Config{Devices: devices(2)}
	c.Devices[0].Tags, c.Devices[0].Identify = map[string]string{"room": "3", "deck": "B"}, true
	c.Devices[1].Identify = true
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, c)
		r.set(2, func(u *rigUnit) { u.quiet = map[uint16]bool{0: true} }) // the identification
		r.start()
		r.after(8 * time.Second)
		defer r.end()
		if tags := r.recorded("dev-01", 0)[0].Tags; !slices.Equal(tags, []gateway.Tag{{Key: "deck", Value: "B"}, {Key: "room", Value: "3"}, {Key: "vendor", Value: "ACME"}}) {
			t.Error(tags)
		}
		if n := r.answers(2, 0); n < 5 {
			t.Errorf("%d polls of a device that does not know function 43", n)
		}
		if n := len(r.seen(2, 0)) - r.answers(2, 0); n != 2 {
			t.Errorf("asked %d times who it is, want 2", n)
		}
		for _, rec := range r.recorded("", 0) {
			if rec.Quality != gateway.Good {
				t.Error(rec.Device, rec.Reason)
			}
		}
	})
}

// TestFacts holds what is said of a line.
func TestFacts(t *testing.T) {
	c := &Config{Devices: devices(20)}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, c)
		if f := r.s.Facts(); len(f) != 0 {
			t.Error("before it ran:", f)
		}
		r.start()
		defer r.end()
		for u := byte(1); u <= 18; u++ {
			r.set(u, func(x *rigUnit) { x.dead = true })
		}
		r.set(20, func(x *rigUnit) { x.codes = map[uint16]byte{100: 2} })
		r.after(10 * time.Minute)
		facts := r.s.Facts()
		text := ""
		for _, f := range facts {
			text += f.Name + ": " + f.Value + "\n"
		}
		for _, want := range []string{"devices: 2 of 20 answer", "device dev-01: unit 1 has not answered for ", "no answer within", "asked again in ", "more devices: 2 more",
			"refused by dev-20: holding 100", ": illegal data address (group main)", "line: ", "% busy over the last minute"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
		if len(facts) > 2*mostFacts {
			t.Errorf("%d facts", len(facts))
		}
		ups := 0.0
		for _, m := range r.s.Measures() {
			if m.Name == "device_up" {
				ups += m.Value
			}
		}
		if ups != 2 {
			t.Errorf("%v devices are up in the measures", ups)
		}
	})
}

// TestMeasuresPage holds docs/operating.md to what is measured.
func TestMeasuresPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(page), "\n### Of sources that poll\n")
	part, _, _ = strings.Cut(part, "\n## ")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &Config{Devices: devices(1)})
		r.start()
		defer r.end()
		r.after(time.Second)
		rows := map[string]bool{}
		for _, m := range r.s.Measures() {
			labels := "source"
			for _, l := range m.Labels {
				labels += ", " + l.Key
			}
			row := "| `waystation_source_" + m.Name + "` | " + labels + " | " + m.Help + " |\n"
			rows[row] = true
			if !strings.Contains(part, row) {
				t.Errorf("docs/operating.md has no row %s", row)
			}
		}
		if n := strings.Count(part, "| `waystation_source_"); n != len(rows) {
			t.Errorf("docs/operating.md has %d rows for %d measures", n, len(rows))
		}
	})
}
