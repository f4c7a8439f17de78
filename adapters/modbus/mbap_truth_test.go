package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// anyFault picks one of everything that can go wrong.
func anyFault(r *rand.Rand) modbustest.Fault {
	ms := func(n int) time.Duration { return time.Duration(1+r.IntN(n)) * time.Millisecond }
	switch r.IntN(20) {
	case 0:
		return modbustest.Fault{Dead: true}
	case 1, 2:
		return modbustest.Fault{Late: ms(60)}
	case 3:
		return modbustest.Fault{Delay: ms(40)}
	case 4:
		return modbustest.Fault{Dribble: ms(2)}
	case 5, 6:
		return modbustest.Fault{Garble: 1 + r.IntN(12)}
	case 7:
		return modbustest.Fault{WrongUnit: true}
	case 8:
		return modbustest.Fault{WrongID: true}
	case 9:
		return modbustest.Fault{WrongFunction: true}
	case 10:
		return modbustest.Fault{Short: 1 + r.IntN(3)}
	case 11:
		return modbustest.Fault{Long: 1 + r.IntN(3)}
	case 12:
		return modbustest.Fault{CutAfter: 1 + r.IntN(20)}
	case 13:
		return modbustest.Fault{StopAfter: 1 + r.IntN(20)}
	case 14:
		return modbustest.Fault{Stale: true, Twice: r.IntN(2) == 0}
	case 15:
		return modbustest.Fault{Twice: true, Echo: true}
	case 16:
		return modbustest.Fault{Exception: byte(1 + r.IntN(11)), Dribble: ms(2)}
	}
	return modbustest.Fault{}
}

// TestTruth makes requests while anything goes wrong: whatever is returned is
// the answer to its own request.
func TestTruth(t *testing.T) {
	for _, tt := range []struct {
		scheme   string
		askers   int
		requests int
	}{{"tcp", 1, 500}, {"tcp", 4, 250}, {"udp", 1, 300}} {
		t.Run(fmt.Sprintf("%s %d", tt.scheme, tt.askers), func(t *testing.T) {
			t.Parallel()
			s := tellingPlant(t, 1, 2, 3)
			addr, err := map[string]func() (string, error){"tcp": s.ListenTCP, "udp": s.ListenUDP}[tt.scheme]()
			if err != nil {
				t.Fatal(err)
			}
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			faults := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex // guards faults
			s.FaultFunc(func(modbustest.Request) modbustest.Fault {
				mu.Lock()
				defer mu.Unlock()
				if faults.IntN(3) > 0 {
					return modbustest.Fault{}
				}
				if f := anyFault(faults); f.StopAfter == 0 || tt.askers == 1 {
					return f
				}
				return modbustest.Fault{} // see TestSpliced
			})
			b := &pollers{t: t, c: &Config{URL: tt.scheme + "://" + addr, Connect: 5 * time.Second, Pipeline: tt.askers}}
			var all sync.WaitGroup
			for i := range tt.askers {
				all.Go(func() { b.poll(rand.New(rand.NewPCG(seed, uint64(i)+2)), tt.requests) })
			}
			all.Wait()
			b.reopen(nil)
			if b.good < tt.requests/3 {
				t.Errorf("only %d good answers", b.good)
			}
		})
	}
}

// pollers ask a line that is opened anew when it is lost.
type pollers struct {
	t *testing.T
	c *Config

	mu   sync.Mutex // guards what follows
	line line
	good int
}

// reopen closes the line that is lost, and nil closes the one there is.
func (b *pollers) reopen(lost line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line != nil && (lost == nil || b.line == lost) {
		_ = b.line.Close()
		b.line = nil
	}
}

func (b *pollers) get() (line, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	if b.line == nil {
		b.line, err = open(context.Background(), b.c, nil)
	}
	return b.line, err
}

func (b *pollers) poll(r *rand.Rand, n int) {
	for range n {
		l, err := b.get()
		if err != nil {
			b.t.Error(err)
			return
		}
		q := &request{unit: byte(1 + r.IntN(3)), function: byte(1 + r.IntN(4)), address: uint16(r.IntN(60000)), count: uint16(1 + r.IntN(125)), timeout: 30 * time.Millisecond}
		data, err := l.Ask(b.t.Context(), q)
		switch {
		case err == nil:
			if err := judge(q, data); err != nil {
				b.t.Error(err)
				return
			}
			b.mu.Lock()
			b.good++
			b.mu.Unlock()
		case exception(err) == 0 && !isSilence(err):
			b.reopen(l)
		}
	}
}

