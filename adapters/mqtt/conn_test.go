package mqtt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// Acknowledgements that the socket takes only in part never mix with what paho
// writes, and keep their order.
func TestWritesDoNotMix(t *testing.T) {
	r, far := tcpPair(t)
	_ = r.Conn.(*net.TCPConn).SetWriteBuffer(1 << 10)
	_ = far.SetReadBuffer(16 << 10)
	cfg := testConfig()
	c := newConn(r, newInbox(nullIntake(), nil, cfg), cfg)
	const acks, pings = 60_000, 300
	var writers sync.WaitGroup
	writers.Go(func() {
		for id := 1; id <= acks; id += 7 {
			var p []byte
			for i := id; i < min(id+7, acks+1); i++ {
				p = (&publish{qos: 1, id: uint16(i)}).appendAck(p)
			}
			c.ack(p)
		}
	})
	writers.Wait() // more than the socket takes: the rest is left to flusher
	ping := func() {
		for range pings {
			if _, err := c.Write([]byte{typePingreq << 4, 0}); err != nil {
				t.Error(err)
			}
		}
	}
	_ = far.SetReadDeadline(time.Now().Add(20 * time.Second))
	in, next, pinged := bufio.NewReader(far), 1, 0
	for next <= acks || pinged < pings {
		head := make([]byte, 2)
		if _, err := io.ReadFull(in, head); err != nil {
			t.Fatal(err)
		}
		id := make([]byte, head[1])
		if _, err := io.ReadFull(in, id); err != nil {
			t.Fatal(err)
		}
		switch {
		case head[0] == typePingreq<<4 && len(id) == 0:
			pinged++
		case head[0] == typePuback<<4 && len(id) == 2 && int(id[0])<<8|int(id[1]) == next:
			if next++; next == acks*9/10 {
				writers.Go(ping)
			}
		default:
			t.Fatalf("got % x % x where PUBACK %d or PINGREQ was due", head, id, next)
		}
	}
	writers.Wait()
	_ = c.Close()
}

// What is left of an acknowledgement goes before anything else, and what waits
// before a DISCONNECT.
func TestRestOfAckGoesFirst(t *testing.T) {
	cfg := testConfig()
	wire := &segments{}
	c := newConn(wire, newInbox(nullIntake(), nil, cfg), cfg)
	c.out = []byte{0, 7}
	c.acks = []byte{0x40, 2, 0, 8}
	if _, err := c.Write([]byte{0xe0, 0}); err != nil {
		t.Fatal(err)
	}
	if got := wire.wrote.Bytes(); !bytes.Equal(got, []byte{0, 7, 0x40, 2, 0, 8, 0xe0, 0}) {
		t.Errorf("wrote % x", got)
	}
	_ = c.Close()
}

// After stop the intake is free: a delivery under way has ended, and none begins.
func TestStopWaitsForDelivery(t *testing.T) {
	inside, goOn := make(chan struct{}), make(chan struct{})
	in := gateway.NewIntake(gateway.SourceSpec{Name: "s", Lane: gateway.LaneTelemetry}, gateway.AppenderFunc(func(_ gateway.Lane, _ iter.Seq[[]byte], done func(error)) {
		inside <- struct{}{}
		<-goOn
		done(nil)
	}), gateway.NewClock(time.Now, nil))
	cfg := testConfig()
	dec, err := codec.New(cfg.Codec)
	if err != nil {
		t.Fatal(err)
	}
	box := newInbox(in, dec, cfg)
	c := newConn(&segments{}, box, cfg)
	delivered := make(chan error, 2)
	m := publish{topic: []byte("a"), qos: 1, id: 1}
	go func() { delivered <- errors.Join(box.add(c, m), box.flush(c)) }()
	<-inside
	stopped := make(chan struct{})
	go func() { box.stop(); close(stopped) }()
	unchanged(t, 50*time.Millisecond, "stop returned during a delivery", func() bool {
		select {
		case <-stopped:
			return false
		default:
			return true
		}
	})
	close(goOn)
	<-stopped
	if err := <-delivered; err != nil {
		t.Error(err)
	}
	if err := errors.Join(box.add(c, m), box.flush(c)); !errors.Is(err, errEnded) {
		t.Errorf("delivered after stop: %v", err)
	}
	_ = c.Close()
}

// Acknowledgements go to the connection the message came from, or nowhere.
func TestLateAckGoesNowhere(t *testing.T) {
	var dones []func(error)
	in := gateway.NewIntake(gateway.SourceSpec{Name: "s", Lane: gateway.LaneTelemetry}, gateway.AppenderFunc(func(_ gateway.Lane, _ iter.Seq[[]byte], done func(error)) { dones = append(dones, done) }),
		gateway.NewClock(time.Now, nil))
	cfg := testConfig()
	dec, err := codec.New(cfg.Codec)
	if err != nil {
		t.Fatal(err)
	}
	box := newInbox(in, dec, cfg)
	old, oldFar := tcpPair(t)
	now, nowFar := tcpPair(t)
	first, second := newConn(old, box, cfg), newConn(now, box, cfg)
	for i, c := range []*conn{first, second} {
		if err := errors.Join(box.add(c, publish{topic: []byte("a"), qos: 1, id: uint16(i + 1)}), box.flush(c)); err != nil {
			t.Fatal(err)
		}
	}
	_ = first.Close()
	for _, done := range dones {
		done(nil)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(nowFar, got); err != nil || got[3] != 2 {
		t.Errorf("got % x, %v; want the PUBACK of packet 2", got, err)
	}
	_ = second.Close()
	if rest, err := io.ReadAll(nowFar); err != nil || len(rest) > 0 {
		t.Errorf("got % x, %v after it", rest, err)
	}
	if rest, _ := io.ReadAll(oldFar); len(rest) > 0 {
		t.Errorf("got % x on the closed connection", rest)
	}
}

// Topics that never come again do not fill the memory.
func TestTopicsRememberedAreBounded(t *testing.T) {
	b := newInbox(nullIntake(), nil, testConfig())
	for i := range 3 * keepTopics {
		b.topic(fmt.Appendf(nil, "device/%d", i))
	}
	for i := range 100 {
		b.topic(fmt.Appendf(make([]byte, 60_000), "%d", i))
	}
	size := 0
	for s := range b.names {
		size += len(s)
	}
	if len(b.names) > keepTopics || size > keepTopics*keepTopicLen/2 {
		t.Errorf("%d topics of %d bytes are remembered", len(b.names), size)
	}
}

// Two hundred messages that arrive with one segment become one delivery.
func TestOneDeliveryPerRead(t *testing.T) {
	b := mqtttest.NewRaw(t, nil)
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), nil))
	r.begin(1)
	l := b.Accept()
	l.Handshake(1)
	r.up()
	r.st.set(func() { r.st.hold = true })
	var burst []byte
	for id := range uint16(200) {
		burst = append(burst, mqtttest.Publish("a", 1, id+1, []byte("x"))...)
	}
	l.Send(burst)
	r.st.await(t, "200 messages", func() bool { return r.st.open == 200 })
	r.st.mu.Lock()
	defer r.st.mu.Unlock()
	if len(r.st.pending) > 3 {
		t.Errorf("%d deliveries", len(r.st.pending))
	}
	r.st.hold = false
}
