//go:build interop

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// TestInteropModbusHoles reads a map that pymodbus has with holes: it refuses
// what touches one. Once that is found out what is there is read and what is
// not is bad; until then a value may be missing and is never another's.
func TestInteropModbusHoles(t *testing.T) {
	var cells []peers.ModbusCell
	want := map[string]string{}
	profile := "profile:\n  groups:\n    - name: g\n      points:\n"
	for at := range 60 {
		hole := at%7 == 3 || at > 30 && at < 40
		if hole && at%2 == 0 {
			continue // nobody asks for it, it only lies between
		}
		profile += fmt.Sprintf("        - {name: r%d, address: %d}\n", at, at)
		want[fmt.Sprintf("r%d", at)] = ""
		if !hole {
			cells = append(cells, peers.ModbusCell{Table: "holding", Address: at, Type: "uint16", Value: strconv.Itoa(1000 + at)})
			want[fmt.Sprintf("r%d", at)] = strconv.Itoa(1000 + at)
		}
	}
	slave := startPyModbus(t, peers.PyModbus{Line: "tcp", Cells: cells})
	r := readModbus(t, t.TempDir(), "url: "+slave.URL+"\nevery: 100ms\n"+profile)
	searched := -1
	recs := r.await("ten records with all that is there", 0, func(recs []gateway.Record) bool {
		searched = slices.IndexFunc(recs, func(rec gateway.Record) bool { return len(cells) == countGood(rec.Values) })
		return searched >= 0 && len(recs) >= searched+10
	})
	t.Logf("the holes were found with %d polls", searched)
	for i, rec := range recs {
		if len(rec.Values) != len(want) {
			t.Errorf("%d values, want %d", len(rec.Values), len(want))
		}
		for k := range rec.Values {
			v := &rec.Values[k]
			text := want[v.Name]
			if v.Quality == gateway.Good && v.String() != text || i >= searched && v.Quality != gateway.Good && text != "" {
				t.Fatalf("record %d: %s, the slave holds %q", i, valuesText(rec.Values[k:k+1]), text)
			}
			if text == "" && !strings.Contains(v.Reason, "illegal data address") && (i >= searched || !strings.Contains(v.Reason, "not read yet")) {
				t.Fatalf("%s: the reason is %q, want that of exception 2", v.Name, v.Reason)
			}
		}
	}
}

func countGood(values []gateway.Value) (n int) {
	for i := range values {
		if values[i].Quality == gateway.Good {
			n++
		}
	}
	return n
}

// TestInteropModbusSlaveRestarts kills a slave and starts it again, on TCP and
// with the wire pulled: records go on, and no value is of another register.
func TestInteropModbusSlaveRestarts(t *testing.T) {
	cells := []peers.ModbusCell{{Table: "holding", Address: 0, Type: "reads", Value: "0"}, {Table: "holding", Address: 1, Type: "uint16", Value: "4711"}}
	const profile = "every: 50ms\ntimeout: 500ms\nprofile: {groups: [{name: g, points: [{name: reads, address: 0}, {name: fixed, address: 1}]}]}\n"
	for _, line := range []string{"tcp", "rtu"} {
		t.Run(line, func(t *testing.T) {
			how := peers.PyModbus{Line: line, Cells: cells}
			var wire *peers.Wire
			options := ""
			if line == "rtu" {
				wire = startWire(t)
				how.Device = wire.B
				options = "serial: {parity: none, stop_bits: 1}\nurl: rtu://" + wire.A + "\n"
			}
			slave := startPyModbus(t, how)
			if line == "tcp" {
				options = "url: " + slave.URL + "\n"
			}
			r := readModbus(t, t.TempDir(), options+profile)
			for life := range 3 {
				from := len(r.records(0))
				// A new life counts its reads from 1.
				last := int64(0)
				r.await(fmt.Sprintf("life %d", life), from, func(recs []gateway.Record) bool {
					last = lastRead(recs)
					return last >= 5 && last < 10_000
				})
				if err := slave.Kill(); err != nil {
					t.Fatal(err)
				}
				if wire != nil {
					if err := wire.Kill(); err != nil {
						t.Fatal(err)
					}
					if err := wire.Start(); err != nil {
						t.Fatal(err)
					}
				}
				if err := slave.Start(); err != nil {
					t.Fatal(err)
				}
			}
			judgeReads(t, r.records(0))
		})
	}
}

