package main

import (
	"context"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters"
	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway/config"
)

// testKey is a key of encryption in hexadecimal.
func testKey(n int) string {
	k := make([]byte, 32)
	for i := range k {
		k[i] = byte(i*7 + n)
	}
	return hex.EncodeToString(k)
}

// load writes a configuration with the given section buffer and loads it.
func loadConfig(t *testing.T, section string) *config.Config {
	t.Helper()
	dir := t.TempDir()
	text := "gateway: {id: ship-042}\nbuffer: {dir: q, " + section + `}
http: {listen: ""}
sources:
  - {name: deck, type: mqtt, url: "tcp://127.0.0.1:1", topics: ["deck/#"], rules: [{match: {quality: bad}, drop: true}]}
sinks:
  - {name: shore, type: kafka, brokers: ["127.0.0.1:1"], topic: fleet}
`
	file := filepath.Join(dir, "waystation.yaml")
	for name, text := range map[string]string{file: text, filepath.Join(dir, "new.key"): testKey(0), filepath.Join(dir, "old.key"): testKey(1)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(file, adapters.All())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestQueueOfRelativeFile: the queue and what is kept beside it lie beside the
// configuration, by whatever path that was named.
func TestQueueOfRelativeFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("sub", 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("sub", "w.yaml")
	text := "gateway: {id: g}\nbuffer: {dir: ./data}\nsources: [{name: a, type: mqtt, url: \"tcp://h:1883\", topics: [t]}]\nsinks: [{name: s, type: kafka, brokers: [\"b:1\"], topic: t}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file, adapters.All())
	if err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(dir, "sub", "data")
	o, err := queueOptions(cfg, slog.New(slog.DiscardHandler))
	if err != nil || o.Dir != want || cfg.Buffer.Dir != want {
		t.Errorf("%q and %q, want %q: %v", o.Dir, cfg.Buffer.Dir, want, err)
	}
	if e := env(cfg, "source", "a", slog.New(slog.DiscardHandler)); !strings.HasPrefix(e.State, want+string(filepath.Separator)) {
		t.Errorf("state in %q", e.State)
	}
}

// TestQueueOptions: every option of the section buffer reaches the queue.
func TestQueueOptions(t *testing.T) {
	cfg := loadConfig(t, `max_bytes: 256MiB, segment_bytes: 1MiB, compression: s2, policy: thin, thin_every: 3, high_water: 70, prefill: false,
  retain: {for: 48h, bytes: 64MiB}, encryption: {key: "file:new.key", old_keys: ["file:old.key"]},
  lanes: [{name: urgent}, {name: rest, max_bytes: 32MiB, policy: reject, max_delay: 5s}]`)
	log := slog.New(slog.DiscardHandler)
	o, err := queueOptions(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	if o.Thin == nil || o.Thin() == o.Thin() {
		t.Fatal("policy thin has no thinner, or one for all segments")
	}
	o.Thin = nil
	want := buffer.Options{Dir: cfg.Buffer.Dir, MaxBytes: 224 << 20, SegmentBytes: 1 << 20, Compression: buffer.S2, Policy: buffer.Thin, HighWater: 70,
		Retain: buffer.Retention{For: 48 * time.Hour, Bytes: 64 << 20}, Log: log,
		Lanes: []buffer.LaneOptions{{Name: "urgent"}, {Name: "rest", MaxBytes: 32 << 20, Policy: buffer.Reject, MaxDelay: 5 * time.Second}}}
	for n := range 2 {
		k, _ := hex.DecodeString(testKey(n))
		want.Keys = append(want.Keys, buffer.Key(k))
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
	o, err = queueOptions(loadConfig(t, "max_bytes: 16MiB"), log)
	if err != nil || o.Thin != nil || o.Keys != nil || !o.Prefill || o.Policy != buffer.LowestLane || o.MaxBytes != 14<<20 || len(o.Lanes) != 3 || o.Lanes[1].MaxDelay != time.Second {
		t.Errorf("defaults: %v, %+v", err, o)
	}
	if err := os.Remove(filepath.Join(cfg.Dir, "old.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := queueOptions(cfg, log); err == nil || !strings.Contains(err.Error(), "old.key") {
		t.Errorf("a key that is gone since: %v", err)
	}
}

// TestBuildLanes: a gateway has the configured lanes and shows them by name.
func TestBuildLanes(t *testing.T) {
	cfg := loadConfig(t, `max_bytes: 16MiB, flash_endurance: 1TB, lanes: [{name: urgent}, {name: rest}]`)
	g, _, err := build(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	lanes := g.Status().Queue.Lanes
	if len(lanes) != 2 || lanes[0].Name != "urgent" || lanes[1].Name != "rest" {
		t.Errorf("lanes %+v", lanes)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ended); err != nil {
		t.Error(err)
	}
}
