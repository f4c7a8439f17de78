//go:build bench

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// modbusWindow is how long is measured; BENCH_WINDOW=60s makes it longer.
func modbusWindow(b *testing.B) time.Duration {
	b.Helper()
	text := os.Getenv("BENCH_WINDOW")
	if text == "" {
		return 15 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// modbusLoad is what the daemon polls of a plant.
type modbusLoad struct {
	registers int // of each group
	groups    int // 0 = 1
	every     time.Duration
	options   string // of the source, YAML in one line each
}

// polled is one measurement.
type polled struct {
	took      time.Duration
	cpu       time.Duration // of the daemon alone
	rss       int64         // of the daemon, bytes
	polls     int           // that came to the slaves that live
	slowest   float64       // polls/s of the slave that got the fewest
	fastest   float64
	gap       time.Duration // the longest between two polls of one slave
	perRecord float64       // records stored for each poll
}

// pollPlant has the daemon, with its queue on disk and no Kafka to be reached,
// poll a plant, and measures it after a warm-up.
func pollPlant(b *testing.B, spec plantSpec, load modbusLoad) polled {
	b.Helper()
	sim := startPlant(b, spec)
	g := startGateway(b, modbusBenchConfig(b, sim, load))
	living := (spec.Slaves - spec.Dead)
	g.await("all that live polled", 2*time.Minute, func(s *gateway.Status) bool {
		up := 0
		for i := range s.Sources {
			if s.Sources[i].State == gateway.Up && s.Sources[i].Queued > 0 {
				up++
			}
		}
		return up >= min(living, len(s.Sources))
	})
	pause(modbusWarmUp(load))
	before, _ := g.status()
	sim.take()
	cpu, began := g.cpu(), time.Now()
	pause(modbusWindow(b))
	counts := sim.take()
	out := polled{took: time.Since(began), cpu: g.cpu() - cpu, rss: g.rss()}
	after, _ := g.status()
	for i, c := range counts {
		rate := float64(c.Polls) / out.took.Seconds()
		if out.polls += c.Polls; i == 0 || rate < out.slowest {
			out.slowest = rate
		}
		out.fastest = max(out.fastest, rate)
		out.gap = max(out.gap, c.Gap)
	}
	// Received, as what waits for the next commit is a record too.
	out.perRecord = float64(receivedOf(&after)-receivedOf(&before)) / float64(out.polls)
	g.stop()
	return out
}

// modbusWarmUp is until dead slaves are known as such and the heap has its size.
func modbusWarmUp(load modbusLoad) time.Duration { return 5*time.Second + 2*load.every }

// pause is the clock of the measurement.
func pause(d time.Duration) { <-time.After(d) }

func receivedOf(s *gateway.Status) (n int64) {
	for i := range s.Sources {
		n += s.Sources[i].Received
	}
	return n
}

// modbusBenchConfig writes a configuration: a source for each line, with the
// slaves as its devices where it has several.
func modbusBenchConfig(b *testing.B, p *simPlant, load modbusLoad) string {
	b.Helper()
	var text strings.Builder
	text.WriteString(`gateway: {id: test-gateway}
buffer: {dir: ./queue, max_bytes: 2GiB}
http: {listen: "127.0.0.1:0"}
sinks:
  - {name: centre, type: kafka, brokers: ["127.0.0.1:1"], topic: "test.{source}"}
sources:
`)
	for i, url := range p.urls {
		fmt.Fprintf(&text, "  - name: line-%d\n    type: modbus\n    url: %s\n    every: %s\n", i+1, url, load.every)
		for option := range strings.Lines(load.options) {
			text.WriteString("    " + strings.TrimRight(option, "\n") + "\n")
		}
		text.WriteString("    profile:\n      groups:\n")
		for g := range max(1, load.groups) {
			fmt.Fprintf(&text, "        - {name: g%d, points: [{name: r, address: 0, count: %d}]}\n", g, load.registers)
		}
		if len(p.urls) == p.spec.Slaves {
			continue
		}
		text.WriteString("    devices:\n")
		for unit := range p.spec.Slaves {
			fmt.Fprintf(&text, "      - {name: unit-%d, unit: %d}\n", unit+1, unit+1)
		}
	}
	path := filepath.Join(b.TempDir(), "waystation.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// BenchmarkModbusPolls has the daemon poll 125 registers of each of 20 slaves,
// each with its own connection.
func BenchmarkModbusPolls(b *testing.B) {
	for _, every := range []time.Duration{100 * time.Millisecond, 10 * time.Millisecond} {
		b.Run("every="+every.String(), func(b *testing.B) {
			got := pollPlant(b, plantSpec{Slaves: 20}, modbusLoad{registers: 125, every: every})
			b.ReportMetric(got.slowest, "polls/s-slowest")
			b.ReportMetric(got.fastest, "polls/s-fastest")
			b.ReportMetric(got.cpu.Seconds()*1000/float64(got.polls), "cpu-ms/poll")
			b.ReportMetric(got.perRecord, "records/poll")
			b.ReportMetric(float64(got.gap)/1e6, "longest-gap-ms")
			b.ReportMetric(float64(got.rss)/(1<<20), "rss-MiB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkModbusDead states what 8 dead slaves of 20 do to the other 12: each
// on its own connection, and as units behind one.
func BenchmarkModbusDead(b *testing.B) {
	for _, shared := range []bool{false, true} {
		name := "connections"
		if shared {
			name = "one-gateway"
		}
		b.Run(name, func(b *testing.B) {
			load := modbusLoad{registers: 125, every: 100 * time.Millisecond}
			well := pollPlant(b, plantSpec{Slaves: 20, Shared: shared}, load)
			ill := pollPlant(b, plantSpec{Slaves: 20, Dead: 8, Shared: shared}, load)
			reportIll(b, well, ill)
		})
	}
}

// reportIll states two measurements, without and with dead slaves.
func reportIll(b *testing.B, well, ill polled) {
	b.Helper()
	b.ReportMetric(well.slowest, "polls/s-all-well")
	b.ReportMetric(ill.slowest, "polls/s-some-dead")
	b.ReportMetric(ill.slowest/well.slowest*100, "rate-kept-%")
	b.ReportMetric(float64(well.gap)/1e6, "gap-ms-all-well")
	b.ReportMetric(float64(ill.gap)/1e6, "gap-ms-some-dead")
	b.ReportMetric((float64(ill.gap)/float64(well.gap)-1)*100, "gap-growth-%")
	b.ReportMetric(0, "ns/op")
}

// Characters of a serial line.
const (
	rtuCharBits   = 11                                      // start, 8 data, parity or a second stop, stop
	rtuFast       = 1750 * time.Microsecond                 // silence between frames above 19200 baud
	rtuWithReads  = 8 + 5                                   // bytes of a request and of an answer without its registers
	modbusRS485   = 32                                      // units that a line without repeaters may have
	rs485Timeout  = "timeout: 200ms\nserial: {baud: 19200}" // a unit that lives answers within a few milliseconds
	serialOptions = "serial: {baud: 115200}"
)

// BenchmarkModbusSerial asks one unit for 125 registers more often than a line
// of 115,200 baud lets it, and states how much of the line's time is used: by
// characters alone, and with the silences before a request (1.75 ms) and before
// the simulator's answer (3.5 characters).
func BenchmarkModbusSerial(b *testing.B) {
	got := pollPlant(b, plantSpec{Slaves: 1, Baud: 115200}, modbusLoad{registers: 125, groups: 4, every: 50 * time.Millisecond, options: serialOptions})
	chars := time.Duration(rtuWithReads+2*125) * rtuCharBits * time.Second / 115200
	polls := float64(got.polls)
	b.ReportMetric(polls/got.took.Seconds(), "polls/s")
	b.ReportMetric(polls*chars.Seconds()/got.took.Seconds()*100, "characters-%")
	silent := rtuFast + rtuCharBits*7/2*time.Second/115200 // before the request; before the simulator's answer
	b.ReportMetric(polls*(chars+silent).Seconds()/got.took.Seconds()*100, "capacity-%")
	b.ReportMetric(got.cpu.Seconds()*1000/polls, "cpu-ms/poll")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkModbusRS485 polls 32 units on one line of 19,200 baud, which is
// busy for 88 % of the time when all are well, and states what 8 dead ones do
// to the others.
func BenchmarkModbusRS485(b *testing.B) {
	load := modbusLoad{registers: 14, every: time.Second, options: rs485Timeout}
	well := pollPlant(b, plantSpec{Slaves: modbusRS485, Baud: 19200}, load)
	ill := pollPlant(b, plantSpec{Slaves: modbusRS485, Dead: 8, Baud: 19200}, load)
	reportIll(b, well, ill)
}

// BenchmarkModbusThousand polls 125 registers of 1,000 slaves once a second.
func BenchmarkModbusThousand(b *testing.B) {
	got := pollPlant(b, plantSpec{Slaves: 1000}, modbusLoad{registers: 125, every: time.Second})
	b.ReportMetric(float64(got.polls)/got.took.Seconds(), "polls/s")
	b.ReportMetric(got.slowest, "polls/s-slowest")
	b.ReportMetric(got.cpu.Seconds()/got.took.Seconds()*100, "cpu-%")
	b.ReportMetric(got.cpu.Seconds()*1000/float64(got.polls), "cpu-ms/poll")
	b.ReportMetric(float64(got.rss)/(1<<20), "rss-MiB")
	b.ReportMetric(float64(got.gap)/1e6, "longest-gap-ms")
	b.ReportMetric(0, "ns/op")
}
