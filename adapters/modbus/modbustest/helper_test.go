package modbustest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
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

// certificates are those of a server at loopback and of a master that trusts it.
func certificates(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key := want(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der := want(x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key))(t)
	pool := x509.NewCertPool()
	pool.AddCert(want(x509.ParseCertificate(der))(t))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
}
