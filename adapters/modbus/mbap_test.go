package modbus

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

const brief = 60 * time.Millisecond // a time-out that is met

// wrong is an answer that goes wrong.
type wrong struct {
	name  string
	fault modbustest.Fault
	want  string // in the error; "" = the answer
	step  bool   // the line stays in step: the requests after it are answered
}

// wrongs are all the ways in which an answer goes wrong.
func wrongs() []wrong {
	return []wrong{
		{"good", modbustest.Fault{}, "", true},
		{"dribble", modbustest.Fault{Dribble: time.Millisecond}, "", true},
		{"twice", modbustest.Fault{Twice: true}, "", true},
		{"dead", modbustest.Fault{Dead: true}, "no answer within", true},
		{"late", modbustest.Fault{Late: 2 * brief}, "no answer within", true},
		{"wrong id", modbustest.Fault{WrongID: true}, "a frame with transaction", true},
		{"wrong unit", modbustest.Fault{WrongUnit: true}, "unit 2 answered to a request to unit 1 (set unit: 2", true},
		{"wrong function", modbustest.Fault{WrongFunction: true}, "function 4 answered to function 3", true},
		{"stale", modbustest.Fault{Stale: true}, "a frame with transaction", true},
		{"half a header", modbustest.Fault{StopAfter: 5}, "5 bytes of the header of an answer", false},
		{"half an answer", modbustest.Fault{StopAfter: 9}, "9 of 29 bytes of an answer", false},
		{"exception", modbustest.Fault{Exception: 2}, "illegal data address", true},
		{"exception in pieces", modbustest.Fault{Exception: 2, Dribble: 2 * time.Millisecond}, "illegal data address", true},
		{"wrong protocol", modbustest.Fault{WrongProtocol: true}, "a header with protocol 1, not 0: the line is out of step", false},
		{"noise", modbustest.Fault{Noise: []byte{1, 2, 3, 4, 5, 6}}, "out of step", false},
		{"short", modbustest.Fault{Short: 1}, "has 18 bytes of data, not 20", false},
		{"long", modbustest.Fault{Long: 1}, "has 22 bytes of data, not 20", false},
		{"wrong count", modbustest.Fault{WrongCount: true}, "bytes of data, not 20", false},
		{"echo", modbustest.Fault{Echo: true}, "", true},
		{"cut", modbustest.Fault{Cut: true}, "closed by the device", false},
		{"cut in the header", modbustest.Fault{CutAfter: 4}, "after 4 bytes of the header of an answer", false},
		{"cut in the answer", modbustest.Fault{CutAfter: 12}, "after 12 of 29 bytes of an answer", false},
	}
}

// TestFaults lets one answer go wrong in every way, and asks on.
func TestFaults(t *testing.T) {
	for _, tt := range wrongs() {
		t.Run(tt.name, func(t *testing.T) { tt.try(t, 1) })
		t.Run(tt.name+" pipelined", func(t *testing.T) { tt.try(t, 4) })
	}
}

