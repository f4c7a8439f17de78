//go:build interop

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/adapters/kafka"
	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// plant is a secured Kafka with all that belongs to it.
type plant struct {
	t      *testing.T
	dir    string
	ca     *peers.Authority
	client peers.Issued
	tokens *peers.TokenServer
	kafka  *peers.SecureKafka
}

const scramPassword, plainPassword, oauthSecret = "scram-geheim-1", "plain-geheim-2", "oauth-geheim-3"

// newPlant starts a Kafka whose sessions live for reauth and tokens for life.
func newPlant(t *testing.T, reauth, life time.Duration) *plant {
	t.Helper()
	p := &plant{t: t, dir: t.TempDir()}
	var err error
	if p.ca, err = peers.NewAuthority(p.dir, "plant"); err != nil {
		t.Fatal(err)
	}
	server := p.issue(peers.Identity{Name: "kafka", Hosts: []string{"127.0.0.1", "kafka.test"}, For: 90 * 24 * time.Hour})
	p.client = p.issue(peers.Identity{Name: "gateway", For: 12*24*time.Hour + time.Hour})
	if p.tokens, err = peers.StartTokenServer(map[string]string{"gw": oauthSecret}, "kafka", life); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.tokens.Close() })
	t.Setenv("JDK_JAVA_OPTIONS", peers.SystemProperty(p.tokens.JWKS))
	p.kafka, err = peers.StartSecureKafka(t.TempDir(), peers.Secure{Keystore: server.Keystore, CA: p.ca.CA,
		Users: map[string]string{"gw": plainPassword}, Reauth: reauth, JWKS: p.tokens.JWKS, Audience: "kafka"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.kafka.Kill() })
	p.must(p.kafka.SetScram("gw", scramPassword))
	p.must(p.kafka.CreateTopic("fleet", 2, nil))
	return p
}

func (p *plant) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) issue(id peers.Identity) peers.Issued {
	p.t.Helper()
	got, err := p.ca.Issue(p.dir, id)
	p.must(err)
	return got
}

// allow grants what a sink needs.
func (p *plant) allow(principals ...string) {
	p.t.Helper()
	for _, x := range principals {
		p.must(p.kafka.ACL(p.dir, "--add", "--operation", "All", "--allow-principal", x, "--resource-pattern-type", "prefixed",
			"--topic", "fleet", "--topic", "test.", "--transactional-id", "waystation-", "--group", "waystation-"))
	}
}

// file writes a secret.
func (p *plant) file(name, text string) gateway.Secret {
	p.t.Helper()
	p.must(os.WriteFile(filepath.Join(p.dir, name+".new"), []byte(text), 0o600))
	p.must(os.Rename(filepath.Join(p.dir, name+".new"), filepath.Join(p.dir, name)))
	return gateway.Secret("file:" + name)
}

// options returns the sink's options for a way to log in.
func (p *plant) options(mechanism string) *kafka.Config {
	c := kafka.NewConfig()
	c.Topic, c.Brokers, c.RequestTimeout = "fleet", []string{p.kafka.SASLSSL}, 5*time.Second
	c.TLS = kafka.TLS{Enabled: true, TLS: gateway.TLS{CA: p.ca.CA}}
	switch mechanism {
	case "mtls":
		c.Brokers = []string{p.kafka.MTLS}
		c.TLS.Cert, c.TLS.Key = p.client.Cert, p.client.Key
	case "oauthbearer":
		c.SASL = kafka.SASL{Mechanism: mechanism, OAuth: kafka.OAuth{TokenURL: p.tokens.URL, ClientID: "gw", ClientSecret: oauthSecret, Scopes: []string{"kafka"}}}
	case "plain":
		c.SASL = kafka.SASL{Mechanism: mechanism, User: "gw", Password: plainPassword}
	default:
		c.SASL = kafka.SASL{Mechanism: mechanism, User: "gw", Password: scramPassword}
	}
	return c
}

