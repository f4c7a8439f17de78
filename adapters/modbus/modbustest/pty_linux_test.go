package modbustest

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openPort opens a line as a master does, without waiting in the system.
func openPort(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestPTYInBothModes(t *testing.T) {
	s := plant(t)
	// Bytes that a terminal would treat: interrupt, end of file, XON, XOFF, CR, LF.
	s.Unit(1).SetHolding(0, 0x0304, 0x1113, 0x0d0a, 0x7f1a)
	for mode, f := range map[string]framing{RTU: rtu{}, ASCII: &ascii{}} {
		for _, baud := range []int{0, 9600} {
			c := openPort(t, want(s.ListenPTY(PTYOptions{Mode: mode, Baud: baud}))(t).Path)
			for range 3 {
				send(t, c, f.wrap(nil, frame{unit: 1, pdu: reads(0, 4)}))
				expect(t, c, f.wrap(nil, frame{unit: 1, pdu: unhex("03 08 0304 1113 0d0a 7f1a")}))
			}
			_ = c.Close() // a master may leave and come back
			again := openPort(t, c.Name())
			send(t, again, f.wrap(nil, frame{unit: 1, pdu: reads(0, 1)}))
			expect(t, again, f.wrap(nil, frame{unit: 1, pdu: unhex("03 02 0304")}))
		}
	}
	if _, err := s.ListenPTY(PTYOptions{Mode: "morse"}); err == nil {
		t.Error("a mode that is none")
	}
}

// The line is never faster than one of its speed, however late this process is
// woken. That it is not slower either shows BenchmarkPollPTY and, in the time of
// a bubble, TestCableKeepsTheTimeOfItsSpeed.
func TestPTYIsNotFasterThanItsSpeed(t *testing.T) {
	for _, baud := range []int{9600, 115200} {
		s := plant(t)
		s.Unit(1)
		c := openPort(t, want(s.ListenPTY(PTYOptions{Baud: baud}))(t).Path)
		const polls = 4
		request, answer := rtu{}.wrap(nil, frame{unit: 1, pdu: reads(0, 20)}), ser(1, "03 28 "+zeros(20))
		begin := time.Now()
		for range polls {
			send(t, c, request)
			expect(t, c, answer)
		}
		if took, theory := time.Since(begin), polls*onLine(baud, len(request)+len(answer)); took < theory {
			t.Errorf("%d baud: %d polls took %s, a line needs %s", baud, polls, took, theory)
		}
	}
}

func TestPTYPullAndPlug(t *testing.T) {
	s := plant(t)
	s.Unit(1).SetHolding(0, 5)
	p := want(s.ListenPTY(PTYOptions{Baud: 9600}))(t)
	for i := range 3 {
		c := openPort(t, p.Path)
		send(t, c, ser(1, "03 0000 0001"))
		expect(t, c, ser(1, "03 02 0005"))
		switch i {
		case 0:
			p.Pull()
		case 1:
			s.Cut()
		case 2: // by a fault, in the middle of an answer
			s.Unit(1).FaultOnce(Fault{CutAfter: 2})
			send(t, c, ser(1, "03 0000 0001"))
		}
		_ = c.SetReadDeadline(time.Now().Add(limit))
		if b, err := io.ReadAll(c); len(b) > 2 || os.IsTimeout(err) { // what was not read is lost
			t.Fatalf("the port has not hung up: % x, %v", b, err)
		}
		if _, err := os.Lstat(p.Path); !os.IsNotExist(err) {
			t.Fatalf("the path is still there: %v", err)
		}
		if err := s.Restore(); err != nil || p.Plug() != nil {
			t.Fatal(err)
		}
	}
	c := openPort(t, p.Path)
	send(t, c, ser(1, "03 0000 0001"))
	expect(t, c, ser(1, "03 02 0005"))
	s.Close()
	if _, err := os.Lstat(filepath.Dir(p.Path)); !os.IsNotExist(err) {
		t.Errorf("left %s: %v", p.Path, err)
	}
}

func TestPTYUnderANameOfOnesOwn(t *testing.T) {
	s := plant(t)
	path := filepath.Join(t.TempDir(), "port")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ListenPTY(PTYOptions{Link: path}); err == nil {
		t.Fatal("a file of somebody else was replaced")
	}
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Error("a file of somebody else is gone")
	}
	_ = os.Remove(path)
	if err := os.Symlink("/nowhere", path); err != nil { // of a process that was killed
		t.Fatal(err)
	}
	if p := want(s.ListenPTY(PTYOptions{Link: path}))(t); p.Path != path {
		t.Errorf("at %s", p.Path)
	}
	openPort(t, path)
}

func TestPTYEcho(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	for _, baud := range []int{0, 19200} {
		c := openPort(t, want(s.ListenPTY(PTYOptions{Echo: true, Baud: baud}))(t).Path)
		send(t, c, ser(1, "03 0000 0001"))
		expect(t, c, append(ser(1, "03 0000 0001"), ser(1, "03 02 0000")...))
		send(t, c, ser(9, "03 0000 0001")) // also when nobody is there
		expect(t, c, ser(9, "03 0000 0001"))
	}
}

// Nobody reads: the bytes are lost, the line goes on.
func TestPTYWithoutAReader(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	c := openPort(t, want(s.ListenPTY(PTYOptions{}))(t).Path)
	_ = c.SetWriteDeadline(time.Now().Add(limit))
	for range 300 { // the system holds some 64 KiB of the 75
		send(t, c, rtu{}.wrap(nil, frame{unit: 1, pdu: reads(0, 125)}))
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); s.Counters().Requests < 300; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("the line stands still after %+v", s.Counters())
		}
	}
}

// BenchmarkPollPTY is a poll of 125 registers at 115,200 baud, by a master that
// asks again at once. "line" is its share of what such a line carries without
// any silence between answer and request.
func BenchmarkPollPTY(b *testing.B) {
	const baud = 115200
	s := plant(b)
	s.Unit(1)
	c := openPort(b, want(s.ListenPTY(PTYOptions{Baud: baud}))(b).Path)
	request := rtu{}.wrap(nil, frame{unit: 1, pdu: reads(0, 125)})
	answer := make([]byte, 5+250)
	begin := time.Now()
	n := 0
	for b.Loop() {
		n++
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			b.Fatal(err)
		}
	}
	theory := time.Duration(n) * onLine(baud, len(request)+len(answer))
	b.ReportMetric(100*theory.Seconds()/time.Since(begin).Seconds(), "line-%")
}
