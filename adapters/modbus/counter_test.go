package modbus

import (
	"bytes"
	"hash/crc32"
	"testing"

	"encoding/binary"

	"pgregory.net/rapid"

	"github.com/waystation-iot/waystation/gateway"
)

// counting polls a counter with the given registers.
func counting(t *testing.T, q Point, steps ...[2]string) *decoder {
	t.Helper()
	q.Name, q.Counter = "n", true
	d := mustCompile(t, "", q)
	countOn(t, d, steps...)
	return d
}

func countOn(t *testing.T, d *decoder, steps ...[2]string) {
	t.Helper()
	for i, s := range steps {
		if got := shown(d.values(nil, resultsOf(t, d, s[0]))); got != "n="+s[1] {
			t.Errorf("step %d, %s: %s, not %s", i, s[0], got, s[1])
		}
	}
}

func TestCounterRollsOver(t *testing.T) {
	counting(t, Point{}, [2]string{"FFFE", "65534"}, [2]string{"FFFF", "65535"}, [2]string{"0000", "65536"}, [2]string{"0001", "65537"},
		[2]string{"FFFF", "131071"}, [2]string{"0005", "131077"})
	counting(t, Point{Type: "uint32"}, [2]string{"FFFFFFF0", "4294967280"}, [2]string{"00000010", "4294967312"})
	counting(t, Point{Type: "uint64"}, [2]string{"FFFFFFFFFFFFFFFF", "18446744073709551615"}, [2]string{"0000000000000001", "1"})
	counting(t, Point{Type: "bcd16"}, [2]string{"9999", "9999"}, [2]string{"0001", "10001"})
	counting(t, Point{Type: "bcd32"}, [2]string{"99999999", "99999999"}, [2]string{"00000001", "100000001"})
	counting(t, Point{Type: "bcd64"}, [2]string{"9999999999999999", "9999999999999999"}, [2]string{"0000000000000001", "10000000000000001"})
	counting(t, Point{Bit: ptr(4), Width: 8}, [2]string{"0FFF", "255"}, [2]string{"F01F", "257"})
	counting(t, Point{Scale: 0.1, Unit: "kWh"}, [2]string{"FFFF", "6553.5 kWh"}, [2]string{"0000", "6553.6 kWh"})
}

func TestCounterRestarts(t *testing.T) {
	counting(t, Point{}, [2]string{"1000", "4096"}, [2]string{"0003", "4099 uncertain:counter restarted at 3"}, [2]string{"0005", "4101"})
	// The quarters: from the last into the first is a roll-over, nothing else.
	counting(t, Point{}, [2]string{"C000", "49152"}, [2]string{"3FFF", "81919"})
	counting(t, Point{}, [2]string{"BFFF", "49151"}, [2]string{"0000", "49151 uncertain:counter restarted at 0"})
	counting(t, Point{}, [2]string{"FFFF", "65535"}, [2]string{"4000", "81919 uncertain:counter restarted at 16384"})
	// A small step back is no restart: nothing is counted twice.
	counting(t, Point{}, [2]string{"03E8", "1000"}, [2]string{"03E7", "999 uncertain:counter went back by 1"}, [2]string{"03E9", "1001"})
	counting(t, Point{}, [2]string{"03E8", "1000"}, [2]string{"036B", "875 uncertain:counter went back by 125"})
	counting(t, Point{}, [2]string{"03E8", "1000"}, [2]string{"036A", "1874 uncertain:counter restarted at 874"})
	counting(t, Point{}, [2]string{"0005", "5"}, [2]string{"0004", "4 uncertain:counter went back by 1"})
	counting(t, Point{}, [2]string{"0001", "1"}, [2]string{"0000", "1 uncertain:counter restarted at 0"})
	// A poll without an answer changes nothing.
	d := counting(t, Point{Invalid: []string{"0x8000"}}, [2]string{"0005", "5"}, [2]string{"8000", "none bad:no value (0x8000)"}, [2]string{"0006", "6"})
	if d.rebased() {
		t.Error("nothing was rebased")
	}
	countOn(t, d, [2]string{"0001", "7 uncertain:counter restarted at 1"})
	if !d.rebased() || d.state() == nil || d.rebased() {
		t.Error("a restart must be stored once")
	}
}

func TestCountersGoOnAfterARestart(t *testing.T) {
	points := []Point{{Name: "a", Counter: true}, {Name: "b", Type: "uint32", Address: 1, Counter: true, Count: 2}, {Name: "c", Type: "bcd16", Address: 5, Counter: true}, {Name: "d", Address: 9}}
	d := mustCompile(t, "", points...)
	if d.state() != nil {
		t.Error("there is a state before the first poll")
	}
	d.values(nil, resultsOf(t, d, "FFFF", "00000064", "80000000", "0000", "0001"))
	d.values(nil, resultsOf(t, d, "0001", "00000006", "80000001", "0001", "0001"))
	state := d.state()
	next := mustCompile(t, "", points...)
	next.restore(state)
	if !bytes.Equal(next.state(), state) {
		t.Error("the state is not what was restored")
	}
	got := shown(next.values(nil, resultsOf(t, next, "0000", "00000008", "80000002", "9999", "0001")))
	if want := "a=65537 uncertain:counter restarted at 0, b.0=108, b.1=2147483650, c=9999, d=1"; got != want {
		t.Error(got)
	}
	// Without one, counting begins where the device is.
	points[0].Type, points[0].Address, points[1].Name = "bcd32", 10, "other"
	next = mustCompile(t, "", points...)
	next.restore(state)
	got = shown(next.values(nil, resultsOf(t, next, "00000005", "00000008", "00000001", "0002", "0001")))
	if want := "a=5, other.0=8, other.1=1, c=2, d=1"; got != want {
		t.Error(got)
	}
}

