package modbus

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// uart is a port whose driver hands on every byte as it comes, and keeps it.
type uart struct {
	char   time.Duration
	answer []byte
	more   chan struct{} // holds a token while there is something to read

	mu    sync.Mutex // guards buf and reads
	buf   []byte
	reads int
	ended chan struct{}
}

func (u *uart) Write(p []byte) (int, error) {
	go func() {
		time.Sleep(time.Duration(len(p))*u.char + 20*time.Millisecond)
		for _, b := range u.answer {
			time.Sleep(u.char)
			u.mu.Lock()
			u.buf = append(u.buf, b)
			u.mu.Unlock()
			select {
			case u.more <- struct{}{}:
			default:
			}
		}
	}()
	return len(p), nil
}

func (u *uart) Read(p []byte) (int, error) {
	for {
		u.mu.Lock()
		n := copy(p, u.buf)
		u.buf = append(u.buf[:0], u.buf[n:]...)
		if n > 0 {
			u.reads++
		}
		u.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-u.more:
		case <-u.ended:
			return 0, io.EOF
		}
	}
}

func (u *uart) Close() error {
	close(u.ended)
	return nil
}

// TestNaps: a driver that hands on every byte does not wake us for each, and
// the answer is there in the moment in which its last byte is.
func TestNaps(t *testing.T) {
	for _, c := range []struct {
		count, reads int
		refused      bool
	}{{125, 30, false}, {10, 18, false}, {1, 7, false}, {125, 5, true}} {
		synctest.Test(t, func(t *testing.T) {
			s := even(9600)
			answer := frame(newRTUFraming(), 1, readHolding, append([]byte{byte(2 * c.count)}, make([]byte, 2*c.count)...)...)
			if c.refused {
				answer = frame(newRTUFraming(), 1, readHolding|exceptionBit, 2)
			}
			u := &uart{char: s.charTime(), answer: answer, more: make(chan struct{}, 1), ended: make(chan struct{})}
			l := newSerialLine("/dev/uart", u, newRTUFraming(), &s)
			defer func() { _ = l.Close() }()
			begin := time.Now()
			_, err := l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: uint16(c.count), timeout: time.Second})
			took, want := time.Since(begin), l.gap+time.Duration(8+len(answer))*l.char+20*time.Millisecond
			if err != nil && exception(err) != 2 || took != want {
				t.Errorf("%d registers: %v after %v, want %v", c.count, err, took, want)
			}
			if u.reads > c.reads {
				t.Errorf("%d registers: %d reads, want %d at most", c.count, u.reads, c.reads)
			}
		})
	}
}

// TestFastPort: a port that is faster than its baud rate is not napped over.
func TestFastPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := even(9600)
		answer := frame(newRTUFraming(), 1, readHolding, append([]byte{250}, make([]byte, 250)...)...)
		u := &uart{char: 4 * time.Microsecond, answer: answer, more: make(chan struct{}, 1), ended: make(chan struct{})}
		l := newSerialLine("/dev/uart", u, newRTUFraming(), &s)
		defer func() { _ = l.Close() }()
		for i := range fastAnswers + 1 {
			begin := time.Now()
			_, err := l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 125, timeout: time.Second})
			if took := time.Since(begin); err != nil || i == fastAnswers && took > 40*time.Millisecond {
				t.Errorf("answer %d: %v after %v", i, err, took)
			}
		}
	})
}
