package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// ModbusLine is one line with Modbus units: a TCP or UDP port, or a serial line
// on a pseudo terminal.
type ModbusLine struct {
	Name    string        `yaml:"name"`
	Listen  string        `yaml:"listen"`          // loopback address; port 0 takes a free one
	PTY     string        `yaml:"pty"`             // instead: path of the symbolic link to the port, relative to this file
	Mode    string        `yaml:"mode"`            // tcp, udp, rtu+tcp, ascii+tcp or rtu+udp; of a pty rtu or ascii
	Baud    int           `yaml:"baud"`            // of a pty: bits per second; 0 is as fast as it goes
	Echo    bool          `yaml:"echo"`            // of a pty: the master hears what it sends
	Gateway time.Duration `yaml:"gateway_timeout"` // with mode tcp: exception 11 after that time for a silent unit; 0: silence
	Conns   int           `yaml:"max_connections"` // connections at once; 0 is no limit
	Cut     []Outage      `yaml:"cut"`             // the connections are closed, a pty is pulled
	Units   []ModbusUnit  `yaml:"units"`           // devices on the line
	Faults  []ModbusFault `yaml:"faults"`          // of every unit without a fault of its own
}

// Outage is a time in which a line is gone.
type Outage struct {
	At  time.Duration `yaml:"at"`  // after the start
	For time.Duration `yaml:"for"` // length of the outage
}

// ModbusUnit is one unit, or several like ones in a row.
type ModbusUnit struct {
	Unit     int            `yaml:"unit"`     // identifier of the first, default 1
	Count    int            `yaml:"count"`    // units, with identifiers one after the other, default 1
	Every    time.Duration  `yaml:"every"`    // between two values of a signal, default 1s
	Words    int            `yaml:"words"`    // registers in a request, at most; 0 is the limit of Modbus
	Strict   bool           `yaml:"strict"`   // refuse addresses without a signal (exception 2)
	Identity []string       `yaml:"identity"` // vendor, product, revision of function 43/14
	Signals  []ModbusSignal `yaml:"signals"`
	Faults   []ModbusFault  `yaml:"faults"`
}

// ModbusSignal is one simulated reading in registers.
type ModbusSignal struct {
	SignalConfig `yaml:",inline"`
	Table        string  `yaml:"table"`   // coil, discrete, holding or input, default holding
	Address      int     `yaml:"address"` // first register, from 0
	Type         string  `yaml:"type"`    // default uint16, bool for coils and discrete inputs
	Order        string  `yaml:"order"`   // ABCD, CDAB, BADC or DCBA, default ABCD
	Scale        float64 `yaml:"scale"`   // what a master multiplies the number with, default 1
}

// ModbusFault is a time in which a unit does something wrong. The first of a
// list whose time it is counts.
type ModbusFault struct {
	At    time.Duration `yaml:"at"`     // after the start
	For   time.Duration `yaml:"for"`    // how long; 0 is to the end
	Kind  string        `yaml:"kind"`   // see modbusFaults
	Time  time.Duration `yaml:"time"`   // of slow, late and dribble
	Code  int           `yaml:"code"`   // of exception
	OneIn int           `yaml:"one_in"` // only every so many requests, default every one
}

const (
	maxModbusLines = 1000
	maxBaud        = 4_000_000
)

func (l *ModbusLine) setDefaults(dir string) {
	if l.PTY == "" {
		l.Mode = cmp.Or(l.Mode, "tcp")
	} else {
		l.Mode = cmp.Or(l.Mode, modbustest.RTU)
		if !filepath.IsAbs(l.PTY) {
			l.PTY = filepath.Join(dir, l.PTY)
		}
	}
	for i := range l.Units {
		u := &l.Units[i]
		u.Unit, u.Count, u.Every = cmp.Or(u.Unit, 1), cmp.Or(u.Count, 1), cmp.Or(u.Every, time.Second)
		for j := range u.Signals {
			s := &u.Signals[j]
			s.Table, s.Order, s.Scale = cmp.Or(s.Table, modbustest.Holding), cmp.Or(s.Order, "ABCD"), cmp.Or(s.Scale, 1)
			if s.bits() {
				s.Type = cmp.Or(s.Type, "bool")
			}
			s.Type = cmp.Or(s.Type, "uint16")
		}
	}
}

func (s *ModbusSignal) bits() bool {
	return s.Table == modbustest.Coil || s.Table == modbustest.Discrete
}

// modbus checks the lines.
func (ck *checker) modbus(lines []ModbusLine) {
	if len(lines) > maxModbusLines {
		ck.fault("$.modbus", "%d lines, at most %d", len(lines), maxModbusLines)
		return
	}
	seen, places := map[string]bool{}, map[string]bool{}
	for i := range lines {
		l, p := &lines[i], fmt.Sprintf("$.modbus[%d]", i)
		if l.Name == "" || strings.ContainsAny(l.Name, " \t") {
			ck.fault(p+".name", "a line needs a name without spaces")
		}
		if seen[l.Name] {
			ck.fault(p+".name", "two lines are named %q", l.Name)
		}
		place := l.PTY + l.Listen
		if places[place] && !strings.HasSuffix(place, ":0") {
			ck.fault(p, "two lines are at %s", place)
		}
		seen[l.Name], places[place] = true, true
		ck.modbusLine(p, l)
		ck.modbusUnits(p, l)
		ck.modbusFaults(p, l.Faults)
	}
}

