package modbustest

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

// The vectors are those of the standards and of well-known manuals, not made
// by this code.
func TestCRCOfTheStandard(t *testing.T) {
	for text, sum := range map[string]uint16{
		"02 07":             0x1241, // serial line section 6.2.2, example
		"01 03 00 00 00 0A": 0xcdc5,
		"11 03 00 6B 00 03": 0x8776,
		"01 04 02 FF FF":    0x80b8,
		"":                  0xffff,
	} {
		if got := crc(unhex(text)); got != sum {
			t.Errorf("crc(%s) = %04x, want %04x", text, got, sum)
		}
	}
}

func TestFramesOfTheStandard(t *testing.T) {
	f := frame{unit: 0x11, id: 0x1501, pdu: unhex("03 006B 0003")}
	for name, c := range map[string]struct {
		framing framing
		want    []byte
	}{
		"mbap":  {mbap{}, unhex("1501 0000 0006 11 03 006B 0003")},
		"rtu":   {rtu{}, unhex("11 03 006B 0003 7687")},
		"ascii": {&ascii{}, []byte(":1103006B00037E\r\n")},
	} {
		got := c.framing.wrap([]byte("before"), f)
		if !bytes.Equal(got, append([]byte("before"), c.want...)) {
			t.Errorf("%s: wrapped as %q", name, got)
		}
		// The frame is found whole, and not before its last byte.
		for cut := 1; cut <= len(c.want); cut++ {
			back, n, ok := c.framing.split(c.want[:cut:cut], false)
			if whole := cut == len(c.want); ok != whole || (n == cut) != whole {
				t.Fatalf("%s: split of %d bytes: n %d, ok %v", name, cut, n, ok)
			}
			if ok && (back.unit != f.unit || !bytes.Equal(back.pdu, f.pdu)) {
				t.Errorf("%s: split %+v", name, back)
			}
		}
	}
}

// Every function's request has its length in RTU.
func TestRTUFindsTheEndOfEveryRequest(t *testing.T) {
	for _, pdu := range []string{
		"01 0000 0001", "02 0000 0001", "03 0000 0001", "04 0000 0001", "05 0000 ff00", "06 0000 0001",
		"0f 0000 0009 02 01ff", "10 0000 0002 04 00010002", "16 0000 ffff 0001",
		"17 0000 0001 0000 0001 02 0005", "18 0000", "2b 0e 01 00",
	} {
		b := ser(9, pdu)
		f, n, ok := rtu{}.split(append(b, 0x77), false)
		if !ok || n != len(b) || !bytes.Equal(f.pdu, unhex(pdu)) {
			t.Errorf("%s: %d of %d bytes, %v", pdu, n, len(b), ok)
		}
	}
	b := ser(9, "41 01") // unknown: only silence ends it
	if _, n, _ := (rtu{}).split(b, false); n != 0 {
		t.Errorf("took %d bytes of a request of unknown length", n)
	}
	if f, n, ok := (rtu{}).split(b, true); !ok || n != len(b) || f.pdu[0] != 0x41 {
		t.Errorf("did not take it after the silence: %d %v", n, ok)
	}
}

func TestBrokenFramesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		framing framing
		in      []byte
	}{
		"rtu check sum":   {rtu{}, unhex("11 03 006B 0003 7688")},
		"rtu endless":     {rtu{}, bytes.Repeat([]byte{0x41}, 300)},
		"ascii sum":       {&ascii{}, []byte(":1103006B00037F\r\n")},
		"ascii lower":     {&ascii{}, []byte(":1103006b00037e\r\n")},
		"ascii odd":       {&ascii{}, []byte(":1103006B00037\r\n")},
		"ascii no cr":     {&ascii{}, []byte(":1103006B00037E\n")},
		"ascii short":     {&ascii{}, []byte(":11EF\r\n")},
		"ascii endless":   {&ascii{}, append([]byte(":"), bytes.Repeat([]byte("1"), maxASCII)...)},
		"mbap protocol":   {mbap{}, unhex("0001 0001 0006 11 03 006B 0003")},
		"mbap no pdu":     {mbap{}, unhex("0001 0000 0001 11")},
		"mbap too long":   {mbap{}, unhex("0001 0000 00ff 11 03 006B 0003")},
		"mbap way to big": {mbap{}, unhex("0001 0000 ffff 11 03 006B 0003")},
	} {
		if _, n, ok := c.framing.split(c.in, false); ok || n == 0 {
			t.Errorf("%s: took %d, ok %v", name, n, ok)
		}
	}
}

func TestASCIIBeginsAnewAtAColon(t *testing.T) {
	s := plant(t)
	s.Unit(0x11).SetHolding(0x6b, 1, 2, 3)
	c := dial(t, want(s.ListenASCIIOverTCP())(t))
	send(t, c, []byte("noise:1103006B:1103006B00037E\r\n"))
	expect(t, c, (&ascii{}).wrap(nil, frame{unit: 0x11, pdu: unhex("03 06 0001 0002 0003")}))
}

// A slave on a serial line takes nothing after a broken frame until the line
// was silent: the good request in the same breath is lost, the next is not.
func TestRTUWaitsForSilenceAfterABrokenRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := plant(t)
		s.Unit(1)
		c := s.Pipe(RTU)
		bad := ser(1, "03 0000 0001")
		bad[3] ^= 1
		send(t, c, append(bad, ser(1, "03 0000 0001")...))
		time.Sleep(stillness - 1)
		send(t, c, ser(1, "03 0000 0001")) // still in the same breath
		silent(t, c)
		send(t, c, ser(1, "03 0000 0001"))
		expect(t, c, ser(1, "03 02 0000"))
		send(t, c, ser(1, "03 0000 0001")[:5]) // and half a request is forgotten
		silent(t, c)
		send(t, c, ser(1, "03 0000 0001"))
		expect(t, c, ser(1, "03 02 0000"))
		send(t, c, ser(1, "03 0000 0001")[:5]) // in two pieces, quickly, it is not
		time.Sleep(stillness / 2)
		send(t, c, ser(1, "03 0000 0001")[5:])
		expect(t, c, ser(1, "03 02 0000"))
		if n := s.Counters(); n.Broken != 2 || n.Requests != 3 {
			t.Errorf("counted %+v", n)
		}
	})
}

func TestASCIIMayPauseForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := plant(t)
		s.Unit(0x11)
		c := s.Pipe(ASCII)
		request := []byte(":1103006B00037E\r\n")
		answer := (&ascii{}).wrap(nil, frame{unit: 0x11, pdu: unhex("03 06 0000 0000 0000")})
		for i := range request {
			send(t, c, request[i:i+1])
			time.Sleep(900 * time.Millisecond)
		}
		expect(t, c, answer)
		send(t, c, request[:9])
		time.Sleep(1100 * time.Millisecond)
		send(t, c, request[9:])
		silent(t, c)
		send(t, c, request)
		expect(t, c, answer)
	})
}

func TestUnknownFunctionOverRTU(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	c := dial(t, want(s.ListenRTUOverTCP())(t))
	send(t, c, ser(1, "41 01"))
	expect(t, c, ser(1, "c1 01"))
}
