package kafka

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/gateway"
)

// benchBroker runs a fake cluster that stores nothing until its standard
// input ends: a process of its own, so that its CPU is not counted.
func benchBroker() {
	c, err := kafkatest.Start(1, "", kfake.SeedTopics(4, "data"), kfake.BlackholeProduce())
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println(strings.Join(c.Addrs(), ","))
	_, _ = io.Copy(io.Discard, os.Stdin)
	c.Close()
}

// startBroker runs benchBroker in a child process and returns its address.
func startBroker(b *testing.B) []string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KAFKA_BENCH_BROKER=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.HasPrefix(line, "error") {
		b.Fatal(line, err)
	}
	return strings.Split(strings.TrimSpace(line), ",")
}

// cpu is the user and system time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// wireCount counts the bytes written to connections.
type wireCount struct {
	dial dialFunc
	n    atomic.Int64
}

// Dial opens a counted connection.
func (w *wireCount) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := w.dial(ctx, network, addr)
	return &countedConn{c, w}, err
}

type countedConn struct {
	net.Conn
	w *wireCount
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.w.n.Add(int64(len(b)))
	return c.Conn.Write(b)
}

// payload is about 200 bytes of JSON with readings that do not repeat.
func payload(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	return fmt.Appendf(nil, `{"device":"pump-%03d","ts":"2026-11-22T10:%02d:%02d.%03dZ","temp":%.3f,"pressure":%.4f,"rpm":%d,"flow":%.4f,"vib":[%.5f,%.5f,%.5f],"current":%.3f,"state":"running","seq":%d,"ok":true}`,
		i%100, i/60%60, i%60, rng.IntN(1000), 20+rng.Float64()*10, 1+rng.Float64(), 1400+rng.IntN(100), rng.Float64()*50,
		rng.NormFloat64(), rng.NormFloat64(), rng.NormFloat64(), rng.Float64()*16, 1_000_000+i)
}

func benchBatch(n int) *gateway.Batch {
	b := &gateway.Batch{Lane: gateway.LaneTelemetry, Generation: "3f2a9c"}
	for i := range n {
		b.Items = append(b.Items, gateway.Item{Seq: uint64(1_000_000 + i), Record: gateway.Record{
			Source: "deck", Device: fmt.Sprintf("pump-%03d", i%100), Name: fmt.Sprintf("deck/pump-%03d/state", i%100),
			Payload: payload(i), ContentType: "application/json", ClockTrusted: true,
			Received: time.UnixMilli(1_790_000_000_000 + int64(i)),
		}})
	}
	return b
}

// perRecord reports CPU and allocations per record.
func perRecord(b *testing.B, records int, run func()) {
	b.ReportAllocs()
	b.ResetTimer()
	start := cpu()
	run()
	used := cpu() - start
	b.StopTimer()
	n := float64(b.N * records)
	b.ReportMetric(float64(used.Microseconds())/n, "cpu-µs/record")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/record")
}

func BenchmarkSend(b *testing.B) {
	for _, n := range []int{200, 1000, 2048} {
		for _, compression := range []string{"none", "snappy", "lz4", "zstd/1", "zstd/3", "gzip/1"} {
			for _, delivery := range []string{wordAtLeastOnce, wordExactlyOnce} {
				b.Run(fmt.Sprintf("records=%d/codec=%s/delivery=%s", n, strings.ReplaceAll(compression, "/", "-"), delivery), func(b *testing.B) {
					conf := NewConfig()
					name, level, _ := strings.Cut(compression, "/")
					conf.Brokers, conf.Topic, conf.Compression, conf.Delivery = startBroker(b), "data", name, delivery
					conf.Level, _ = strconv.Atoi(level)
					benchSend(b, conf, n)
				})
			}
		}
	}
}

func benchSend(b *testing.B, conf *Config, n int) {
	s, err := conf.Sink(gateway.Env{GatewayID: "ship-042", Name: "shore"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	wire := &wireCount{dial: s.(*Sink).dial}
	s.(*Sink).dial = wire.Dial
	ctx := context.Background()
	if err := s.Connect(ctx); err != nil {
		b.Fatal(err)
	}
	batch := benchBatch(n)
	perRecord(b, n, func() {
		for range b.N {
			if err := s.Send(ctx, batch); err != nil {
				b.Fatal(err)
			}
			for i := range batch.Items { // else they would be known as sent
				batch.Items[i].Seq += uint64(n)
			}
		}
	})
	b.ReportMetric(float64(wire.n.Load())/float64(b.N*n), "wire-B/record")
}

// BenchmarkSyncProducer is sarama's own producer, used plainly with the same
// records, key and headers.
func BenchmarkSyncProducer(b *testing.B) {
	codecs := map[string]sarama.CompressionCodec{"none": sarama.CompressionNone, "zstd-1": sarama.CompressionZSTD}
	for _, n := range []int{200, 1000} {
		for _, name := range []string{"none", "zstd-1"} {
			b.Run(fmt.Sprintf("records=%d/codec=%s", n, name), func(b *testing.B) {
				conf := sarama.NewConfig()
				conf.Producer.Idempotent, conf.Net.MaxOpenRequests = true, 1
				conf.Producer.RequiredAcks = sarama.WaitForAll
				conf.Producer.Return.Successes, conf.Producer.Return.Errors = true, true
				conf.MetricRegistry = noMetrics{} // spares it the goroutine that never ends
				conf.Producer.Compression = codecs[name]
				if name != "none" {
					conf.Producer.CompressionLevel = 1
				}
				p, err := sarama.NewSyncProducer(startBroker(b), conf)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = p.Close() })
				batch := benchBatch(n)
				perRecord(b, n, func() {
					for range b.N {
						if err := p.SendMessages(messages(batch)); err != nil {
							b.Fatal(err)
						}
					}
				})
			})
		}
	}
}

func messages(b *gateway.Batch) []*sarama.ProducerMessage {
	out := make([]*sarama.ProducerMessage, len(b.Items))
	for i := range b.Items {
		r := &b.Items[i].Record
		out[i] = &sarama.ProducerMessage{Topic: "data", Key: sarama.StringEncoder(r.Device), Value: sarama.ByteEncoder(r.Payload), Timestamp: r.Received,
			Headers: []sarama.RecordHeader{
				{Key: []byte("gateway"), Value: []byte("ship-042")}, {Key: []byte("generation"), Value: []byte(b.Generation)},
				{Key: []byte("lane"), Value: []byte(b.Lane.String())}, {Key: []byte("seq"), Value: strconv.AppendUint(nil, b.Items[i].Seq, 10)},
				{Key: []byte("source"), Value: []byte(r.Source)}, {Key: []byte("name"), Value: []byte(r.Name)},
				{Key: []byte("content-type"), Value: []byte(r.ContentType)}, {Key: []byte("received"), Value: r.Received.AppendFormat(nil, time.RFC3339Nano)},
			}}
	}
	return out
}
