package modbus

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goburrow/modbus"
)

// fake is a line in a bubble of synctest, with the far side in our hands.
type fake struct {
	testing.TB
	line *serialLine
	far  net.Conn
	all  sync.WaitGroup // what speaks
}

func newFake(t testing.TB, f framing, s Serial) *fake {
	near, far := net.Pipe()
	k := &fake{TB: t, line: newSerialLine("/dev/fake", near, f, &s), far: far}
	t.Cleanup(func() {
		_ = k.line.Close()
		_ = far.Close()
		k.all.Wait()
	})
	return k
}

func even(baud int) Serial { return Serial{Baud: baud, DataBits: 8, Parity: "even"} }

// frame encodes what a unit says.
func frame(f framing, unit, function byte, data ...byte) []byte {
	b, err := f.encode(unit, &modbus.ProtocolDataUnit{FunctionCode: function, Data: data})
	if err != nil {
		panic(err)
	}
	return b
}

// serve calls fn with every request, in a goroutine.
func (k *fake) serve(fn func(adu []byte, n int)) {
	k.all.Go(func() {
		var buf [maxASCII]byte
		for n := 1; ; n++ {
			got, err := k.far.Read(buf[:])
			if err != nil {
				return
			}
			fn(append([]byte{}, buf[:got]...), n)
		}
	})
}

func (k *fake) say(pieces ...[]byte) {
	for _, p := range pieces {
		_, _ = k.far.Write(p)
	}
}

// read asks for holding registers and returns how long it took.
func (k *fake) read(unit byte, address, count uint16, timeout time.Duration) ([]byte, time.Duration, error) {
	begin := time.Now()
	data, err := k.line.Ask(k.Context(), &request{unit: unit, function: readHolding, address: address, count: count, timeout: timeout})
	return data, time.Since(begin), err
}

// mustRead fails unless the first register is want.
func (k *fake) mustRead(unit byte, count, want uint16) {
	k.Helper()
	data, _, err := k.read(unit, 0, count, time.Second)
	if err != nil || len(data) != 2*int(count) || binary.BigEndian.Uint16(data) != want {
		k.Fatalf("read %x, %v; want %#x first", data, err, want)
	}
}

// inBubble runs fn in a bubble for RTU and ASCII.
func inBubble(t *testing.T, s Serial, fn func(k *fake, f framing)) {
	for name, f := range map[string]func() framing{"rtu": newRTUFraming, "ascii": newASCIIFraming} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { fn(newFake(t, f(), s), f()) })
		})
	}
}

// TestPieces: an answer may come byte by byte, an exception too.
func TestPieces(t *testing.T) {
	inBubble(t, even(19200), func(k *fake, f framing) {
		k.serve(func(adu []byte, n int) {
			b := frame(f, 1, readHolding, 2, 0x12, 0x34)
			if n == 2 {
				b = frame(f, 1, readHolding|exceptionBit, 2)
			}
			for i := range b {
				k.say(b[i : i+1])
				time.Sleep(40 * time.Millisecond)
			}
		})
		k.mustRead(1, 1, 0x1234)
		if _, _, err := k.read(1, 0, 1, time.Second); exception(err) != 2 {
			k.Fatalf("an exception in pieces: %v", err)
		}
		k.mustRead(1, 1, 0x1234)
	})
}

// TestTimeout: it counts from the end of the request, and the time that the
// answer takes on the line comes on top, to the microsecond.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFake(t, newRTUFraming(), even(9600))
		answer := frame(newRTUFraming(), 1, readHolding, append([]byte{250}, make([]byte, 250)...)...)
		char := 11 * time.Second / 9600
		k.serve(func(adu []byte, n int) {
			time.Sleep(8 * char)
			if n == 2 {
				return
			}
			time.Sleep(49 * time.Millisecond)
			for i := range answer {
				time.Sleep(char)
				k.say(answer[i : i+1])
			}
		})
		if _, took, err := k.read(1, 0, 125, 50*time.Millisecond); err != nil || took < 300*time.Millisecond {
			t.Fatalf("an answer of 125 registers at 9600 baud: %v after %v", err, took)
		}
		_, took, err := k.read(1, 0, 125, 50*time.Millisecond)
		want := k.line.gap + (8+255)*char + 50*time.Millisecond
		if !isSilence(err) || took.Round(time.Millisecond) != want.Round(time.Millisecond) {
			t.Fatalf("%v after %v, want silence after %v", err, took, want)
		}
		var s *silence
		if errors.As(err, &s); s.heard != nil {
			t.Fatalf("heard %v on a silent line", s.heard)
		}
	})
}

