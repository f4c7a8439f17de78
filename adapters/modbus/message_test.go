package modbus

import (
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
	"github.com/waystation-iot/waystation/gateway"
)

// TestSilenceText: times are rounded, and what was not asked is said so.
func TestSilenceText(t *testing.T) {
	for _, tt := range []struct {
		s    silence
		want string
	}{
		{silence{93516752, nil}, "no answer within 94ms"},
		{silence{2516752, nil}, "no answer within 2.5ms"},
		{silence{time.Second, errors.New("noise")}, "no answer within 1s, although something was heard: noise"},
		{silence{0, errOwed}, errOwed.Error()},
	} {
		if got := tt.s.Error(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// TestFrameOfAnother: a gateway that speaks Modbus/TCP closes a connection on
// which frames of a serial line come, and that is the likeliest reason.
func TestFrameOfAnother(t *testing.T) {
	at := rawDevice(t, func(c net.Conn) {
		var b [8]byte
		_, _ = c.Read(b[:])
	})
	l, err := open(t.Context(), &Config{URL: "rtu+" + at, Connect: 5 * time.Second, Serial: defaults().Serial}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 1, timeout: 5 * time.Second})
	if err == nil || !strings.Contains(err.Error(), "does it speak Modbus/TCP, tcp://") {
		t.Error(err)
	}
}

// TestCheckPort: a port that another program has may be that of the gateway; one
// that is not there is not held by anybody.
func TestCheckPort(t *testing.T) {
	_, pty := onPTY(t, serialPlant(t), "", 0)
	for path, want := range map[string][2]string{
		"/dev/serial/by-id/usb-none": {"no such port", ""},
		pty.Path:                     {"another program uses it", "if a gateway that runs has the port, all is well: check it while the gateway is stopped"},
	} {
		c := defaults()
		c.URL = "rtu://" + path
		c.Check(t.Context(), gateway.Env{Name: "a"}, func(f gateway.Finding) {
			if f.Level != gateway.Fail || !strings.Contains(f.Detail, want[0]) || f.Fix != want[1] {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestFactsWithoutLine: when a dead device is asked again is not known while
// there is no line.
func TestFactsWithoutLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &Config{Devices: devices(2)})
		r.start()
		r.set(1, func(x *rigUnit) { x.dead = true })
		r.after(time.Minute)
		r.end()
		facts := r.s.Facts()
		if facts[0].Value != "1 of 2 answered when there was a line" {
			t.Error(facts[0])
		}
		for _, f := range facts {
			if f.Name == "device dev-01" && strings.HasSuffix(f.Value, "; asked again when the line is open") {
				return
			}
		}
		t.Error(facts)
	})
}

// TestCheckShort: a device that answers with less than was asked for.
func TestCheckShort(t *testing.T) {
	s := tellingPlant(t, 1)
	s.Unit(1).Fault(modbustest.Fault{Short: 1})
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	c := defaults()
	c.URL, c.Devices = "tcp://"+addr, []Device{reads(1, "holding", 0, 5)}
	holds(t, checkedLine(t, c), "has 8 bytes of data, not 10 → it has not all of these registers")
}

// TestRefusedShort: what is held off because answers are too short says so.
func TestRefusedShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &Config{Devices: devices(1)})
		g := r.s.units[0].groups[0]
		p := g.poll.tables[0]
		g.cause = &lengthError{"x", 8, 10}
		g.poll.hold(p, &p.items[0], g.cause)
		r.s.noteRefused(g)
		if want := ": it answers with 8 bytes instead of 10"; !strings.HasSuffix(g.refused, want) {
			t.Errorf("%q, want %q at its end", g.refused, want)
		}
	})
}
