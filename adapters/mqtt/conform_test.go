package mqtt

import (
	"crypto/tls"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/gatewaytest"
)

// harness describes a source behind connections made by wrap.
func harness(url string, server *tls.Config, change func(*source)) gatewaytest.Harness {
	return gatewaytest.Harness{Acks: true, InFlight: 64,
		Number: func(r *gateway.Record) (int, bool) {
			n, err := strconv.Atoi(string(r.Payload))
			return n, err == nil
		},
		Start: func(tb testing.TB, w *gatewaytest.Witness) *gatewaytest.Device {
			b := mqtttest.New(tb, mqtttest.Options{TLS: server,
				OnSent: func(e mqtttest.Event) { w.Sent(number(tb, e)) },
				OnAck:  func(e mqtttest.Event) { w.Acked(number(tb, e)) }})
			src := newSource(tb, url+b.Addr(), func(c *Config) {
				c.MaxInflight, c.Timeout, c.KeepAlive = 64, time.Second, 2*time.Second
			})
			change(src)
			return &gatewaytest.Device{Source: src,
				Publish: func(n int) { b.Publish("plant/"+strconv.Itoa(n%3), strconv.Itoa(n), 1, false) },
				Cut:     b.Cut, Restore: b.Restore, Conns: b.Conns, Stop: b.Close}
		}}
}

func number(tb testing.TB, e mqtttest.Event) int {
	n, err := strconv.Atoi(e.Payload)
	if err != nil {
		tb.Errorf("message %q has no number", e.Payload)
	}
	return n
}

func TestConformPaced(t *testing.T) {
	gatewaytest.Conform(t, harness("tcp://", nil, func(*source) {}))
}

// The same suite without paced reads and non-blocking writes.
func TestConformPlain(t *testing.T) {
	gatewaytest.Conform(t, harness("tcp://", nil, func(s *source) { s.pace = plain }))
}

func TestConformTLS(t *testing.T) {
	a := newAuthority(t)
	gatewaytest.Conform(t, harness("tls://", a.server(t, "127.0.0.1"), func(s *source) { s.tls = a.always(t) }))
}

// Blocked writes and small segments make every seam of the writing side visible.
func TestConformSmallWindow(t *testing.T) {
	gatewaytest.Conform(t, harness("tcp://", nil, func(s *source) {
		s.pace = func(c net.Conn) net.Conn {
			_ = c.(*net.TCPConn).SetReadBuffer(2 << 10)
			_ = c.(*net.TCPConn).SetWriteBuffer(2 << 10)
			return newPaced(c)
		}
	}))
}
