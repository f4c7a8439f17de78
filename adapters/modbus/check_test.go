package modbus

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
	"github.com/waystation-iot/waystation/gateway"
)

// checkedLine returns a line for each finding.
func checkedLine(t *testing.T, c *Config) (lines []string) {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	c.Check(t.Context(), gateway.Env{GatewayID: "gw", Name: "src"}, func(f gateway.Finding) {
		lines = append(lines, string(f.Level)+" "+f.What+": "+f.Detail+" → "+f.Fix)
	})
	return lines
}

// reads is a device that reads registers.
func reads(unit int, table string, from, n int) Device {
	p := &Profile{Groups: []Group{{Name: "all"}}}
	for i := range n {
		p.Groups[0].Points = append(p.Groups[0].Points, Point{Name: "p" + string(rune('a'+i)), Table: table, Address: from + i})
	}
	return Device{Name: "d" + string(rune('a'+unit)), DeviceOptions: DeviceOptions{Unit: unit, Profile: p, Timeout: brief}}
}

// holds fails the test when one of the sentences is in no line.
func holds(t *testing.T, lines []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(strings.Join(lines, "\n"), w) {
			t.Errorf("no %q in\n%s", w, strings.Join(lines, "\n"))
		}
	}
}

func TestCheck(t *testing.T) {
	s := tellingPlant(t, 1, 2, 3, 4, 5)
	s.Unit(1).SetIdentity(map[byte]string{0: "ACME", 1: "M-2"})
	s.Unit(2).Allow(modbustest.Holding, 0, 3)
	s.Unit(3).Allow(modbustest.Holding, 500, 500)
	s.Unit(4).Limit(2, 0)
	s.Unit(5).Fault(modbustest.Fault{Exception: 11})
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	c := defaults()
	c.URL = "tcp://" + addr
	c.Devices = []Device{reads(1, "holding", 0, 5), reads(2, "holding", 2, 5), reads(3, "holding", 0, 5), reads(4, "holding", 0, 5), reads(5, "holding", 0, 5), reads(6, "holding", 0, 5)}
	s.Unit(2).Allow(modbustest.Input, 60000, 60000)
	lines := checkedLine(t, c)
	holds(t, lines, "ok line tcp://"+addr+": opened in ",
		"ok device db, unit 1: holding 0+5 (group all) read in ", "ok device db, unit 1: identification: vendor ACME, product M-2",
		"warn device dc, unit 2: read holding 2+5 (group all): exception 2: not all of the addresses 2 to 6 are there → the gateway finds out which",
		"warn device dd, unit 3: read holding 0+5 (group all): exception 2", "the same addresses can be read with function 4: set table: input",
		"warn device de, unit 4: read holding 0+5 (group all): exception 3: 5 at once are too many", "set limits.words",
		"fail device df, unit 5: read holding 0+5 (group all): exception 11: the gateway between does not reach unit 5",
		"fail device dg, unit 6: read holding 0+5: no answer within "+brief.String()+" → is the device on")
	if n := s.Unit(1).Polls(); n != 2 {
		t.Errorf("unit 1 got %d requests", n)
	}
	for _, q := range s.Requests() {
		if q.Function != readHolding && q.Function != readInput && q.Function != encapsulated {
			t.Errorf("asked %+v", q)
		}
	}
}

// TestCheckUnit: the device answers as another unit, or another unit does.
func TestCheckUnit(t *testing.T) {
	s := tellingPlant(t, 1)
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	c := defaults()
	c.URL, c.Devices = "tcp://"+addr, []Device{reads(7, "input", 0, 1)}
	holds(t, checkedLine(t, c), "fail device dh, unit 7: ", "→ unit 1 answers, which no device here has: set unit: 1 if it is this one")
	s.Unit(7).Fault(modbustest.Fault{WrongUnit: true})
	s.Remove(1)
	holds(t, checkedLine(t, c), "unit 8 answered to a request to unit 7 (set unit: 8 if the device always answers so)")
	s.Unit(7).Fault(modbustest.Fault{Exception: 1})
	holds(t, checkedLine(t, c), "exception 1: the device does not know the function → is it the right table?")
}

// TestCheckLost goes on with the next device on a new line.
func TestCheckLost(t *testing.T) {
	s := tellingPlant(t, 1, 2)
	s.Unit(1).FaultOnce(modbustest.Fault{Cut: true})
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	c := defaults()
	c.URL, c.Devices = "tcp://"+addr, []Device{reads(1, "holding", 0, 5), reads(2, "coil", 0, 5)}
	holds(t, checkedLine(t, c), "fail device db, unit 1: read holding 0+5 (group all): tcp "+addr+": closed by the device before any answer", "ok device dc, unit 2: coil 0+5 (group all) read in ")
}

// TestCheckWrites: what writes before it reads is not tried.
func TestCheckWrites(t *testing.T) {
	s := tellingPlant(t, 1)
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	d := reads(1, "holding", 0, 1)
	d.Profile.Groups[0].Select = &Select{Address: 5, Values: []uint16{1}}
	c := defaults()
	c.URL, c.Devices = "tcp://"+addr, []Device{d}
	holds(t, checkedLine(t, c), "nothing can be tried: every group writes")
	d.Profile.Groups = append(d.Profile.Groups, reads(1, "input", 9, 1).Profile.Groups...)
	d.Profile.Groups[1].Name = "second"
	holds(t, checkedLine(t, c), "ok device db, unit 1: input 9+1 (group second) read in ")
	if s.Unit(1).Holding(5) != 0 {
		t.Error("it was written")
	}
}

// TestCheckLines: what keeps a line from being opened.
func TestCheckLines(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = lis.Close()
	c := defaults()
	c.URL, c.Devices = "tcp://"+lis.Addr().String(), []Device{reads(1, "holding", 0, 1)}
	holds(t, checkedLine(t, c), "fail line tcp://", "is Modbus/TCP switched on in the device")
	c.URL = "rtu:///dev/there-is-none"
	holds(t, checkedLine(t, c), "fail line rtu:///dev/there-is-none: open /dev/there-is-none: ")
	a := newAuthority(t)
	s := tellingPlant(t, 1)
	c.URL, c.TLS = secureDevice(t, s, a, 0x0304), a.files(t)
	lines := checkedLine(t, c)
	holds(t, lines, "ok line tls://", "warn server certificate: ends in 0 hours", "ok device db, unit 1: holding 0+1 (group all) read in ")
	c.TLS = &gateway.TLS{CA: "/dev/there-is-none"}
	holds(t, checkedLine(t, c), "fail options: read tls.ca: ")
	s.Unit(1).Fault(modbustest.Fault{Dead: true})
	c.TLS = a.files(t)
	c.Devices[0].Timeout = 10 * time.Millisecond
	holds(t, checkedLine(t, c), "no answer within 10ms")
}