// lastRead is the newest good count of reads, 0 without one.
func lastRead(recs []gateway.Record) int64 {
	for _, rec := range slices.Backward(recs) {
		if v, ok := value(&rec, "reads"); ok && v.Quality == gateway.Good {
			n, _ := strconv.ParseInt(v.String(), 10, 64)
			return n
		}
	}
	return 0
}

// judgeReads wants counts that rise, or begin again after a life, and the other register as it is.
func judgeReads(t *testing.T, recs []gateway.Record) {
	t.Helper()
	last, lives := int64(0), 1
	for _, rec := range recs {
		v, _ := value(&rec, "reads")
		if v.Quality != gateway.Good {
			continue
		}
		n, err := strconv.ParseInt(v.String(), 10, 64)
		if fixed, _ := value(&rec, "fixed"); err != nil || fixed.String() != "4711" {
			t.Fatalf("read %s", valuesText(rec.Values))
		}
		if n <= last {
			lives++
		}
		last = n
	}
	if lives > 4 {
		t.Errorf("the count of reads went back %d times, the slave was started again 3 times", lives-1)
	}
}

// TestInteropModbusBadJSModbus reads a slave that answers what it does not
// have as success with too little data. No value is made of it, and what it
// does have is read on.
func TestInteropModbusBadJSModbus(t *testing.T) {
	slave, err := peers.StartModbusJS(t.TempDir(), "jsmodbus", []peers.ModbusCell{
		{Table: "holding", Address: 0, Type: "uint16", Value: "11"}, {Table: "holding", Address: 9, Type: "uint16", Value: "99"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Kill() })
	r := readModbus(t, t.TempDir(), "url: "+slave.URL+`
every: 100ms
timeout: 300ms
retries: 0
profile:
  groups:
    - {name: there, points: [{name: a, address: 0}, {name: b, address: 9}]}
    - {name: beyond, points: [{name: x, address: 50}]}
    - {name: across, points: [{name: y, address: 9, type: uint32}]}
`)
	recs := r.await("30 good records", 0, func(recs []gateway.Record) bool {
		n := 0
		for _, rec := range recs {
			if v, ok := value(&rec, "b"); ok && v.Quality == gateway.Good {
				n++
			}
		}
		return n >= 30
	})
	for _, rec := range recs {
		for i := range rec.Values {
			v := &rec.Values[i]
			want := map[string]string{"a": "11", "b": "99"}[v.Name]
			if v.Quality == gateway.Good && v.String() != want {
				t.Fatalf("%s: %s, the slave holds %q", rec.Name, valuesText(rec.Values), want)
			}
		}
	}
}

// faultFirst is where the groups of the tests with libmodbus begin.
func faultFirst() map[string]int {
	return map[string]int{"plain": 0, "wrong-unit": peers.ModbusWrongUnit, "late": peers.ModbusLate, "dribble": peers.ModbusDribble,
		"wrong-id": peers.ModbusWrongID, "silent": peers.ModbusSilent, "busy": peers.ModbusBusy, "twice": peers.ModbusTwice}
}

// faultProfile is a profile with plain groups of both tables, read often, and
// these of the faults, seldom.
func faultProfile(faults ...string) string {
	text := "profile:\n  groups:\n    - {name: plain, every: 50ms, points: [{name: h, address: 0, count: 8}]}\n" +
		"    - {name: input, every: 50ms, points: [{name: h, table: input, address: 20, count: 8}]}\n"
	for _, name := range faults {
		text += fmt.Sprintf("    - {name: %s, every: 500ms, points: [{name: h, address: %d, count: 4}]}\n", name, faultFirst()[name])
	}
	return text
}

// startLibModbus starts the slave on TCP or at one end of a wire, and returns
// the options that read it.
func startLibModbus(t *testing.T, line string) (slave *peers.ModbusSlave, options string) {
	t.Helper()
	device := ""
	if line == "rtu" {
		wire := startWire(t)
		device, options = wire.B, "serial: {parity: none, stop_bits: 1}\nurl: rtu://"+wire.A+"\n"
	}
	slave, err := peers.StartLibModbus(t.TempDir(), device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Kill() })
	if line == "tcp" {
		options = "url: " + slave.URL + "\n"
	}
	return slave, options + "timeout: 300ms\nretries: 0\n"
}