func TestDamagedStateIsIgnored(t *testing.T) {
	d := counting(t, Point{}, [2]string{"FFFF", "65535"}, [2]string{"0001", "65537"})
	state := d.state()
	fresh := func(state []byte) uint64 {
		d := mustCompile(t, "", Point{Name: "n", Counter: true})
		d.restore(state)
		v := d.values(nil, resultsOf(t, d, "0002"))[0]
		return v.Uint()
	}
	if fresh(state) != 65538 {
		t.Fatal("the state is not taken")
	}
	for i := range state {
		bad := bytes.Clone(state)
		bad[i] ^= 0x10
		if fresh(bad) != 2 || fresh(state[:i]) != 2 {
			t.Errorf("a state damaged at %d was taken", i)
		}
	}
	// What another version or a later fault may have written, with a good sum.
	signed := func(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b)) }
	for name, b := range map[string][]byte{
		"another version": {2, 1, 1, 'n', 0x80, 0x80, 4, 5, 6},
		"more after it":   {1, 1, 1, 'n', 0x80, 0x80, 4, 5, 1, 0},
		"too many":        {1, 2, 1, 'n', 0x80, 0x80, 4, 5, 1},
		"a long name":     {1, 1, 200, 'n', 0x80, 0x80, 4, 5, 1},
		"too large":       {1, 1, 1, 'n', 0x80, 0x80, 4, 5, 0x80, 0x80, 4},
		"a long number":   {1, 1, 1, 'n', 0x80, 0x80, 4, 5, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF},
	} {
		if got := fresh(signed(b)); got != 2 {
			t.Errorf("%s: %d", name, got)
		}
	}
	if got := fresh(signed([]byte{1, 1, 1, 'n', 0x80, 0x80, 4, 5, 1})); got != 7 {
		t.Error(got)
	}
}

// TestCounterFollowsTheTruth counts in a device whose register rolls over and
// which is restarted now and then, and a gateway which is too: the value grows
// by what was counted, except for what went by between the last poll and a
// restart of the device.
func TestCounterFollowsTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := Point{Name: "n", Counter: true, Type: rapid.SampledFrom([]string{"uint16", "bcd16", "uint32"}).Draw(t, "type")}
		modulus := map[string]uint64{"uint16": 1 << 16, "bcd16": 10000, "uint32": 1 << 32}[q.Type]
		pt, _ := typeOf(q.Type)
		make1 := func() *decoder {
			d, err := compile(&Profile{}, &Group{Name: "g", Points: []Point{q}})
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		poll := func(d *decoder, n uint64) gateway.Value {
			raw := n % modulus
			if q.Type == "bcd16" {
				raw, _ = decimalBits(raw, 4)
			}
			return d.values(nil, []reading{{data: layOut(raw, int(pt.words), "ABCD")}})[0]
		}
		d := make1()
		device := rapid.Uint64Range(0, modulus-1).Draw(t, "start")
		want := device
		poll(d, device)
		for range rapid.IntRange(1, 40).Draw(t, "polls") {
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0: // the gateway starts again
				state := d.state()
				d = make1()
				d.restore(state)
			case 1: // the device starts again, half way through its range
				if at := device % modulus; at > modulus/4 && at < modulus/2 {
					device = rapid.Uint64Range(0, modulus/8).Draw(t, "anew")
					want += device
					if v := poll(d, device); v.Uint() != want || v.Quality != gateway.Uncertain {
						t.Fatalf("after a restart: %s, not %d", v.String(), want)
					}
				}
			}
			by := rapid.Uint64Range(0, modulus/4).Draw(t, "by")
			device, want = device+by, want+by
			if v := poll(d, device); v.Uint() != want || v.Quality != gateway.Good {
				t.Fatalf("%s %s, not %d", v.String(), v.Reason, want)
			}
		}
	})
}

// FuzzCounterState restores anything: no panic, and what is kept is a state.
func FuzzCounterState(f *testing.F) {
	f.Add([]byte{1, 1, 1, 'n', 0x80, 0x80, 4, 5, 1}, true)
	f.Add([]byte{1, 255, 255, 255}, false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign {
			b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
		}
		d := mustCompile(t, "", Point{Name: "n", Counter: true}, Point{Name: "m", Type: "uint64", Counter: true})
		d.restore(b)
		if s := d.state(); s != nil {
			again := mustCompile(t, "", Point{Name: "n", Counter: true}, Point{Name: "m", Type: "uint64", Counter: true})
			again.restore(s)
			if !bytes.Equal(s, again.state()) {
				t.Fatal("a state is not restored as it is")
			}
		}
		d.values(nil, resultsOf(t, d, "0000", "0000000000000000"))
	})
}
