//go:build interop

package main

import (
	"context"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// expired is longer than everything the broker of TestExpiryInterop remembers of
// a gateway: offsets of a group go after a minute, transactional ids after 5 s.
const expired = 75 * time.Second

// expiryEach are the messages of each device in each half.
const expiryEach = 50

// TestExpiryInterop has three gateways that Kafka forgets: one stopped in order,
// one killed when Kafka had its records but the queue did not yet know, and one
// that runs and has nothing to send. None loses or repeats a record after it.
func TestExpiryInterop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mosquitto, err := peers.StartMosquitto(mkdir(t, dir, "mosquitto"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mosquitto.Kill() })
	kafka, err := peers.StartKafka(mkdir(t, dir, "kafka"), expirySettings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Kill() })
	if err := kafka.CreateTopic(positionTopic, 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
		t.Fatal(err)
	}
	binary := built(t, "waystation", "failpoint")
	for _, name := range []string{"stopped", "killed", "idle"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := expiry{t: t, mosquitto: mosquitto, name: name}
			topic := "expiry." + name
			if err := kafka.CreateTopic(topic, 2, nil); err != nil {
				t.Fatal(err)
			}
			config := gatewayConfig{id: name, mqtt: mosquitto.Addr, topics: name + "/#", brokers: []string{kafka.Addr}, topic: topic, more: chaosDelivery}
			e.run(binary, config.write(t, mkdir(t, dir, name)))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			got, err := peers.Kcat(ctx, kafka.Addr, topic)
			if err != nil {
				t.Fatal(err)
			}
			v := judgeChaos(name, got, chaosDevices, 2*expiryEach)
			t.Log(v)
			if !v.good() {
				t.Errorf("%s\nlog:\n%s", v, e.gate.output())
			}
		})
	}
}

// expirySettings make Kafka forget as fast as it can.
func expirySettings(settings map[string]string) {
	for key, value := range map[string]string{
		"offsets.retention.minutes":                                   "1",
		"offsets.retention.check.interval.ms":                         "1000",
		"transactional.id.expiration.ms":                              "5000",
		"transaction.remove.expired.transaction.cleanup.interval.ms":  "1000",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
		"producer.id.expiration.ms":                                   "5000",
		"producer.id.expiration.check.interval.ms":                    "1000",
	} {
		settings[key] = value
	}
}

// expiry is one gateway that is forgotten.
type expiry struct {
	t         *testing.T
	mosquitto *peers.Mosquitto
	name      string
	gate      *keptGateway
}

func (e *expiry) run(binary, config string) {
	e.gate = keepGateway(e.t, binary, config, func(string, ...any) {})
	e.await("source up", func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up })
	e.half(1)
	const half = chaosDevices * expiryEach
	e.await("first half sent", func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 && s.Books.Queued >= half })
	switch e.name {
	case "stopped":
		e.gate.stop()
		<-time.After(expired)
		e.gate = keepGateway(e.t, binary, config, func(string, ...any) {})
		e.half(expiryEach + 1)
	case "killed":
		e.gate.kill(0, "end-after:2")
		e.await("source up again", func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up })
		e.gate.rest(expired)
		e.half(expiryEach + 1)
		// Without the failpoint in the binary nothing has killed it.
		<-time.After(expired + 5*time.Second)
	case "idle":
		<-time.After(expired)
		e.half(expiryEach + 1)
	}
	e.await("all sent", func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 && s.Books.Queued >= 2*half })
	e.gate.stop()
}

// await waits for a status of the gateway.
func (e *expiry) await(what string, good func(*gateway.Status) bool) {
	e.t.Helper()
	if s, err := e.gate.await(time.Minute, good); err != nil {
		e.t.Fatalf("%s: %v; last status %+v\nlog:\n%s", what, err, s.Sinks, e.gate.output())
	}
}

// half publishes half of the messages, numbered from first.
func (e *expiry) half(first int) {
	e.t.Helper()
	publishEach(e.t, e.mosquitto.Addr, share{e.name, first, expiryEach})
}