// TestForeign: what is not the answer is dropped, and the answer taken.
func TestForeign(t *testing.T) {
	inBubble(t, even(19200), func(k *fake, f framing) {
		before := [][]byte{
			{0}, {0xFF, 0xFF}, []byte("noise:01"), // a line without bias
			frame(f, 2, readHolding, 2, 9, 9),      // another unit
			frame(f, 1, readInput, 2, 9, 9),        // another function
			frame(f, 1, readInput|exceptionBit, 1), // refused something else
			frame(f, 2, readHolding|exceptionBit, 1),
			frame(f, 7, readHolding, 0, 0, 0, 1), // another master asks
		}
		var asked atomic.Int64
		k.serve(func(adu []byte, n int) {
			asked.Add(1)
			k.say(before[(n-1)%len(before)])
			time.Sleep(5 * time.Millisecond)
			k.say(frame(f, 1, readHolding, 2, 0, byte(n)))
		})
		for i := range before {
			k.mustRead(1, 1, uint16(i+1))
		}
		if n := int(asked.Load()); n != len(before) {
			k.Fatalf("asked %d times for %d values", n, len(before))
		}
	})
}

// TestEcho: what the port hears of itself is not an answer, even when it looks
// like one: a read of 17 coils from 0x0300 has the form of its own answer.
func TestEcho(t *testing.T) {
	coils := &request{unit: 1, function: readCoils, address: 0x0305, count: 17, timeout: time.Second}
	synctest.Test(t, func(t *testing.T) {
		f := newRTUFraming()
		k := newFake(t, newRTUFraming(), even(19200))
		k.serve(func(adu []byte, n int) {
			k.say(adu[:3])
			time.Sleep(time.Millisecond)
			k.say(adu[3:])
			if n != 1 {
				time.Sleep(5 * time.Millisecond)
				size := (adu[5] + 7) / 8 // what is asked first is shorter: see debtor.sign
				k.say(frame(f, 1, readCoils, append([]byte{size}, []byte{1, 2, 3}[:size]...)...))
			}
		})
		if data, err := k.line.Ask(t.Context(), coils); !isSilence(err) {
			t.Fatalf("an echo was taken for an answer: %x, %v", data, err)
		}
		for range 3 {
			if data, err := k.line.Ask(t.Context(), coils); err != nil || data[2] != 3 {
				t.Fatalf("read %x, %v", data, err)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) { // no echo: the unit may say that
		f := newRTUFraming()
		k := newFake(t, newRTUFraming(), even(19200))
		k.serve(func(adu []byte, n int) {
			if n == 1 {
				k.say(frame(f, 1, readHolding, 2, 0, 1))
				return
			}
			k.say(adu)
		})
		k.mustRead(1, 1, 1)
		if data, err := k.line.Ask(t.Context(), coils); err != nil || len(data) != 3 {
			t.Fatalf("read %x, %v", data, err)
		}
	})
}

// TestGarbled: a spoilt answer costs little time, its reason is told, and the
// next one is good.
func TestGarbled(t *testing.T) {
	inBubble(t, even(19200), func(k *fake, f framing) {
		k.serve(func(adu []byte, n int) {
			b := frame(f, 1, readHolding, 4, 0, 7, 0, 8)
			if string(adu) != string(frame(f, 1, readHolding, 0, 0, 0, 2)) { // the sign
				b = frame(f, 1, readHolding, 2, 0, 7)
			}
			if n == 1 {
				b[len(b)-5] ^= 1
			}
			time.Sleep(10 * time.Millisecond)
			k.say(b)
		})
		_, took, err := k.read(1, 0, 2, 5*time.Second)
		var s *silence
		if !errors.As(err, &s) || s.heard == nil || took > 100*time.Millisecond {
			k.Fatalf("%v after %v, want a silence that tells of the check sum, soon", err, took)
		}
		k.mustRead(1, 2, 7)
	})
}

// TestWrongLength: an answer with more or less than was asked for is told.
func TestWrongLength(t *testing.T) {
	inBubble(t, even(19200), func(k *fake, f framing) {
		k.serve(func(adu []byte, n int) {
			k.say(frame(f, 1, readHolding, 0))
		})
		_, took, err := k.read(1, 0, 2, 5*time.Second)
		var wrong *lengthError
		var s *silence
		if !errors.As(err, &s) || !errors.As(s.heard, &wrong) || took > 100*time.Millisecond {
			k.Fatalf("%v after %v, want a silence that tells of the length", err, took)
		}
	})
}

// TestNeverQuiet: on a line that is never quiet nothing is asked, for a bounded time.
func TestNeverQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFake(t, newRTUFraming(), even(19200))
		var asked atomic.Int64
		k.serve(func([]byte, int) { asked.Add(1) })
		k.all.Go(func() {
			for {
				if _, err := k.far.Write([]byte{0x55}); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
		_, took, err := k.read(1, 0, 1, time.Second)
		if !isSilence(err) || asked.Load() != 0 || took > 2*busyLimit {
			t.Fatalf("%v after %v, asked %d times", err, took, asked.Load())
		}
	})
}

// TestStuckWrite: a port that takes nothing holds nobody up.
func TestStuckWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFake(t, newRTUFraming(), even(19200))
		_, took, err := k.read(1, 0, 1, time.Second)
		if err == nil || isSilence(err) || took > 2*writeLimit {
			t.Fatalf("%v after %v, want that the line is broken", err, took)
		}
	})
}

