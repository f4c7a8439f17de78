//go:build interop

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// TestInteropModbusToKafka goes the whole way: slaves made with pymodbus, the
// daemon, Apache Kafka, kcat. On the way the daemon is killed and started
// again, and Kafka is. Each slave counts the reads of one register, so that
// order, repeats and gaps are seen.
func TestInteropModbusToKafka(t *testing.T) {
	dir := t.TempDir()
	kafka, err := peers.StartKafka(mkdir(t, dir, "kafka"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Kill() })
	if err := kafka.CreateTopic("test.modbus", 3, nil); err != nil {
		t.Fatal(err)
	}
	slave := startPyModbus(t, peers.PyModbus{Line: "tcp", Cells: []peers.ModbusCell{
		{Unit: 1, Table: "holding", Address: 0, Type: "reads", Value: "0"}, {Unit: 1, Table: "holding", Address: 1, Type: "uint16", Value: "1"},
		{Unit: 2, Table: "holding", Address: 0, Type: "reads", Value: "0"}, {Unit: 2, Table: "holding", Address: 1, Type: "uint16", Value: "2"}}})
	config := modbusToKafka(t, dir, slave.URL, kafka.Addr)
	g := startGateway(t, config)
	more := func(what string, n int64) {
		t.Helper()
		g.await(what, time.Minute, func(s *gateway.Status) bool { return s.Sources[0].Queued >= n })
	}
	more("polls", 100)
	g.kill()
	g = startGateway(t, config)
	more("polls after the kill", 50)
	if err := kafka.Stop(); err != nil {
		t.Fatal(err)
	}
	g.await("queueing without Kafka", time.Minute, func(s *gateway.Status) bool {
		return s.Sinks[0].State == gateway.Down && s.Sinks[0].Waiting > 50
	})
	g.kill()
	if err := kafka.Start(); err != nil {
		t.Fatal(err)
	}
	g = startGateway(t, config)
	more("polls after the second kill", 50)
	g.await("sent", 2*time.Minute, func(s *gateway.Status) bool {
		return s.Sinks[0].State == gateway.Up && s.Sinks[0].Waiting < 20
	})
	if code := g.stop(); code != exitGood {
		t.Errorf("exit code %d after SIGTERM\n%s", code, g.output())
	}
	judgeModbusTopic(t, kafka.Addr, 2)
}

// modbusToKafka writes a configuration with two units behind one connection.
func modbusToKafka(t *testing.T, dir, url, brokers string) string {
	t.Helper()
	text := fmt.Sprintf(`gateway: {id: test-gateway}
buffer: {dir: ./queue, max_bytes: 1GiB}
http: {listen: "127.0.0.1:0"}
sources:
  - name: modbus
    type: modbus
    url: %s
    every: 50ms
    profile: {groups: [{name: g, points: [{name: reads, address: 0, type: uint16}, {name: unit, address: 1}]}]}
    devices:
      - {name: pump-1, unit: 1}
      - {name: pump-2, unit: 2}
sinks:
  - {name: centre, type: kafka, brokers: ["%s"], topic: "test.{source}", encoding: json}
`, url, brokers)
	path := filepath.Join(dir, "waystation.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// judgeModbusTopic wants, for each device by its key: its own unit in every
// record, counts that rise with the seqs, and gaps in the counts only where
// the daemon was killed between a read and its commit.
func judgeModbusTopic(t *testing.T, addr string, kills int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, err := peers.Kcat(ctx, addr, "test.modbus")
	if err != nil {
		t.Fatal(err)
	}
	units := map[string]string{"pump-1": "1", "pump-2": "2"}
	seqs := map[string]bool{}
	last, lastSeq, gaps := map[string]int64{}, map[string]uint64{}, map[string]int{}
	for _, m := range got {
		var rec struct {
			Device string
			Values map[string]struct{ V json.Number }
		}
		if err := json.Unmarshal(m.Value, &rec); err != nil {
			t.Fatalf("%v: %s", err, m.Value)
		}
		seq, err := strconv.ParseUint(m.Headers["seq"], 10, 64)
		if err != nil || rec.Device != m.Key || units[m.Key] == "" {
			t.Fatalf("key %q, headers %v: %s", m.Key, m.Headers, m.Value)
		}
		if id := m.Headers["generation"] + m.Headers["seq"]; seqs[id] {
			t.Errorf("seq %d came twice", seq)
		} else {
			seqs[id] = true
		}
		if rec.Values["reads"].V == "" { // the slave was not there: no value
			continue
		}
		reads, err := rec.Values["reads"].V.Int64()
		if err != nil || rec.Values["unit"].V.String() != units[m.Key] || reads <= last[m.Key] || seq <= lastSeq[m.Key] {
			t.Fatalf("%s: after %d (seq %d): %s, seq %d", m.Key, last[m.Key], lastSeq[m.Key], m.Value, seq)
		}
		if reads != last[m.Key]+1 {
			gaps[m.Key]++
		}
		last[m.Key], lastSeq[m.Key] = reads, seq
	}
	for device := range units {
		if last[device] < 100 || gaps[device] > kills {
			t.Errorf("%s: read %d times, with %d gaps, want at most %d", device, last[device], gaps[device], kills)
		}
	}
	t.Logf("%d records, reads %v, gaps at kills %v", len(got), last, gaps)
}
