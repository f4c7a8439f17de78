package modbustest

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// reply serves one PDU without any line.
func reply(u *Unit, pdu string) string {
	b := unhex(pdu)
	var q Request
	whole := parse(b, &q)
	return hex.EncodeToString(u.serve(nil, b, &q, whole))
}

func nospace(s string) string { return strings.ReplaceAll(s, " ", "") }

// The examples of the protocol, where it has one (section in the name).
func TestFunctions(t *testing.T) {
	s := plant(t)
	u := s.Unit(1)
	u.SetCoil(0x13, true, false, true, true, false, false, true, true, true, true, false, true, false, true, true, false, true, false, true)
	u.SetDiscrete(0xc4, false, false, true, true, false, true, false, true)
	u.SetHolding(0x6b, 0x022b, 0, 0x64)
	u.SetInput(8, 0xa)
	u.SetFIFO(0x04de, 0x01b8, 0x1284)
	u.SetFIFO(7, make([]uint16, 32)...)
	for _, c := range []struct{ name, ask, want string }{
		{"6.1 read coils", "01 0013 0013", "01 03 cd 6b 05"},
		{"6.2 read discrete inputs", "02 00c4 0008", "02 01 ac"},
		{"6.3 read holding registers", "03 006b 0003", "03 06 022b 0000 0064"},
		{"6.4 read input registers", "04 0008 0001", "04 02 000a"},
		{"6.5 write coil", "05 00ac ff00", "05 00ac ff00"},
		{"6.5 has written", "01 00ac 0001", "01 01 01"},
		{"6.5 write coil off", "05 00ac 0000", "05 00ac 0000"},
		{"6.5 has cleared", "01 00ac 0001", "01 01 00"},
		{"6.5 other value", "05 00ac 0001", "85 03"},
		{"6.6 write register", "06 0001 0003", "06 0001 0003"},
		{"6.6 has written", "03 0001 0001", "03 02 0003"},
		{"6.11 write coils", "0f 0213 000a 02 cd01", "0f 0213 000a"},
		{"6.11 has written", "01 0213 000b", "01 02 cd01"},
		{"6.11 byte count", "0f 0213 000a 01 cd", "8f 03"},
		{"6.12 write registers", "10 0001 0002 04 000a 0102", "10 0001 0002"},
		{"6.12 has written", "03 0001 0003", "03 06 000a 0102 0000"},
		{"6.12 byte count", "10 0001 0002 02 000a", "90 03"},
		{"6.16 before the mask", "06 0004 0012", "06 0004 0012"},
		{"6.16 mask write", "16 0004 00f2 0025", "16 0004 00f2 0025"},
		{"6.16 has written", "03 0004 0001", "03 02 0017"},
		{"6.17 read and write", "17 000f 0002 000e 0003 06 00ff 01ff 02ff", "17 04 01ff 02ff"},
		{"6.17 byte count", "17 000f 0002 000e 0003 04 00ff 01ff", "97 03"},
		{"6.17 too many", "17 000f 007e 000e 0001 02 00ff", "97 03"},
		{"6.18 read FIFO", "18 04de", "18 0006 0002 01b8 1284"},
		{"6.18 too many", "18 0007", "98 03"},
		{"6.18 none", "18 0001", "98 02"},
		{"unknown function", "63 0000", "e3 01"},
		{"known but not served", "07", "87 01"},
		{"no registers", "03 0000 0000", "83 03"},
		{"126 registers", "03 0000 007e", "83 03"},
		{"2001 bits", "01 0000 07d1", "81 03"},
		{"124 written", "10 0000 007c 00", "90 03"},
		{"over the end", "03 ffff 0002", "83 02"},
		{"the last", "03 ffff 0001", "03 02 0000"},
		{"too short", "03 0000 00", "83 03"},
		{"too long", "03 0000 0001 00", "83 03"},
		{"nothing", "03", "83 03"},
		{"write too long", "06 0001 0003 00", "86 03"},
	} {
		if got := reply(u, c.ask); got != nospace(c.want) {
			t.Errorf("%s: %s answered with %s, want %s", c.name, c.ask, got, c.want)
		}
	}
	if u.Holding(4) != 0x17 || !u.Coil(0x213) || u.Coil(0x214) {
		t.Error("what was written is not what is read back")
	}
}

func TestAllowAndLimit(t *testing.T) {
	s := plant(t)
	u := s.Unit(1)
	u.Allow(Holding, 10, 19)
	u.Allow(Holding, 20, 29)
	u.Allow(Holding, 40, 40)
	u.Limit(16, 32)
	for ask, want := range map[string]string{
		"03 000a 0001": "03 02 0000",
		"03 000a 0010": "03 20" + strings.Repeat("0000", 16), // over the seam of two ranges
		"03 0009 0002": "83 02",
		"03 001d 0002": "83 02",
		"03 0028 0001": "03 02 0000",
		"03 0029 0001": "83 02",
		"06 0000 0001": "86 02",
		"03 000a 0011": "83 03", // more than 16
		"04 0000 0001": "04 02 0000",
		"01 0000 0020": "01 04 00000000",
		"01 0000 0021": "81 03",
	} {
		if got := reply(u, ask); got != nospace(want) {
			t.Errorf("%s answered with %s, want %s", ask, got, want)
		}
	}
	u.Limit(0, 0)
	if got := reply(u, "04 0000 007d"); len(got) != 2*(2+250) {
		t.Errorf("without a limit: %s", got)
	}
}

