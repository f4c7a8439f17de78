package mqtt

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
)

// What a broken broker sends ends the connection with a clear error; never the
// process.
func TestMalformed(t *testing.T) {
	up := func(parts ...[]byte) func(*mqtttest.Line) {
		return func(l *mqtttest.Line) { l.Handshake(1); l.Send(parts...) }
	}
	tests := []struct {
		name string
		play func(*mqtttest.Line)
		want string
	}{
		{"connack code 1", func(l *mqtttest.Line) { l.Send(mqtttest.Connack(1)) }, "does not speak MQTT 3.1.1"},
		{"connack code 2", func(l *mqtttest.Line) { l.Send(mqtttest.Connack(2)) }, "client_id"},
		{"connack code 3", func(l *mqtttest.Line) { l.Send(mqtttest.Connack(3)) }, "not available"},
		{"connack code 4", func(l *mqtttest.Line) { l.Send(mqtttest.Connack(4)) }, "wrong user or password"},
		{"connack code 77", func(l *mqtttest.Line) { l.Send(mqtttest.Connack(77)) }, "code 77"},
		{"publish before connack", func(l *mqtttest.Line) { l.Send(mqtttest.Publish("a", 1, 1, nil)) }, "before CONNACK"},
		{"http", func(l *mqtttest.Line) { l.Send([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, "malformed packet"},
		{"closed at once", func(l *mqtttest.Line) { _ = l.Close() }, "connection"},
		{"closed after connack", func(l *mqtttest.Line) { l.Connect(); l.Expect(8); _ = l.Close() }, "connection"},
		{"suback with too many codes", func(l *mqtttest.Line) { l.Connect(); l.Subscribed(1, 1, 1) }, "malformed packet"},
		{"suback without codes", func(l *mqtttest.Line) { l.Connect(); l.Subscribed() }, "malformed packet"},
		{"suback for another packet", func(l *mqtttest.Line) { l.Connect(); l.Expect(8); l.Send([]byte{0x90, 3, 0, 1, 1}) }, "SUBACK for packet 1"},
		{"suback refused", func(l *mqtttest.Line) { l.Connect(); l.Subscribed(0x80) }, "refused #"},
		{"suback nonsense", func(l *mqtttest.Line) { l.Connect(); l.Subscribed(0x17) }, "refused #"},
		{"length of five bytes", up([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 1}), "four bytes"},
		{"qos 3", up([]byte{0x36, 5, 0, 1, 'a', 0, 1}), "QoS 3"},
		{"topic beyond the packet", up([]byte{0x32, 4, 0, 9, 'a', 'b'}), "topic of 9 bytes"},
		{"no identifier", up([]byte{0x32, 3, 0, 1, 'a'}), "identifier"},
		{"identifier 0", up(mqtttest.Publish("a", 1, 0, nil)), "identifier 0"},
		{"one byte", up([]byte{0x30, 1, 0}), "PUBLISH of 1 bytes"},
		{"type 0", up([]byte{0, 0}), "packet type 0"},
		{"type 15", up([]byte{0xf0, 0}), "packet type 15"},
		{"connect", up([]byte{0x10, 2, 0, 0}), "packet type 1"},
		{"second connack", up(mqtttest.Connack(0)), "CONNACK"},
		{"long pingresp", up([]byte{0xd0, 2, 0, 0}), "packet type 13"},
		{"pubrel of 200 MB", up([]byte{0x62, 0x80, 0x80, 0x80, 0x60}), "packet type 6"},
		{"disconnect", up([]byte{0xe0, 0}), "another client with our client_id"},
		{"half a packet", func(l *mqtttest.Line) { l.Handshake(1); l.Send([]byte{0x32, 9, 0, 1, 'a'}); _ = l.Close() }, "the broker closed the connection"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := mqtttest.NewRaw(t, nil)
			r := newRig(t, newSource(t, "tcp://"+b.Addr(), nil))
			r.begin(1)
			tt.play(b.Accept())
			if err := r.err(); !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), b.Addr()) {
				t.Errorf("got error %q, want one with %q and the address", err, tt.want)
			}
		})
	}
}

