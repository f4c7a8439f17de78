//go:build interop

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// What one kill -9 may have arrive twice.
const (
	// maxResent is a batch that Kafka confirmed and that was not yet released:
	// it comes again under the same seqs.
	maxResent = 2048
	// maxRedelivered is what mosquitto had not yet seen acknowledged: it is
	// stored again under new seqs. Its window is 20 by default, but grows under
	// acknowledgements that come in bunches, and those that a dying connection
	// still held are lost: only the packet identifiers bound it (MQTT 3.1.1,
	// section 2.3.1).
	maxRedelivered = 65535
)

// sameRun is how many sentences in a row must be equal to say where a repeated
// run began.
const sameRun = 50

// TestBoatLog sends the recorded NMEA 0183 log of a sailing boat through
// mosquitto, the gateway and Apache Kafka, sentence by sentence at QoS 1, and
// compares it byte for byte and in order as kcat reads it. On the way the
// gateway is killed, and Kafka is stopped and started again.
func TestBoatLog(t *testing.T) {
	lines := boatLog(t)
	dir := t.TempDir()
	broker, err := peers.StartMosquitto(mkdir(t, dir, "mosquitto"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Kill() })
	kafka, err := peers.StartKafka(mkdir(t, dir, "kafka"), peers.AutoCreateTopics(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Kill() })
	if err := kafka.CreateTopic("test.plant", 3, nil); err != nil {
		t.Fatal(err)
	}
	config := writeConfig(t, dir, broker.Addr, kafka.Addr)
	g := startGateway(t, config)
	g.await("source up", 30*time.Second, func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up })

	third := len(lines) / 3
	sentences(t, broker.Addr, lines[:third])
	sent := make(chan bool)
	go func() { defer close(sent); sentences(t, broker.Addr, lines[third:2*third]) }()
	g.await("in the middle of the second third", time.Minute, func(s *gateway.Status) bool {
		return s.Sources[0].Queued > int64(third+third/4)
	})
	g.kill()
	g = startGateway(t, config)
	<-sent

	if err := kafka.Stop(); err != nil {
		t.Fatal(err)
	}
	sentences(t, broker.Addr, lines[2*third:])
	g.await("queueing without Kafka", time.Minute, func(s *gateway.Status) bool {
		return s.Sinks[0].State == gateway.Down && s.Sinks[0].Waiting > 0
	})
	if err := kafka.Start(); err != nil {
		t.Fatal(err)
	}
	s := g.await("all sent", 3*time.Minute, func(s *gateway.Status) bool {
		return s.Sinks[0].Waiting == 0 && s.Sinks[0].Sent >= uint64(len(lines))
	})
	if !s.Books.Balanced {
		t.Errorf("the books do not balance: %+v", s)
	}
	if code := g.stop(); code != exitGood {
		t.Errorf("exit code %d after SIGTERM\n%s", code, g.output())
	}
	judgeBoat(t, kafka.Addr, lines)
}

// boatLog reads the log of the package, line by line with their line ends cut.
func boatLog(t *testing.T) [][]byte {
	t.Helper()
	path, err := peers.Plaka()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	if len(lines) < 100_000 {
		t.Fatalf("%s has only %d lines", path, len(lines))
	}
	return lines
}

func mkdir(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// sentences publishes lines in order and returns when all are acknowledged.
func sentences(t *testing.T, addr string, lines [][]byte) {
	p, err := newPublisher(addr, "boat", 500)
	if err != nil {
		t.Error(err)
		return
	}
	for _, l := range lines {
		if err := p.publish("boat/nmea", l); err != nil {
			t.Error(err)
			return
		}
	}
	if err := p.finish(); err != nil {
		t.Error(err)
	}
}

// judgeBoat reads the topic with kcat and compares it with the log. After a
// kill the stream may go back a little and repeat itself; anything else is loss
// or disorder.
func judgeBoat(t *testing.T, addr string, lines [][]byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	got, err := peers.Kcat(ctx, addr, "test.plant")
	if err != nil {
		t.Fatal(err)
	}
	next, repeated, rewinds := 0, 0, 0
	seqs := map[uint64]int{}
	highest := uint64(0)
	for i, m := range got {
		if m.Key != "boat/nmea" || m.Headers["gateway"] != "test-gateway" || m.Headers["lane"] != "telemetry" || m.Headers["generation"] == "" {
			t.Fatalf("record %d: key %q, headers %v", i, m.Key, m.Headers)
		}
		seq, err := strconv.ParseUint(m.Headers["seq"], 10, 64)
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		seqs[seq]++
		highest = max(highest, seq)
		if next < len(lines) && bytes.Equal(m.Value, lines[next]) {
			next++
			continue
		}
		back := rewind(lines, next, got[i:])
		if back < 0 {
			t.Fatalf("record %d (seq %d) is %q; line %d is %q: lost or out of order", i, seq, m.Value, next, lines[min(next, len(lines)-1)])
		}
		repeated += next - back
		rewinds++
		next = back + 1
	}
	if next != len(lines) {
		t.Errorf("%d of %d sentences arrived", next, len(lines))
	}
	resent := len(got) - len(seqs)
	if rewinds > 2 || resent > maxResent || repeated-resent > maxRedelivered {
		t.Errorf("%d sentences arrived again in %d runs, %d of them under the same seq; one kill explains at most %d and %d",
			repeated, rewinds, resent, maxRedelivered+maxResent, maxResent)
	}
	if uint64(len(seqs)) != highest {
		t.Errorf("seqs 1 to %d have %d holes", highest, highest-uint64(len(seqs)))
	}
	t.Logf("%d sentences sent, %d records arrived, lost 0, out of order 0, %d repeated in %d runs (%d of them under the same seq)",
		len(lines), len(got), repeated, rewinds, resent)
}

// rewind finds where before next the stream goes on: the latest line from which
// the coming records follow. It returns -1 when there is none.
func rewind(lines [][]byte, next int, got []peers.Message) int {
	for back := next - 1; back >= max(0, next-maxResent-maxRedelivered); back-- {
		n := 0
		for n < sameRun && back+n < len(lines) && n < len(got) && bytes.Equal(lines[back+n], got[n].Value) {
			n++
		}
		if n == sameRun || n > 0 && (back+n == len(lines) || n == len(got)) {
			return back
		}
	}
	return -1
}
