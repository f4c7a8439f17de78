package modbus

import (
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// onPTY opens a line to the units of s on a pseudo terminal.
func onPTY(tb testing.TB, s *modbustest.Server, mode string, baud int) (*serialLine, *modbustest.PTY) {
	tb.Helper()
	pty, err := s.ListenPTY(modbustest.PTYOptions{Mode: mode, Baud: baud})
	if err != nil {
		tb.Fatal(err)
	}
	if mode == "" {
		mode = modbustest.RTU
	}
	c := defaults()
	c.URL = mode + "://" + pty.Path
	if baud > 0 {
		c.Serial.Baud = baud
	}
	l, err := openSerial(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l.(*serialLine), pty
}

func serialPlant(tb testing.TB) *modbustest.Server {
	s := modbustest.New()
	tb.Cleanup(s.Close)
	return s
}

// BenchmarkRTU asks for 125 registers as fast as the line goes.
func BenchmarkRTU(b *testing.B) {
	for _, o := range []struct {
		name string
		baud int
	}{{"unpaced", 0}, {"115200", 115200}, {"9600", 9600}} {
		b.Run(o.name, func(b *testing.B) {
			s := serialPlant(b)
			s.Unit(1)
			l, _ := onPTY(b, s, "", o.baud)
			if o.baud == 0 {
				l.gap, l.char = 0, 0
			}
			q := &request{unit: 1, function: readHolding, count: 125, timeout: time.Second}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Ask(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
			per := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(float64(time.Second)/float64(per), "polls/s")
			if o.baud > 0 {
				best := time.Duration(8+255)*l.char + 2*l.char*7/2
				b.ReportMetric(100*float64(best)/float64(per), "%line")
			}
		})
	}
}
