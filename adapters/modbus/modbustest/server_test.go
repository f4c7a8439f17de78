package modbustest

import "testing"

func TestReadsHoldingRegistersOverTCP(t *testing.T) {
	s := plant(t)
	s.Unit(7).SetHolding(100, 0x1234, 0xabcd)
	c := dial(t, want(s.ListenTCP())(t))
	ask(t, c, 7, "03 0064 0002", "03 04 1234abcd")
	if q := s.Unit(7).Requests(); len(q) != 1 || q[0].Address != 100 || q[0].Count != 2 || s.Unit(7).Polls() != 1 {
		t.Errorf("log %+v", q)
	}
}

func TestPTYAnswersAtItsSpeed(t *testing.T) {
	s := plant(t)
	s.Unit(1).SetHolding(0, 1, 2)
	p := want(s.ListenPTY(PTYOptions{Baud: 9600}))(t)
	c := openPort(t, p.Path)
	for range 3 {
		send(t, c, ser(1, "03 0000 0002"))
		expect(t, c, ser(1, "03 04 00010002"))
	}
}
