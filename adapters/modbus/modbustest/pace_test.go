package modbustest

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Being woken late does not add up: a request that follows at once is counted
// from where the answer should have ended.
func TestPaceDoesNotAddUpItsErrors(t *testing.T) {
	base := time.Now()
	ms := func(n int) time.Time { return base.Add(time.Duration(n) * time.Millisecond) }
	for name, c := range map[string]struct {
		lag         time.Duration
		heard, want time.Time
	}{
		"on time":            {0, ms(2), ms(2)},
		"at once, 3 ms late": {3 * time.Millisecond, ms(4), ms(1)},
		"never before it":    {3 * time.Millisecond, ms(2), ms(0)},
		"much later":         {3 * time.Millisecond, ms(50), ms(50)},
	} {
		p := newPace(9600, rtuBits, nil)
		p.free, p.lag = base, c.lag
		p.heard(c.heard, true)
		if !p.start.Equal(c.want) {
			t.Errorf("%s: begins at %s, want %s", name, p.start.Sub(base), c.want.Sub(base))
		}
	}
	if p := newPace(9600, rtuBits, nil); p.char != 1145833 || p.gap != 4010415 {
		t.Errorf("a character of %d ns, a gap of %d", p.char, p.gap)
	}
}

func zeros(n int) (s string) {
	for range n {
		s += "0000"
	}
	return s
}

// onLine is how long n bytes and the pause between request and answer last.
func onLine(baud, n int) time.Duration {
	char := time.Second * 11 / time.Duration(baud)
	return time.Duration(n)*char + char*7/2
}

// In the time of a bubble nobody is late: a poll takes what it takes on a line.
func TestCableKeepsTheTimeOfItsSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, baud := range []int{1200, 9600, 115200, 1_000_000} {
			s := plant(t)
			s.Unit(1)
			c := s.Cable(PTYOptions{Baud: baud})
			request, answer := rtu{}.wrap(nil, frame{unit: 1, pdu: reads(0, 125)}), ser(1, "03 fa "+zeros(125))
			begin := time.Now()
			for i := range 10 {
				send(t, c, request)
				expect(t, c, answer)
				if d, theory := time.Since(begin), time.Duration(i+1)*onLine(baud, len(request)+len(answer)); d != theory {
					t.Fatalf("%d baud: %d polls took %s, a line needs %s", baud, i+1, d, theory)
				}
			}
			s.Close()
		}
	})
}

// Each wake-up late by half a millisecond: ten polls are not five late, but one.
func TestCableForgivesLateWakeUps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const late, polls = 500 * time.Microsecond, 10
		s := plant(t)
		s.Unit(1)
		c := s.Cable(PTYOptions{Baud: 9600})
		for l := range s.links {
			l.pace.nap = func(d time.Duration) { time.Sleep(d + late) }
		}
		request, answer := rtu{}.wrap(nil, frame{unit: 1, pdu: reads(0, 20)}), ser(1, "03 28 "+zeros(20))
		begin := time.Now()
		for range polls {
			send(t, c, request)
			expect(t, c, answer)
		}
		if d, theory := time.Since(begin), polls*onLine(9600, len(request)+len(answer)); d != theory+late {
			t.Errorf("took %s, a line needs %s", d, theory)
		}
	})
}

func TestCableWithADribblingUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := plant(t)
		s.Unit(1).Fault(Fault{Dribble: 10 * time.Millisecond})
		c := s.Cable(PTYOptions{Baud: 9600})
		begin := time.Now()
		send(t, c, ser(1, "03 0000 0001"))
		expect(t, c, ser(1, "03 02 0000"))
		if d, due := time.Since(begin), onLine(9600, 8)+7*10*time.Millisecond; d != due {
			t.Errorf("took %s, not %s", d, due)
		}
	})
}

// Rubbish from a master does not stay on the line.
func TestCableRubbishEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := plant(t)
		s.Unit(1).Fault(Fault{Late: 300 * time.Millisecond})
		c := s.Cable(PTYOptions{Baud: 2400})
		send(t, c, ser(1, "03 0000 0001"))
		time.Sleep(60 * time.Millisecond)
		send(t, c, unhex("01 03 0000 0001 ffff"))
		expect(t, c, ser(1, "03 02 0000"))
	})
}

// tardy is a line whose deadlines never come first.
type tardy struct{ *cable }

func (tardy) SetReadDeadline(time.Time) error { return nil }

// Silence counts although it was the next request that woke the server.
func TestSilenceIsSeenByTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := plant(t)
		s.Unit(1)
		master, slave := newCable()
		if !s.admit(newLink(s, tardy{slave}, rtu{})) {
			t.Fatal("not admitted")
		}
		send(t, master, ser(1, "03 0000 0001")[:6])
		time.Sleep(stillness + 1)
		send(t, master, ser(1, "03 0000 0001"))
		expect(t, master, ser(1, "03 02 0000"))
	})
}

