package peers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Authority issues certificates for tests.
type Authority struct {
	CA   string // file with its certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Issued are the files of a certificate.
type Issued struct {
	Cert, Key string
	Keystore  string // both in one file, as Kafka reads them
}

// Identity is what a certificate says.
type Identity struct {
	Name  string        // common name
	Hosts []string      // DNS names and IP addresses
	From  time.Duration // begin of validity, from now; 0 = an hour ago
	For   time.Duration // end of validity, from now
}

// NewAuthority makes an authority with its certificate in dir.
func NewAuthority(dir, name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	a := &Authority{CA: filepath.Join(dir, name+"-ca.pem"), key: key}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	return a, os.WriteFile(a.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}

// Issue writes a certificate and its key to dir, in files named after the name.
func (a *Authority) Issue(dir string, id Identity) (Issued, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Issued{}, fmt.Errorf("issue certificate of %s: %w", id.Name, err)
	}
	if id.From == 0 {
		id.From = -time.Hour
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: id.Name},
		NotBefore: time.Now().Add(id.From), NotAfter: time.Now().Add(id.For), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, h := range id.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return Issued{}, fmt.Errorf("issue certificate of %s: %w", id.Name, err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Issued{}, fmt.Errorf("issue certificate of %s: %w", id.Name, err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	at := func(kind string) string { return filepath.Join(dir, id.Name+kind) }
	out := Issued{at("-cert.pem"), at("-key.pem"), at("-keystore.pem")}
	for path, text := range map[string][]byte{out.Cert: cert, out.Key: secret, out.Keystore: append(secret[:len(secret):len(secret)], cert...)} {
		if err := replace(path, text); err != nil {
			return Issued{}, fmt.Errorf("issue certificate of %s: %w", id.Name, err)
		}
	}
	return out, nil
}

// replace writes a file so that a reader sees the old or the new one whole.
func replace(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
