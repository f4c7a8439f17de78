package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const goodModbus = `modbus:
  - name: hall
    listen: 127.0.0.1:0
    gateway_timeout: 10ms
    cut: [{at: 1s, for: 2s}, {at: 4s, for: 1s}]
    units:
      - unit: 5
        count: 2
        identity: [A, B, C]
        signals:
          - {name: x, kind: counter, type: uint32, address: 10}
          - {name: y, kind: bool, table: coil, address: 10}
        faults: [{at: 1s, kind: slow, time: 50ms}]
  - name: port
    pty: port
    baud: 9600
    units: [{signals: [{name: z, kind: counter}]}]
    faults: [{kind: exception, code: 4, one_in: 3}]
`

func TestModbusConfigFaultsHavePlaces(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown key":       {"count: 2", "cuont: 2", `plant.yaml:8:9: unknown field "cuont"`},
		"unknown in signal": {"type: uint32", "typ: uint32", `unknown field "typ"`},
		"two places":        {"    listen: 127.0.0.1:0\n", "    listen: 127.0.0.1:0\n    pty: x\n", "give listen: (an address) or pty:"},
		"no place":          {"    pty: port\n", "", "give listen: (an address) or pty:"},
		"not loopback":      {"127.0.0.1:0", "0.0.0.0:502", "plant.yaml:3:13: must be a loopback address"},
		"same name":         {"name: port", "name: hall", `plant.yaml:14:11: two lines are named "hall"`},
		"same place":        {"pty: port\n    baud: 9600", "listen: 127.0.0.1:0\n  - name: again\n    pty: here\n    units: [{}]\n  - name: third\n    pty: here", "two lines are at "},
		"no name":           {"name: port", "mode: rtu", "a line needs a name"},
		"mode":              {"gateway_timeout: 10ms", "mode: rtu", `plant.yaml:4:11: "rtu" is none of tcp, udp, rtu+tcp, ascii+tcp, rtu+udp`},
		"pty mode":          {"baud: 9600", "mode: tcp", `plant.yaml:16:11: "tcp" is none of rtu, ascii`},
		"baud":              {"baud: 9600", "baud: -1", "plant.yaml:16:11: must be 0 to 4000000"},
		"baud of tcp":       {"gateway_timeout: 10ms", "baud: 9600", "baud and echo are for a pty"},
		"gateway of rtu":    {"baud: 9600", "gateway_timeout: 1s", "is for mode tcp and udp"},
		"connections":       {"gateway_timeout: 10ms", "max_connections: -1", "plant.yaml:4:22: must not be negative"},
		"cut order":         {"at: 4s", "at: 2s", "not be before the end of the cut before it (3s)"},
		"no units":          {"units: [{signals: [{name: z, kind: counter}]}]", "units: []", "give units:"},
		"too many units":    {"count: 2", "count: 300", "plant.yaml:7:15: units must be 0 to 255"},
		"unit of a serial":  {"units: [{signals", "units: [{unit: 248, signals", "units must be 1 to 247"},
		"same unit":         {"faults: [{at: 1s, kind: slow, time: 50ms}]", "faults: []\n      - {unit: 6}", "plant.yaml:14:16: unit 6 is there twice"},
		"too often":         {"count: 2", "every: 1ms", "plant.yaml:8:16: must be 10ms or more"},
		"words":             {"count: 2", "words: 126", "plant.yaml:8:16: must be 0 to 125"},
		"identity":          {"[A, B, C]", "[A, B]", "give [vendor, product, revision]"},
		"signal kind":       {"kind: bool", "kind: square", `"square" is none of`},
		"same signal":       {"name: y", "name: x", `two signals are named "x"`},
		"table":             {"table: coil", "table: coils", `"coils" is none of coil, discrete, holding, input`},
		"type":              {"type: uint32", "type: uint33", `plant.yaml:11:44: "uint33" is none of bool, int16`},
		"type of a coil":    {"table: coil", "table: coil, type: int16", "coils and discrete inputs are bool"},
		"order":             {"type: uint32", "order: ABBA", `"ABBA" is none of ABCD`},
		"address":           {"type: uint32, address: 10", "type: uint32, address: 65535", "must be 0 to 65534"},
		"overlap":           {"table: coil, address: 10", "address: 11", `holding 11 is that of signal "x" already`},
		"fault kind":        {"kind: slow", "kind: broken", `"broken" is none of cut, dead, dribble`},
		"fault time":        {"kind: slow, time: 50ms", "kind: slow", "time: (more than 0) is for slow, late and dribble"},
		"needless time":     {"kind: slow", "kind: dead", "time: (more than 0) is for slow"},
		"fault code":        {"code: 4, ", "", "code: (1 to 255) is for exception"},
		"needless code":     {"kind: slow", "code: 3, kind: slow", "code: (1 to 255) is for exception"},
		"negative":          {"one_in: 3", "one_in: -3", "at, for and one_in must not be negative"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(goodModbus, c.old) {
				t.Fatalf("the test replaces %q, which is not there", c.old)
			}
			_, err := parseConfig("plant.yaml", []byte(strings.Replace(goodModbus, c.old, c.new, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v\nwant %q in it", err, c.want)
			}
			if !strings.Contains(err.Error(), "^") {
				t.Errorf("no caret in %v", err)
			}
		})
	}
}

func TestModbusConfigGood(t *testing.T) {
	c, err := parseConfig("/dir/plant.yaml", []byte(goodModbus))
	if err != nil {
		t.Fatal(err)
	}
	hall, port := c.Modbus[0], c.Modbus[1]
	x, y := hall.Units[0].Signals[0], hall.Units[0].Signals[1]
	if hall.Mode != "tcp" || port.Mode != "rtu" || port.PTY != "/dir/port" || port.Units[0].Unit != 1 || port.Units[0].Count != 1 ||
		x.Order != "ABCD" || x.Scale != 1 || x.Table != "holding" || y.Type != "bool" || hall.Units[0].Every != time.Second {
		t.Errorf("decoded %+v", c.Modbus)
	}
	if _, err := parseConfig("p", []byte(strings.Replace(goodModbus, "pty: port", "listen: 127.0.0.1:0", 1))); err == nil ||
		!strings.Contains(err.Error(), "baud and echo") || strings.Contains(err.Error(), "two lines are at") {
		t.Errorf("two free ports: %v", err)
	}
}

func TestModbusExampleLoads(t *testing.T) {
	c, err := loadConfig(filepath.Join("..", "..", "configs", "demo", "modbus-plant.yaml"))
	if err != nil || len(c.Modbus) != 2 {
		t.Fatal(err)
	}
}
