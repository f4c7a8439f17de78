//go:build interop

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// clone is one of two gateways with copies of one queue and one id.
type clone struct {
	name string // begins its MQTT topics
	gate *keptGateway
	sent int // messages of each device after the copy was made
}

// TestFencingInterop copies a queue with a backlog and runs both copies, as
// after a card was copied: one stops and says why, the other goes on, and of
// what it queues nothing is lost or doubled.
func TestFencingInterop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mosquitto, err := peers.StartMosquitto(mkdir(t, dir, "mosquitto"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mosquitto.Kill() })
	kafka, err := peers.StartKafka(mkdir(t, dir, "kafka"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Kill() })
	for topic, configs := range map[string]map[string]string{"fencing": nil, positionTopic: {"cleanup.policy": "compact"}} {
		if err := kafka.CreateTopic(topic, 2, configs); err != nil {
			t.Fatal(err)
		}
	}
	clones := copyGateway(t, dir, mosquitto, kafka)
	loser := meet(t, mosquitto.Addr, clones)
	won := clones[1-loser]
	if s, err := won.gate.await(time.Minute, func(s *gateway.Status) bool {
		return s.Sinks[0].Waiting == 0 && s.Books.Queued >= uint64(chaosDevices*won.sent)
	}); err != nil {
		t.Fatalf("drain: %v; %+v\n%s", err, s.Sinks, won.gate.output())
	}
	if s, ok := clones[loser].gate.status(); !ok || s.Sinks[0].State != gateway.Failed || !strings.Contains(s.Sinks[0].Error, "gateway.id") {
		t.Errorf("the other gateway: %+v", s.Sinks)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, err := peers.Kcat(ctx, kafka.Addr, "fencing")
	if err != nil {
		t.Fatal(err)
	}
	judgeClones(t, got, map[string]int{"before": expiryEach, won.name: won.sent})
}

// meet publishes to both until one has stopped, and for a while to the other,
// and returns which one stopped.
func meet(t *testing.T, mqtt string, clones [2]*clone) int {
	t.Helper()
	const each, after = 5, 20 // messages in a round; rounds for the one that goes on
	loser, left := -1, after
	for end := time.Now().Add(2 * time.Minute); left > 0 && time.Now().Before(end); {
		if loser >= 0 {
			left--
		}
		for i, c := range clones {
			if i == loser {
				continue
			}
			publishEach(t, mqtt, share{c.name, c.sent + 1, each})
			c.sent += each
			if s, ok := c.gate.status(); ok && s.Sinks[0].State == gateway.Failed && loser < 0 {
				loser = i
				t.Logf("gateway %s stopped: %s", c.name, s.Sinks[0].Error)
			}
		}
	}
	if loser < 0 {
		t.Fatalf("both go on\n%s\n%s", clones[0].gate.output(), clones[1].gate.output())
	}
	return loser
}

// copyGateway makes a queue with a backlog and starts two gateways on copies.
func copyGateway(t *testing.T, dir string, mosquitto *peers.Mosquitto, kafka *peers.Kafka) [2]*clone {
	t.Helper()
	config := gatewayConfig{id: "fleet-1", mqtt: mosquitto.Addr, topics: "before/#", brokers: []string{"127.0.0.1:1"}, topic: "fencing", more: chaosDelivery}
	first := startGateway(t, config.write(t, filepath.Join(dir, "first")))
	first.await("source up", time.Minute, func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up })
	publishEach(t, mosquitto.Addr, share{"before", 1, expiryEach})
	first.await("queued", time.Minute, func(s *gateway.Status) bool { return s.Books.Queued >= chaosDevices*expiryEach })
	if code := first.stop(); code != exitGood {
		t.Fatalf("exit code %d", code)
	}
	var out [2]*clone
	for i, name := range []string{"one", "two"} {
		into := filepath.Join(dir, name)
		config.topics, config.brokers, config.client = name+"/#", []string{kafka.Addr}, name
		path := config.write(t, into)
		if err := os.CopyFS(filepath.Join(into, "queue"), os.DirFS(filepath.Join(dir, "first", "queue"))); err != nil {
			t.Fatal(err)
		}
		out[i] = &clone{name: name, gate: keepGateway(t, built(t, "waystation"), path, func(string, ...any) {})}
	}
	for _, c := range out {
		if _, err := c.gate.await(time.Minute, func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up }); err != nil {
			t.Fatal(err, c.gate.output())
		}
	}
	return out
}

// judgeClones wants each message of the streams once. The queue's own numbers
// do not help here, as both copies give the same.
func judgeClones(t *testing.T, got []peers.Message, streams map[string]int) {
	t.Helper()
	for name, n := range streams {
		times := map[string]map[int]int{}
		lost, doubled := 0, 0
		for _, m := range got {
			if strings.HasPrefix(m.Key, name+"/") {
				if times[m.Key] == nil {
					times[m.Key] = map[int]int{}
				}
				times[m.Key][chaosNumber(m.Value)]++
			}
		}
		for d := range chaosDevices {
			for i := 1; i <= n; i++ {
				switch k := times[chaosKey(name, d)][i]; {
				case k == 0:
					lost++
				case k > 1:
					doubled++
				}
			}
		}
		t.Logf("%s: %d messages, lost %d, doubled %d", name, n*chaosDevices, lost, doubled)
		if lost != 0 || doubled != 0 {
			t.Errorf("%s: %d messages, lost %d, doubled %d", name, n*chaosDevices, lost, doubled)
		}
	}
}