// send connects a sink and sends a record.
func (p *plant) send(c *kafka.Config, seq uint64) (err error) {
	s, err := c.Sink(gateway.Env{GatewayID: "ship", Name: "shore", Dir: p.dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil { // a new broker is not at once ready to give producer ids
		if err = s.Connect(ctx); !errors.Is(err, sarama.ErrOffsetsLoadInProgress) {
			break
		}
	}
	if err != nil {
		return err
	}
	return s.Send(ctx, few(seq, 1))
}

// few makes a batch of n records from seq on.
func few(seq uint64, n int) *gateway.Batch {
	b := &gateway.Batch{Lane: gateway.LaneTelemetry, Generation: "g"}
	for i := range n {
		b.Items = append(b.Items, gateway.Item{Seq: seq + uint64(i), Record: gateway.Record{Source: "deck", Device: "d",
			Payload: fmt.Append(nil, "seq ", seq+uint64(i)), Received: time.Now()}})
	}
	return b
}

// values reads the topic.
func (p *plant) values() map[string]int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	all, err := peers.Kcat(ctx, p.kafka.Addr, "fleet")
	p.must(err)
	got := map[string]int{}
	for _, m := range all {
		got[string(m.Value)]++
	}
	return got
}

// heal runs the commands of the hints, word for word, until a record is taken.
func (p *plant) heal(t *testing.T) {
	t.Helper()
	command, named := regexp.MustCompile(`kafka-acls\.sh (--[^);]*)`), ""
	err := p.send(p.options("plain"), 1)
	for range 6 {
		if err == nil {
			break
		}
		run := command.FindStringSubmatch(err.Error())
		if run == nil {
			t.Fatalf("no command in %v", err)
		}
		named += run[1] + "\n"
		p.must(p.kafka.ACL(p.dir, strings.Fields(run[1])...))
		err = p.send(p.options("plain"), 1)
	}
	p.must(err)
	for _, what := range []string{"Write --operation Describe --transactional-id", "Read --group", "Write --operation Describe --topic fleet", "Read --topic fleet"} {
		if !strings.Contains(named, what) {
			t.Errorf("no command with %s in\n%s", what, named)
		}
	}
}

// TestKafkaSecurity logs in to a real Kafka in every way, and in every wrong way.
func TestKafkaSecurity(t *testing.T) {
	p := newPlant(t, 0, time.Hour)
	ways := []string{"plain", "scram-sha-256", "scram-sha-512", "oauthbearer", "mtls"}
	t.Run("no rights", func(t *testing.T) {
		for _, way := range ways {
			c := p.options(way)
			wantError(t, way, p.send(c, 1), "authorization failed", "kafka-acls.sh --bootstrap-server", "--allow-principal", "--transactional-id waystation-ship-shore")
			c.Delivery = "at-least-once"
			wantError(t, way, p.send(c, 1), "not authorized", "kafka-acls.sh --bootstrap-server", "--allow-principal", "--topic fleet")
		}
		p.heal(t)
		run := regexp.MustCompile(`--allow-principal "([^"]*)"`).FindStringSubmatch(p.send(p.options("mtls"), 1).Error())
		if run == nil || run[1] != "User:CN=gateway" {
			t.Fatal(run)
		}
		p.allow(run[1])
	})
	for i, way := range ways {
		t.Run(way, func(t *testing.T) { p.must(p.send(p.options(way), uint64(10+i))) })
	}
	plain := p.options("scram-sha-512")
	plain.Brokers, plain.TLS = []string{p.kafka.SASLPlain}, kafka.TLS{}
	p.must(p.send(plain, 20))
	got := p.values()
	for _, n := range []int{1, 10, 11, 12, 13, 14, 20} {
		if got[fmt.Sprint("seq ", n)] != 1 {
			t.Errorf("seq %d arrived %d times", n, got[fmt.Sprint("seq ", n)])
		}
	}
	p.wrongWays()
}

// wrongWays tries what goes wrong in the field.
func (p *plant) wrongWays() {
	other, err := peers.NewAuthority(p.dir, "other")
	p.must(err)
	stranger, err := other.Issue(p.dir, peers.Identity{Name: "stranger", For: time.Hour})
	p.must(err)
	old := p.issue(peers.Identity{Name: "old", From: -48 * time.Hour, For: -24 * time.Hour})
	for name, c := range map[string]struct {
		way    string
		change func(c *kafka.Config)
		want   []string
	}{
		"plain password":     {"plain", func(c *kafka.Config) { c.SASL.Password = "wrong-word" }, []string{"does not know user gw with this password for PLAIN"}},
		"scram-256 password": {"scram-sha-256", func(c *kafka.Config) { c.SASL.Password = "wrong-word" }, []string{"does not know user gw with this password for SCRAM-SHA-256"}},
		"scram-512 password": {"scram-sha-512", func(c *kafka.Config) { c.SASL.Password = "wrong-word" }, []string{"does not know user gw with this password for SCRAM-SHA-512"}},
		"oauth secret":       {"oauthbearer", func(c *kafka.Config) { c.SASL.OAuth.ClientSecret = "wrong-word" }, []string{"401 invalid_client", "check sasl.oauth.client_id"}},
		"oauth server":       {"oauthbearer", func(c *kafka.Config) { c.SASL.OAuth.TokenURL = "http://127.0.0.1:1/token" }, []string{"get a token from 127.0.0.1:1", "refused"}},
		"authority":          {"plain", func(c *kafka.Config) { c.TLS.CA = other.CA }, []string{"set tls.ca to the file"}},
		"name":               {"plain", func(c *kafka.Config) { c.TLS.ServerName = "shore.test" }, []string{"the server's certificate is for kafka.test, 127.0.0.1", "tls.server_name"}},
		"no certificate":     {"mtls", func(c *kafka.Config) { c.TLS.Cert, c.TLS.Key = "", "" }, []string{"set tls.cert and tls.key"}},
		"foreign":            {"mtls", func(c *kafka.Config) { c.TLS.Cert, c.TLS.Key = stranger.Cert, stranger.Key }, []string{"does not accept our certificate"}},
		"expired":            {"mtls", func(c *kafka.Config) { c.TLS.Cert, c.TLS.Key = old.Cert, old.Key }, []string{"our certificate, file ", "ended on "}},
		"TLS to plain port":  {"plain", func(c *kafka.Config) { c.Brokers = []string{p.kafka.SASLPlain} }, []string{"tls.enabled"}},
		"plain to TLS port":  {"plain", func(c *kafka.Config) { c.TLS = kafka.TLS{} }, []string{"tls.enabled"}},
	} {
		p.t.Run("wrong "+name, func(t *testing.T) {
			conf := p.options(c.way)
			c.change(conf)
			err := p.send(conf, 1000)
			t.Log(err)
			wantError(t, name, err, c.want...)
		})
	}
}

// wantError wants the words in the error, and no secret.
func wantError(t *testing.T, what string, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: no %q in: %v", what, w, err)
		}
	}
	for _, secret := range []string{scramPassword, plainPassword, oauthSecret, "wrong-word", "eyJ"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error holds a secret: %v", what, err)
		}
	}
}