// A resumed session sends before it answers SUBSCRIBE, in segments of a byte.
func TestPublishBeforeSuback(t *testing.T) {
	b := mqtttest.NewRaw(t, nil)
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), nil))
	r.begin(1)
	l := b.Accept()
	l.Expect(1)
	l.SendSlow(mqtttest.Connack(0), mqtttest.Publish("a", 1, 7, []byte("1")), mqtttest.Publish("a", 1, 9, []byte("2")))
	if recs := r.st.first(t, 2); string(recs[0].Payload)+string(recs[1].Payload) != "12" {
		t.Errorf("got %q %q", recs[0].Payload, recs[1].Payload)
	}
	first, second := l.Expect(typePuback), l.Expect(typePuback) // SUBSCRIBE may come between
	if !bytes.Equal(first, []byte{0, 7}) || !bytes.Equal(second, []byte{0, 9}) {
		t.Errorf("PUBACKs for %v and %v", first, second)
	}
}

// Any topic and payload that fits is stored byte for byte, even what MQTT forbids.
func TestBytesOfTopicAndPayload(t *testing.T) {
	b := mqtttest.NewRaw(t, nil)
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), nil))
	r.begin(1)
	l := b.Accept()
	l.Handshake(1)
	l.Send(mqtttest.Publish("bad\xff\xfe", 1, 1, []byte("\xff\x00")), mqtttest.Publish("", 1, 2, nil), mqtttest.Publish("a/+/#\x00", 0, 0, []byte("x")))
	recs := r.st.first(t, 3)
	for i, want := range []gateway.Record{{Name: "bad\xff\xfe", Payload: []byte("\xff\x00")}, {Payload: []byte{}}, {Name: "a/+/#\x00", Payload: []byte("x")}} {
		if recs[i].Name != want.Name || !bytes.Equal(recs[i].Payload, want.Payload) {
			t.Errorf("got %q %q, want %q %q", recs[i].Name, recs[i].Payload, want.Name, want.Payload)
		}
	}
}

// Run returns within 2 s of its cancel (rig.stop checks it), and gives up by
// itself, wherever the broker falls silent.
func TestSilentBroker(t *testing.T) {
	a := newAuthority(t)
	stages := []struct {
		name, scheme string
		play         func(l *mqtttest.Line)
		want         string
	}{
		{"tls handshake", "tls://", func(l *mqtttest.Line) { _, _ = l.Read(make([]byte, 1)) }, "connect: "},
		{"websocket handshake", "ws://", func(l *mqtttest.Line) { _, _ = l.Read(make([]byte, 1)) }, "connect: the broker did not answer"},
		{"connect", "tcp://", func(l *mqtttest.Line) { l.Expect(1) }, "did not answer within"},
		{"subscribe", "tcp://", func(l *mqtttest.Line) { l.Connect(); l.Expect(8) }, "subscribe: the broker did not answer"},
		{"flow", "tcp://", func(l *mqtttest.Line) { l.Handshake(1) }, "connection lost: pingresp not received"},
	}
	for _, st := range stages {
		for _, cancel := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/cancel=%v", st.name, cancel), func(t *testing.T) {
				b := mqtttest.NewRaw(t, nil)
				src := newSource(t, st.scheme+b.Addr(), func(c *Config) { c.Timeout, c.KeepAlive = 700*time.Millisecond, time.Second })
				if cancel {
					src.cfg.Timeout, src.cfg.KeepAlive = time.Minute, time.Minute
				}
				if src.tls() != nil {
					src.tls = a.always(t)
				}
				r := newRig(t, src)
				before := goleak.IgnoreCurrent()
				r.begin(1)
				st.play(b.Accept())
				if !cancel {
					if err := r.err(); !strings.Contains(err.Error(), st.want) {
						t.Errorf("got error %q, want one with %q", err, st.want)
					}
				}
				r.stop()
				if err := goleak.Find(before); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A broker that does not read: done never blocks, and the write deadline ends
// the connection, or a cancel. Plain and secured.
func TestClosedReceiveWindow(t *testing.T) {
	a := newAuthority(t)
	for _, scheme := range []string{"tcp://", "tls://"} {
		for _, cancel := range []bool{false, true} {
			t.Run(fmt.Sprint(scheme, cancel), func(t *testing.T) {
				cfg := a.server(t, "127.0.0.1")
				if scheme == "tcp://" {
					cfg = nil
				}
				b := mqtttest.NewRaw(t, cfg)
				src := newSource(t, scheme+b.Addr(), func(c *Config) { c.Timeout = 500 * time.Millisecond })
				if cancel {
					src.cfg.Timeout = time.Minute
				}
				if cfg != nil {
					src.tls = a.always(t)
				}
				src.pace = func(c net.Conn) net.Conn {
					_ = c.(*net.TCPConn).SetWriteBuffer(2 << 10)
					return newPaced(c)
				}
				r := newRig(t, src)
				r.begin(1)
				closedWindow(t, r, b.Accept(), cancel)
				r.st.await(t, "the queue to have answered all", func() bool { return r.st.open == 0 })
			})
		}
	}
}

// closedWindow sends messages and never reads their PUBACKs.
func closedWindow(t *testing.T, r *rig, l *mqtttest.Line, cancel bool) {
	t.Helper()
	l.Handshake(1)
	var burst []byte
	for id := range uint16(10000) {
		burst = append(burst, mqtttest.Publish("a", 1, id+1, nil)...)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 30 { // 1.2 MB of PUBACKs
			if _, err := l.Write(burst); err != nil {
				return
			}
		}
	}()
	if cancel {
		<-sent
		r.stop()
	} else if err := r.err(); !strings.Contains(err.Error(), "timeout") {
		t.Errorf("got error %v", err)
	}
	_ = l.Close()
	<-sent
}

// A QoS below the one asked for is shown.
func TestGrantedLess(t *testing.T) {
	b := mqtttest.NewRaw(t, nil)
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), nil))
	r.begin(1)
	b.Accept().Handshake(0)
	r.up()
	if notes := r.in.Status("").Notes; len(notes) != 1 || !strings.Contains(notes[0], "granted # only QoS 0") {
		t.Errorf("notes are %q", notes)
	}
}

