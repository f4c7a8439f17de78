package mqtt

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
)

// A payload that is too large is refused without the broker being asked.
func TestSinkMaxPayload(t *testing.T) {
	broker := mqtttest.New(t, mqtttest.Options{})
	s := newSink(t, "tcp://"+broker.Addr(), func(c *SinkConfig) { c.MaxPayload, c.WindowBytes = 1000, 1<<10 })
	b := numbered(1, 100)
	b.Items[49].Record.Payload = make([]byte, 1001)
	b.Items[50].Record.Payload = make([]byte, 1000)
	if tries, refused := forward(t, s, b); tries != 1 || len(refused) != 1 || refused[0].Index != 49 || !strings.Contains(refused[0].Reason, "max_payload") {
		t.Errorf("%d tries, refused %v", tries, refused)
	}
	if n := len(broker.Taken()); n != 99 {
		t.Errorf("%d arrived", n)
	}
}

// Send ends soon after its context, and is taken up where it was.
func TestSinkStops(t *testing.T) {
	broker := mqtttest.New(t, mqtttest.Options{})
	s := newSink(t, "tcp://"+broker.Addr(), nil)
	forward(t, s, numbered(1, 10))
	broker.Swallow()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	b, begin := numbered(11, 20), time.Now()
	if err := s.Send(ctx, b); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Second {
		t.Errorf("returned %v after %s", err, time.Since(begin))
	}
	broker.Restore()
	forward(t, s, b)
	checkArrived(t, broker.Taken(), 20)
}

// What cannot be connected to says why.
func TestSinkConnect(t *testing.T) {
	a := newAuthority(t)
	broker := mqtttest.New(t, mqtttest.Options{TLS: a.server(t, "127.0.0.1"), Auth: func(user, password string) bool { return user == "u" && password == "p" }})
	files := a.files(t)
	with := func(password string) func(*SinkConfig) {
		return func(c *SinkConfig) {
			c.User, c.Password, c.TLS = "u", gateway.Secret(password), files
		}
	}
	forward(t, newSink(t, "tls://"+broker.Addr(), with("p")), numbered(1, 10))
	checkArrived(t, broker.Taken(), 10)
	if err := newSink(t, "tls://"+broker.Addr(), with("x")).Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "not authorised") {
		t.Errorf("wrong password: %v", err)
	}
	raw := mqtttest.NewRaw(t, nil)
	go func() { _ = raw.Accept().Close() }()
	if err := newSink(t, "tcp://"+raw.Addr(), nil).Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "check user, password") {
		t.Errorf("closed at once: %v", err)
	}
}

// A broker that answers what it must not is left, and the sink does not panic.
func TestSinkOddAnswers(t *testing.T) {
	for name, answer := range map[string][]byte{
		"unknown packet":  mqtttest.Packet(0x40, []byte{0xff, 0xff}),
		"message":         mqtttest.Publish("x", 1, 1, []byte("x")),
		"long PUBACK":     mqtttest.Packet(0x40, []byte{0, 1, 0}),
		"another CONNACK": mqtttest.Connack(0),
		"endless length":  {0x40, 0xff, 0xff, 0xff, 0xff, 0xff},
	} {
		raw := mqtttest.NewRaw(t, nil)
		s := newSink(t, "tcp://"+raw.Addr(), nil)
		go func() {
			l := raw.Accept()
			l.Connect()
			l.Expect(3)
			l.Send(answer)
			l.End()
		}()
		if err := s.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Send(t.Context(), numbered(1, 3)); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
}
