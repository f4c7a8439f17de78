package mqtt

import (
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

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)}
	var der []byte
	a.key, der = sign(t, tmpl, nil, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// sign makes a key and a certificate; by itself when parent is nil.
func sign(t testing.TB, tmpl, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parent == nil {
		parent, by = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// pair writes a certificate and its key as PEM.
func (a *authority) pair(t testing.TB, ip string) (cert, key []byte) {
	t.Helper()
	k, der := sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(ip)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.cert, a.key)
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) server(t testing.TB, ip string) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(a.pair(t, ip))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

func (a *authority) client(testing.TB) *tls.Config {
	return &tls.Config{RootCAs: a.pool(), MinVersion: tls.VersionTLS12}
}

// always is the configuration of a source that reads no files.
func (a *authority) always(t testing.TB) func() *tls.Config {
	return func() *tls.Config { return a.client(t) }
}

// files writes the authority's certificate and a pair into a folder.
func (a *authority) files(t *testing.T) *gateway.TLS {
	t.Helper()
	dir := t.TempDir()
	cert, key := a.pair(t, "127.0.0.1")
	opts := &gateway.TLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for name, data := range map[string][]byte{opts.CA: a.pem, opts.Cert: cert, opts.Key: key} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return opts
}

func TestTLS(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	mutual := ours.server(t, "127.0.0.1")
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ours.pool()
	tests := []struct {
		name   string
		server *tls.Config
		opts   func() *gateway.TLS
		fail   string // in the error; "" when it must connect
	}{
		{"own authority", ours.server(t, "127.0.0.1"), func() *gateway.TLS { return &gateway.TLS{CA: ours.files(t).CA} }, ""},
		{"mutual", mutual, func() *gateway.TLS { return ours.files(t) }, ""},
		{"no certificate of ours", mutual, func() *gateway.TLS { return &gateway.TLS{CA: ours.files(t).CA} }, "certificate required"},
		{"certificate of another authority", mutual, func() *gateway.TLS {
			f := other.files(t)
			f.CA = ours.files(t).CA
			return f
		}, "certificate"},
		{"wrong authority", ours.server(t, "127.0.0.1"), func() *gateway.TLS { return &gateway.TLS{CA: other.files(t).CA} }, "set tls.ca"},
		{"system's authorities", ours.server(t, "127.0.0.1"), func() *gateway.TLS { return nil }, "set tls.ca"},
		{"wrong name", ours.server(t, "10.9.9.9"), func() *gateway.TLS { return &gateway.TLS{CA: ours.files(t).CA} }, "10.9.9.9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := mqtttest.New(t, mqtttest.Options{TLS: tt.server})
			src := newSource(t, "tls://"+b.Addr(), func(c *Config) { c.TLS = tt.opts() })
			if tt.fail == "" {
				r := start(t, src)
				b.PublishN("a", 1, 500, 1)
				r.st.first(t, 500)
				return
			}
			r := newRig(t, src)
			r.begin(1)
			if err := r.err(); err == nil || !strings.Contains(err.Error(), tt.fail) || !strings.Contains(err.Error(), b.Addr()) {
				t.Fatalf("got error %v, want one with %q and the address", err, tt.fail)
			}
		})
	}
}
