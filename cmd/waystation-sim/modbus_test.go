package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

func TestEncodeRegisters(t *testing.T) {
	for _, c := range []struct {
		s    ModbusSignal
		v    float64
		want []uint16
	}{
		{ModbusSignal{Type: "uint16", Scale: 0.1}, 12.3, []uint16{123}},
		{ModbusSignal{Type: "uint16", Scale: 1}, -1, []uint16{0}},
		{ModbusSignal{Type: "uint16", Scale: 1}, 1e9, []uint16{0xffff}},
		{ModbusSignal{Type: "int16", Scale: 1}, -2, []uint16{0xfffe}},
		{ModbusSignal{Type: "int16", Scale: 1}, -1e9, []uint16{0x8000}},
		{ModbusSignal{Type: "bool", Scale: 1}, 1, []uint16{1}},
		{ModbusSignal{Type: "uint32", Scale: 1}, 0x01020304, []uint16{0x0102, 0x0304}},
		{ModbusSignal{Type: "uint32", Scale: 1, Order: "CDAB"}, 0x01020304, []uint16{0x0304, 0x0102}},
		{ModbusSignal{Type: "uint32", Scale: 1, Order: "BADC"}, 0x01020304, []uint16{0x0201, 0x0403}},
		{ModbusSignal{Type: "uint32", Scale: 1, Order: "DCBA"}, 0x01020304, []uint16{0x0403, 0x0201}},
		{ModbusSignal{Type: "int32", Scale: 1}, -1, []uint16{0xffff, 0xffff}},
		{ModbusSignal{Type: "int64", Scale: 1}, 1e30, []uint16{0x7fff, 0xffff, 0xffff, 0xfc00}},
		{ModbusSignal{Type: "uint64", Scale: 1}, 1e30, []uint16{0xffff, 0xffff, 0xffff, 0xf800}},
		{ModbusSignal{Type: "float32", Scale: 1}, 230.5, []uint16{0x4366, 0x8000}},
		{ModbusSignal{Type: "float64", Scale: 1}, math.Pi, []uint16{0x4009, 0x21fb, 0x5444, 0x2d18}},
	} {
		if got := c.s.encode(c.v); !slices.Equal(got, c.want) {
			t.Errorf("%v as %+v: %04x, want %04x", c.v, c.s, got, c.want)
		}
	}
}

func TestModbusFaultSchedule(t *testing.T) {
	begin := time.Now()
	next := schedule([]ModbusFault{
		{At: time.Second, For: time.Second, Kind: "dead"},
		{At: 0, For: 5 * time.Second, Kind: "exception", Code: 4, OneIn: 2},
		{At: 10 * time.Second, Kind: "slow", Time: time.Minute},
	}, begin)
	for _, c := range []struct {
		at   time.Duration
		want modbustest.Fault
	}{
		{0, modbustest.Fault{}}, {0, modbustest.Fault{Exception: 4}}, {999 * time.Millisecond, modbustest.Fault{}},
		{time.Second, modbustest.Fault{Dead: true}}, {2 * time.Second, modbustest.Fault{Exception: 4}},
		{6 * time.Second, modbustest.Fault{}}, {time.Hour, modbustest.Fault{Delay: time.Minute}},
	} {
		if got := next(modbustest.Request{At: begin.Add(c.at)}); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("at %s: %+v, want %+v", c.at, got, c.want)
		}
	}
	if schedule(nil, begin) != nil {
		t.Error("a schedule of nothing")
	}
	for kind := range modbusFaults() { // every kind does something
		f := ModbusFault{Kind: kind, Time: time.Second, Code: 1}
		if fmt.Sprint(f.fault()) == fmt.Sprint(modbustest.Fault{}) {
			t.Errorf("%s is no fault", kind)
		}
	}
}

const runModbus = `modbus:
  - name: hall
    listen: 127.0.0.1:0
    gateway_timeout: 1ms
    units:
      - unit: 5
        count: 2
        strict: true
        every: 10ms
        identity: [Maker, Product, V1]
        signals:
          - {name: level, kind: sine, min: 12.3, max: 12.300001, table: input, address: 7, scale: 0.1}
          - {name: energy, kind: counter, address: 10, type: uint32}
          - {name: on, kind: sine, min: 1, max: 1.1, table: coil, address: 3}
      - unit: 9
        faults: [{kind: dead}]
`

