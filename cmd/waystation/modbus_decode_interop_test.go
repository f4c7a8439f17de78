//go:build interop

package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// modbusTypes are the types with a number or text that any mix-up of bytes,
// words or signs would change.
func modbusTypes() map[string]string {
	return map[string]string{
		"int16": "-12345", "uint16": "54321", "int32": "-1234567890", "uint32": "3456789012",
		"int64": "-1234567890123456789", "uint64": "12345678901234567890",
		"float16": "0.15625", "float32": "3.1415927", "float64": "2.718281828459045",
		"bcd16": "1234", "bcd32": "12345678", "bcd64": "1234567890123456", "string": "pump-7",
	}
}

// modbusWords is how many registers a type takes; of string those of the text above.
func modbusWords(kind string) int {
	switch {
	case kind == "string":
		return 3
	case strings.HasSuffix(kind, "16"):
		return 1
	case strings.HasSuffix(kind, "32"):
		return 2
	}
	return 4
}

// modbusMap is a slave's map with all types in all orders, in both tables of
// registers without a gap, and some coils and discrete inputs; and the profile
// that reads it.
type modbusMap struct {
	cells   []peers.ModbusCell
	profile strings.Builder
	want    map[string]string // by group.point
}

// newModbusMap makes the map of these types; names are type_ORDER.
func newModbusMap(types []string) *modbusMap {
	m := &modbusMap{want: map[string]string{}}
	m.profile.WriteString("profile:\n  groups:\n")
	for _, table := range []string{"holding", "input"} {
		fmt.Fprintf(&m.profile, "    - name: %s\n      points:\n", table)
		at := 0
		for _, kind := range types {
			for _, order := range []string{"ABCD", "CDAB", "BADC", "DCBA"} {
				if kind == "string" && order != "ABCD" && order != "BADC" {
					continue // of text there are only these
				}
				name, text := kind+"_"+order, modbusTypes()[kind]
				m.cells = append(m.cells, peers.ModbusCell{Table: table, Address: at, Type: kind, Order: order, Value: text})
				count := ""
				if kind == "string" {
					count = ", count: 3"
				}
				fmt.Fprintf(&m.profile, "        - {name: %s, table: %s, address: %d, type: %s, order: %s%s}\n", name, table, at, kind, order, count)
				m.want[table+"."+name] = text
				at += modbusWords(kind)
			}
		}
	}
	for _, table := range []string{"coil", "discrete"} {
		fmt.Fprintf(&m.profile, "    - name: %s\n      points:\n", table)
		for at := range 19 { // more than two bytes, and not whole ones
			on := strconv.FormatBool(at%3 == 0 || at == 17)
			m.cells = append(m.cells, peers.ModbusCell{Table: table, Address: at, Type: "bool", Value: on})
			fmt.Fprintf(&m.profile, "        - {name: b%d, table: %s, address: %d}\n", at, table, at)
			m.want[fmt.Sprintf("%s.b%d", table, at)] = on
		}
	}
	return m
}

// judge compares a record of each group with what the slave was told.
func (m *modbusMap) judge(r *modbusReader) {
	r.t.Helper()
	seen := 0
	for _, group := range []string{"holding", "input", "coil", "discrete"} {
		rec := r.awaitGroup(group, 0)
		if rec.Quality != gateway.Good || rec.Device != "plc" {
			r.t.Errorf("%s: of device %q, %s %s", group, rec.Device, rec.Quality, rec.Reason)
		}
		for i := range rec.Values {
			v := &rec.Values[i]
			want, known := m.want[group+"."+v.Name]
			if !known || v.Quality != gateway.Good || !sameNumber(v, want) {
				r.t.Errorf("%s: %s is %s (%s, %s %s), the slave holds %q", group, v.Name, v, v.Kind(), v.Quality, v.Reason, want)
			}
			seen++
		}
	}
	if seen != len(m.want) {
		r.t.Errorf("%d values, want %d", seen, len(m.want))
	}
}

// sameNumber compares a value with a text; a float32 may have come as the
// double it is or as the shortest one.
func sameNumber(v *gateway.Value, want string) bool {
	if v.Kind() == gateway.KindFloat {
		f, err := strconv.ParseFloat(want, 64)
		return err == nil && (v.Float() == f || strings.HasPrefix(v.Name, "float32") && float32(v.Float()) == float32(f))
	}
	return v.String() == want
}

// TestInteropModbusPyModbus reads a slave made with pymodbus over every line.
// pymodbus has put the values into its registers.
func TestInteropModbusPyModbus(t *testing.T) {
	m := newModbusMap(slices.Sorted(maps.Keys(modbusTypes())))
	for _, line := range []string{"tcp", "udp", "tls", "rtu+tcp", "ascii+tcp", "rtu+udp", "rtu", "ascii"} {
		t.Run(line, func(t *testing.T) {
			dir := t.TempDir()
			how := peers.PyModbus{Line: line, Cells: m.cells}
			options := "identify: true\nevery: 200ms\n"
			switch line {
			case "rtu", "ascii":
				wire := startWire(t)
				how.Device = wire.B
				options += "serial: {parity: none, stop_bits: 1}\nurl: " + line + "://" + wire.A + "\n"
			case "tls":
				options += tlsPair(t, dir, &how)
			}
			slave := startPyModbus(t, how)
			if how.Device == "" {
				options += "url: " + slave.URL + "\n"
			}
			r := readModbus(t, dir, options+m.profile.String())
			m.judge(r)
			rec := r.awaitGroup("holding", 0)
			for key, want := range map[string]string{"vendor": "pymodbus", "product": "PM", "revision": peers.PyModbusVersion} {
				if !slices.Contains(rec.Tags, gateway.Tag{Key: key, Value: want}) {
					t.Errorf("tags %v, want %s=%s", rec.Tags, key, want)
				}
			}
		})
	}
}

