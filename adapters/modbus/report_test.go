package modbus

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waystation-iot/waystation/gateway"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// reporting returns a reporter of values with the given deadbands.
func reporting(mode string, heartbeat time.Duration, bands ...deadband) *reporter {
	d := &decoder{}
	for _, b := range bands {
		d.fields = append(d.fields, field{shape: &shape{band: b}})
	}
	return newReporter(mode, heartbeat, d)
}

func floats(f ...float64) []gateway.Value {
	names := []string{"a", "b", "c", "d"}
	var out []gateway.Value
	for i, f := range f {
		out = append(out, gateway.FloatValue(names[i], f))
	}
	return out
}

func wantReport(t *testing.T, got []gateway.Value, want string) {
	t.Helper()
	if (got == nil) != (want == "") || show(got) != want {
		t.Errorf("reported %q, not %q", show(got), want)
	}
}

func TestReportEveryPoll(t *testing.T) {
	for _, mode := range []string{"", "poll"} {
		r := reporting(mode, 0, deadband{})
		for range 3 {
			wantReport(t, r.take(floats(1), start), "a=1")
		}
	}
}

func TestReportChange(t *testing.T) {
	r := reporting("change", time.Minute, deadband{absolute: 0.5}, deadband{})
	wantReport(t, r.take(floats(1, 2), start), "a=1, b=2") // the first is whole
	wantReport(t, r.take(floats(1.4, 2), start), "")
	wantReport(t, r.take(floats(1.5, 2), start), "a=1.5, b=2") // from the deadband on
	wantReport(t, r.take(floats(1.1, 2), start), "")
	wantReport(t, r.take(floats(1.1, 2.1), start), "a=1.1, b=2.1")
	wantReport(t, r.take(floats(0.7, 2.1), start), "") // from 1.1 on, what was reported with b
	r.force()
	wantReport(t, r.take(floats(0.7, 2.1), start), "a=0.7, b=2.1")
	wantReport(t, r.take(floats(0.7, 2.1), start), "")
}

func TestReportChanged(t *testing.T) {
	r := reporting("changed", time.Minute, deadband{absolute: 0.5}, deadband{})
	wantReport(t, r.take(floats(1, 2), start), "a=1, b=2")
	wantReport(t, r.take(floats(1.3, 2), start), "")
	wantReport(t, r.take(floats(1.3, 3), start), "b=3")
	wantReport(t, r.take(floats(1.6, 3), start), "a=1.6")
	wantReport(t, r.take(floats(1.6, 3), start), "")
	wantReport(t, r.take(floats(2.2, 4), start), "a=2.2, b=4")
	r.force()
	wantReport(t, r.take(floats(2.2, 4), start), "a=2.2, b=4")
	wantReport(t, r.take(floats(2.2), start), "a=2.2") // other values than before: whole
}

func TestHeartbeat(t *testing.T) {
	r := reporting("changed", time.Minute, deadband{}, deadband{})
	wantReport(t, r.take(floats(1, 2), start), "a=1, b=2")
	wantReport(t, r.take(floats(1, 3), start.Add(30*time.Second)), "b=3") // not whole: no heartbeat
	wantReport(t, r.take(floats(1, 3), start.Add(59*time.Second)), "")
	wantReport(t, r.take(floats(1, 3), start.Add(60*time.Second)), "a=1, b=3")
	wantReport(t, r.take(floats(1, 3), start.Add(119*time.Second)), "")
	wantReport(t, r.take(floats(1, 3), start), "a=1, b=3") // the clock was set back
	r = reporting("change", 0, deadband{})
	wantReport(t, r.take(floats(1), start), "a=1")
	wantReport(t, r.take(floats(1), start.Add(1000*time.Hour)), "") // none
}

func TestPercentDeadband(t *testing.T) {
	r := reporting("change", 0, deadband{percent: 10})
	for _, c := range []struct{ v, says float64 }{{100, 100}, {109, 0}, {91, 0}, {110, 110}, {100, 0}, {99, 99}, {-99, -99}, {-105, 0}, {0, 0.0}} {
		got := r.take(floats(c.v), start)
		if (len(got) == 1) != (c.says != 0 || c.v == 0) {
			t.Errorf("%g: %s", c.v, show(got))
		}
	}
	r = reporting("change", 0, deadband{percent: 10, absolute: 5}) // the greater counts
	wantReport(t, r.take(floats(10), start), "a=10")
	wantReport(t, r.take(floats(14), start), "")
	wantReport(t, r.take(floats(15), start), "a=15")
	r.take(floats(100), start)
	wantReport(t, r.take(floats(109), start), "")
	wantReport(t, r.take(floats(110), start), "a=110")
}

