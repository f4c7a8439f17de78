package modbustest

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

const (
	question = "03 0000 0002"
	good     = "03 04 0001 0002"
)

// faulty is a plant whose unit 1 has registers 1, 2, 3 … and an open line.
func faulty(t *testing.T, mode string) (*Server, *Unit, net.Conn) {
	t.Helper()
	s := plant(t)
	u := s.Unit(1)
	u.SetHolding(0, 1, 2, 3, 4)
	m := s.Pipe(mode)
	t.Cleanup(func() { _ = m.Close() })
	return s, u, m
}

// Each fault by its bytes, over TCP and, where it is another, over RTU; the
// answer after it is good again.
func TestFaultsByTheirBytes(t *testing.T) {
	mb := func(s string) []byte { return unhex(s) }
	for name, c := range map[string]struct {
		fault    Fault
		tcp, rtu []byte // nil: not tried
	}{
		"wrong unit":     {Fault{WrongUnit: true}, mb("0001 0000 0007 02 03 04 0001 0002"), ser(2, good)},
		"wrong id":       {Fault{WrongID: true}, mb("1112 0000 0007 01 03 04 0001 0002"), nil},
		"wrong protocol": {Fault{WrongProtocol: true}, mb("0001 0001 0007 01 03 04 0001 0002"), nil},
		"wrong function": {Fault{WrongFunction: true}, mb("0001 0000 0007 01 04 04 0001 0002"), ser(1, "04 04 0001 0002")},
		"short":          {Fault{Short: 1}, mb("0001 0000 0005 01 03 02 0001"), ser(1, "03 02 0001")},
		"shorter still":  {Fault{Short: 9}, mb("0001 0000 0003 01 03 00"), ser(1, "03 00")},
		"long":           {Fault{Long: 1}, mb("0001 0000 0009 01 03 06 0001 0002 eeee"), ser(1, "03 06 0001 0002 eeee")},
		"wrong count":    {Fault{WrongCount: true}, mb("0001 0000 0007 01 03 06 0001 0002"), ser(1, "03 06 0001 0002")},
		"exception":      {Fault{Exception: 6}, mb("0001 0000 0003 01 83 06"), ser(1, "83 06")},
		"stop":           {Fault{StopAfter: 5}, mb("0001 0000 00"), ser(1, good)[:5]},
		"echo":           {Fault{Echo: true}, nil, append(ser(1, question), ser(1, good)...)},
		"dead echo":      {Fault{Echo: true, Dead: true}, nil, ser(1, question)},
		"noise":          {Fault{Noise: []byte{0, 0xff}}, nil, append([]byte{0, 0xff}, ser(1, good)...)},
		"trail":          {Fault{Trail: []byte{0xff}}, nil, append(ser(1, good), 0xff)},
		"twice":          {Fault{Twice: true}, append(tcp(1, good), tcp(1, good)...), append(ser(1, good), ser(1, good)...)},
		"dribble":        {Fault{Dribble: time.Millisecond}, tcp(1, good), ser(1, good)},
		"dead":           {Fault{Dead: true}, []byte{}, []byte{}},
	} {
		for _, l := range []struct {
			mode             string
			ask, well, wrong []byte
		}{{MBAP, tcp(1, question), tcp(1, good), c.tcp}, {RTU, ser(1, question), ser(1, good), c.rtu}} {
			if l.wrong == nil {
				continue
			}
			t.Run(name+" "+l.mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, u, m := faulty(t, l.mode)
					u.FaultOnce(c.fault)
					send(t, m, l.ask)
					expect(t, m, l.wrong)
					silent(t, m)
					send(t, m, l.ask)
					expect(t, m, l.well)
				})
			})
		}
	}
}