// scripted is a connection that gives out bytes in pieces and takes everything.
type scripted struct {
	net.Conn
	give  []byte
	piece int
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.give) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.piece)], s.give)
	s.give = s.give[n:]
	return n, nil
}
func (s *scripted) Write(p []byte) (int, error)     { return len(p), nil }
func (s *scripted) SetDeadline(time.Time) error     { return nil }
func (s *scripted) SetReadDeadline(time.Time) error { return nil }
func (s *scripted) Close() error                    { return nil }

// FuzzStream: frames are what the stream holds, piece by piece, and each is whole.
func FuzzStream(f *testing.F) {
	f.Add(append(adu(1, 1, 3, 2, 0, 7), adu(2, 1, 0x83, 2)...), 1)
	f.Add([]byte{0, 1, 0, 0, 0, 255, 1}, 3)
	f.Add([]byte{0, 1, 0, 0, 0, 1, 1}, 7)
	f.Fuzz(func(t *testing.T, give []byte, piece int) {
		s := &stream{from: &scripted{give: give, piece: 1 + positive(piece)%600}}
		rest := give
		for {
			frame, err := s.next()
			if err != nil {
				break
			}
			if !bytes.HasPrefix(rest, frame) || wellFormed(frame) != nil || len(frame) > mbapMost {
				t.Fatalf("% x from % x", frame, rest)
			}
			rest = rest[len(frame):]
		}
		_ = s.partial()
		if len(rest) >= 4 && rest[2] == 0 && rest[3] == 0 && len(rest) >= 6 {
			n := int(binary.BigEndian.Uint16(rest[4:]))
			if n >= 2 && n <= 254 && len(rest) >= n+6 {
				t.Fatalf("a whole frame was left: % x", rest)
			}
		}
	})
}

// FuzzAsk: an answer that is accepted is in the stream, with everything that
// makes it the answer.
func FuzzAsk(f *testing.F) {
	f.Add(adu(0x0102, 1, 3, 2, 0, 7), 2)
	f.Add(append(adu(0x0101, 1, 3, 2, 0, 9), adu(0x0102, 1, 3, 2, 0, 7)...), 5)
	f.Add(adu(0x0102, 1, 0x83, 11), 1)
	f.Add(adu(0x0102, 255, 3, 2, 0, 7), 1)
	f.Fuzz(func(t *testing.T, give []byte, piece int) {
		c := &scripted{give: give, piece: 1 + positive(piece)%600}
		l := newMBAP("fuzz", c, &stream{from: c})
		l.ids.last = 0x0101
		data, err := l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 1, timeout: time.Second})
		switch {
		case err == nil && (len(data) != 2 || !bytes.Contains(give, adu(0x0102, 1, 3, 2, data[0], data[1]))):
			t.Fatalf("% x from % x", data, give)
		case exception(err) != 0 && !bytes.Contains(give, adu(0x0102, 1, 0x83, exception(err))):
			t.Fatalf("%v from % x", err, give)
		}
	})
}

func positive(n int) int { return max(n, -(n + 1)) }

// BenchmarkAsk is one exchange of 125 registers; its allocations are those of
// goburrow's packager and of the request.
func BenchmarkAsk(b *testing.B) {
	for _, pipeline := range []int{1, 4} {
		b.Run(fmt.Sprintf("tcp pipeline %d", pipeline), func(b *testing.B) {
			s := modbustest.New()
			defer s.Close()
			s.Unit(1).Log(0)
			l := tcpLine(b, s, pipeline)
			q := &request{unit: 1, function: readHolding, count: 125, timeout: 10 * time.Second}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Ask(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("memory", func(b *testing.B) {
		c := &instant{}
		l := newMBAP("memory", c, &stream{from: c})
		q := &request{unit: 1, function: readHolding, count: 125, timeout: 10 * time.Second}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := l.Ask(b.Context(), q); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// instant answers 125 registers at once, from memory.
type instant struct {
	scripted
	answer [mbapHeader + 2 + 250]byte
}

func (e *instant) Write(p []byte) (int, error) {
	e.answer = [len(e.answer)]byte{p[0], p[1], 0, 0, 0, 253, 1, 3, 250}
	return len(p), nil
}
func (e *instant) Read(p []byte) (int, error) { return copy(p, e.answer[:]), nil }

// TestAllocations: an exchange makes what the request and the packager make.
func TestAllocations(t *testing.T) {
	c := &instant{}
	l := newMBAP("memory", c, &stream{from: c})
	q := &request{unit: 1, function: readHolding, count: 125, timeout: 10 * time.Second}
	theirs := testing.AllocsPerRun(200, func() {
		sent, _ := l.packager.Encode(q.pdu())
		_, _ = l.packager.Decode(append(sent[:5:5], byte(len(sent)-6), 1, 3))
	})
	ours := testing.AllocsPerRun(200, func() {
		if _, err := l.Ask(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	})
	if ours > 4 {
		t.Errorf("%v allocations, of which the packager and the request make %v", ours, theirs)
	}
}
