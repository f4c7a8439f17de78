package modbus

import (
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/gatewaytest"
)

// simPlant starts a simulated plant on loopback and returns the URL of its line.
func simPlant(tb testing.TB) (*modbustest.Server, string) {
	tb.Helper()
	p := modbustest.New()
	tb.Cleanup(p.Close)
	addr, err := p.ListenTCP()
	if err != nil {
		tb.Fatal(err)
	}
	return p, "tcp://" + addr
}

// config is one device with one group, polled fast.
func config(url string, every time.Duration) *Config {
	c := defaults()
	c.URL = url
	c.Every, c.Timeout = every, 500*time.Millisecond
	c.Unit = 1
	c.Profile = &Profile{Groups: []Group{{Name: "main", Points: []Point{{Name: "n", Address: 7}}}}}
	return c
}

// TestConform runs the suite of all sources, on a line that is asked for one
// thing at a time and on one that is asked for several.
func TestConform(t *testing.T) {
	for _, pipeline := range []int{1, 4} {
		h := gatewaytest.Harness{Latest: true, InFlight: mostInFlight, Earlier: time.Second,
			Number: func(r *gateway.Record) (int, bool) {
				if r.Quality != gateway.Good || len(r.Values) != 1 {
					return 0, false
				}
				return int(r.Values[0].Uint()), true
			},
			Start: func(tb testing.TB, _ *gatewaytest.Witness) *gatewaytest.Device {
				p, url := simPlant(tb)
				u := p.Unit(1)
				c := config(url, 5*time.Millisecond)
				c.Pipeline = pipeline
				s, err := newSource(c, gateway.Env{Name: "conform"})
				if err != nil {
					tb.Fatal(err)
				}
				return &gatewaytest.Device{Source: s, Publish: func(n int) { u.SetHolding(7, uint16(n)) },
					Cut: p.Cut, Restore: func() {
						if err := p.Restore(); err != nil {
							tb.Error(err)
						}
					}, Stop: p.Close, Conns: p.Conns}
			},
		}
		name := "one at a time"
		if pipeline > 1 {
			name = "pipelined"
		}
		t.Run(name, func(t *testing.T) { gatewaytest.Conform(t, h) })
	}
}
