package kafka

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waystation-iot/waystation/gateway"
)

// later makes the sink look at its files in its next Send.
func (r *rig) later() { r.sink.secure.creds.Look(time.Now().Add(time.Hour)) }

// warned returns the value of a fact that needs a person.
func (r *rig) warned(name string) string {
	for _, f := range r.sink.Facts() {
		if f.Name == name && f.Warn {
			return f.Value
		}
	}
	return ""
}

// TestPasswordChanges changes the password in the file, first to one that the
// cluster does not take.
func TestPasswordChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("geheim")
	r := newRig(t, 1, func(c *Config) {
		c.SASL = SASL{Mechanism: "plain", User: "gw", Password: gateway.Secret("file:" + file)}
	}, kfake.EnableSASL(), kfake.Superuser("PLAIN", "gw", "geheim"), kfake.Superuser("PLAIN", "root", "root"))
	r.connect()
	send := func() {
		t.Helper()
		if err := r.sink.Send(r.ctx(), r.batch(10, 3)); err != nil {
			t.Fatal(err)
		}
	}
	send()
	first := r.sink.sess
	send()
	if r.sink.sess != first {
		t.Fatal("connected anew for nothing")
	}
	write("wrong-word")
	r.later()
	send() // the session of before goes on
	if got := r.warned(newCredentials); r.sink.sess != first || !strings.Contains(got, "the new ones are not taken") || !strings.Contains(got, "check sasl.") || strings.Contains(got, "wrong-word") {
		t.Fatalf("%v %q", r.sink.sess == first, got)
	}
	tried := r.sink.secure.next
	send()
	if r.sink.secure.next != tried || time.Until(tried) < renewAfter/2 {
		t.Fatal("tried again at once")
	}
	write("geheim\n")
	r.later()
	r.sink.secure.next = time.Time{}.Add(1)
	send()
	if got := r.warned(newCredentials); r.sink.sess == first || got != "" {
		t.Fatalf("still the session of before: %q", got)
	}
	there := int64(0)
	for _, p := range r.c.PartitionInfos("data") {
		there += p.HighWatermark
	}
	if there != int64(r.seq) {
		t.Errorf("%d records, want %d", there, r.seq)
	}
}

// TestCertificateFactOfSink shows what the status says of a certificate.
func TestCertificateFactOfSink(t *testing.T) {
	serverCert, serverKey := certificate(t, "kafka.test")
	clientCert, clientKey := certificate(t, "gateway")
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, 1, func(c *Config) {
		c.TLS = TLS{Enabled: true, TLS: gateway.TLS{CA: serverCert, Cert: clientCert, Key: clientKey}}
	}, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}))
	r.connect()
	for _, name := range []string{"certificate", "authority", "server certificate"} {
		if got := r.warned(name); !strings.Contains(got, "ends in 0 hours") {
			t.Errorf("%s: %q", name, got)
		}
	}
}