func (w *wrong) try(t *testing.T, pipeline int) {
	s := tellingPlant(t, 1)
	l := tcpLine(t, s, pipeline)
	at := uint16(0)
	ask := func(timeout time.Duration) error {
		at += 10
		q := &request{unit: 1, function: readHolding, address: at, count: 10, timeout: timeout}
		data, err := l.Ask(t.Context(), q)
		if err == nil {
			truth(t, q, data)
		}
		return err
	}
	if err := ask(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	s.FaultOnce(w.fault)
	limit := 5 * time.Second
	if strings.Contains(w.want, "transaction") || strings.Contains(w.want, "answer") && !strings.Contains(w.want, "after") {
		limit = brief
	}
	err := ask(limit)
	if w.want == "" && err != nil {
		t.Fatal(err)
	}
	if heard := pipeline == 1 || !isSilence(err); w.want != "" && (err == nil || heard && !strings.Contains(err.Error(), w.want)) {
		t.Fatalf("got %v, want %q", err, w.want)
	}
	if limit = 5 * time.Second; !w.step {
		limit = brief
	}
	for range 3 {
		if err := ask(limit); err != nil && w.step {
			t.Fatalf("afterwards: %v", err)
		} else if err != nil {
			return // a new connection would be made now
		}
	}
}

// TestLateAnswers has every second answer come when the next request is under
// way; they are counted, and the connection is the first.
func TestLateAnswers(t *testing.T) {
	for _, pipeline := range []int{1, 4} {
		lateAnswers(t, pipeline)
	}
}

func lateAnswers(t *testing.T, pipeline int) {
	s := tellingPlant(t, 1, 2)
	l := tcpLine(t, s, pipeline)
	n := 0
	s.FaultFunc(func(modbustest.Request) modbustest.Fault {
		if n++; n%2 == 1 {
			return modbustest.Fault{Late: brief + 20*time.Millisecond}
		}
		return modbustest.Fault{Delay: 40 * time.Millisecond} // the late one comes before
	})
	silent := 0
	for i := range 20 {
		q := &request{unit: byte(1 + i%4/2), function: readInput, address: uint16(10 * i), count: 10, timeout: brief}
		if i%2 == 1 {
			q.timeout = 5 * time.Second
		}
		data, err := l.Ask(t.Context(), q)
		switch {
		case err == nil:
			truth(t, q, data)
		case isSilence(err):
			silent++
		default:
			t.Fatal(err)
		}
	}
	if late, foreign := counted(l); silent != 10 || late < 9 || foreign != 0 {
		t.Errorf("%d silent, %d late, %d foreign", silent, late, foreign)
	}
	if c := s.Counters(); c.Connections != 1 {
		t.Errorf("%d connections", c.Connections)
	}
}

// TestDeviceUnits: 0 and 255 both mean the device itself, other units do not.
func TestDeviceUnits(t *testing.T) {
	for _, tt := range []struct {
		asked, answers byte
		good           bool
	}{{0, 0, true}, {0, 255, true}, {255, 0, true}, {1, 0, false}, {1, 255, false}, {255, 1, false}} {
		l := openLine(t, rawDevice(t, func(c net.Conn) {
			for q, ok := request12(c); ok; q, ok = request12(c) {
				_, _ = c.Write(adu(binary.BigEndian.Uint16(q[:]), tt.answers, 3, 2, 0, 7))
			}
		}), 1)
		data, err := l.Ask(t.Context(), &request{unit: tt.asked, function: readHolding, count: 1, timeout: map[bool]time.Duration{true: 5 * time.Second, false: brief}[tt.good]})
		if tt.good && (err != nil || string(data) != "\x00\x07") || !tt.good && (!isSilence(err) || !strings.Contains(err.Error(), "set unit: ")) {
			t.Errorf("%+v: %v %v", tt, data, err)
		}
		_ = l.Close()
	}
}

// TestOwnRequest is an echo that would pass for the answer: its byte count is
// that of the coils asked for.
func TestOwnRequest(t *testing.T) {
	l := openLine(t, rawDevice(t, func(c net.Conn) { _, _ = io.Copy(c, c) }), 1)
	_, err := l.Ask(t.Context(), &request{unit: 1, function: readCoils, address: 0x0305, count: 20, timeout: brief})
	if !isSilence(err) || !strings.Contains(err.Error(), "our own request came back") {
		t.Error(err)
	}
}

// TestFlood sends frames nobody asked for without end.
func TestFlood(t *testing.T) {
	for _, pipeline := range []int{1, 4} {
		l := openLine(t, rawDevice(t, func(c net.Conn) {
			q, _ := request12(c)
			for {
				if _, err := c.Write(adu(binary.BigEndian.Uint16(q[:])+9, 1, 3, 2, 0, 7)); err != nil {
					return
				}
			}
		}), pipeline)
		_, err := l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 1, timeout: 20 * time.Second})
		if err == nil || isSilence(err) || !strings.Contains(err.Error(), "32 frames that nobody asked for") {
			t.Errorf("pipeline %d: %v", pipeline, err)
		}
		_ = l.Close()
	}
}

// TestClear takes in what came while nothing was asked: foreign frames are
// dropped, and a connection that was closed takes no request.
func TestClear(t *testing.T) {
	sent, closed, seen := make(chan struct{}), make(chan struct{}), make(chan bool, 1)
	l := openLine(t, rawDevice(t, func(c net.Conn) {
		q, _ := request12(c)
		id := binary.BigEndian.Uint16(q[:])
		_, _ = c.Write(adu(id, 1, 3, 2, 0, 1))
		_, _ = c.Write(adu(id+1, 1, 3, 2, 0, 99)) // to the next request, before it is made
		close(sent)
		q, _ = request12(c)
		_, _ = c.Write(adu(binary.BigEndian.Uint16(q[:]), 1, 3, 2, 0, 2))
		_ = c.(*net.TCPConn).CloseWrite()
		close(closed)
		_, ok := request12(c)
		seen <- ok
	}), 1)
	ask := func() ([]byte, error) {
		return l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 1, timeout: 5 * time.Second})
	}
	if data, err := ask(); err != nil || string(data) != "\x00\x01" {
		t.Fatal(data, err)
	}
	<-sent
	waitReceived(t, l, 11)
	if data, err := ask(); err != nil || string(data) != "\x00\x02" {
		t.Fatal(data, err)
	}
	if _, foreign := counted(l); foreign != 1 {
		t.Errorf("%d foreign", foreign)
	}
	<-closed
	_, err := ask()
	for i := 0; err == nil && i < 1; i++ {
		_, err = ask()
	}
	if !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "closed by the device") || strings.Contains(err.Error(), "one master") {
		t.Error(err)
	}
	_ = l.Close()
	if <-seen {
		t.Error("a request was written to a connection that was closed")
	}
}

// waitReceived waits until n bytes are there that the line has not taken.
func waitReceived(t *testing.T, l line, n int) {
	t.Helper()
	s, in := l.(*mbap).conn.(*socket), l.(*mbap).in.(*stream)
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	err := s.raw.Read(func(fd uintptr) bool { return in.b-in.a+pending(fd) >= n })
	if err != nil {
		t.Fatal(err)
	}
}

