package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/observe"
)

// callLetters runs the command and returns its exit code and what it says.
func callLetters(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = deadLetters(args, &o, &e)
	return code, o.String(), e.String()
}

// wantLetters runs the command and holds its exit code and what it says.
func wantLetters(t *testing.T, code int, says string, args ...string) string {
	t.Helper()
	got, out, errOut := callLetters(args...)
	if got != code || !strings.Contains(out+errOut, says) {
		t.Errorf("dead-letters %v: exit %d, want %d, saying %q:\n%s%s", args, got, code, says, out, errOut)
	}
	return out
}

// TestDeadLetterStory: a record too large for Kafka is refused, seen by every
// tool, refused again, kept over a stop, asked for in the directory of the
// stopped gateway, and arrives once the limit is raised. The books balance.
func TestDeadLetterStory(t *testing.T) {
	broker, k := mqtttest.New(t, mqtttest.Options{}), fakeKafka(t)
	dir := t.TempDir()
	config := writeConfig(t, dir, broker.Addr(), k.Addrs()[0])
	replaceIn(t, config, `topic: "test.{source}"`, `topic: "test.{source}", max_message_bytes: 100kB`)
	g := startGateway(t, config)
	g.await("up", 20*time.Second, func(s *gateway.Status) bool {
		return s.Sources[0].State == gateway.Up && s.Sinks[0].State == gateway.Up
	})
	for i := range 3 {
		broker.Publish(fmt.Sprint("large/", i), strings.Repeat("L", 200_000+i), 1, false)
		broker.Publish(fmt.Sprint("small/", i), "s", 1, false)
	}
	s := g.await("refused", 30*time.Second, func(s *gateway.Status) bool { return s.Sinks[0].Sent == 3 && s.Sinks[0].Waiting == 0 })
	if s.DeadLetters.Kept != 3 || len(s.DeadLetters.Sinks) != 1 || s.DeadLetters.Sinks[0].Kept != 3 || !s.Books.Balanced {
		t.Fatalf("%+v", s.DeadLetters)
	}
	lettersByTool(t, dir, g)
	queueDir := filepath.Join(dir, "queue")
	wantLetters(t, exitFound, "is in use by a gateway", "retry", "--all", queueDir)
	if code := g.stop(); code != exitGood {
		t.Fatalf("exit code %d\n%s", code, g.output())
	}
	wantLetters(t, exitGood, "large/0", "list", queueDir)
	wantLetters(t, exitGood, "2 dead letters exported", "export", "--all", queueDir)
	wantLetters(t, exitGood, "2 dead letters to be sent again when the gateway is started", "retry", "--all", queueDir)
	replaceIn(t, config, "100kB", "1MB")
	g = startGateway(t, config)
	s = g.await("delivered", 30*time.Second, func(s *gateway.Status) bool { return s.DeadLetters.Kept == 0 })
	if s.DeadLetters.Delivered != 2 || !s.Books.Balanced || s.Sinks[0].DeadLettered != 3 || s.Sinks[0].Sent != 3 {
		t.Errorf("%+v, %+v", s.DeadLetters, s.Sinks[0])
	}
	again := 0
	for _, r := range arrived(t, k) {
		if header(r, "replayed") == "true" {
			again++
			if want := map[string]int{"large/0": 200_000, "large/1": 200_001}[string(r.Key)]; len(r.Value) != want || header(r, "seq") == "" || header(r, "lane") != "telemetry" {
				t.Errorf("%s: %d bytes, %v", r.Key, len(r.Value), r.Headers)
			}
		}
	}
	if again != 2 {
		t.Errorf("%d arrived again, want 2", again)
	}
	wantLetters(t, exitGood, "none", "list", "--url", g.url)
}

