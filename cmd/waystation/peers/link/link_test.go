package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// joined returns the two ends of a connection over the line.
func joined(t *testing.T, l *Link) (client, server net.Conn) {
	client, a := net.Pipe()
	b, server := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); l.carry(a, b) }()
	t.Cleanup(func() {
		l.Close()
		<-done
		_, _ = client.Close(), server.Close()
	})
	return client, server
}

// window is when something must arrive.
type window struct{ from, to time.Duration }

// within fails the test when n bytes do not arrive in the window.
func within(t *testing.T, c net.Conn, n int, w window) []byte {
	t.Helper()
	began := time.Now()
	data := make([]byte, n)
	if _, err := io.ReadFull(c, data); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < w.from || took > w.to {
		t.Errorf("%d bytes took %s, want %s to %s", n, took, w.from, w.to)
	}
	return data
}

func send(t *testing.T, c net.Conn, data []byte) {
	t.Helper()
	if _, err := c.Write(data); err != nil {
		t.Error(err)
	}
}

// silentFor fails the test when anything is read in that time.
func silentFor(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(d))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, error %v, want silence", n, err)
	}
	_ = c.SetReadDeadline(time.Time{})
}

func TestDelayIsOfEachByteAndNotOfEachTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Profile{Delay: 300 * time.Millisecond}, 1)
		client, server := joined(t, l)
		const turns = 100
		go func() {
			for i := range turns {
				send(t, client, []byte{byte(i)})
			}
		}()
		got := within(t, server, turns, window{300 * time.Millisecond, 300 * time.Millisecond})
		for i, b := range got {
			if int(b) != i {
				t.Fatalf("byte %d is %d", i, b)
			}
		}
		go send(t, server, []byte("back"))
		within(t, client, 4, window{300 * time.Millisecond, 300 * time.Millisecond})
		if l.Sent() != turns || l.Received() != 4 {
			t.Errorf("counted %d and %d bytes", l.Sent(), l.Received())
		}
	})
}

func TestRateIsOfTheLineAndOfEachDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Profile{Rate: 1000}, 1)
		client, server := joined(t, l)
		client2, server2 := joined(t, l)
		go send(t, client, make([]byte, 5000))
		go send(t, client2, make([]byte, 5000))
		go send(t, server, make([]byte, 5000))
		began := time.Now()
		within(t, client, 5000, window{5 * time.Second, 5 * time.Second})
		within(t, server, 5000, window{0, 5 * time.Second})
		within(t, server2, 5000, window{0, 5 * time.Second})
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("10,000 bytes over two connections took %s, want 10s", took)
		}
	})
}

func TestLossIsATimeoutAndFollowsFromTheSeed(t *testing.T) {
	var runs []time.Duration
	for _, seed := range []uint64{7, 7, 8} {
		synctest.Test(t, func(t *testing.T) {
			l := New(Profile{Loss: 0.05}, seed)
			client, server := joined(t, l)
			data := bytes.Repeat([]byte("0123456789"), 14_000)
			go send(t, client, data)
			began := time.Now()
			if got := within(t, server, len(data), window{minRTO, time.Minute}); !bytes.Equal(got, data) {
				t.Error("the bytes changed")
			}
			runs = append(runs, time.Since(began))
		})
	}
	if runs[0] != runs[1] || runs[0] == runs[2] {
		t.Errorf("runs with seeds 7, 7, 8 took %s", runs)
	}
}

func TestSilenceHoldsAndHealDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Profile{}, 1)
		client, server := joined(t, l)
		l.Silence()
		go send(t, client, []byte("up"))
		go send(t, server, []byte("down"))
		silentFor(t, server, time.Hour)
		silentFor(t, client, time.Hour)
		if l.Sent() != 0 || l.Received() != 0 {
			t.Error("a silent line counts bytes")
		}
		l.Heal()
		within(t, server, 2, window{0, 0})
		within(t, client, 4, window{0, 0})
	})
}

func TestLostConnectionSwallowsAndTellsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Profile{}, 1)
		client, server := joined(t, l)
		synctest.Wait()
		l.Lose()
		send(t, client, []byte("into the void"))
		silentFor(t, server, time.Minute)
		_ = client.Close()
		silentFor(t, server, time.Minute)
		l.Reset()
		if _, err := server.Read(make([]byte, 1)); err == nil {
			t.Error("read after Reset: want an error")
		}
	})
}

func TestFlappingDoesNotEndASilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Profile{Up: 3 * time.Second, Down: 2 * time.Second}, 1)
		client, server := joined(t, l)
		go send(t, client, []byte("a"))
		within(t, server, 1, window{0, 0})
		<-time.After(3500 * time.Millisecond)
		go send(t, client, []byte("b"))
		within(t, server, 1, window{1500 * time.Millisecond, 1500 * time.Millisecond})
		l.Silence()
		go send(t, client, []byte("c"))
		silentFor(t, server, 20*time.Second)
		l.Heal()
		within(t, server, 1, window{0, 2 * time.Second})
	})
}

func TestEndArrivesAfterTheLastByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Profile{Delay: time.Second}, 1)
		client, server := joined(t, l)
		send(t, client, []byte("last words"))
		_ = client.Close()
		began := time.Now()
		if got, err := io.ReadAll(server); err != nil || string(got) != "last words" || time.Since(began) != time.Second {
			t.Errorf("got %q, %v after %s", got, err, time.Since(began))
		}
	})
}

func TestForwardOverTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	l := New(Profile{Delay: time.Millisecond}, 1)
	defer l.Close()
	addr, err := l.Forward(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dial := func() *net.TCPConn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c.(*net.TCPConn)
	}
	data := bytes.Repeat([]byte("x"), 1<<20)
	c := dial()
	go func() { send(t, c, data); _ = c.CloseWrite() }()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes back, %v", len(got), err)
	}
	c = dial()
	send(t, c, []byte("y"))
	within(t, c, 1, window{0, time.Minute})
	l.Reset()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after Reset: %v", err)
	}
	_ = listener.Close()
	late, err := net.Dial("tcp", addr)
	if err == nil { // the reset may come before Dial looks
		_, err = late.Read(make([]byte, 1))
		_ = late.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("without a server: %v", err)
	}
}

func TestSilenceHoldsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Profile{Delay: time.Second}, 1)
		client, server := joined(t, l)
		send(t, client, []byte("x"))
		synctest.Wait()
		l.Silence()
		silentFor(t, server, time.Minute)
		l.Heal()
		within(t, server, 1, window{0, 0})
	})
}