// A payload too large is stored as a record of bad quality, in its place, and
// acknowledged; one at the limit is stored whole.
func TestOversize(t *testing.T) {
	b := mqtttest.NewRaw(t, nil)
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.MaxPayload = 100_000 }))
	r.begin(1)
	l := b.Accept()
	l.Handshake(1)
	big := bytes.Repeat([]byte("0123456789"), 10_001)
	huge := make([]byte, 3<<20)
	topic := strings.Repeat("t", 65535)
	go l.Send(mqtttest.Publish("a", 1, 1, []byte("before")), mqtttest.Publish("a", 1, 2, big[:100_000]), mqtttest.Publish("a", 1, 3, big[:100_001]),
		mqtttest.Publish(topic, 1, 4, huge), mqtttest.Publish("a", 2, 5, huge), mqtttest.Publish("a", 1, 6, []byte("after")))
	recs := r.st.first(t, 6)
	sizes := []int{6, 100_000, keepBytes, keepBytes, 65539 - 5 + keepBytes, 5}
	sizes[4] = keepBytes
	for i, want := range sizes {
		bad := i >= 2 && i <= 4
		if len(recs[i].Payload) != want || (recs[i].Quality == gateway.Bad) != bad {
			t.Errorf("record %d: payload of %d bytes, %v %q", i, len(recs[i].Payload), recs[i].Quality, recs[i].Reason)
		}
	}
	if recs[3].Name != topic || !strings.Contains(recs[3].Reason, "payload of 3145728 bytes exceeds max_payload") {
		t.Errorf("got %q", recs[3].Reason)
	}
	var got []byte
	for len(got) < 6 {
		if first, body, ok := l.Next(); !ok {
			t.Fatal("connection ended")
		} else if first>>4 == typePuback || first>>4 == typePubrec {
			got = append(got, body[1])
		}
	}
	if !slices.Equal(got, []byte{1, 2, 3, 4, 5, 6}) {
		t.Errorf("acknowledged %v", got)
	}
}

// A large message on a slow link outlasts keep-alive and timeout: while its
// bytes arrive the connection is alive.
func TestLargeMessageOnSlowLink(t *testing.T) {
	b := mqtttest.NewRaw(t, nil)
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.Timeout, c.KeepAlive = 300*time.Millisecond, time.Second }))
	r.begin(1)
	l := b.Accept()
	l.Handshake(1)
	packet := mqtttest.Publish("a", 1, 1, make([]byte, 100_000))
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for len(packet) > 0 {
		n := min(len(packet), 1000)
		l.Send(packet[:n])
		packet = packet[n:]
		<-tick.C
	}
	if recs := r.st.first(t, 1); len(recs[0].Payload) != 100_000 {
		t.Errorf("payload of %d bytes", len(recs[0].Payload))
	}
	if len(r.errs) > 0 {
		t.Errorf("the connection was given up: %v", <-r.errs)
	}
	l.Expect(typePuback)
}
