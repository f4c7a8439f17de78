package mqtt

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// tcpPair is a paced connection and its far side.
func tcpPair(t *testing.T) (*paced, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), far.Close() })
	return newPaced(c).(*paced), far.(*net.TCPConn)
}

// lowat is the low-water mark the kernel has.
func lowat(t *testing.T, r *paced) (n int) {
	t.Helper()
	_ = r.raw.Control(func(fd uintptr) {
		n, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT)
	})
	return n
}

func send(t *testing.T, c net.Conn, n int) {
	t.Helper()
	if _, err := c.Write(bytes.Repeat([]byte{1}, n)); err != nil {
		t.Fatal(err)
	}
}

// After flow a single byte arrives at once: no read waits with a raised mark.
func TestPacedNeverParksOnRaisedMark(t *testing.T) {
	r, far := tcpPair(t)
	buf := make([]byte, 64<<10)
	for range 50 {
		send(t, far, 3000)
		for got := 0; got < 3000; {
			n, err := r.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
		if got := lowat(t, r); got <= flowBytes {
			t.Fatalf("the mark is %d under flow", got)
		}
		read := make(chan error, 1)
		go func() {
			_, err := r.Read(buf)
			read <- err
		}()
		eventually(t, "the read to park", func() bool { return lowat(t, r) == 1 })
		send(t, far, 1)
		if err := <-read; err != nil {
			t.Fatal(err)
		}
	}
}

func TestPacedEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(r *paced, far *net.TCPConn)
		want error
	}{
		{"eof", func(_ *paced, far *net.TCPConn) { _ = far.Close() }, io.EOF},
		{"half-closed", func(_ *paced, far *net.TCPConn) { _ = far.CloseWrite() }, io.EOF},
		{"reset", func(_ *paced, far *net.TCPConn) { _ = far.SetLinger(0); _ = far.Close() }, syscall.ECONNRESET},
		{"closed", func(r *paced, _ *net.TCPConn) { _ = r.Close() }, net.ErrClosed},
		{"deadline", func(r *paced, _ *net.TCPConn) { _ = r.SetReadDeadline(time.Now()) }, os.ErrDeadlineExceeded},
	}
	for _, tt := range tests {
		for _, flow := range []int{1, 3000} { // parked at once, and after a sleep under flow
			t.Run(tt.name, func(t *testing.T) {
				r, far := tcpPair(t)
				send(t, far, flow)
				ended := make(chan error, 1)
				got := make(chan int, flow)
				go func() {
					buf := make([]byte, 64<<10)
					for {
						n, err := r.Read(buf)
						if got <- n; err != nil {
							ended <- err
							return
						}
					}
				}()
				for sum := 0; sum < flow; {
					sum += <-got
				}
				tt.end(r, far)
				if err := <-ended; !errors.Is(err, tt.want) {
					t.Errorf("got error %v, want %v", err, tt.want)
				}
			})
		}
	}
}

// What is there when the far side closes is read to the end.
func TestPacedReadsAll(t *testing.T) {
	r, far := tcpPair(t)
	go func() {
		for i := range 300 {
			_, _ = far.Write(bytes.Repeat([]byte{byte(i)}, 1+i*37%5000))
		}
		_ = far.Close()
	}()
	want := 0
	for i := range 300 {
		want += 1 + i*37%5000
	}
	got, err := io.Copy(io.Discard, struct{ io.Reader }{r})
	if err != nil || int(got) != want {
		t.Errorf("read %d bytes of %d, %v", got, want, err)
	}
}

// tryWrite never blocks and says how much was taken.
func TestTryWrite(t *testing.T) {
	r, far := tcpPair(t)
	_ = r.Conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
	sent := 0
	for {
		n, ok := r.tryWrite(make([]byte, 1000))
		if !ok {
			t.Fatal("not possible")
		}
		if sent += n; n < 1000 {
			break
		}
	}
	if n, err := io.ReadFull(far, make([]byte, sent)); err != nil {
		t.Errorf("%d of %d bytes arrived: %v", n, sent, err)
	}
	_ = r.Close()
	if _, ok := r.tryWrite([]byte{1}); ok {
		t.Error("a closed connection takes bytes")
	}
}
