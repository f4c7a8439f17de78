package modbus

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// lineOf returns a line with so many devices, each of which is asked for a
// run of registers.
func lineOf(url string, devices, registers int, every time.Duration) *Config {
	c := defaults()
	c.URL = url
	c.Serial.Baud = 9600
	c.Profile = &Profile{Groups: []Group{{Name: "all", Every: every, Points: []Point{{Name: "x", Table: "input", Count: registers}}}}}
	for i := range devices {
		c.Devices = append(c.Devices, Device{Name: fmt.Sprintf("m%d", i), DeviceOptions: DeviceOptions{Unit: i + 1}})
	}
	return c
}

// findings returns those of a plan in a row.
func findings(c *Config) string {
	var b strings.Builder
	for _, f := range c.Plan(gateway.Env{Name: "s"}).Findings {
		fmt.Fprintf(&b, "%s %s: %s -> %s\n", f.Level, f.What, f.Detail, f.Fix)
	}
	return b.String()
}

// advice is what a plan must say, and what it must not.
type advice struct {
	name    string
	c       *Config
	set     func(*Config)
	want    []string
	wantNot []string
}

func advices() []advice {
	const rtu = "rtu:///dev/x"
	return []advice{
		{"fits", lineOf(rtu, 2, 20, 2*time.Second), nil, []string{"ok line " + rtu + ": busy 7.4 % of the time"}, []string{"warn", "fail"}},
		{"nearly full", lineOf(rtu, 4, 80, time.Second), nil, []string{"warn line " + rtu + ": busy 84 % of the time: little is left", "every: 1.3s; or serial.baud: 19200, set on every device too (43 % busy); or 2 lines with"}, []string{"fail"}},
		{"too full", lineOf(rtu, 8, 80, time.Second), nil, []string{"fail line " + rtu + ": busy 169 % of the time: polls will be skipped -> every: 2.5s; or serial.baud: 38400", "or 3 lines with"}, nil},
		{"one poll takes too long", lineOf(rtu, 1, 500, 500*time.Millisecond), nil, []string{"fail", "one poll of all takes 1.257s, and every is 500ms", "every: 1.8s; or serial.baud: 38400"}, []string{"lines with"}},
		{"no baud rate would do", lineOf(rtu, 1, 500, 10*time.Millisecond), nil, []string{"fail"}, []string{"serial.baud"}},
		{"a pause is to blame", lineOf(rtu, 4, 2, time.Second), func(c *Config) { c.Pause = 500 * time.Millisecond }, []string{"fail", "or no pause: 13 % busy"}, nil},
		{"time-out longer than a period", lineOf(rtu, 2, 10, 900*time.Millisecond), nil, []string{"warn line " + rtu + ": each time a unit does not answer, the line waits 1s (timeout of m0), and m0 all is read every 900ms", "timeout: 110ms (the longest answer takes 29ms"}, []string{"fail"}},
		{"no other unit to wait", lineOf(rtu, 1, 10, 900*time.Millisecond), nil, nil, []string{"warn", "fail"}},
		{"time-out as long as a period", lineOf(rtu, 2, 10, time.Second), nil, nil, []string{"warn", "fail"}},
		{"answer longer than the time-out", lineOf(rtu, 1, 120, 10*time.Second), func(c *Config) { c.Timeout = 250 * time.Millisecond },
			[]string{"fail device s group all: the answer to input 0+120 takes 281ms at 9600 baud, and timeout is 250ms: it cannot arrive in time -> timeout: 570ms"}, nil},
		{"a network is never so long", lineOf("tcp://h:502", 1, 2000, 80*time.Millisecond), nil, []string{"warn line tcp://h:502: busy 100 % of the time"}, []string{"fail"}},
		{"a network that is assumed too slow", lineOf("tcp://h:502", 1, 2000, 40*time.Millisecond), nil, []string{"warn", "busy 200 % of the time", "if a request takes as long as is assumed here -> every: 120ms"}, []string{"fail"}},
		{"a network with too long a pause", lineOf("tcp://h:502", 1, 2000, time.Second), func(c *Config) { c.Pause = 100 * time.Millisecond }, []string{"fail", "no pause: 8 % busy"}, nil},
		{"behind a converter, speed stated", lineOf("rtu+tcp://h:1", 8, 80, time.Second), nil, []string{"fail", "busy 173 %"}, nil},
		{"behind a converter, speed not stated", lineOf("rtu+tcp://h:1", 16, 80, time.Second), func(c *Config) { c.Serial.Baud = 19200 }, []string{"warn", "if a request takes as long"}, []string{"fail"}},
		{"little groups are left alone", lineOf(rtu, 4, 80, 500*time.Millisecond), func(c *Config) {
			c.Profile.Groups = append(c.Profile.Groups, Group{Name: "seldom", Every: time.Minute, Points: []Point{{Name: "y"}}})
		}, []string{"fail", "every: 1.3s for all; or"}, []string{"for seldom"}},
		{"all groups matter", lineOf(rtu, 4, 80, 500*time.Millisecond), func(c *Config) {
			c.Profile.Groups = append(c.Profile.Groups, Group{Name: "more", Every: time.Second, Points: []Point{{Name: "y", Count: 80}}})
		}, []string{"fail", "every: 1.9s for all, 3.7s for more; or"}, nil},
		{"many little groups", lineOf(rtu, 30, 20, time.Second), nil, []string{"fail", "busy 221 %", "-> every: 3.2s; or"}, nil},
		{"one device is too much for a line", lineOf(rtu, 2, 80, 260*time.Millisecond), nil, []string{"fail"}, []string{"lines with"}},
		{"no time-out would do", lineOf(rtu, 2, 120, 500*time.Millisecond), nil, []string{"its polls will be late -> a line of its own"}, []string{"timeout: "}},
		{"sunspec", lineOf(rtu, 1, 1, time.Second), func(c *Config) { c.Profile.SunSpec = &SunSpec{} }, []string{"warn device s: its SunSpec models are found on the device itself"}, nil},
		{"not one request", lineOf(rtu, 1, 20, time.Second), func(c *Config) {
			c.Profile.Groups[0].Points[0].Table = "holding"
			c.Profile.Groups[0].Points = append(c.Profile.Groups[0].Points, Point{Name: "y", Address: 30})
			c.Profile.Groups[0].Select = &Select{Values: []uint16{1}}
			c.Profile.Limits.Forbidden = []Range{{"holding", 22, 22}}
		}, []string{"fail device s group all: ", "in one request"}, nil},
	}
}