func TestComputedValues(t *testing.T) {
	s := plant(t)
	u := s.Unit(3)
	u.SetHolding(5, 0x7777)
	u.SetCoil(1, true)
	u.Compute(func(table string, addr int) (uint16, bool) {
		if table == Holding && addr == 5 || table == Coil && addr == 1 {
			return 0, false
		}
		return uint16(u.Polls())<<12 | 3<<8 | uint16(addr), true
	})
	u.note(&Request{})
	for ask, want := range map[string]string{
		"03 0004 0003": "03 06 1304 7777 1306",
		"04 0005 0001": "04 02 1305",
		"01 0000 0003": "01 01 07",
		"02 0000 0009": "02 02 ff01",
	} {
		if got := reply(u, ask); got != nospace(want) {
			t.Errorf("%s answered with %s, want %s", ask, got, want)
		}
	}
}

func TestIdentity(t *testing.T) {
	s := plant(t)
	u := s.Unit(1)
	if got := reply(u, "2b 0e 01 00"); got != "ab01" {
		t.Errorf("without an identity: %s", got)
	}
	long := strings.Repeat("x", 200)
	u.SetIdentity(map[byte]string{0: "Maker", 1: "P1", 2: "V2.1", 4: "Name", 0x80: long, 0x81: long})
	hexed := func(s string) string { return hex.EncodeToString([]byte(s)) }
	basic := "00 05" + hexed("Maker") + "01 02" + hexed("P1") + "02 04" + hexed("V2.1")
	for ask, want := range map[string]string{
		"2b 0e 01 00": "2b 0e 01 83 00 00 03" + basic,
		"2b 0e 02 00": "2b 0e 02 83 00 00 04" + basic + "04 04" + hexed("Name"),
		"2b 0e 01 02": "2b 0e 01 83 00 00 01 02 04" + hexed("V2.1"),
		"2b 0e 01 70": "2b 0e 01 83 00 00 03" + basic, // unknown object: from the beginning
		"2b 0e 03 00": "2b 0e 03 83 ff 81 05" + basic + "04 04" + hexed("Name") + "80 c8" + hexed(long),
		"2b 0e 03 80": "2b 0e 03 83 ff 81 01 80 c8" + hexed(long),
		"2b 0e 03 81": "2b 0e 03 83 00 00 01 81 c8" + hexed(long),
		"2b 0e 04 04": "2b 0e 04 83 00 00 01 04 04" + hexed("Name"),
		"2b 0e 04 05": "ab 02",
		"2b 0e 05 00": "ab 03",
		"2b 0d 01 00": "ab 01",
		"2b 0e 01":    "ab 03",
	} {
		if got := reply(u, ask); got != nospace(want) {
			t.Errorf("%s answered with %s\nwant %s", ask, got, nospace(want))
		}
	}
	u.SetIdentity(map[byte]string{0: strings.Repeat("x", 300)}) // cut to what a PDU holds
	if got := reply(u, "2b 0e 01 00"); got != "2b0e0181000001"+"00f4"+strings.Repeat("78", 244) {
		t.Errorf("a long object: %s", got)
	}
	u.SetIdentity(map[byte]string{0: "a", 1: "b", 2: "c"})
	if got := reply(u, "2b 0e 03 00"); !strings.HasPrefix(got, "2b0e0381") {
		t.Errorf("conformity of basic objects: %s", got)
	}
}

// Whatever comes is answered, within the size of a PDU, and by its function.
func FuzzServe(f *testing.F) {
	for _, s := range []string{"03 0000 0001", "0f 0213 000a 02 cd01", "17 000f 0002 000e 0003 06 00ff 01ff 02ff", "2b 0e 03 00", "18 0007", "07"} {
		f.Add(unhex(s))
	}
	u := newUnit(1)
	u.SetIdentity(map[byte]string{0: strings.Repeat("a", 300), 0x90: strings.Repeat("b", 100)})
	u.SetFIFO(7, 1, 2)
	f.Fuzz(func(t *testing.T, pdu []byte) {
		if len(pdu) == 0 || len(pdu) > maxPDU {
			return
		}
		var q Request
		whole := parse(pdu, &q)
		got := u.serve(nil, bytes.Clone(pdu), &q, whole)
		if len(got) < 2 || len(got) > maxPDU || got[0]&0x7f != pdu[0]&0x7f || got[0] != pdu[0] && len(got) != 2 {
			t.Fatalf("% x answered with % x", pdu, got)
		}
	})
}

// What split takes lies in what it got, and it always comes to an end.
func FuzzSplit(f *testing.F) {
	f.Add(byte(0), unhex("1501 0000 0006 11 03 006B 0003"))
	f.Add(byte(1), unhex("11 03 006B 0003 7687"))
	f.Add(byte(2), []byte(":1103006B00037E\r\n"))
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		frames := []framing{mbap{}, rtu{}, &ascii{}}[kind%3]
		for len(b) > 0 {
			f, n, ok := frames.split(b, true)
			if n <= 0 || n > len(b) || ok && (len(f.pdu) < 1 || len(f.pdu) > 512) {
				t.Fatalf("split % x: n %d, pdu % x", b, n, f.pdu)
			}
			if ok {
				if again := frames.wrap(nil, f); !bytes.Equal(again, b[:n]) {
					t.Fatalf("wrapped again as % x, was % x", again, b[:n])
				}
			}
			b = b[n:]
		}
	})
}
