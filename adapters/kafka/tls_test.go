package kafka

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
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waystation-iot/waystation/gateway"
)

// certificate writes a self-signed certificate and its key, which is its own
// authority, and returns the two files.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: kder}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestTLS(t *testing.T) {
	serverCert, serverKey := certificate(t, "kafka.test")
	clientCert, clientKey := certificate(t, "gateway")
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	text, err := os.ReadFile(clientCert)
	if err != nil || !clients.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	for name, c := range map[string]struct {
		conf TLS
		good bool
	}{
		"mutual":             {TLS{Enabled: true, TLS: gateway.TLS{CA: serverCert, Cert: clientCert, Key: clientKey}}, true},
		"server name":        {TLS{Enabled: true, TLS: gateway.TLS{CA: serverCert, Cert: clientCert, Key: clientKey, ServerName: "kafka.test"}}, true},
		"wrong server name":  {TLS{Enabled: true, TLS: gateway.TLS{CA: serverCert, Cert: clientCert, Key: clientKey, ServerName: "other"}}, false},
		"unknown authority":  {TLS{Enabled: true, TLS: gateway.TLS{Cert: clientCert, Key: clientKey}}, false},
		"no own certificate": {TLS{Enabled: true, TLS: gateway.TLS{CA: serverCert}}, false},
		"not encrypted":      {TLS{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1, func(conf *Config) { conf.TLS = c.conf }, kfake.TLS(server))
			err := r.sink.Connect(r.ctx())
			if err == nil {
				err = r.sink.Send(r.ctx(), r.batch(10, 10))
			}
			if (err == nil) != c.good {
				t.Fatal(err)
			}
			t.Log(err)
		})
	}
}