// TestOddChanges: the kinds, qualities and numbers that are easily forgotten.
func TestOddChanges(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	bad, uncertain := gateway.BadValue("a", "no answer"), gateway.FloatValue("a", 1)
	uncertain.Quality = gateway.Uncertain
	f := func(f float64) gateway.Value { return gateway.FloatValue("a", f) }
	u := func(u uint64) gateway.Value { return gateway.UintValue("a", u) }
	n := func(n int64) gateway.Value { return gateway.IntValue("a", n) }
	wide := deadband{absolute: 1000, percent: 50}
	for i, c := range []struct {
		was, is gateway.Value
		band    deadband
		want    bool
	}{
		{f(1), bad, wide, true}, {bad, f(1), wide, true}, {bad, gateway.BadValue("a", "held off"), wide, false}, {f(1), uncertain, wide, true},
		{f(1), u(1), wide, true}, {u(1), n(1), wide, true},
		{f(nan), f(nan), wide, false}, {f(nan), f(1), wide, true}, {f(1), f(nan), wide, true}, {f(inf), f(inf), wide, false},
		{f(inf), f(-inf), wide, true}, {f(inf), f(1), wide, true}, {f(1), f(inf), wide, true}, {f(0), f(math.Copysign(0, -1)), deadband{}, false},
		{f(1), f(math.Nextafter(1, 2)), deadband{}, true}, {f(-math.MaxFloat64), f(math.MaxFloat64), wide, true},
		{u(1 << 63), u(1<<63 + 1), deadband{}, true}, {u(1 << 63), u(1<<63 + 1), deadband{absolute: 2}, false}, {u(1<<63 + 2), u(1 << 63), deadband{absolute: 2}, true},
		{n(math.MinInt64), n(math.MaxInt64), deadband{absolute: 1e18}, true}, {n(-5), n(3), deadband{absolute: 8}, true}, {n(3), n(-4), deadband{absolute: 8}, false},
		{gateway.BoolValue("a", true), gateway.BoolValue("a", false), wide, true}, {gateway.BoolValue("a", true), gateway.BoolValue("a", true), wide, false},
		{gateway.StringValue("a", "x"), gateway.StringValue("a", "y"), wide, true}, {gateway.StringValue("a", "x"), gateway.StringValue("a", "x"), wide, false},
		{gateway.BytesValue("a", "x"), gateway.BytesValue("a", "y"), wide, true}, {gateway.BytesValue("a", "x"), gateway.StringValue("a", "x"), wide, true},
	} {
		for _, mode := range []string{"change", "changed"} {
			r := reporting(mode, 0, c.band)
			r.take([]gateway.Value{c.was}, start)
			if got := r.take([]gateway.Value{c.is}, start); (got != nil) != c.want {
				t.Errorf("%d %s: %s after %s: %v", i, mode, c.is.String(), c.was.String(), got != nil)
			}
		}
	}
}

// TestConsumerIsNeverFarOff keeps the values last reported, as a consumer does,
// and holds them against the truth after every poll.
func TestConsumerIsNeverFarOff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const beat = 50 * time.Second
		band := deadband{absolute: rapid.SampledFrom([]float64{0, 0.5, 3}).Draw(t, "absolute"), percent: rapid.SampledFrom([]float64{0, 1, 20}).Draw(t, "percent")}
		r := reporting(rapid.SampledFrom([]string{"change", "changed"}).Draw(t, "mode"), beat, band, band, deadband{})
		truth := floats(10, -5, 0)
		held := make(map[string]gateway.Value)
		now, whole := start, start
		for i := range rapid.IntRange(1, 60).Draw(t, "polls") {
			for j := range truth {
				switch rapid.IntRange(0, 5).Draw(t, "event") {
				case 0:
					truth[j] = gateway.BadValue(truth[j].Name, "no answer")
				case 1, 2, 3:
					truth[j] = gateway.FloatValue(truth[j].Name, truth[j].Float()+rapid.Float64Range(-2, 2).Draw(t, "by"))
				}
			}
			got := r.take(truth, now)
			if i == 0 && len(got) != 3 {
				t.Fatal("the first report is not whole")
			}
			for _, v := range got {
				held[v.Name] = v
			}
			if len(got) == len(truth) {
				whole = now
			}
			if now.Sub(whole) >= beat {
				t.Fatalf("no whole record for %s", now.Sub(whole))
			}
			for _, v := range truth {
				h := held[v.Name]
				limit := max(band.absolute, band.percent/100*math.Abs(h.Float()))
				if v.Name == "c" {
					limit = 0
				}
				if off := math.Abs(h.Float() - v.Float()); h.Kind() != v.Kind() || h.Quality != v.Quality || off > 0 && off >= limit {
					t.Fatalf("the consumer has %s, the truth is %s, the deadband %g", h.String(), v.String(), limit)
				}
			}
			now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Second}).Draw(t, "pause"))
		}
	})
}

func TestSteadyReportsAllocateNothing(t *testing.T) {
	for _, mode := range []string{"poll", "change", "changed"} {
		d, rs := steady(t)
		r := newReporter(mode, time.Minute, d)
		values := d.values(nil, rs)
		if mode != "poll" && len(r.bands) != len(values) {
			t.Fatalf("%d deadbands for %d values", len(r.bands), len(values))
		}
		now := start
		r.take(values, now)
		r.force()
		n := byte(0)
		r.out = make([]gateway.Value, 0, len(values)) // grows once to what is ever reported
		if a := testing.AllocsPerRun(100, func() {
			n++
			now = now.Add(time.Second)
			rs[0].data[1] = n
			values = d.values(values[:0], rs)
			r.take(values, now)
		}); a != 0 {
			t.Errorf("%s: %g allocations", mode, a)
		}
	}
}

func TestDeadbandsReachTheReporter(t *testing.T) {
	d := mustCompile(t, "", Point{Name: "bits", Type: "bits16", Enum: map[string]string{"0": "p", "1": "q"}}, Point{Name: "x", Address: 1, Count: 2, Scale: 0.1, Deadband: 5, Percent: 2})
	r := newReporter("changed", 0, d)
	take := func(data ...string) []gateway.Value {
		return r.take(d.values(nil, results(t, d, data...)), start)
	}
	wantReport(t, take("0001", "03E8", "0000"), "bits.p=true, bits.q=false, x.0=100, x.1=0")
	wantReport(t, take("0001", "0419", "0031"), "") // 104.9, 4.9
	wantReport(t, take("0003", "041A", "0031"), "bits.q=true, x.0=105")
	wantReport(t, take("0003", "041A", "0032"), "x.1=5")
}
