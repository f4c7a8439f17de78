//go:build interop

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// stream sends batches to a sink as a gateway does: connect again after an
// error, the same batch until it is confirmed.
type stream struct {
	sink gateway.Sink
	from uint64 // before the first
	next uint64 // the last so far
	errs []error
}

// run sends for a while.
func (s *stream) run(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d+30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		b := few(s.next+1, 20)
		for err := errors.New("first"); err != nil; {
			if err = s.sink.Connect(ctx); err == nil {
				err = s.sink.Send(ctx, b)
			}
			if err != nil {
				if !errors.Is(err, sarama.ErrOffsetsLoadInProgress) { // a new broker is not at once ready
					s.errs = append(s.errs, err)
				}
				<-tick.C
			}
			if ctx.Err() != nil {
				t.Fatal(s.errs[len(s.errs)-1])
			}
		}
		s.next += 20
	}
}

// whole checks that every record of the stream arrived once.
func (s *stream) whole(t *testing.T, got map[string]int) {
	t.Helper()
	for seq := s.from + 1; seq <= s.next; seq++ {
		if n := got[fmt.Sprint("seq ", seq)]; n != 1 {
			t.Fatalf("seq %d of %d arrived %d times", seq, s.next, n)
		}
	}
}

// TestKafkaTokensEnd sends while tokens and sessions end again and again
// (KIP-368), and while no new token is to be had for a moment.
func TestKafkaTokensEnd(t *testing.T) {
	p := newPlant(t, 3*time.Second, 5*time.Second)
	p.allow("User:gw")
	s := p.stream("oauthbearer")
	s.run(t, 15*time.Second)
	if n := p.tokens.Issued.Load(); n < 3 || len(s.errs) > 0 {
		t.Errorf("%d tokens were issued; %d errors: %v", n, len(s.errs), s.errs)
	}
	p.tokens.Down.Store(true)
	time.AfterFunc(7*time.Second, func() { p.tokens.Down.Store(false) })
	s.run(t, 10*time.Second)
	if len(s.errs) == 0 || !strings.Contains(s.errs[0].Error(), "answered 503") {
		t.Errorf("without a token server: %v", s.errs)
	}
	t.Logf("%d records, %d errors, %d tokens; first error %v", s.next, len(s.errs), p.tokens.Issued.Load(), s.errs[0])
	scram := p.stream("scram-sha-512")
	scram.from, scram.next = s.next, s.next
	scram.run(t, 8*time.Second)
	<-time.After(5 * time.Second) // longer than a session
	scram.run(t, time.Second)
	if len(scram.errs) > 0 {
		t.Errorf("%d errors: %v", len(scram.errs), scram.errs)
	}
	got := p.values()
	s.whole(t, got)
	scram.whole(t, got)
}

// stream makes a sink and a stream to it.
func (p *plant) stream(way string) *stream {
	p.t.Helper()
	sink, err := p.options(way).Sink(gateway.Env{GatewayID: "ship", Name: "shore", Dir: p.dir, Log: slog.New(slog.DiscardHandler)})
	p.must(err)
	p.t.Cleanup(func() { _ = sink.Close() })
	return &stream{sink: sink}
}

// TestKafkaCertificateRotates renews the client certificate of a gateway under
// load: the certificate first, the key a while later, as careless tools do.
func TestKafkaCertificateRotates(t *testing.T) {
	p := newPlant(t, 0, time.Hour)
	p.must(p.kafka.CreateTopic("test.plant", 3, nil))
	p.allow("User:CN=gateway")
	broker, err := peers.StartMosquitto(mkdir(t, p.dir, "mosquitto"))
	p.must(err)
	t.Cleanup(func() { _ = broker.Kill() })
	config := writeConfig(t, p.dir, broker.Addr, p.kafka.MTLS)
	replaceIn(t, config, `topic: "test.{source}"}`, `topic: "test.{source}", tls: {enabled: true, ca: plant-ca.pem, cert: gateway-cert.pem, key: gateway-key.pem}}`)
	g := startGateway(t, config)
	ends := func(want string) func(s *gateway.Status) bool {
		return func(s *gateway.Status) bool {
			for _, f := range s.Sinks[0].Facts {
				if strings.Contains(f.Name+": "+f.Value, want) {
					return true
				}
			}
			return false
		}
	}
	g.await("fact", 30*time.Second, ends("certificate: ends in 12 days"))
	const messages = 30_000
	loaded := make(chan error, 1)
	go func() { loaded <- load(broker.Addr, messages, 400) }()

	key, err := os.ReadFile(p.client.Key)
	p.must(err)
	p.issue(peers.Identity{Name: "gateway", For: 200*24*time.Hour + time.Hour})
	renewed, err := os.ReadFile(p.client.Key)
	p.must(err)
	p.must(os.WriteFile(p.client.Key, key, 0o600)) // for now
	s := g.await("mismatch", 45*time.Second, ends("private key does not match"))
	if s.Sinks[0].State != gateway.Up {
		t.Errorf("the sink is %s with a certificate whose key is to come", s.Sinks[0].State)
	}
	p.must(os.WriteFile(p.client.Key, renewed, 0o600))
	g.await("renewal", 45*time.Second, ends("certificate: ends in 200 days"))
	p.must(<-loaded)
	g.await("sent", 30*time.Second, func(s *gateway.Status) bool { return s.Sinks[0].Sent >= messages && s.Sinks[0].Waiting == 0 })
	if log := g.output(); !strings.Contains(log, "connected anew with changed certificates") || strings.Contains(log, "sink is down") {
		t.Errorf("log:\n%s", log)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	all, err := peers.Kcat(ctx, p.kafka.Addr, "test.plant")
	p.must(err)
	seqs := map[string]int{}
	for _, m := range all {
		seqs[m.Headers["seq"]]++
	}
	if len(all) != messages || len(seqs) != messages {
		t.Errorf("%d records, %d different, want %d", len(all), len(seqs), messages)
	}
}