func startPyModbus(t *testing.T, how peers.PyModbus) *peers.ModbusSlave {
	t.Helper()
	slave, err := peers.StartPyModbus(t.TempDir(), how)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Kill() })
	return slave
}

func startWire(t *testing.T) *peers.Wire {
	t.Helper()
	wire, err := peers.StartWire(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = wire.Kill() })
	return wire
}

// tlsPair gives the slave and us certificates of one authority and returns our options.
func tlsPair(t *testing.T, dir string, how *peers.PyModbus) string {
	t.Helper()
	ca, err := peers.NewAuthority(dir, "plant")
	if err != nil {
		t.Fatal(err)
	}
	if how.Cert, err = ca.Issue(dir, peers.Identity{Name: "slave", Hosts: []string{"127.0.0.1"}, For: time.Hour}); err != nil {
		t.Fatal(err)
	}
	ours, err := ca.Issue(dir, peers.Identity{Name: "master", For: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	how.CA = ca.CA
	// Relative, as a user writes them.
	return fmt.Sprintf("tls: {ca: %s, cert: %s, key: %s}\n", filepath.Base(ca.CA), filepath.Base(ours.Cert), filepath.Base(ours.Key))
}

// TestInteropModbusTLSRefused reads nothing of a slave whose authority is not
// ours, and nothing of one that wants a certificate of us.
func TestInteropModbusTLSRefused(t *testing.T) {
	dir := t.TempDir()
	how := peers.PyModbus{Line: "tls", Cells: []peers.ModbusCell{{Table: "holding", Type: "uint16", Value: "7"}}}
	good := tlsPair(t, dir, &how)
	slave := startPyModbus(t, how)
	other := t.TempDir()
	foreign := tlsPair(t, other, &peers.PyModbus{})
	const profile = "profile: {groups: [{name: g, points: [{name: x, address: 0}]}]}\nevery: 200ms\n"
	url := "url: " + slave.URL + "\n"
	for name, c := range map[string]struct{ dir, options string }{
		"authority":   {other, foreign},
		"certificate": {dir, "tls: {ca: plant-ca.pem}\n"},
		"name":        {dir, strings.Replace(good, "tls: {", "tls: {server_name: other.example, ", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			r := readModbus(t, c.dir, url+c.options+profile)
			r.await("two refusals", 0, func([]gateway.Record) bool { return len(r.failures()) > 1 })
			for _, rec := range r.records(0) {
				if v, _ := value(&rec, "x"); v.Quality == gateway.Good {
					t.Errorf("read %s", valuesText(rec.Values))
				}
			}
			t.Log(r.failures()[0])
		})
	}
	r := readModbus(t, dir, url+good+profile)
	if v, _ := value(ptr(r.awaitGroup("g", 0)), "x"); v.String() != "7" {
		t.Errorf("read %s with the right certificates, want 7", &v)
	}
}

func ptr[T any](v T) *T { return &v }

// TestInteropModbusNode reads slaves made with modbus-serial and jsmodbus.
// JavaScript's DataView has put the values into their registers.
func TestInteropModbusNode(t *testing.T) {
	m := newModbusMap([]string{"int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"})
	for _, library := range []string{"modbus-serial", "jsmodbus"} {
		t.Run(library, func(t *testing.T) {
			slave, err := peers.StartModbusJS(t.TempDir(), library, m.cells)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = slave.Kill() })
			m.judge(readModbus(t, t.TempDir(), "url: "+slave.URL+"\nevery: 200ms\nidentify: "+strconv.FormatBool(library == "modbus-serial")+"\n"+m.profile.String()))
		})
	}
}

// TestInteropModbusFunctions reads pymodbus by functions 23 and 24: what is
// written first is there when the points are read, and a queue comes as it is.
func TestInteropModbusFunctions(t *testing.T) {
	slave := startPyModbus(t, peers.PyModbus{Line: "tcp", Cells: []peers.ModbusCell{
		{Table: "holding", Address: 500, Type: "uint16", Value: "1"}, {Table: "holding", Address: 501, Type: "uint16", Value: "2"},
		{Table: "holding", Address: 502, Type: "uint16", Value: "3"}}})
	r := readModbus(t, t.TempDir(), "url: "+slave.URL+`
every: 200ms
profile:
  groups:
    - name: selected
      select: {address: 500, values: [4711, 42]}
      points: [{name: a, address: 500}, {name: b, address: 501}, {name: c, address: 502}]
    - name: queue
      points: [{name: q, table: fifo, address: 7, count: 4}]
`)
	selected := r.awaitGroup("selected", 0)
	for name, want := range map[string]string{"a": "4711", "b": "42", "c": "3"} {
		if v, ok := value(&selected, name); !ok || v.Quality != gateway.Good || v.String() != want {
			t.Errorf("function 23: %s, want %s=%s", valuesText(selected.Values), name, want)
		}
	}
	queue := r.awaitGroup("queue", 0)
	var got []string
	for i := range queue.Values {
		got = append(got, queue.Values[i].String())
	}
	if !slices.Equal(got, []string{"0", "1", "2", "3"}) { // pymodbus has no other queue
		t.Errorf("function 24: %s, want 0 1 2 3", valuesText(queue.Values))
	}
}