// TestSerialDropped holds that a line without identifiers counts what it drops,
// as those with identifiers do.
func TestSerialDropped(t *testing.T) {
	inBubble(t, even(19200), func(k *fake, f framing) {
		k.serve(func(adu []byte, n int) {
			switch n {
			case 1:
				time.Sleep(300 * time.Millisecond)
			case 3:
				k.say(frame(f, 2, readHolding, 2, 9, 9))
				time.Sleep(5 * time.Millisecond)
			}
			k.say(frame(f, 1, readHolding, 2, 0, byte(n)))
		})
		if _, _, err := k.read(1, 0, 1, 100*time.Millisecond); !isSilence(err) {
			k.Fatal(err)
		}
		time.Sleep(time.Second)
		k.mustRead(1, 1, 2)
		k.mustRead(1, 1, 3)
		if late, foreign := frameCounter(k.line).dropped(); late != 1 || foreign != 1 {
			k.Errorf("%d late and %d foreign frames, want one of each", late, foreign)
		}
	})
}

// TestLongFrameOfAnother: at a low baud rate a late answer of another unit lasts
// longer than a line that is never quiet is waited for otherwise.
func TestLongFrameOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRTUFraming()
		k := newFake(t, f, even(1200))
		late := frame(f, 9, readHolding, append([]byte{250}, make([]byte, 250)...)...)
		k.serve(func(_ []byte, n int) {
			if n > 1 {
				k.say(frame(f, 1, readHolding, 2, 0x12, 0x34))
				return
			}
			k.all.Go(func() {
				time.Sleep(3 * time.Second)
				for i := range late {
					k.say(late[i : i+1])
					time.Sleep(9 * time.Millisecond)
				}
			})
		})
		if _, _, err := k.read(9, 0, 125, 500*time.Millisecond); !isSilence(err) {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		k.mustRead(1, 1, 0x1234)
	})
}
