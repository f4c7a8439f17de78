//go:build interop

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// TestStickInterop carries the backlog of a ship that never had a link to
// another gateway, which delivers it to Apache Kafka under the ship's own
// generation and seqs; then what was delivered there is asked for again.
func TestStickInterop(t *testing.T) {
	const messages = 4000
	dir := t.TempDir()
	broker, err := peers.StartMosquitto(mkdir(t, dir, "mosquitto"), peers.MaxInflight(1000))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Kill() })
	ship := stickConfig(t, mkdir(t, dir, "ship"), "ship-042", [2]string{broker.Addr, "127.0.0.1:1"})
	g := startGateway(t, ship)
	g.await("source up", 30*time.Second, func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up })
	if err := load(broker.Addr, messages, 0); err != nil {
		t.Fatal(err)
	}
	aboard := g.await("queued", time.Minute, func(s *gateway.Status) bool { return s.Sources[0].Queued == messages })
	g.stop()

	archive := filepath.Join(dir, "ship.tar")
	runQueue(t, "export", filepath.Join(dir, "ship", "queue"), "--archive", archive, "--gateway", "ship-042", "--release")
	kafka, err := peers.StartKafka(mkdir(t, dir, "kafka"), peers.AutoCreateTopics(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Kill() })
	if err := kafka.CreateTopic("test.plant", 3, nil); err != nil {
		t.Fatal(err)
	}
	shore := stickConfig(t, mkdir(t, dir, "shore"), "shore-1", [2]string{broker.Addr, kafka.Addr})
	queue := filepath.Join(dir, "shore", "queue")
	for range 2 { // the second time changes nothing
		mkdir(t, filepath.Dir(queue), "queue")
		runQueue(t, "import", queue, archive)
	}
	g = startGateway(t, shore)
	delivered := func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 && s.Sinks[0].Sent >= messages }
	g.await("delivered", time.Minute, delivered)
	runQueue(t, "replay", "--from", "1h", "--url", g.url)
	g.await("sent again", time.Minute, func(*gateway.Status) bool { return len(arrivals(t, kafka.Addr)) >= 2*messages })
	g.stop()

	checkArrivals(t, arrivals(t, kafka.Addr), aboard.Queue.Generation, messages)
}

// checkArrivals: every record of the ship arrived once, and once again as replayed.
func checkArrivals(t *testing.T, all []arrival, generation string, messages int) {
	t.Helper()
	first, again := map[string]bool{}, map[string]bool{}
	for _, a := range all {
		if a.gateway != "ship-042" || a.generation != generation || a.lane != "telemetry" {
			t.Fatalf("a record of %+v, want those of generation %s", a, generation)
		}
		into := first
		if a.replayed {
			into = again
		}
		if into[a.seq] {
			t.Fatalf("seq %s arrived twice, replayed %v", a.seq, a.replayed)
		}
		into[a.seq] = true
	}
	if len(first) != messages || len(again) != messages {
		t.Fatalf("%d arrived and %d were replayed, want %d each", len(first), len(again), messages)
	}
	for seq := 1; seq <= messages; seq++ {
		if !first[strconv.Itoa(seq)] {
			t.Fatalf("seq %d is missing", seq)
		}
	}
}

// stickConfig writes the configuration of one of the two gateways; addrs are
// those of its MQTT broker and of Kafka.
func stickConfig(t *testing.T, dir, id string, addrs [2]string) string {
	t.Helper()
	path := filepath.Join(dir, "waystation.yaml")
	text := fmt.Sprintf(`gateway: {id: %s}
buffer: {dir: ./queue, max_bytes: 1GiB, retain: {for: 1h}}
http: {listen: "127.0.0.1:0"}
sources:
  - {name: plant, type: mqtt, url: "tcp://%s", topics: ["plant/#"]}
sinks:
  - {name: centre, type: kafka, brokers: ["%s"], topic: "test.{source}"}
`, id, addrs[0], addrs[1])
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runQueue runs `waystation queue …`.
func runQueue(t *testing.T, args ...string) {
	t.Helper()
	var errOut strings.Builder
	if code := dispatch(append([]string{"queue"}, args...), io.Discard, &errOut); code != exitGood {
		t.Fatalf("queue %v: exit %d: %s", args, code, errOut.String())
	}
}

// arrival is where a record in Kafka says it comes from.
type arrival struct {
	gateway, generation, lane, seq string
	replayed                       bool
}

// arrivals reads the whole test topic.
func arrivals(t *testing.T, addr string) (out []arrival) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("test.plant"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		fetches := cl.PollFetches(ctx)
		cancel()
		if fetches.NumRecords() == 0 {
			return out
		}
		fetches.EachRecord(func(r *kgo.Record) {
			h := map[string]string{}
			for _, x := range r.Headers {
				h[x.Key] = string(x.Value)
			}
			out = append(out, arrival{h["gateway"], h["generation"], h["lane"], h["seq"], h["replayed"] == "true"})
		})
	}
}