func TestPlanFindings(t *testing.T) {
	for _, tc := range advices() {
		t.Run(tc.name, func(t *testing.T) {
			if len(tc.c.Devices) == 1 {
				tc.c.Devices = nil
			}
			if tc.set != nil {
				tc.set(tc.c)
			}
			got := findings(tc.c)
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in:\n%s", w, got)
				}
			}
			for _, w := range tc.wantNot {
				if strings.Contains(got, w) {
					t.Errorf("%q in:\n%s", w, got)
				}
			}
		})
	}
}

// TestAdviceHolds: a line that takes the advice is not too busy any more.
func TestAdviceHolds(t *testing.T) {
	for n := 1; n < 12; n++ {
		for _, every := range []time.Duration{130 * time.Millisecond, 700 * time.Millisecond, 3 * time.Second} {
			c := lineOf("rtu:///dev/x", n, 90, every)
			l := &linePlan{c: c, k: c.carrier(), devices: c.devices("s")}
			for i := range l.devices {
				l.add(&l.devices[i])
			}
			busy := l.busy(c)
			if busy <= mostBusy {
				continue
			}
			said, _, _ := strings.Cut(l.slower(busy), ";")
			e, err := time.ParseDuration(strings.TrimPrefix(said, "every: "))
			if err != nil {
				t.Fatal(said)
			}
			c.Profile.Groups[0].Every = e
			if got := findings(c); !strings.HasPrefix(got, "ok ") {
				t.Errorf("%d devices every %s, after %s: %s", n, every, said, got)
			}
		}
	}
}

// TestPlanLines: the devices are shared out as well as can be, the largest first.
func TestPlanLines(t *testing.T) {
	l := &linePlan{}
	for i, ms := range []int{200, 500, 200, 500} {
		l.groups = append(l.groups, plannedGroup{device: &Device{Name: fmt.Sprint(i)}, every: time.Second, time: time.Duration(ms) * time.Millisecond})
	}
	if n := l.lines(); n != 2 {
		t.Errorf("%d lines", n)
	}
}

// TestPlanVain counts what is read for nothing, whatever lies in one another.
func TestPlanVain(t *testing.T) {
	p, err := newPoll([]span{{readInput, 0, 10}, {readInput, 2, 1}, {readInput, 3, 9}, {readInput, 14, 1}}, &Limits{}, nil)
	if err != nil || len(p.plan) != 1 || p.plan[0].vain() != 2 {
		t.Errorf("%v, %v", p, err)
	}
	if p, err = newPoll([]span{{readInput, 0, 10}, {readInput, 2, 1}, {readInput, 12, 1}}, &Limits{}, nil); err != nil || p.plan[0].vain() != 2 {
		t.Errorf("%v, %v", p, err)
	}
}

// TestPlanOfSunSpec: a device whose models are found on it has no tables yet.
func TestPlanOfSunSpec(t *testing.T) {
	c := defaults()
	c.URL, c.Profile = "tcp://h:502", &Profile{SunSpec: &SunSpec{}}
	if p := c.Plan(gateway.Env{Name: "sun"}); len(p.Tables) != 0 || len(p.Findings) != 1 {
		t.Errorf("%v", p)
	}
}
