//go:build bench

package main

import (
	"bufio"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

// BenchmarkPlain is what BenchmarkEndToEnd is compared with: paho and sarama
// used plainly, without a durable queue; and paho alone, acknowledging and
// discarding.
func BenchmarkPlain(b *testing.B) {
	for _, mode := range []string{"paho+SyncProducer", "paho"} {
		b.Run(mode, func(b *testing.B) { plain(b, mode == "paho") })
	}
}

func plain(b *testing.B, discard bool) {
	r := newRig(b)
	args := []string{"-mqtt", r.mosquitto.Addr}
	if !discard {
		args = append(args, "-kafka", r.kafka.Addr)
	}
	p := &proc{t: b, cmd: exec.Command(built(b, "waystation/peers/plain"), args...)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		b.Fatal(line, err)
	}
	n := b.N / 800 * 800
	if n == 0 {
		n = 800
	}
	total := 0
	for _, part := range []int{8000, n} { // a warm-up first
		total += part
		cpu := p.cpu()
		start := time.Now()
		if err := load(r.mosquitto.Addr, part, 0); err != nil {
			b.Fatal(err)
		}
		if discard {
			wait(b, 2*time.Second) // what mosquitto still has under way
		} else {
			awaitOffsets(b, r.kafka.Addr, int64(total))
		}
		b.ReportMetric((p.cpu()-cpu).Seconds()/float64(part)*1e6, "cpu-s/Mrec")
		b.ReportMetric(float64(part)/time.Since(start).Seconds(), "rec/s")
	}
	b.ReportMetric(0, "ns/op")
}

// awaitOffsets waits until the test topic holds n records.
func awaitOffsets(b *testing.B, addr string, n int64) {
	b.Helper()
	cl, err := sarama.NewClient([]string{addr}, sarama.NewConfig())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cl.Close() }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); <-tick.C {
		total := int64(0)
		for p := range int32(4) {
			if o, err := cl.GetOffset("test.plant", p, sarama.OffsetNewest); err == nil {
				total += o
			}
		}
		if total >= n {
			return
		}
	}
	b.Fatalf("the topic never held %d records", n)
}