// TestInteropModbusFaults reads a slave made with libmodbus that answers some
// registers late, twice, byte by byte, for another unit, under another
// transaction or not at all; and others well, which must be read on. Each
// register holds its own address, so that no answer is taken for another unseen.
func TestInteropModbusFaults(t *testing.T) {
	for _, line := range []string{"tcp", "rtu"} {
		for name := range faultFirst() {
			if name == "plain" {
				continue // beside each
			}
			t.Run(line+"/"+name, func(t *testing.T) {
				_, options := startLibModbus(t, line)
				r := readModbus(t, t.TempDir(), options+faultProfile(name))
				answered := name == "dribble" || name == "twice"
				recs := r.await("the good groups", 0, func(recs []gateway.Record) bool {
					good, all := goodOf(recs)
					return good["plain"] >= 20 && good["input"] >= 20 && all[name] >= 3 && (!answered || good[name] >= 3)
				})
				judgeFaults(t, recs)
				if good, _ := goodOf(recs); !answered && good[name] > 0 {
					t.Errorf("%d good records, the slave never answered well in time", good[name])
				}
			})
		}
	}
}

// TestInteropModbusFaultsTogether reads all that at once: most of what is asked
// for goes wrong. Whatever is read is right.
func TestInteropModbusFaultsTogether(t *testing.T) {
	for _, line := range []string{"tcp", "rtu"} {
		t.Run(line, func(t *testing.T) {
			_, options := startLibModbus(t, line)
			r := readModbus(t, t.TempDir(), options+faultProfile("late", "silent", "twice", "wrong-id", "dribble", "busy", "wrong-unit"))
			recs := r.await("records", 0, func(recs []gateway.Record) bool {
				good, _ := goodOf(recs)
				return len(recs) >= 40 && good["plain"] >= 5 && good["input"] >= 5
			})
			judgeFaults(t, recs)
			good, all := goodOf(recs)
			t.Logf("good records by group: %v of %v", good, all)
		})
	}
}

// TestInteropModbusSilentGroup reads a slave that ignores what it does not have
// in the smallest group, as some do, instead of refusing it. When the slave has
// been away for so long that it counts as dead, the other group must come back.
func TestInteropModbusSilentGroup(t *testing.T) {
	slave, options := startLibModbus(t, "tcp")
	r := readModbus(t, t.TempDir(), options+`profile:
  groups:
    - {name: ignored, every: 200ms, points: [{name: h, address: `+strconv.Itoa(peers.ModbusSilent)+`}]}
    - {name: plain, every: 100ms, points: [{name: h, address: 0, count: 8}]}
`)
	plain := func(what string, from int) {
		t.Helper()
		r.await(what, from, func(recs []gateway.Record) bool {
			good, _ := goodOf(recs)
			return good["plain"] >= 10
		})
	}
	plain("plain records", 0)
	if err := slave.Pause(); err != nil {
		t.Fatal(err)
	}
	r.await("the loss to be told", len(r.records(0)), func([]gateway.Record) bool {
		return strings.Contains(r.log.String(), "device does not answer")
	})
	if err := slave.Resume(); err != nil {
		t.Fatal(err)
	}
	plain("plain records afterwards", len(r.records(0)))
	judgeFaults(t, r.records(0))
}

// judgeFaults wants every value that is good to be its own address.
func judgeFaults(t *testing.T, recs []gateway.Record) {
	t.Helper()
	first := faultFirst()
	first["input"], first["ignored"] = 20020, peers.ModbusSilent
	for _, rec := range recs {
		for i := range rec.Values {
			v := &rec.Values[i]
			if want := strconv.Itoa(first[rec.Name] + i); v.Quality == gateway.Good && v.String() != want {
				t.Fatalf("%s: %s, the slave holds %s", rec.Name, valuesText(rec.Values), want)
			}
		}
	}
}

// goodOf counts the records by group: those whose values are all good, and all.
func goodOf(recs []gateway.Record) (good, all map[string]int) {
	good, all = map[string]int{}, map[string]int{}
	for _, rec := range recs {
		all[rec.Name]++
		if len(rec.Values) > 0 && countGood(rec.Values) == len(rec.Values) {
			good[rec.Name]++
		}
	}
	return good, all
}