func TestShortAndLongBits(t *testing.T) {
	_, u, m := faulty(t, MBAP)
	u.Fault(Fault{Short: 1}, Fault{Long: 1}, Fault{Long: 300})
	send(t, m, tcp(1, "01 0000 0009"))
	expect(t, m, tcp(1, "01 01 00"))
	send(t, m, tcp(1, "01 0000 0009"))
	expect(t, m, tcp(1, "01 03 0000 ee"))
	send(t, m, tcp(1, "01 0000 0009")) // never more than a PDU holds
	var head [6]byte
	if _, err := io.ReadFull(m, head[:]); err != nil || head[5] != maxPDU+1 {
		t.Errorf("header % x, %v", head, err)
	}
}

func TestDribbleTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, u, m := faulty(t, MBAP)
		u.Fault(Fault{Dribble: 5 * time.Millisecond})
		begin := time.Now()
		send(t, m, tcp(1, question))
		for i, x := range tcp(1, good) {
			expect(t, m, []byte{x})
			if d := time.Since(begin); d != time.Duration(i)*5*time.Millisecond {
				t.Fatalf("byte %d after %s", i, d)
			}
		}
	})
}

func TestStaleRepeatsTheAnswerBefore(t *testing.T) {
	_, u, m := faulty(t, MBAP)
	u.FaultOnce(Fault{}, Fault{Stale: true})
	first := mbap{}.wrap(nil, frame{1, 40, unhex("03 02 0001")})
	send(t, m, mbap{}.wrap(nil, frame{1, 40, reads(0, 1)}))
	expect(t, m, first)
	send(t, m, mbap{}.wrap(nil, frame{1, 41, reads(1, 2)}))
	expect(t, m, first)
	send(t, m, mbap{}.wrap(nil, frame{1, 42, reads(1, 1)}))
	expect(t, m, mbap{}.wrap(nil, frame{1, 42, unhex("03 02 0002")}))
}

// A late answer comes after that to the request made in the meantime.
func TestLateAnswerComesInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, u, m := faulty(t, MBAP)
		u.FaultOnce(Fault{Late: time.Second})
		begin := time.Now()
		send(t, m, mbap{}.wrap(nil, frame{1, 1, reads(0, 1)}))
		send(t, m, mbap{}.wrap(nil, frame{1, 2, reads(1, 1)}))
		expect(t, m, mbap{}.wrap(nil, frame{1, 2, unhex("03 02 0002")}))
		if d := time.Since(begin); d != 0 {
			t.Errorf("the other one waited for %s", d)
		}
		expect(t, m, mbap{}.wrap(nil, frame{1, 1, unhex("03 02 0001")}))
		if d := time.Since(begin); d != time.Second {
			t.Errorf("the late one came after %s", d)
		}
		u.FaultOnce(Fault{Stale: true}) // it is not what comes once more
		send(t, m, mbap{}.wrap(nil, frame{1, 3, reads(1, 1)}))
		expect(t, m, mbap{}.wrap(nil, frame{1, 2, unhex("03 02 0002")}))
	})
}

func TestLateDatagram(t *testing.T) {
	s := plant(t)
	s.Unit(1).SetHolding(0, 1)
	m := want(net.Dial("udp", want(s.ListenUDP())(t)))(t)
	defer m.Close()
	s.Unit(1).FaultOnce(Fault{Late: time.Millisecond})
	send(t, m, tcp(1, "03 0000 0001"))
	expect(t, m, tcp(1, "03 02 0001"))
}

func TestDelayHoldsTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, u, m := faulty(t, MBAP)
		s.Unit(2)
		u.FaultOnce(Fault{Delay: time.Minute})
		begin := time.Now()
		send(t, m, append(tcp(1, question), tcp(2, "03 0000 0001")...))
		_ = m.SetReadDeadline(time.Time{})
		var first [1]byte
		if _, err := m.Read(first[:]); err != nil || time.Since(begin) != time.Minute {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		expect(t, m, append(tcp(1, good), tcp(2, "03 02 0000")...)[1:])
	})
}

