package modbus

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
	"github.com/waystation-iot/waystation/gateway"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "plant"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)}
	key, der := signCert(t, tmpl, tmpl, nil)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

// signCert makes a key and a certificate; by itself when by is nil.
func signCert(t testing.TB, tmpl, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// files writes the authority's certificate, and a certificate with its key for
// 127.0.0.1, into a folder.
func (a *authority) files(t testing.TB) *gateway.TLS {
	t.Helper()
	key, der := signCert(t, &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.cert, a.key)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := &gateway.TLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for name, b := range map[string]*pem.Block{o.CA: {Type: "CERTIFICATE", Bytes: a.cert.Raw}, o.Cert: {Type: "CERTIFICATE", Bytes: der}, o.Key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// tlsConfig reads the files as the gateway does.
func tlsConfig(t testing.TB, o *gateway.TLS) *tls.Config {
	t.Helper()
	c, err := o.Config("")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// secureDevice listens with TLS and wants certificates.
func secureDevice(t testing.TB, s *modbustest.Server, a *authority, most uint16) string {
	t.Helper()
	server := tlsConfig(t, a.files(t))
	server.ClientAuth, server.ClientCAs, server.MaxVersion = tls.RequireAndVerifyClientCert, server.RootCAs, most
	server.MinVersion = tls.VersionTLS10
	addr, err := s.ListenTLS(server)
	if err != nil {
		t.Fatal(err)
	}
	return "tls://" + addr
}

func TestSecured(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	s := tellingPlant(t, 1)
	plain, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	only := ours.files(t)
	only.Cert, only.Key = "", ""
	for _, tt := range []struct {
		name, url, fail string
		options         *gateway.TLS
	}{
		{"1.3", secureDevice(t, s, ours, tls.VersionTLS13), "", ours.files(t)},
		{"1.2", secureDevice(t, s, ours, tls.VersionTLS12), "", ours.files(t)},
		{"1.1", secureDevice(t, s, ours, tls.VersionTLS11), "too old", ours.files(t)},
		{"no certificate", secureDevice(t, s, ours, tls.VersionTLS13), "set tls.cert and tls.key", only},
		{"no certificate, 1.2", secureDevice(t, s, ours, tls.VersionTLS12), "certificate of ours (tls.cert, tls.key)", only},
		{"another authority", secureDevice(t, s, ours, tls.VersionTLS13), "set tls.ca", other.files(t)},
		{"no TLS", "tls://" + plain, "(", ours.files(t)},
	} {
		for _, pipeline := range []int{1, 4} {
			c := &Config{URL: tt.url, Connect: 5 * time.Second, Pipeline: pipeline}
			tc := tlsConfig(t, tt.options)
			tc.MinVersion = 0
			l, err := open(t.Context(), c, tc)
			for i := 0; i < 3 && err == nil; i++ { // in TLS 1.3 the first answer tells whether our certificate is good
				var data []byte
				q := &request{unit: 1, function: readHolding, address: uint16(9 * i), count: 9, timeout: 5 * time.Second}
				if data, err = l.Ask(t.Context(), q); err == nil {
					truth(t, q, data)
				}
			}
			if l != nil {
				_ = l.Close()
			}
			if tt.fail == "" && err != nil || tt.fail != "" && (err == nil || !strings.Contains(err.Error(), tt.fail) || !strings.Contains(err.Error(), "tls 127.0.0.1:")) {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
}

// TestSecuredLate has a TLS line go on after silences, in the middle of a record too.
func TestSecuredLate(t *testing.T) {
	a := newAuthority(t)
	s := tellingPlant(t, 1)
	l, err := open(t.Context(), &Config{URL: secureDevice(t, s, a, tls.VersionTLS13), Connect: 5 * time.Second, Pipeline: 1}, tlsConfig(t, a.files(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i, f := range []modbustest.Fault{{}, {Late: 2 * brief}, {}, {Dead: true}, {}, {WrongID: true}, {}} {
		s.FaultOnce(f)
		q := &request{unit: 1, function: readHolding, address: uint16(30 * i), count: 30, timeout: 5 * time.Second}
		if i%2 == 1 {
			q.timeout = brief
		}
		data, err := l.Ask(t.Context(), q)
		if i%2 == 0 && err != nil || i%2 == 1 && !isSilence(err) {
			t.Fatalf("%d: %v", i, err)
		}
		if err == nil {
			truth(t, q, data)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := lis.Addr().String()
	_ = lis.Close()
	_, err = open(t.Context(), &Config{URL: "tcp://" + closed, Connect: 5 * time.Second}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "connect tcp "+closed+": ") || !strings.Contains(err.Error(), "is Modbus/TCP switched on") {
		t.Error(err)
	}
	if _, err = open(t.Context(), &Config{URL: "carrier-pigeon://x", Connect: time.Second}, nil); err == nil {
		t.Error("no error")
	}
	ctx, cancel := withCause(t)
	cancel()
	if _, err = open(ctx, &Config{URL: "tcp://" + closed, Connect: 5 * time.Second}, nil); err == nil || !strings.Contains(err.Error(), errStop.Error()) {
		t.Error(err)
	}
	silent := rawDevice(t, func(c net.Conn) { // takes the connection and says nothing
		var b [1024]byte
		for _, err := c.Read(b[:]); err == nil; _, err = c.Read(b[:]) {
		}
	})
	_, err = open(t.Context(), &Config{URL: "tls" + strings.TrimPrefix(silent, "tcp"), Connect: brief}, nil)
	if err == nil || !strings.Contains(err.Error(), "no answer within "+brief.String()) {
		t.Error(err)
	}
}

// TestRefusedDatagram: that nothing listens is told by the network.
func TestRefusedDatagram(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "udp://" + c.LocalAddr().String()
	_ = c.Close()
	l := openLine(t, url, 1)
	_, err = l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 1, timeout: 10 * time.Second})
	if err == nil || isSilence(err) || !strings.Contains(err.Error(), "is Modbus over UDP switched on") {
		t.Error(err)
	}
}

// TestDatagrams drops what is no ADU, empty ones and long ones too.
func TestDatagrams(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := openLine(t, "udp://"+c.LocalAddr().String(), 1)
	go func() {
		var b [512]byte
		for i := byte(0); ; i++ {
			_, from, err := c.ReadFrom(b[:])
			if err != nil {
				return
			}
			id := uint16(b[0])<<8 | uint16(b[1])
			wrong := adu(id, 1, 3, 2, 0, 66)
			wrong[2] = 1
			for _, d := range [][]byte{{}, {1}, adu(id, 1, 3, 2, 0, 66)[:9], append(adu(id, 1, 3, 2, 0, 66), 0), wrong, make([]byte, 400),
				adu(id-1, 1, 3, 2, 0, 66), adu(id, 1, 3, 2, 0, i), adu(id, 1, 3, 2, 0, 66), {}} {
				_, _ = c.WriteTo(d, from)
			}
		}
	}()
	for i := range byte(3) {
		data, err := l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 1, timeout: 5 * time.Second})
		if err != nil || string(data) != "\x00"+string([]byte{i}) {
			t.Fatal(i, data, err)
		}
	}
}

// TestNothingIsLeft: lines leave no goroutine.
func TestNothingIsLeft(t *testing.T) {
	s := tellingPlant(t, 1)
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	for _, pipeline := range []int{1, 8} {
		l, err := open(t.Context(), &Config{URL: "tcp://" + addr, Connect: 5 * time.Second, Pipeline: pipeline}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, _ = l.Ask(ctx, &request{unit: 1, function: readHolding, count: 1, timeout: time.Second})
		_ = l.Close()
		cancel()
	}
	s.Close()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}
