package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// TestRegistryComesAndGoes has the real gateway wait for a schema registry that
// was never there, send when it comes, and start and send after it is gone.
func TestRegistryComesAndGoes(t *testing.T) {
	broker, k := mqtttest.New(t, mqtttest.Options{}), fakeKafka(t)
	registry := srfake.NewRegistry()
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := held.Addr().String() // nothing answers there as long as nobody accepts
	dir := t.TempDir()
	config := writeConfig(t, dir, broker.Addr(), k.Addrs()[0])
	replaceIn(t, config, `topic: "test.{source}"`,
		fmt.Sprintf(`topic: "test.{source}", encoding: avro, schema_registry: {urls: ["http://%s"], timeout: 200ms}`, addr))

	g := startGateway(t, config)
	g.await("source up", 20*time.Second, func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up })
	for i := range 3 {
		broker.Publish("a", fmt.Sprint(i), 1, false)
	}
	g.await("waiting for the registry", 30*time.Second, func(s *gateway.Status) bool {
		return s.Sinks[0].State == gateway.Down && s.Sinks[0].Waiting == 3 && s.Sinks[0].DeadLettered == 0
	})
	server := &httptest.Server{Listener: held, Config: &http.Server{Handler: registry.Handler()}}
	server.Start()
	g.await("sent", 40*time.Second, func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 && s.Sinks[0].Sent >= 3 })
	if code := g.stop(); code != exitGood {
		t.Fatalf("exit %d\n%s", code, g.output())
	}
	server.Close()
	if found, _ := filepath.Glob(filepath.Join(dir, "queue", ".state", "sink-centre", "schema-ids.json")); len(found) != 1 {
		t.Error("the id is not kept beside the queue")
	}

	g = startGateway(t, config)
	broker.Publish("a", "3", 1, false)
	g.await("sent without the registry", 30*time.Second, func(s *gateway.Status) bool { return s.Sinks[0].Sent >= 4 && s.Sinks[0].Waiting == 0 })
	text, _ := codec.Schema("avro")
	schema := avro.MustParse(text)
	all := arrived(t, k)
	for i, r := range all {
		var got map[string]any
		if len(r.Value) < 6 || !bytes.Equal(r.Value[:5], all[0].Value[:5]) || r.Value[0] != 0 {
			t.Fatalf("value % x", r.Value)
		}
		if err := avro.Unmarshal(schema, r.Value[5:], &got); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%s", got["payload"]) != fmt.Sprint(i) || got["gateway"] != "test-gateway" || fmt.Sprint(got["seq"]) != header(r, "seq") {
			t.Errorf("record %d: %v", i, got)
		}
	}
	if len(all) != 4 {
		t.Errorf("%d records", len(all))
	}
}