// A run of wrong bits is never taken for a good answer: RTU and ASCII have
// check sums, of MBAP the header is hit.
func TestGarbleIsAlwaysSeen(t *testing.T) {
	for _, f := range []framing{mbap{}, rtu{}, &ascii{}} {
		l := newLink(New(), nil, f)
		for n := 1; n <= 16; n++ {
			for range 50 {
				good := f.wrap(nil, frame{1, 1, unhex(good)})
				bad := bytes.Clone(good)
				l.garble(bad, n)
				if bytes.Equal(bad, good) {
					t.Fatalf("%T: %d bits change nothing", f, n)
				}
				if _, isMBAP := f.(mbap); isMBAP && !bytes.Equal(bad[8:], good[8:]) {
					t.Fatalf("data was changed: % x", bad)
				}
			}
		}
	}
	l := newLink(New(), nil, rtu{})
	for n := 1; n <= 16; n++ {
		for range 200 {
			bad := ser(1, good)
			l.garble(bad, n)
			if len(bad) != 9 || crc(bad[:7]) == uint16(bad[7])|uint16(bad[8])<<8 {
				t.Fatalf("% x has a good check sum", bad)
			}
		}
	}
}

func TestGarbledAnswer(t *testing.T) {
	_, u, m := faulty(t, RTU)
	u.FaultOnce(Fault{Garble: 3})
	send(t, m, ser(1, question))
	got := make([]byte, len(ser(1, good)))
	_ = m.SetReadDeadline(time.Now().Add(limit))
	if _, err := io.ReadFull(m, got); err != nil || bytes.Equal(got, ser(1, good)) {
		t.Errorf("got % x, %v", got, err)
	}
}

func TestCutFaults(t *testing.T) {
	for _, f := range []struct {
		fault Fault
		want  []byte
	}{{Fault{Cut: true}, nil}, {Fault{CutAfter: 4}, tcp(1, good)[:4]}, {Fault{CutAfter: 99}, tcp(1, good)}} {
		_, u, m := faulty(t, MBAP)
		u.FaultOnce(f.fault)
		send(t, m, tcp(1, question))
		_ = m.SetReadDeadline(time.Now().Add(limit))
		if got, err := io.ReadAll(m); err != nil || !bytes.Equal(got, f.want) {
			t.Errorf("%+v: % x, %v", f.fault, got, err)
		}
	}
}

// Scripts: in order, over and over or once, chosen by a function; the unit's
// goes before the plant's.
func TestScripts(t *testing.T) {
	s, u, m := faulty(t, MBAP)
	next := func(want string) {
		t.Helper()
		ask(t, m, 1, question, want)
	}
	no := func(code byte) Fault { return Fault{Exception: code} }
	u.Fault(no(4), Fault{}, no(5))
	for range 3 {
		next("83 04")
		next(good)
		next("83 05")
	}
	u.FaultOnce(no(4), no(5))
	next("83 04")
	next("83 05")
	next(good)
	next(good)
	s.Fault(no(6))
	next("83 06")
	u.FaultOnce(no(4))
	next("83 04")
	next("83 06")
	s.FaultOnce(no(7))
	next("83 07")
	next(good)
	u.FaultFunc(func(q Request) Fault {
		if q.Count == 2 {
			return no(8)
		}
		return Fault{}
	})
	next("83 08")
	ask(t, m, 1, "03 0000 0001", "03 02 0001")
	u.FaultFunc(nil)
	s.FaultFunc(func(q Request) Fault { return no(q.Unit + 9) })
	next("83 0a")
	s.Fault()
	next(good)
}

func TestCloseEndsWhatIsLateAndHeld(t *testing.T) {
	s, u, m := faulty(t, MBAP)
	u.FaultOnce(Fault{Late: time.Hour}, Fault{Delay: time.Hour})
	send(t, m, append(tcp(1, question), tcp(1, question)...))
	d := want(net.Dial("udp", want(s.ListenUDP())(t)))(t)
	defer d.Close()
	s.Unit(2).Fault(Fault{Delay: time.Hour})
	send(t, d, tcp(2, question))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for u.Polls() < 2 || s.Unit(2).Polls() < 1 {
		<-tick.C
	}
	s.Close() // goleak sees what is left
}