// ask sends one Modbus/TCP request and returns the PDU of the answer.
func ask(t *testing.T, c net.Conn, unit byte, pdu ...byte) []byte {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(append([]byte{0, 1, 0, 0, 0, byte(len(pdu) + 1), unit}, pdu...)); err != nil {
		t.Fatal(err)
	}
	var head [7]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, head[5]-1)
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// A plant of Modbus lines alone runs, obeys, and reports.
func TestRunModbusAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plant.yaml")
	if err := os.WriteFile(file, []byte(runModbus), 0o600); err != nil {
		t.Fatal(err)
	}
	in, commands := io.Pipe()
	out, outW := io.Pipe()
	var errs bytes.Buffer
	defer commands.Close()
	code := make(chan int, 1)
	go func() {
		code <- dispatch(testContext(t), []string{"run", "-c", file}, stdio{in, outW, &errs})
		outW.Close()
	}()
	dec := json.NewDecoder(out)
	var a Addresses
	if err := dec.Decode(&a); err != nil || !strings.HasPrefix(a.Modbus["hall"], "tcp://127.0.0.1:") {
		t.Fatalf("addresses %+v: %v", a, err)
	}
	addr := strings.TrimPrefix(a.Modbus["hall"], "tcp://")
	c := dialModbus(t, addr)
	for unit := byte(5); unit <= 6; unit++ {
		if got := ask(t, c, unit, 4, 0, 7, 0, 1); !bytes.Equal(got, []byte{4, 2, 0, 123}) {
			t.Errorf("level of unit %d: % x", unit, got)
		}
		if got := ask(t, c, unit, 1, 0, 3, 0, 1); !bytes.Equal(got, []byte{1, 1, 1}) {
			t.Errorf("coil of unit %d: % x", unit, got)
		}
		if got := ask(t, c, unit, 3, 0, 9, 0, 1); !bytes.Equal(got, []byte{0x83, 2}) {
			t.Errorf("an address without a signal of unit %d: % x", unit, got)
		}
		if got := ask(t, c, unit, 43, 14, 1, 0); !bytes.Contains(got, []byte("Product")) {
			t.Errorf("identity of unit %d: % x", unit, got)
		}
	}
	grows(t, c)
	if got := ask(t, c, 9, 3, 0, 0, 0, 1); !bytes.Equal(got, []byte{0x83, 11}) {
		t.Errorf("the dead unit: % x", got)
	}
	fmt.Fprintln(commands, "pull hall")
	fmt.Fprintln(commands, "pull cellar")
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a pulled line: %d, %v", n, err)
	}
	fmt.Fprintln(commands, "plug hall")
	fmt.Fprintln(commands, "") // read when plug has been taken
	fmt.Fprintln(commands, "") // read when it is done
	ask(t, dialModbus(t, addr), 5, 4, 0, 7, 0, 1)
	fmt.Fprintln(commands, "quit")
	var r PlantReport
	if err := dec.Decode(&r); err != nil || r.Modbus["hall"].Units["9"] != 1 || r.Modbus["hall"].Requests < 10 {
		t.Errorf("report %+v: %v", r, err)
	}
	if c := <-code; c != exitGood || !strings.Contains(errs.String(), `there is no modbus line "cellar"`) {
		t.Errorf("code %d, stderr %s", c, errs.String())
	}
}

func dialModbus(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// grows waits until the counter of unit 5 has gone on.
func grows(t *testing.T, c net.Conn) {
	t.Helper()
	first := ask(t, c, 5, 3, 0, 10, 0, 2)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); bytes.Equal(first, ask(t, c, 5, 3, 0, 10, 0, 2)); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("the counter stands still")
		}
	}
}

// A line that is cut by its schedule comes back; one that does not is a fault
// of the plant.
func TestModbusCutBySchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &modbusLine{cfg: &ModbusLine{Name: "hall", Cut: []Outage{{time.Second, time.Minute}, {time.Hour, time.Second}}},
			server: modbustest.New(), begin: time.Now()}
		l.server.Unit(5)
		ctx, cancel := context.WithCancel(t.Context())
		l.cancel = cancel
		defer l.close()
		l.ending.Go(func() { l.cuts(ctx) })
		c := l.server.Pipe(modbustest.MBAP)
		ask(t, c, 5, 4, 0, 7, 0, 1)
		_ = c.SetDeadline(time.Time{})
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF || time.Since(l.begin) != time.Second {
			t.Errorf("cut after %s: %d, %v", time.Since(l.begin), n, err)
		}
		if _, err := l.server.Pipe(modbustest.MBAP).Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a connection while it is cut: %v", err)
		}
		time.Sleep(time.Minute + time.Second)
		ask(t, l.server.Pipe(modbustest.MBAP), 5, 4, 0, 7, 0, 1)
		l.server.Close() // it cannot come back any more
		time.Sleep(2 * time.Hour)
		r := PlantReport{Modbus: map[string]ModbusCount{"hall": l.counts(true)}}
		if f := fmt.Sprint(r.faults()); !strings.Contains(f, "modbus line hall did not come back") {
			t.Errorf("faults %s", f)
		}
	})
}

// What a line is told reaches its server.
func TestModbusOptionsOfALine(t *testing.T) {
	cfg, err := parseConfig("p", []byte(`modbus:
  - name: hall
    listen: 127.0.0.1:0
    max_connections: 1
    units: [{words: 10}, {unit: 2, faults: [{kind: exception, code: 6}]}]
    faults: [{kind: exception, code: 4, one_in: 2}]
`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := startPlant(cfg)
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(p.addresses().Modbus["hall"], "tcp://")
	c := dialModbus(t, addr)
	for i, want := range [][]byte{{0x83, 3}, {0x83, 4}, {0x83, 3}, {0x83, 4}} {
		if got := ask(t, c, 1, 3, 0, 0, 0, 11); !bytes.Equal(got, want) {
			t.Errorf("request %d: % x, want % x", i, got, want)
		}
	}
	if got := ask(t, c, 2, 3, 0, 0, 0, 1); !bytes.Equal(got, []byte{0x83, 6}) {
		t.Errorf("unit 2: % x", got)
	}
	other := dialModbus(t, addr)
	_ = other.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := other.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("a second connection: %v", err)
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("a closed plant still listens")
	}
}

func TestModbusLineThatCannotOpen(t *testing.T) {
	cfg, err := parseConfig("p", []byte(strings.Replace(runModbus, "listen: 127.0.0.1:0", "pty: /no/such/folder/port", 1)+"\n"))
	if err == nil || !strings.Contains(err.Error(), "gateway_timeout") {
		t.Fatalf("a gateway on a pty: %+v, %v", cfg, err)
	}
	cfg, err = parseConfig("p", []byte(strings.Replace(runModbus, "listen: 127.0.0.1:0\n    gateway_timeout: 1ms", "pty: /no/such/folder/port", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := startPlant(cfg); err == nil || !strings.Contains(err.Error(), "open modbus line hall") {
		t.Errorf("got %v", err)
	}
}