// Bytes come one after the other, each at its end, or in pieces of at most a
// millisecond; an ASCII character is shorter.
func TestCableDribblesAtItsSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for mode, f := range map[string]framing{RTU: rtu{}, ASCII: &ascii{}} {
			_, bits := serial(mode)
			char := time.Duration(bits) * time.Second / 1200
			s := plant(t)
			s.Unit(1)
			c := s.Cable(PTYOptions{Mode: mode, Baud: 1200})
			request := f.wrap(nil, frame{unit: 1, pdu: reads(0, 5)})
			begin := time.Now()
			send(t, c, request)
			for i, x := range f.wrap(nil, frame{unit: 1, pdu: unhex("03 0a " + zeros(5))}) {
				expect(t, c, []byte{x})
				if d, due := time.Since(begin), time.Duration(len(request)+i+1)*char+char*7/2; d != due {
					t.Fatalf("%s: byte %d after %s, not %s", mode, i, d, due)
				}
			}
		}
	})
}

// A request in pieces ends with the last of them.
func TestCableTakesARequestInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := plant(t)
		s.Unit(1)
		c := s.Cable(PTYOptions{Baud: 19200})
		request := ser(1, "03 0000 0001")
		send(t, c, request[:4])
		time.Sleep(15 * time.Millisecond)
		send(t, c, request[4:])
		begin := time.Now()
		expect(t, c, ser(1, "03 02 0000"))
		if d, due := time.Since(begin), onLine(19200, 7); d != due {
			t.Errorf("after %s, not %s", d, due)
		}
	})
}

// A master that speaks while a unit answers spoils both.
func TestCableCollisionWithTheMaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := plant(t)
		s.Unit(1)
		c := s.Cable(PTYOptions{Baud: 2400})
		whole := ser(1, "03 0a "+zeros(5))
		send(t, c, ser(1, "03 0000 0005"))
		expect(t, c, whole[:1])
		send(t, c, ser(1, "03 0000 0001"))
		rest := make([]byte, len(whole)-1)
		_ = c.SetReadDeadline(time.Now().Add(limit))
		if _, err := io.ReadFull(c, rest); err != nil || string(rest) == string(whole[1:]) {
			t.Errorf("got % x, %v", rest, err)
		}
		silent(t, c)
		send(t, c, ser(1, "03 0000 0001"))
		expect(t, c, ser(1, "03 02 0000"))
		if n := s.Counters(); n.Collisions != 1 || n.Requests != 2 {
			t.Errorf("counted %+v", n)
		}
	})
}

// A late answer falls into the answer of another unit, into a request, or
// between them, where it arrives whole; the others are answered before it.
func TestCableLateAnswers(t *testing.T) {
	// A character lasts 4.6 ms: a poll of one register 37 + 16 + 32 ms.
	for name, c := range map[string]struct {
		fault      Fault
		next       time.Duration // when the next request is made
		registers  int           // that it asks for
		whole      bool          // both arrive
		collisions int64
	}{
		// The late answer begins 37 ms + 130 ms after the beginning.
		"in an answer":      {Fault{Late: 130 * time.Millisecond}, 60 * time.Millisecond, 20, false, 2},
		"in a request":      {Fault{Late: 60 * time.Millisecond}, 80 * time.Millisecond, 1, false, 2},
		"an answer into it": {Fault{Late: 130 * time.Millisecond}, 110 * time.Millisecond, 1, false, 2},
		"after":             {Fault{Late: 150 * time.Millisecond}, 60 * time.Millisecond, 1, true, 0},
		"delay is late":     {Fault{Delay: 150 * time.Millisecond}, 60 * time.Millisecond, 1, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := plant(t)
				s.Unit(1).SetHolding(0, 7)
				s.Unit(2)
				m := s.Cable(PTYOptions{Baud: 2400})
				s.Unit(1).FaultOnce(c.fault)
				send(t, m, ser(1, "03 0000 0001"))
				time.Sleep(c.next)
				send(t, m, rtu{}.wrap(nil, frame{unit: 2, pdu: reads(0, c.registers)}))
				want := ser(2, "03 "+string("0123456789abcdef"[2*c.registers/16])+string("0123456789abcdef"[2*c.registers%16])+zeros(c.registers))
				want = append(want, ser(1, "03 02 0007")...)
				got := make([]byte, len(want))
				_ = m.SetReadDeadline(time.Now().Add(time.Second))
				n, _ := io.ReadFull(m, got)
				if string(got[:n]) == string(want) != c.whole {
					t.Errorf("got % x", got[:n])
				}
				for _, frame := range []string{string(want[:len(want)-7]), string(want[len(want)-7:])} {
					if !c.whole && strings.Contains(string(got[:n]), frame) {
						t.Errorf("% x came through a collision", frame)
					}
				}
				if k := s.Counters(); k.Collisions != c.collisions {
					t.Errorf("counted %+v", k)
				}
				send(t, m, ser(1, "03 0000 0001")) // and the line is well afterwards
				expect(t, m, ser(1, "03 02 0007"))
			})
		})
	}
}