// TestBeforeAnyAnswer is a device that serves one master at a time.
func TestBeforeAnyAnswer(t *testing.T) {
	l := openLine(t, rawDevice(t, func(c net.Conn) {}), 1)
	_, err := l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 1, timeout: 5 * time.Second})
	if err == nil || !strings.Contains(err.Error(), "one master at a time") || !strings.Contains(err.Error(), "tcp 127.0.0.1:") {
		t.Error(err)
	}
}

// TestContext ends an exchange at once, and the line goes on.
func TestContext(t *testing.T) {
	for _, pipeline := range []int{1, 4} {
		s := tellingPlant(t, 1)
		l := tcpLine(t, s, pipeline)
		ctx, cancel := withCause(t)
		s.FaultFunc(func(modbustest.Request) modbustest.Fault { cancel(); return modbustest.Fault{Dead: true} })
		began := time.Now()
		_, err := l.Ask(ctx, &request{unit: 1, function: readHolding, count: 1, timeout: time.Hour})
		if !errors.Is(err, errStop) || time.Since(began) > 10*time.Second {
			t.Fatal(err)
		}
		if _, err = l.Ask(ctx, &request{unit: 1, function: readHolding, count: 1, timeout: time.Hour}); !errors.Is(err, errStop) {
			t.Fatal(err)
		}
		s.FaultFunc(nil)
		q := &request{unit: 1, function: readHolding, address: 77, count: 1, timeout: 5 * time.Second}
		data, err := l.Ask(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		truth(t, q, data)
	}
}

// TestWriteDeadline is a far side whose network takes nothing.
func TestWriteDeadline(t *testing.T) {
	for _, pipeline := range []int{1, 4} {
		near, far := net.Pipe() // takes no byte that is not read
		var l line = newMBAP("pipe", near, &stream{from: near})
		if pipeline > 1 {
			l = newPipeline(l.(*mbap), pipeline)
		}
		_, err := l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 1, timeout: brief})
		if err == nil || isSilence(err) || !strings.Contains(err.Error(), "pipe: send: ") {
			t.Error(err)
		}
		_, _ = l.Close(), far.Close()
	}
}

// TestGivenUp: identifiers without an answer are remembered, but not for ever,
// and are not used while they are.
func TestGivenUp(t *testing.T) {
	ids := newTransactions()
	first := ids.next(nil)
	ids.giveUp(awaited{id: first})
	for range 70000 {
		if ids.next(nil) == first {
			t.Fatal("an identifier that was given up came again")
		}
	}
	if !ids.late(first) || ids.late(first) {
		t.Error("it is not late once")
	}
	for i := range uint16(3 * mostGivenUp) {
		ids.giveUp(awaited{id: i})
	}
	if len(ids.given) != mostGivenUp || ids.late(0) || !ids.late(3*mostGivenUp-1) {
		t.Errorf("%d are remembered", len(ids.given))
	}
	if ids.last = 6; ids.next(func(id uint16) bool { return id < 100 }) != 100 {
		t.Error("an identifier that is taken was given out")
	}
}

// TestSpliced ends an answer in the middle, at every place, and goes on with the
// late answer to the request before, or the one to another that waits.
func TestSpliced(t *testing.T) {
	answer := func(id uint16, v byte) []byte { return adu(id, 1, 3, 6, v, v, v, v, v, v) }
	q := func() *request {
		return &request{unit: 1, function: readHolding, count: 3, timeout: 300 * time.Millisecond}
	}
	for cut := 9; cut < 15; cut++ {
		l := openLine(t, rawDevice(t, func(c net.Conn) {
			a, _ := request12(c)
			b, _ := request12(c)
			_, _ = c.Write(append(answer(binary.BigEndian.Uint16(b[:]), 7)[:cut], answer(binary.BigEndian.Uint16(a[:]), 8)...))
			_, _ = request12(c)
		}), 1)
		first := q()
		first.timeout = brief
		if _, err := l.Ask(t.Context(), first); !isSilence(err) {
			t.Fatal(err)
		}
		if data, err := l.Ask(t.Context(), q()); err == nil || !strings.Contains(err.Error(), "an answer with another in it") {
			t.Errorf("cut after %d: %v %v", cut, data, err)
		}
		_ = l.Close()

		l = openLine(t, rawDevice(t, func(c net.Conn) {
			a, _ := request12(c)
			b, _ := request12(c)
			_, _ = c.Write(append(answer(binary.BigEndian.Uint16(b[:]), 7)[:cut], answer(binary.BigEndian.Uint16(a[:]), 8)...))
			_, _ = request12(c)
		}), 2)
		errs := make(chan error)
		for range 2 {
			go func() {
				_, err := l.Ask(t.Context(), q())
				errs <- err
			}()
		}
		for range 2 {
			if err := <-errs; err == nil {
				t.Errorf("cut after %d: an answer was taken", cut)
			}
		}
		_ = l.Close()
	}
}