func (ck *checker) modbusLine(p string, l *ModbusLine) {
	modes := modbustest.Schemes()
	switch {
	case (l.Listen == "") == (l.PTY == ""):
		ck.fault(p, "give listen: (an address) or pty: (a path), one of the two")
		return
	case l.PTY != "":
		modes = []string{modbustest.RTU, modbustest.ASCII}
		if l.Baud < 0 || l.Baud > maxBaud {
			ck.fault(p+".baud", "must be 0 to %d", maxBaud)
		}
	default:
		ck.loopback(p+".listen", l.Listen)
		if l.Baud != 0 || l.Echo {
			ck.fault(p, "baud and echo are for a pty")
		}
	}
	if !slices.Contains(modes, l.Mode) {
		ck.fault(p+".mode", "%q is none of %s", l.Mode, strings.Join(modes, ", "))
	}
	if l.Gateway < 0 || l.Gateway > 0 && l.Mode != "tcp" && l.Mode != "udp" {
		ck.fault(p+".gateway_timeout", "must not be negative, and is for mode tcp and udp")
	}
	if l.Conns < 0 {
		ck.fault(p+".max_connections", "must not be negative")
	}
	end := time.Duration(0)
	for i, cut := range l.Cut {
		if cut.At < end || cut.For <= 0 {
			ck.fault(fmt.Sprintf("%s.cut[%d]", p, i), "at must not be before the end of the cut before it (%s), for must be more than 0", end)
		}
		end = cut.At + cut.For
	}
}

func (ck *checker) modbusUnits(p string, l *ModbusLine) {
	if len(l.Units) == 0 {
		ck.fault(p, "give units:, at least one")
	}
	least, most := 1, 247 // serial line section 2.2
	if l.Mode == "tcp" || l.Mode == "udp" {
		least, most = 0, 255
	}
	owner := map[int]bool{}
	for i := range l.Units {
		u, up := &l.Units[i], fmt.Sprintf("%s.units[%d]", p, i)
		if u.Unit < least || u.Count < 1 || u.Count > most || u.Unit+u.Count-1 > most {
			ck.fault(up+".unit", "units must be %d to %d on this line", least, most)
			continue
		}
		for id := u.Unit; id < u.Unit+u.Count; id++ {
			if owner[id] {
				ck.fault(up+".unit", "unit %d is there twice", id)
			}
			owner[id] = true
		}
		if u.Every < 10*time.Millisecond {
			ck.fault(up+".every", "must be 10ms or more")
		}
		if u.Words < 0 || u.Words > 125 {
			ck.fault(up+".words", "must be 0 to 125")
		}
		if n := len(u.Identity); n != 0 && n != 3 {
			ck.fault(up+".identity", "give [vendor, product, revision]")
		}
		ck.modbusSignals(up, u)
		ck.modbusFaults(up, u.Faults)
	}
}

func (ck *checker) modbusSignals(p string, u *ModbusUnit) {
	seen, taken := map[string]bool{}, map[string]map[int]string{}
	for i := range u.Signals {
		s, sp := &u.Signals[i], fmt.Sprintf("%s.signals[%d]", p, i)
		ck.signal(sp, s.SignalConfig)
		if seen[s.Name] {
			ck.fault(sp+".name", "two signals are named %q", s.Name)
		}
		seen[s.Name] = true
		if !slices.Contains([]string{modbustest.Coil, modbustest.Discrete, modbustest.Holding, modbustest.Input}, s.Table) {
			ck.fault(sp+".table", "%q is none of coil, discrete, holding, input", s.Table)
			continue
		}
		width := registers(s.Type)
		switch {
		case width == 0 || s.bits() && s.Type != "bool":
			ck.fault(sp+".type", "%q is none of %s; coils and discrete inputs are bool", s.Type, strings.Join(registerTypes(), ", "))
		case !slices.Contains([]string{"ABCD", "CDAB", "BADC", "DCBA"}, s.Order):
			ck.fault(sp+".order", "%q is none of ABCD, CDAB, BADC, DCBA", s.Order)
		case s.Address < 0 || s.Address+width > 65536:
			ck.fault(sp+".address", "must be 0 to %d", 65536-width)
		}
		for a := s.Address; a < s.Address+width; a++ {
			if other := taken[s.Table][a]; other != "" {
				ck.fault(sp+".address", "%s %d is that of signal %q already", s.Table, a, other)
				break
			}
			if taken[s.Table] == nil {
				taken[s.Table] = map[int]string{}
			}
			taken[s.Table][a] = cmp.Or(s.Name, "?")
		}
	}
}
