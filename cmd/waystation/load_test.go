//go:build interop || bench

package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// publisher is a bare MQTT 3.1.1 client that publishes at QoS 1 with a window
// of unacknowledged messages: it costs so little that it does not disturb what
// is measured beside it.
type publisher struct {
	conn   net.Conn
	out    *bufio.Writer
	slots  chan struct{} // one per message under way
	lost   chan error    // why the reader ended
	nextID uint16
}

// newPublisher connects to a broker.
func newPublisher(addr, clientID string, window int) (*publisher, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &publisher{conn: conn, out: bufio.NewWriterSize(conn, 64<<10), slots: make(chan struct{}, window), lost: make(chan error, 1)}
	body := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0}, byte(len(clientID)>>8), byte(len(clientID)))
	body = append(body, clientID...)
	if _, err := conn.Write(append([]byte{0x10, byte(len(body))}, body...)); err != nil {
		return nil, err
	}
	answer := make([]byte, 4)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 0x20 || answer[3] != 0 {
		return nil, fmt.Errorf("connect %s: answer %x: %v", addr, answer, err)
	}
	go p.read()
	return p, nil
}

// read takes PUBACKs.
func (p *publisher) read() {
	in := bufio.NewReaderSize(p.conn, 16<<10)
	var ack [4]byte
	for {
		if _, err := io.ReadFull(in, ack[:]); err != nil {
			p.lost <- err
			return
		}
		if ack[0] == 0x40 {
			<-p.slots
		}
	}
}

// publish sends one message, waiting for room in the window.
func (p *publisher) publish(topic string, payload []byte) error {
	select {
	case p.slots <- struct{}{}:
	default:
		if err := p.out.Flush(); err != nil {
			return err
		}
		select {
		case p.slots <- struct{}{}:
		case err := <-p.lost:
			return err
		}
	}
	if p.nextID++; p.nextID == 0 {
		p.nextID = 1
	}
	head := binary.AppendUvarint([]byte{0x32}, uint64(2+len(topic)+2+len(payload)))
	head = binary.BigEndian.AppendUint16(head, uint16(len(topic)))
	head = append(append(head, topic...), byte(p.nextID>>8), byte(p.nextID))
	if _, err := p.out.Write(head); err != nil {
		return err
	}
	_, err := p.out.Write(payload)
	return err
}

// finish waits until everything is acknowledged and disconnects.
func (p *publisher) finish() error {
	if err := p.out.Flush(); err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(2 * time.Minute); len(p.slots) > 0; <-tick.C {
		if time.Now().After(end) {
			return fmt.Errorf("%d messages never acknowledged", len(p.slots))
		}
	}
	if _, err := p.conn.Write([]byte{0xe0, 0}); err != nil {
		return err
	}
	return p.conn.Close()
}

// telemetry makes 200 bytes of JSON carrying the device, its running number
// and the time of sending in nanoseconds.
func telemetry(dst []byte, device int, n int64) []byte {
	dst = fmt.Appendf(dst[:0], `{"device":"dev-%03d","n":%d,"t":%d,"temperature":%.2f,"pressure":%.3f,"rpm":%d,"state":"running","pad":"`,
		device, n, time.Now().UnixNano(), 20+float64(n%977)/100, 1.013+float64(n%31)/1000, 1500+n%200)
	for len(dst) < 198 {
		dst = append(dst, byte('a'+(len(dst)+int(n))%26))
	}
	return append(dst, `"}`...)
}

// load publishes n messages of devices over connections, at rate per second
// (0 = as fast as it goes), each device in order. It returns when all are
// acknowledged by the broker.
func load(addr string, n, rate int) error {
	const connections, devices = 8, 100
	errs := make(chan error, connections)
	start := time.Now()
	for c := range connections {
		go func() { errs <- loadOne(addr, c, loadShare{n, rate, connections, devices, start}) }()
	}
	var first error
	for range connections {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// loadShare says what all connections send together.
type loadShare struct {
	n, rate, connections, devices int
	start                         time.Time
}

// loadOne publishes the share of connection c.
func loadOne(addr string, c int, l loadShare) error {
	p, err := newPublisher(addr, fmt.Sprintf("load-%d-%d", c, time.Now().UnixNano()), 200)
	if err != nil {
		return err
	}
	var payload []byte
	for i := range l.n {
		device := i % l.devices
		if device%l.connections != c { // a device stays on one connection
			continue
		}
		if l.rate > 0 {
			due := l.start.Add(time.Duration(float64(i) / float64(l.rate) * float64(time.Second)))
			if d := time.Until(due); d > 0 {
				if err := p.out.Flush(); err != nil {
					return err
				}
				time.Sleep(d) // the load generator's clock, not a wait for a condition
			}
		}
		payload = telemetry(payload, device, int64(i/l.devices)+1)
		if err := p.publish(fmt.Sprintf("plant/line%d/dev-%03d/t", device%4, device), payload); err != nil {
			return err
		}
	}
	return p.finish()
}
