//go:build interop

package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
	"github.com/waystation-iot/waystation/cmd/waystation/peers"
)

// TestInteropModbusMbpollReadsOurSimulator has a foreign master read what our
// simulator holds, on TCP and on ptys, also on one that keeps the time of a
// line: what the tests of the adapter believe of the simulator is then no
// misunderstanding of our own.
func TestInteropModbusMbpollReadsOurSimulator(t *testing.T) {
	s := modbustest.New()
	t.Cleanup(s.Close)
	u := s.Unit(7)
	u.SetHolding(100, 4660, 65526, 0x3fc0, 0, 0, 0xc010) // 1.5 ABCD, -2.25 CDAB
	u.SetInput(9, 1, 2, 3)
	u.SetCoil(3, true, false, true)
	u.SetDiscrete(40, false, true)
	u.Allow(modbustest.Input, 9, 11)
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(addr)
	lines := map[string][]string{"tcp": {"-m", "tcp", "-p", port, host}}
	for _, baud := range []int{0, 19200} {
		pty, err := s.ListenPTY(modbustest.PTYOptions{Baud: baud})
		if err != nil {
			t.Fatal(err)
		}
		lines[fmt.Sprintf("rtu %d", baud)] = []string{"-m", "rtu", "-b", "19200", "-P", "none", pty.Path}
	}
	for name, by := range lines {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				args []string
				want map[int]string
			}{
				{[]string{"-t", "4:hex", "-r", "100", "-c", "2"}, map[int]string{100: "0x1234", 101: "0xFFF6"}},
				{[]string{"-t", "4:float", "-B", "-r", "102"}, map[int]string{102: "1.5"}},
				{[]string{"-t", "4:float", "-r", "104"}, map[int]string{104: "-2.25"}},
				{[]string{"-t", "3", "-r", "9", "-c", "3"}, map[int]string{9: "1", 10: "2", 11: "3"}},
				{[]string{"-t", "0", "-r", "3", "-c", "3"}, map[int]string{3: "1", 4: "0", 5: "1"}},
				{[]string{"-t", "1", "-r", "40", "-c", "2"}, map[int]string{40: "0", 41: "1"}},
			} {
				got, err := mbpollUnit(t, by, append(c.args, "-a", "7")...)
				if err != nil || !maps.Equal(got, c.want) {
					t.Errorf("%v: %v, %v, want %v", c.args, got, err, c.want)
				}
			}
			if got, err := mbpollUnit(t, by, "-t", "3", "-r", "12", "-a", "7"); err == nil {
				t.Errorf("a register that is refused: %v", got)
			}
			if got, err := mbpollUnit(t, by, "-t", "4", "-r", "0", "-a", "8", "-o", "0.2"); err == nil {
				t.Errorf("a unit that is not there: %v", got)
			}
		})
	}
	if c := s.Counters(); c.Broken != 0 || c.Collisions != 0 {
		t.Errorf("the simulator found fault with mbpoll: %+v", c)
	}
}

func mbpollUnit(t *testing.T, by []string, args ...string) (map[int]string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return peers.Mbpoll(ctx, append(append([]string(nil), by...), args...)...)
}
