package modbustest

import (
	"crypto/tls"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestEveryLineOverTheNetwork(t *testing.T) {
	s := plant(t)
	s.Unit(7).SetHolding(100, 0x1234, 0xabcd)
	server, client := certificates(t)
	for name, c := range map[string]struct {
		listen  func() (string, error)
		network string
		framing framing
	}{
		"tcp":       {s.ListenTCP, "tcp", mbap{}},
		"tls":       {func() (string, error) { return s.ListenTLS(server) }, "tls", mbap{}},
		"udp":       {s.ListenUDP, "udp", mbap{}},
		"rtu+tcp":   {s.ListenRTUOverTCP, "tcp", rtu{}},
		"ascii+tcp": {s.ListenASCIIOverTCP, "tcp", &ascii{}},
		"rtu+udp":   {s.ListenRTUOverUDP, "udp", rtu{}},
	} {
		addr := want(c.listen())(t)
		if host, _, _ := net.SplitHostPort(addr); !net.ParseIP(host).IsLoopback() {
			t.Errorf("%s listens at %s", name, addr)
		}
		var conn net.Conn
		var err error
		if c.network == "tls" {
			conn, err = tls.Dial("tcp", addr, client)
		} else {
			conn, err = net.Dial(c.network, addr)
		}
		if err != nil {
			t.Fatal(name, err)
		}
		for i := range 3 { // of a datagram line this is another datagram each
			send(t, conn, c.framing.wrap(nil, frame{7, uint16(i), reads(100, 2)}))
			expect(t, conn, c.framing.wrap(nil, frame{7, uint16(i), unhex("03 04 1234abcd")}))
		}
		_ = conn.Close()
	}
	if n := s.Counters(); n.Requests != 18 || n.Answers != 18 || n.Connections != 4 || n.Broken+n.Exceptions+n.Unknown != 0 {
		t.Errorf("counted %+v", n)
	}
}

func TestListenAt(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	frames := map[string]framing{"tcp": mbap{}, "udp": mbap{}, "rtu+tcp": rtu{}, "ascii+tcp": &ascii{}, "rtu+udp": rtu{}}
	for _, scheme := range Schemes() {
		network := "tcp"
		if strings.HasSuffix(scheme, "udp") {
			network = "udp"
		}
		c := want(net.Dial(network, want(s.ListenAt(scheme, "127.0.0.1:0"))(t)))(t)
		send(t, c, frames[scheme].wrap(nil, frame{1, 3, reads(0, 1)}))
		expect(t, c, frames[scheme].wrap(nil, frame{1, 3, unhex("03 02 0000")}))
		_ = c.Close()
	}
	if _, err := s.ListenAt("ipx", "127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), `"ipx"`) {
		t.Errorf("ipx: %v", err)
	}
}

func TestRequestsAreLogged(t *testing.T) {
	s := plant(t)
	u := s.Unit(7)
	u.Log(3)
	c := dial(t, want(s.ListenTCP())(t))
	for i := range 5 {
		send(t, c, mbap{}.wrap(nil, frame{7, uint16(i), reads(i, 2)}))
		expect(t, c, mbap{}.wrap(nil, frame{7, uint16(i), unhex("03 04 00000000")}))
	}
	s.Unit(8)
	ask(t, c, 8, "17 0001 0002 0003 0001 02 0009", "17 04 0000 0000")
	q := s.Requests()
	if len(q) != 4 || u.Polls() != 5 {
		t.Fatalf("remembers %+v, polls %d", q, u.Polls())
	}
	for i, r := range q[:3] {
		if r.N != int64(i+3) || r.Address != i+2 || r.Count != 2 || r.Function != 3 || r.Unit != 7 || r.ID != uint16(i+2) || r.At.IsZero() {
			t.Errorf("request %d: %+v", i, r)
		}
	}
	if r := q[3]; r.WriteAddress != 3 || r.WriteCount != 1 || r.Count != 2 || r.Address != 1 {
		t.Errorf("function 23: %+v", r)
	}
}

func TestSeveralRequestsInOneSegment(t *testing.T) {
	s := plant(t)
	s.Unit(1).SetHolding(0, 1, 2)
	c := dial(t, want(s.ListenTCP())(t))
	send(t, c, append(tcp(1, "03 0000 0001"), tcp(1, "03 0001 0001")...))
	expect(t, c, append(tcp(1, "03 02 0001"), tcp(1, "03 02 0002")...))
}

func TestARequestInPieces(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	c := dial(t, want(s.ListenTCP())(t))
	b := tcp(1, "03 0000 0001")
	for i := range b[:3] {
		send(t, c, b[i:i+1])
		silent(t, c)
	}
	send(t, c, b[3:])
	expect(t, c, tcp(1, "03 02 0000"))
}

func TestUnitsThatAreNotThere(t *testing.T) {
	s := plant(t)
	s.Unit(2)
	s.Unit(3).Fault(Fault{Dead: true})
	s.Remove(2)
	c := dial(t, want(s.ListenTCP())(t))
	send(t, c, tcp(2, "03 0000 0001"))
	send(t, c, tcp(3, "03 0000 0001"))
	silent(t, c)
	s.Gateway(20 * time.Millisecond)
	begin := time.Now()
	ask(t, c, 2, "03 0000 0001", "83 0b")
	ask(t, c, 3, "04 0000 0001", "84 0b")
	if d := time.Since(begin); d < 40*time.Millisecond {
		t.Errorf("the gateway gave up both after %s", d)
	}
	if n := s.Counters(); n.Unknown != 2 || n.Exceptions != 2 {
		t.Errorf("counted %+v", n)
	}
	serial := dial(t, want(s.ListenRTUOverTCP())(t)) // there a gateway says nothing
	send(t, serial, ser(3, "03 0000 0001"))
	silent(t, serial)
	s.Gateway(-1)
	send(t, c, tcp(2, "03 0000 0001"))
	silent(t, c)
}

func TestBroadcastIsDoneByAllAndNotAnswered(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	s.Unit(2)
	s.Unit(0)
	c := dial(t, want(s.ListenRTUOverTCP())(t))
	send(t, c, ser(0, "06 0005 0009"))
	silent(t, c)
	if s.Unit(0).Polls() != 0 {
		t.Error("unit 0 is none on a serial line")
	}
	if s.Unit(1).Holding(5) != 9 || s.Unit(2).Holding(5) != 9 {
		t.Error("not all units have done it")
	}
}

// gone waits until the server knows of n connections.
func gone(t *testing.T, s *Server, n int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); s.Conns() != n; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%d connections, want %d", s.Conns(), n)
		}
	}
}

