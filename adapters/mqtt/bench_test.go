package mqtt

import (
	"fmt"
	"iter"
	"net"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// endless gives out a stream again and again, in reads of one size.
type endless struct {
	net.Conn
	stream []byte
	at     int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.stream[e.at:])
	if e.at += n; e.at == len(e.stream) {
		e.at = 0
	}
	return n, nil
}

func (e *endless) Write(p []byte) (int, error)      { return len(p), nil }
func (e *endless) SetWriteDeadline(time.Time) error { return nil }
func (e *endless) Close() error                     { return nil }

// nullIntake stores everything at once.
func nullIntake() *gateway.Intake {
	return gateway.NewIntake(gateway.SourceSpec{Name: "s", Lane: gateway.LaneTelemetry}, gateway.AppenderFunc(func(_ gateway.Lane, _ iter.Seq[[]byte], done func(error)) { done(nil) }),
		gateway.NewClock(time.Now, nil))
}

// BenchmarkReceive is one message of 200 bytes from the socket's bytes to the
// queue's, and its PUBACK into the buffer of the writer.
func BenchmarkReceive(b *testing.B) {
	for _, name := range []string{"raw", "json"} {
		b.Run(name, func(b *testing.B) {
			cfg := testConfig()
			cfg.Codec.Codec = name
			payload := fmt.Appendf(nil, `{"temperature":21.5,"humidity":40,"unit":"C","pad":"%0140d"}`, 0)
			var stream []byte
			for id := range uint16(256) {
				stream = append(stream, mqtttest.Publish(fmt.Sprintf("plant/line/%d/temp", id%16), 1, id+1, payload)...)
			}
			dec, err := codec.New(cfg.Codec)
			if err != nil {
				b.Fatal(err)
			}
			c := newConn(&endless{stream: stream}, newInbox(nullIntake(), dec, cfg), cfg)
			c.open = true
			b.SetBytes(int64(len(stream) / 256))
			b.ReportAllocs()
			for b.Loop() {
				if err := c.next(); err != nil {
					b.Fatal(err)
				}
			}
			_ = c.Close()
		})
	}
}

// BenchmarkAck is acknowledging one commit of 100 messages over TCP.
func BenchmarkAck(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		far, err := l.Accept()
		for buf := make([]byte, 1<<20); err == nil; {
			_, err = far.Read(buf)
		}
	}()
	tcp, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	cfg := testConfig()
	c := newConn(newPaced(tcp), newInbox(nullIntake(), nil, cfg), cfg)
	acks := make([]byte, 400)
	b.ReportAllocs()
	for b.Loop() {
		c.ack(acks)
	}
	_, _ = c.Close(), l.Close()
}
