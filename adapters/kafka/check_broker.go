package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

// atOnce is how many brokers are tried at the same time.
const atOnce = 8

// trial is what became of one broker.
type trial struct {
	addr   string
	steps  []string // that went well
	failed string   // the step that did not
	err    error
	broker *sarama.Broker
	trip   time.Duration // round trip
}

// brokers tries addresses, and reports in their order. why says where they come
// from when they are not the configured ones.
func (k *checker) brokers(why string, addrs []string) {
	trials := make([]trial, len(addrs))
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, addr := range addrs {
		all.Go(func() {
			slots <- struct{}{}
			trials[i] = k.try(addr)
			<-slots
		})
	}
	all.Wait()
	for i := range trials {
		k.tried(&trials[i], why)
	}
	reached := 0
	for i := range trials {
		if trials[i].err == nil {
			reached++
		}
	}
	if why == "" && reached > 0 && reached < len(trials) {
		k.bad(gateway.Note, "brokers", fmt.Sprintf("%d of %d answer: enough to begin with", reached, len(trials)), "")
	}
}

// tried reports one broker.
func (k *checker) tried(t *trial, why string) {
	what := "broker " + t.addr
	if why != "" {
		what += ", " + why
	}
	if t.err != nil {
		fix := k.fix(t.err, "")
		level := gateway.Fail
		switch {
		case fix != "":
		case why != "":
			fix = k.advertisedFix(t.addr)
		default:
			fix = "start the broker, or correct brokers; a firewall may be in between"
		}
		detail := t.failed + ": " + t.err.Error()
		if len(t.steps) > 0 {
			detail = strings.Join(t.steps, ", ") + "; then " + detail
		}
		if k.ctx.Err() != nil {
			detail, fix = detail+": no time was left", "a longer --timeout, or a firewall drops the packets"
		}
		k.bad(level, what, detail, fix)
		return
	}
	if k.admin == nil {
		k.admin = t.broker
	}
	t.steps = append(t.steps, "round trip "+t.trip.Round(time.Millisecond/10).String())
	if t.trip < slowTrip {
		k.ok(what, "%s", strings.Join(t.steps, ", "))
		return
	}
	k.bad(gateway.Note, what, strings.Join(t.steps, ", ")+": a slow link; each batch waits for its answer", "set request_timeout: 60s and dial_timeout: 30s on this sink")
}

// try goes through the steps of a connection.
func (k *checker) try(addr string) (t trial) {
	t.addr = addr
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		t.failed, t.err = "address", err
		return t
	}
	if net.ParseIP(host) == nil {
		ips, err := net.DefaultResolver.LookupHost(k.sess.ctx, host)
		if err != nil {
			t.failed, t.err = "DNS", err
			return t
		}
		t.steps = append(t.steps, "DNS "+strings.Join(ips, " "))
	}
	c, err := k.sess.Dial("tcp", addr)
	if err != nil {
		t.failed, t.err = "TCP", err
		return t
	}
	defer func() { _ = c.Close() }()
	t.steps = append(t.steps, "TCP")
	if k.config.Net.TLS.Enable {
		conf := k.config.Net.TLS.Config.Clone()
		if conf.ServerName == "" {
			conf.ServerName = host
		}
		secured := tls.Client(c, conf)
		ctx, cancel := context.WithTimeout(k.sess.ctx, k.cfg.DialTimeout)
		err := secured.HandshakeContext(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && k.ctx.Err() == nil {
			err = fmt.Errorf("no answer within %s: does it speak TLS on this port?", k.cfg.DialTimeout)
		}
		if err != nil {
			t.failed, t.err = "TLS", err
			return t
		}
		state := secured.ConnectionState()
		t.steps = append(t.steps, tls.VersionName(state.Version)+" (certificate to "+state.PeerCertificates[0].NotAfter.UTC().Format(time.DateOnly)+")")
	}
	k.speak(&t)
	return t
}

// speak opens a Kafka connection: versions, log-in.
func (k *checker) speak(t *trial) {
	t.failed = "Kafka"
	if k.cfg.SASL.Mechanism != "" {
		t.failed = "log-in with " + k.mechanism()
	}
	b := sarama.NewBroker(t.addr)
	if t.err = k.open(b); t.err != nil {
		return
	}
	versions := 0
	for range 3 {
		began := time.Now()
		answer, err := b.ApiVersions(&sarama.ApiVersionsRequest{})
		if t.err = err; err != nil {
			t.failed = "ApiVersions"
			return
		}
		versions = len(answer.ApiKeys)
		if trip := time.Since(began); t.trip == 0 || trip < t.trip {
			t.trip = trip
		}
	}
	if k.cfg.SASL.Mechanism != "" {
		t.steps = append(t.steps, k.mechanism()+" as "+k.principal())
	}
	t.steps = append(t.steps, fmt.Sprintf("%d Kafka APIs", versions))
	t.broker = b
}