// lettersByTool uses every verb on three letters of a running gateway.
func lettersByTool(t *testing.T, dir string, g *proc) {
	t.Helper()
	url := []string{"--url", g.url}
	with := func(args ...string) []string { return append(args, url...) }
	out := wantLetters(t, exitGood, "large/1", with()...)
	if strings.Count(out, "exceeds max_message_bytes") != 3 {
		t.Errorf("%s", out)
	}
	wantLetters(t, exitGood, "large/2", with("list", "--device", "large/2", "--since", "1h")...)
	if out := wantLetters(t, exitGood, "", with("list", "--limit", "2", "--json")...); strings.Count(out, `"state": "kept"`) != 2 {
		t.Errorf("%s", out)
	}
	wantLetters(t, exitGood, "--after 1", with("list", "--limit", "1")...)
	wantLetters(t, exitGood, "200000 bytes, beginning with", with("show", "--id", "1")...)
	wantLetters(t, exitFound, "no dead letter has this id", with("show", "--id", "9")...)
	wantLetters(t, exitFound, "1 dead letter would be dropped", with("drop", "--id", "3")...)
	wantLetters(t, exitGood, "1 dead letter would be sent again", with("retry", "--id", "3", "--dry-run")...)
	wantLetters(t, exitGood, "1 dead letter dropped", with("drop", "--id", "3", "--yes")...)
	file := filepath.Join(dir, "out.ndjson")
	wantLetters(t, exitGood, "2 dead letters exported", with("export", "--all", "--out", file)...)
	wantLetters(t, exitFound, "it exists", with("export", "--all", "--out", file)...)
	text, _ := os.ReadFile(file)
	var l observe.LetterJSON
	if err := json.Unmarshal(bytes.SplitN(text, []byte("\n"), 2)[0], &l); err != nil || len(l.Payload) != 200_000 || l.Record == nil || l.Sink != "centre" || len(l.Stored) == 0 {
		t.Errorf("%v: %.300s", err, text)
	}
	wantLetters(t, exitGood, "2 dead letters exported", with("export", "--sink", "centre", "--payloads", filepath.Join(dir, "payloads"))...)
	if p, err := os.ReadFile(filepath.Join(dir, "payloads", "2.bin")); err != nil || len(p) != 200_001 {
		t.Errorf("%d bytes, %v", len(p), err)
	}
	wantLetters(t, exitFound, "it exists", with("export", "--sink", "centre", "--payloads", filepath.Join(dir, "payloads"))...)
	wantLetters(t, exitFound, `there is no sink "nobody"`, with("retry", "--all", "--to", "nobody")...)
	wantLetters(t, exitGood, "2 dead letters to be sent again", with("retry", "--reason", "EXCEEDS")...)
	g.await("refused again", 30*time.Second, func(s *gateway.Status) bool { return s.DeadLetters.Retrying == 0 })
	wantLetters(t, exitGood, "sent again and refused: 1 time", with("list")...)
}

// TestDeadLetterTopicStory: letters are on the topic of their own as well.
func TestDeadLetterTopicStory(t *testing.T) {
	broker := mqtttest.New(t, mqtttest.Options{})
	k, err := kafkatest.Start(1, "", kfake.SeedTopics(4, "test.plant"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	config := writeConfig(t, t.TempDir(), broker.Addr(), k.Addrs()[0])
	replaceIn(t, config, `topic: "test.{source}"`, `topic: "test.{source}", max_message_bytes: 100kB, dead_letter_topic: "dead.{source}", dead_letter_keep: false`)
	if err := k.CreateTopic("dead.plant", 1, nil); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, config)
	g.await("up", 20*time.Second, func(s *gateway.Status) bool {
		return s.Sources[0].State == gateway.Up && s.Sinks[0].State == gateway.Up
	})
	broker.Publish("large", strings.Repeat("L", 200_000), 1, false)
	s := g.await("reported", 30*time.Second, func(s *gateway.Status) bool { return s.Sinks[0].DeadLettered == 1 && s.DeadLetters.Kept == 0 })
	recs, err := k.ReadAll(t.Context(), "dead.plant")
	if err != nil || len(recs) != 1 || !s.Books.Balanced {
		t.Fatalf("%d, %v, %+v", len(recs), err, s)
	}
	if r := recs[0]; header(r, "dead-cut") != "true" || header(r, "dead-topic") != "test.plant" || !strings.Contains(header(r, "dead-reason"), "exceeds max_message_bytes") || len(r.Value) != 1024 {
		t.Errorf("%v", r.Headers)
	}
}

// TestLetterUsage holds the command line.
func TestLetterUsage(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"-h", exitGood, "usage: waystation dead-letters"},
		{"retry", exitUsage, "say which"},
		{"drop --yes", exitUsage, "say which"},
		{"export", exitUsage, "say which"},
		{"drop --all --sink a", exitUsage, "not both"},
		{"show", exitUsage, "say which with --id"},
		{"list --to x", exitUsage, "--to goes with retry"},
		{"retry --all --yes", exitUsage, "--yes goes with drop"},
		{"list --dry-run", exitUsage, "--dry-run goes with retry and drop"},
		{"export --all --out x --payloads y", exitUsage, "--out or --payloads"},
		{"list --id x", exitUsage, `"x" is not an id`},
		{"list --since yesterday", exitUsage, `--since "yesterday"`},
		{"list --limit 0", exitUsage, "at least 1"},
		{"lsit", exitUsage, `"lsit" is neither one of list, show`},
		{"list --client-cert x", exitUsage, "together"},
		{"list --token-file /no/such", exitUsage, "no such file"},
		{"list --key file:x", exitUsage, "invalid value"},
		{"list " + dir, exitFound, "is not the directory of a queue"},
		{"list " + dir + " more", exitUsage, "give one DIR"},
		{"list --url 127.0.0.1:1", exitFound, "is it running?"},
	} {
		wantLetters(t, c.code, c.says, strings.Fields(c.args)...)
	}
}

