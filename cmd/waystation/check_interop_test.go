//go:build interop

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters"
	"github.com/waystation-iot/waystation/cmd/waystation/peers"
)

// TestCheckConnectKafka tries a real, secured Kafka out, before and after its
// administrator ran the commands that the check names.
func TestCheckConnectKafka(t *testing.T) {
	p := newPlant(t, 0, time.Hour)
	p.must(p.kafka.CreateTopic("small", 3, map[string]string{"max.message.bytes": "20000", "message.timestamp.before.max.ms": "86400000", "cleanup.policy": "compact"}))
	p.must(p.kafka.CreateTopic("waystation.positions", 1, nil))
	broker, err := peers.StartMosquitto(mkdir(t, p.dir, "mosquitto"))
	p.must(err)
	t.Cleanup(func() { _ = broker.Kill() })
	p.file("password", scramPassword)
	p.file("secret", oauthSecret)
	config := func(topic, security string) string {
		t.Helper()
		path := filepath.Join(p.dir, "waystation.yaml")
		p.must(os.WriteFile(path, fmt.Appendf(nil, `gateway: {id: ship-042}
buffer: {dir: ./queue}
sources:
  - {name: deck, type: mqtt, url: "tcp://%s", topics: ["deck/#"]}
sinks:
  - {name: shore, type: kafka, topic: "%s", %s}
`, broker.Addr, topic, security), 0o600))
		return path
	}
	scram := fmt.Sprintf(`brokers: ["%s"], tls: {enabled: true, ca: plant-ca.pem}, sasl: {mechanism: scram-sha-512, user: gw, password: "file:password"}`, p.kafka.SASLSSL)
	oauth := fmt.Sprintf(`brokers: ["%s"], tls: {enabled: true, ca: plant-ca.pem}, sasl: {mechanism: oauthbearer, oauth: {token_url: "%s", client_id: gw, client_secret: "file:secret"}}`, p.kafka.SASLSSL, p.tokens.URL)
	mutual := fmt.Sprintf(`brokers: ["%s"], tls: {enabled: true, ca: plant-ca.pem, cert: gateway-cert.pem, key: gateway-key.pem}`, p.kafka.MTLS)
	run := func(code int, file string, want ...string) string {
		t.Helper()
		return tryConfig(t, code, file, want)
	}
	said := run(1, config("fleet", scram), "✓ topic deck/#: granted at QoS 1", "TLS 1.3 (certificate to ", "SCRAM-SHA-512 as User:gw",
		"✗ idempotent writes: ", "✗ topic fleet: ", "✗ transactions: not allowed", "✗ group waystation-ship-042-shore-telemetry: ")
	// What it names heals it.
	for line := range strings.Lines(said) {
		if _, args, ok := strings.Cut(strings.TrimSpace(line), "→ kafka-acls.sh "); ok {
			args, _, _ = strings.Cut(args, ";")
			p.must(p.kafka.ACL(p.dir, strings.Fields(args)...))
		}
	}
	run(0, config("fleet", scram), "✓ idempotent writes: allowed", "✓ topic fleet: 2 partitions, may be written", "✓ transactions: offered")
	run(0, config("fleet", oauth), "✓ token: the token server ", "OAUTHBEARER as User:gw", "within a minute of the token server's")
	p.must(p.kafka.ACL(p.dir, "--add", "--allow-principal", "User:CN=gateway", "--operation", "All", "--topic", "*"))
	p.must(p.kafka.ACL(p.dir, "--add", "--allow-principal", "User:CN=gateway", "--operation", "All", "--cluster", "--transactional-id", "*", "--group", "*"))
	run(0, config("small", mutual), "! certificate: ends in 12 days", "it takes 20000 bytes", "it refuses records older than 24h0m0s", "it is compacted",
		"! topic waystation.positions: it is not compacted", "a transaction may take 15m0s")
	for topic, n := range map[string]int{"fleet": 0, "small": 0} {
		got, err := peers.Kcat(t.Context(), p.kafka.Addr, topic)
		if p.must(err); len(got) != n {
			t.Errorf("%d records in %s", len(got), topic)
		}
	}
}

// tryConfig runs check --connect and wants its exit code and the words in what it
// says, and no secret.
func tryConfig(t *testing.T, code int, file string, want []string) string {
	t.Helper()
	var out, errOut strings.Builder
	if got := check([]string{"--connect", file}, &out, &errOut, adapters.All()); got != code {
		t.Errorf("exit %d, want %d", got, code)
	}
	t.Logf("\n%s%s", out.String(), errOut.String())
	for _, w := range want {
		if !strings.Contains(out.String(), w) {
			t.Errorf("no %q", w)
		}
	}
	for _, secret := range []string{scramPassword, oauthSecret, "eyJ"} {
		if strings.Contains(out.String()+errOut.String(), secret) {
			t.Error("a secret is told")
		}
	}
	return out.String()
}
