package modbustest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// plant makes a server that ends with the test.
func plant(t testing.TB) *Server {
	t.Helper()
	s := New()
	t.Cleanup(s.Close)
	return s
}

// want ends the test with an error, if there is one.
func want[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// unhex takes "01 03 00" apart.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

const (
	limit = 10 * time.Second      // for what must come
	quiet = 60 * time.Millisecond // for what must not
)

// dial connects to a line over TCP.
func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// master is what a test reads and writes.
type master interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
}

func send(t testing.TB, c master, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// expect reads exactly the bytes of want.
func expect(t testing.TB, c master, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	_ = c.SetReadDeadline(time.Now().Add(limit))
	n, err := io.ReadFull(c, got)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got  % x (%v)\nwant % x", got[:n], err, want)
	}
}

// silent holds that nothing comes.
func silent(t testing.TB, c master) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(quiet))
	var b [64]byte
	if n, err := c.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got % x (%v), want silence", b[:n], err)
	}
}

// tcp is a Modbus/TCP frame with transaction identifier 1.
func tcp(unit byte, pdu string) []byte { return mbap{}.wrap(nil, frame{unit, 1, unhex(pdu)}) }

// ask sends a request over Modbus/TCP and expects the answer with this PDU.
func ask(t testing.TB, c master, unit byte, pdus ...string) {
	t.Helper()
	send(t, c, tcp(unit, pdus[0]))
	expect(t, c, tcp(unit, pdus[1]))
}

// ser is an RTU frame.
func ser(unit byte, pdu string) []byte { return rtu{}.wrap(nil, frame{unit: unit, pdu: unhex(pdu)}) }

// reads is the PDU of function 3 for n registers from addr.
func reads(addr, n int) []byte {
	b := binary.BigEndian.AppendUint16([]byte{3}, uint16(addr))
	return binary.BigEndian.AppendUint16(b, uint16(n))
}
