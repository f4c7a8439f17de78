package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vault is a folder with the files of a connection.
type vault struct {
	t   *testing.T
	dir string
}

// write replaces a file as careful tools do.
func (v *vault) write(name string, text []byte) {
	v.t.Helper()
	path := filepath.Join(v.dir, name)
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		v.t.Fatal(err)
	}
}

// pair makes a self-signed certificate that ends after d, and its key.
func (v *vault) pair(d time.Duration) (cert, key []byte) {
	v.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		v.t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "gw"}, DNSNames: []string{"kafka.test"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(d), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &k.PublicKey, k)
	if err != nil {
		v.t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		v.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

const day = 24 * time.Hour

// newVault writes a certificate that is its own authority, its key and a password.
func newVault(t *testing.T, ends time.Duration) (*vault, *Credentials) {
	t.Helper()
	v := &vault{t, t.TempDir()}
	cert, key := v.pair(ends)
	v.write("ca.pem", cert)
	v.write("cert.pem", cert)
	v.write("key.pem", key)
	v.write("password", []byte("first\n"))
	return v, NewCredentials(v.dir, &TLS{CA: "ca.pem", Cert: "cert.pem", Key: "key.pem"}, NamedSecret{"sasl.password", "file:password"})
}

// factOf returns the fact of a name.
func factOf(c *Credentials, now time.Time, name string) Fact {
	for _, f := range c.Facts(now) {
		if f.Name == name {
			return f
		}
	}
	return Fact{}
}

func TestCredentialsAreTakenUp(t *testing.T) {
	v, c := newVault(t, 200*day+time.Hour)
	if err := c.Load(); err != nil || c.Version() != 1 || c.Secret(0) != "first" {
		t.Fatal(err, c.Version(), c.Secret(0))
	}
	now := time.Now()
	cert, key := v.pair(12*day + time.Hour)
	v.write("cert.pem", cert) // its key is to come
	if got := c.Look(now.Add(time.Second)); got != 1 || factOf(c, now, "new credentials").Warn {
		t.Fatal("looked again after a second", got)
	}
	if got := c.Look(now.Add(31 * time.Second)); got != 1 {
		t.Fatalf("version %d with a certificate and the key of another", got)
	}
	if f := factOf(c, now, "new credentials"); !f.Warn || !strings.Contains(f.Value, "those from before stay in force") || !strings.Contains(f.Value, "private key does not match") {
		t.Fatal(f)
	}
	if f := factOf(c, now, "certificate"); f.Warn || !strings.HasPrefix(f.Value, "ends in 200 days") {
		t.Fatal(f)
	}
	if err := c.Load(); err != nil { // a reconnect meanwhile
		t.Fatal(err)
	}
	v.write("key.pem", key)
	if got := c.Look(now.Add(62 * time.Second)); got != 2 {
		t.Fatalf("version %d, want 2", got)
	}
	if f := factOf(c, now, "certificate"); !f.Warn || !strings.HasPrefix(f.Value, "ends in 12 days (") || !strings.Contains(f.Value, "file cert.pem") || f.Ends == 0 {
		t.Fatal(f)
	}
	if f := factOf(c, now, "new credentials"); f.Value != "" {
		t.Fatal(f)
	}
	v.write("password", nil)
	if err := c.Load(); err != nil || c.Version() != 2 || c.Secret(0) != "first" || !strings.Contains(factOf(c, now, "new credentials").Value, "read sasl.password: it is empty") {
		t.Fatal(err, c.Facts(now))
	}
	v.write("password", []byte("second"))
	if err := c.Load(); err != nil || c.Version() != 3 || c.Secret(0) != "second" {
		t.Fatal(err, c.Version())
	}
	v.write("ca.pem", []byte("no certificate"))
	if err := c.Load(); err != nil || c.Version() != 3 || c.TLS().RootCAs == nil {
		t.Fatal(err, c.Version())
	}
	v.write("ca.pem", cert)
	if err := c.Load(); err != nil || c.Version() != 4 {
		t.Fatal(err, c.Version())
	}
}

// TestCredentialsSeeTheSameSize replaces a file by one of the same size and time.
func TestCredentialsSeeTheSameSize(t *testing.T) {
	v, c := newVault(t, day)
	path := filepath.Join(v.dir, "password")
	at := time.Unix(1_790_000_000, 0)
	if err := errors.Join(os.Chtimes(path, at, at), c.Load()); err != nil {
		t.Fatal(err)
	}
	v.write("password", []byte("fresh\n"))
	if err := errors.Join(os.Chtimes(path, at, at), c.Load()); err != nil || c.Secret(0) != "fresh" {
		t.Fatal(err, c.Secret(0))
	}
}

func TestCredentialsThatWereNeverRight(t *testing.T) {
	v, c := newVault(t, day)
	v.write("key.pem", []byte("nothing"))
	if err := c.Load(); err == nil || !strings.Contains(err.Error(), "tls.key") || strings.Contains(err.Error(), "first") {
		t.Fatal(err)
	}
}

func TestCertificateEnds(t *testing.T) {
	now := time.Now()
	for _, x := range []struct {
		left time.Duration
		now  time.Time
		warn bool
		want string
	}{
		{200*day + time.Hour, now, false, "ends in 200 days ("},
		{12*day + time.Hour, now, true, "ends in 12 days ("},
		{30 * time.Hour, now, true, "ends in 30 hours ("},
		{-3*day - time.Hour, now, true, "ended 3 days ago ("},
		{12 * day, time.Unix(60, 0), false, "ends on "},
	} {
		c := certificate{"file gw.pem", now.Add(x.left)}
		f, ok := c.fact(x.now, "renew it")
		if !ok || f.Warn != x.warn || !strings.HasPrefix(f.Value, x.want) || strings.Contains(f.Value, "renew it") != x.warn || !strings.Contains(f.Value, "file gw.pem") {
			t.Errorf("%s: %+v", x.left, f)
		}
	}
	if _, ok := (certificate{}).fact(now, ""); ok {
		t.Error("a fact about no certificate")
	}
}

func TestCredentialsWarnOnceADay(t *testing.T) {
	v, c := newVault(t, 12*day)
	if err := os.Chmod(filepath.Join(v.dir, "key.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Load(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	now := time.Now()
	for range 3 {
		c.LogWarnings(log, now)
	}
	if n := strings.Count(out.String(), "msg=certificate"); n != 1 || strings.Contains(out.String(), "first") || !strings.Contains(out.String(), "chmod 600") {
		t.Fatal(out.String())
	}
	c.LogWarnings(log, now.Add(25*time.Hour))
	if n := strings.Count(out.String(), "msg=certificate"); n != 2 {
		t.Fatal(out.String())
	}
}

// TestServerCertificateIsSeen shakes hands and tells when the server's ends.
func TestServerCertificateIsSeen(t *testing.T) {
	v, c := newVault(t, 12*day+time.Hour)
	if err := c.Load(); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(v.dir, "cert.pem"), filepath.Join(v.dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer near.Close()
	served := make(chan error, 1)
	go func() { served <- tls.Server(far, &tls.Config{Certificates: []tls.Certificate{pair}}).Handshake() }()
	conf := c.TLS()
	conf.ServerName = "kafka.test"
	if err := errors.Join(tls.Client(near, conf).Handshake(), <-served); err != nil {
		t.Fatal(err)
	}
	if f := factOf(c, time.Now(), "server certificate"); !f.Warn || !strings.Contains(f.Value, "of the server kafka.test: renew it on the server") {
		t.Fatal(f)
	}
}

func TestTLSHint(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{DNSNames: []string{"a.test"}, NotBefore: now.Add(-2 * day), NotAfter: now.Add(-day), Issuer: pkix.Name{CommonName: "CA 1"}}
	for _, x := range []struct {
		err  error
		now  time.Time
		want string
	}{
		{x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired}, now, "ended on 2026-11-21"},
		{x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired}, time.Unix(5, 0), "the clock says 1970-01-01: is it set?"},
		{x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired}, now.Add(-9 * day), "is the clock right?"},
		{x509.HostnameError{Certificate: cert, Host: "b.test"}, now, "certificate is for a.test"},
		{x509.HostnameError{Certificate: &x509.Certificate{}, Host: "b.test"}, now, "no host name"},
		{x509.UnknownAuthorityError{Cert: cert}, now, "(CN=CA 1)"},
		{tls.RecordHeaderError{}, now, "does not speak TLS"},
		{errors.New("remote error: tls: certificate required"), now, "wants a certificate of ours"},
		{errors.New("remote error: tls: unknown certificate authority"), now, "does not trust the authority"},
		{errors.New("remote error: tls: unknown certificate"), now, "have tls.cert signed"},
		{errors.New("refused"), now, ""},
		{nil, now, ""},
	} {
		if got := TLSHint(x.err, x.now); !strings.Contains(got, x.want) || (x.want == "") != (got == "") {
			t.Errorf("%v: %q, want %q", x.err, got, x.want)
		}
	}
}