// certificate makes a certificate of a name that nobody vouches for.
func certificate(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 2)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := x509.MarshalPKCS8PrivateKey(key)
	for file, b := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSecureAPI: with TLS, a token and certificates of clients the tools get in
// by the configuration or by flags, and nobody else does.
func TestSecureAPI(t *testing.T) {
	broker, k := mqtttest.New(t, mqtttest.Options{}), fakeKafka(t)
	dir := t.TempDir()
	for _, name := range []string{"ship", "person", "stranger"} {
		certificate(t, dir, name)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(in("token"), []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := writeConfig(t, dir, broker.Addr(), k.Addrs()[0])
	replaceIn(t, config, `{listen: "127.0.0.1:0"}`, `{listen: "127.0.0.1:0", token: "file:token", tls: {cert: ship.crt, key: ship.key, client_ca: person.crt}}`)
	g := startGateway(t, config)
	url := []string{"--url", g.url}
	person := []string{"--client-cert", in("person.crt"), "--client-key", in("person.key")}
	call := func(more ...[]string) (int, string) {
		var o, e bytes.Buffer
		args := append([]string{"--json"}, url...)
		for _, m := range more {
			args = append(args, m...)
		}
		code := status(args, &o, &e)
		return code, o.String() + e.String()
	}
	token := []string{"--token-file", in("token")}
	for i, c := range []struct {
		more [][]string
		says string
	}{
		{[][]string{{"--config", config}, person}, `"gateway": "test-gateway"`},
		{[][]string{{"--config", config}}, "show a certificate"},
		{[][]string{{"--config", config, "--client-cert", in("stranger.crt"), "--client-key", in("stranger.key")}}, "certificate"},
		{[][]string{{"--ca", in("ship.crt")}, person, token}, "127.0.0.2"}, // it is not of this name
		{[][]string{token, person}, "certificate"},                         // nobody vouches for it
	} {
		if _, text := call(c.more...); !strings.Contains(text, c.says) {
			t.Errorf("call %d: %s", i, text)
		}
	}
	replaceIn(t, config, "ship.crt, key: ship.key", "stranger.crt, key: stranger.key")
	if _, text := call([]string{"--config", config}, person); !strings.Contains(text, "not that of http.tls.cert") {
		t.Errorf("another certificate: %s", text)
	}
	if _, err := http.Get(strings.Replace(g.url, "https", "http", 1) + "/api/v1/status"); err == nil {
		res, _ := http.Get(strings.Replace(g.url, "https", "http", 1) + "/api/v1/status")
		if res != nil && res.StatusCode == http.StatusOK {
			t.Error("it answers in plain text")
		}
	}
}
