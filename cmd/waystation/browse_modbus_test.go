package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystation-iot/waystation/adapters"
	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// TestBrowseModbus: what is written has no fault, whatever the devices call
// themselves and hold, and can be tried out.
func TestBrowseModbus(t *testing.T) {
	s := modbustest.New()
	defer s.Close()
	u := s.Unit(1)
	u.SetIdentity(map[byte]string{0: "ACME\n# {\"", 1: "M: 2'}", 2: "\xff\u2028x"})
	u.Allow(modbustest.Holding, 0, 99)
	u.Allow(modbustest.Holding, 200, 230)
	u.SetHolding(0, 1, 0xFFFF, 0x8000, 0x4366, 0x1999, 0x4367, 0x1999)
	u.SetHolding(20, '#'<<8|' ', '"'<<8|'}', 'a'<<8|'b', '\\'<<8|'c', 0)
	u.SetHolding(30, 'B'<<8|'A', 'D'<<8|'C', 0<<8|'E')
	u.SetInput(5, 9)
	u.SetCoil(7, true)
	u.SetDiscrete(7, true)
	s.Unit(2).Allow(modbustest.Holding, 60000, 60000) // nothing that is looked at
	s.Unit(2).Allow(modbustest.Input, 60000, 60000)
	s.Unit(2).Allow(modbustest.Coil, 60000, 60000)
	s.Unit(2).Allow(modbustest.Discrete, 60000, 60000)
	all := adapters.All()
	for name, listen := range map[string]func() (string, error){"modbus": s.ListenTCP, "modbus+udp": s.ListenUDP, "modbus+rtu+tcp": s.ListenRTUOverTCP} {
		addr, err := listen()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "found.yaml")
		var out, errs bytes.Buffer
		args := []string{name + "://" + addr, "--out", file, "--set", "units=1,2", "--set", "rate=1000", "--set", "wait=0s", "--set", "range=0-300"}
		if code := browse(args, &out, &errs, all); code != exitGood {
			t.Fatalf("code %d: %s", code, errs.String())
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		errs.Reset()
		if code := check([]string{file}, &out, &errs, all); code != exitGood || !strings.Contains(out.String(), "1 source") {
			t.Fatalf("%s: code %d: %s\n%s\n%s", name, code, out.String(), errs.String(), text)
		}
		if strings.Count(string(text), "unit: ") != 2 {
			t.Errorf("%s", text)
		}
	}
}