func closed(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(limit))
	var b [1]byte
	if n, err := c.Read(b[:]); n > 0 || err == nil || os.IsTimeout(err) {
		t.Fatalf("not closed: %d bytes, %v", n, err)
	}
}

func TestCutAndRestore(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	addr := want(s.ListenTCP())(t)
	for range 3 {
		c := dial(t, addr)
		ask(t, c, 1, "03 0000 0001", "03 02 0000")
		gone(t, s, 1)
		s.Cut()
		closed(t, c)
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			t.Fatal("a cut server takes connections")
		}
		gone(t, s, 0)
		closed(t, s.Pipe(MBAP))
		if err := s.Restore(); err != nil {
			t.Fatal(err)
		}
	}
	c := dial(t, addr)
	ask(t, c, 1, "03 0000 0001", "03 02 0000")
	s.Hang()
	closed(t, c)
	ask(t, dial(t, addr), 1, "03 0000 0001", "03 02 0000")
	s.Close()
	if err := s.Restore(); err == nil {
		t.Error("a closed server was restored")
	}
	if _, err := s.ListenTCP(); err == nil {
		t.Error("a closed server listens")
	}
}

func TestMaxConns(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	s.MaxConns(1)
	addr := want(s.ListenTCP())(t)
	first := dial(t, addr)
	ask(t, first, 1, "03 0000 0001", "03 02 0000")
	closed(t, dial(t, addr))
	_ = first.Close()
	gone(t, s, 0)
	ask(t, dial(t, addr), 1, "03 0000 0001", "03 02 0000")
}

func TestBrokenMBAPEndsTheConnection(t *testing.T) {
	s := plant(t)
	c := dial(t, want(s.ListenTCP())(t))
	send(t, c, unhex("0001 0001 0006 11 03 006B 0003"))
	closed(t, c)
	if n := s.Counters().Broken; n != 1 {
		t.Errorf("%d broken", n)
	}
}

// The time of a bubble is exact.
func TestPipeInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := plant(t)
		s.Unit(1).Fault(Fault{Delay: time.Hour})
		for mode, f := range map[string]framing{MBAP: mbap{}, RTU: rtu{}, ASCII: &ascii{}} {
			c := s.Pipe(mode)
			begin := time.Now()
			_ = c.SetReadDeadline(begin.Add(2 * time.Hour))
			send(t, c, f.wrap(nil, frame{1, 5, unhex("03 0000 0001")}))
			want := f.wrap(nil, frame{1, 5, unhex("03 02 0000")})
			got := make([]byte, len(want))
			if n, err := c.Read(got); n != len(want) || string(got) != string(want) {
				t.Fatalf("%s: % x, %v", mode, got[:n], err)
			}
			if d := time.Since(begin); d != time.Hour {
				t.Errorf("%s: took %s", mode, d)
			}
			_ = c.Close()
		}
	})
}

// Close comes back when nothing of the server runs any more.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		hold, ended := make(chan struct{}), make(chan struct{})
		s.Unit(1).Compute(func(string, int) (uint16, bool) { <-hold; return 0, false })
		send(t, s.Pipe(MBAP), tcp(1, "03 0000 0001"))
		synctest.Wait()
		go func() {
			s.Close()
			close(ended)
		}()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("closed while a request was served")
		default:
		}
		close(hold)
		<-ended
	})
}

// A socket does not remember more masters than it must.
func TestMastersOfASocketAreBounded(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	addr := want(s.ListenUDP())(t)
	for range maxPeers + 10 {
		c := want(net.Dial("udp", addr))(t)
		send(t, c, tcp(1, "03 0000 0001"))
		expect(t, c, tcp(1, "03 02 0000"))
		_ = c.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.links) > maxPeers {
		t.Errorf("remembers %d", len(s.links))
	}
}

func TestADatagramIsOneRequest(t *testing.T) {
	s := plant(t)
	s.Unit(1)
	c := want(net.Dial("udp", want(s.ListenUDP())(t)))(t)
	defer c.Close()
	send(t, c, append(tcp(1, "03 0000 0001"), 0))
	silent(t, c)
	if n := s.Counters().Broken; n != 1 {
		t.Errorf("%d broken", n)
	}
}

func TestACableHoldsOnlySoMuch(t *testing.T) {
	a, b := newCable()
	for range 3 {
		if n, err := a.Write(make([]byte, maxHeld-1)); n != maxHeld-1 || err != nil {
			t.Fatal(n, err)
		}
	}
	got := make([]byte, 2*maxHeld)
	if n, err := b.Read(got); n != maxHeld || err != nil {
		t.Errorf("held %d, %v", n, err)
	}
	_ = b.Close()
	if _, err := a.Write(got); err == nil {
		t.Error("wrote to nobody")
	}
}
