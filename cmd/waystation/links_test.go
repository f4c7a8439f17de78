//go:build interop || bench

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/cmd/waystation/peers/link"
	"github.com/waystation-iot/waystation/gateway"
)

// linkDevices share the messages of a run over a link.
const linkDevices = 10

// linkRun is a gateway that queues messages while its link is silent and then
// sends them over it.
type linkRun struct {
	kafka     *peers.KafkaCluster
	mosquitto *peers.Mosquitto
	way       *peers.Way
	line      *link.Link
	dir, name string
	each      int // messages of each device
}

// linkResult is what it took.
type linkResult struct {
	took     time.Duration
	up, down int64 // payload of TCP over the link
	records  int
	verdict  verdict
}

// perRecord is bytes on the wire for a record, both ways.
func (r linkResult) perRecord() float64 { return float64(r.up+r.down) / float64(r.records) }

// send runs it and has kcat read what arrived.
func (r *linkRun) send(t testing.TB, limit time.Duration) linkResult {
	t.Helper()
	topic := "links." + r.name
	if err := r.kafka.CreateTopic(topic, 1, nil); err != nil {
		t.Fatal(err)
	}
	r.line.Silence()
	config := gatewayConfig{id: r.name, mqtt: r.mosquitto.Addr, topics: r.name + "/#", brokers: r.way.Addrs(), topic: topic,
		// A batch must fit through the link in this time: see docs/operating.md.
		more: ", request_timeout: 2m, dial_timeout: 30s"}
	p := startGateway(t, config.write(t, filepath.Join(r.dir, r.name)))
	defer p.kill()
	p.await("source up", 30*time.Second, func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up })
	if err := r.publish(); err != nil {
		t.Fatal(err)
	}
	n := linkDevices * r.each
	p.await("queued", time.Minute, func(s *gateway.Status) bool { return s.Books.Queued >= uint64(n) })
	began, up, down := time.Now(), r.line.Sent(), r.line.Received()
	r.line.Heal()
	p.await("sent", limit, func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 })
	out := linkResult{took: time.Since(began), up: r.line.Sent() - up, down: r.line.Received() - down, records: n}
	p.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, err := peers.Kcat(ctx, r.kafka.Addr(), topic)
	if err != nil {
		t.Fatal(err)
	}
	out.verdict = judgeChaos(r.name, got, linkDevices, r.each)
	return out
}

// publish sends telemetry of 200 bytes.
func (r *linkRun) publish() error {
	p, err := newPublisher(r.mosquitto.Addr, "load-"+r.name, 200)
	if err != nil {
		return err
	}
	var payload []byte
	for n := 1; n <= r.each; n++ {
		for d := range linkDevices {
			payload = telemetry(payload, d, int64(n))
			if err := p.publish(chaosKey(r.name, d), payload); err != nil {
				return err
			}
		}
	}
	return p.finish()
}

// newLinkRuns starts one Kafka with a way over each profile, and a mosquitto.
func newLinkRuns(t testing.TB, profiles []link.Profile) []*linkRun {
	t.Helper()
	dir := t.TempDir()
	var runs []*linkRun
	var ways []*peers.Way
	for i, profile := range profiles {
		line := link.New(profile, uint64(i)+1)
		t.Cleanup(line.Close)
		way := &peers.Way{Name: fmt.Sprintf("LINK%d", i), Via: line.Forward}
		ways = append(ways, way)
		runs = append(runs, &linkRun{way: way, line: line, dir: dir, name: fmt.Sprintf("l%d", i)})
	}
	for _, name := range []string{"mosquitto", "kafka"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mosquitto, err := peers.StartMosquitto(filepath.Join(dir, "mosquitto"), peers.MaxInflight(1000))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mosquitto.Kill() })
	kafka, err := peers.StartKafkaCluster(filepath.Join(dir, "kafka"), 1, ways)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Kill() })
	for _, r := range runs {
		r.kafka, r.mosquitto = kafka, mosquitto
	}
	return runs
}

// gatewayConfig is what the interop tests vary.
type gatewayConfig struct {
	id, mqtt, topics string
	brokers          []string
	topic            string
	more             string // further options of the sink, ", key: value"
	client           string // MQTT client id, "" for the default
}

// write writes the configuration into dir and returns its path.
func (c gatewayConfig) write(t testing.TB, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`gateway: {id: %s}
buffer: {dir: ./queue, max_bytes: 256MiB}
http: {listen: "127.0.0.1:0"}
sources:
  - {name: plant, type: mqtt, url: "tcp://%s", topics: ["%s"], client_id: "%s"}
sinks:
  - {name: centre, type: kafka, brokers: ["%s"], topic: "%s"%s}
`, c.id, c.mqtt, c.topics, c.client, strings.Join(c.brokers, `", "`), c.topic, c.more)
	path := filepath.Join(dir, "waystation.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
