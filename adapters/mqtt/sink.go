package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// Sink publishes batches to a broker at QoS 1. It implements gateway.Sink and
// is used by one goroutine at a time.
type Sink struct {
	cfg     SinkConfig
	url     *url.URL
	addr    string // "mqtt shore", begins every message
	gateway string
	log     *slog.Logger
	topic   []topicPiece
	enc     codec.Encoder
	dialer

	up     *uplink // nil when not connected
	job    job
	window int    // messages on their way at present; smaller after a loss
	grown  int    // confirmed since window last changed
	nextID uint16 // packet identifier of the next message
	ever   bool   // something was confirmed since the start
	inRow  int    // refused for closing the connection, with none confirmed in between
	out    []byte // messages being written

	again   atomic.Int64 // messages published again, since the start
	mu      sync.Mutex   // guards suspect
	suspect string       // what the broker closes the connection on; "" = nothing
}

// Connect opens a connection, unless there is one.
func (s *Sink) Connect(ctx context.Context) error {
	if s.up != nil && !s.up.dead() {
		return nil
	}
	s.drop()
	if err := s.creds.Load(); err != nil { // what was renewed
		return fmt.Errorf("%s: %w", s.addr, err)
	}
	var tcp net.Conn
	d := s.dialer
	d.pace = func(c net.Conn) net.Conn { tcp = c; return c }
	c, err := d.dial(ctx, s.url)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", s.addr, s.url.Host, err)
	}
	if s.up, err = newUplink(ctx, c, tcp, &s.cfg, s.password()); err != nil {
		s.up = nil
		return fmt.Errorf("%s: %s: %w", s.addr, s.url.Host, err)
	}
	return nil
}

// Close says goodbye. What is confirmed of the batch is remembered: the sink
// may be connected again.
func (s *Sink) Close() error {
	if s.up != nil {
		s.up.end()
	}
	s.drop()
	return nil
}

// drop forgets the connection.
func (s *Sink) drop() {
	if s.up == nil {
		return
	}
	s.up.fail(net.ErrClosed)
	s.up.readers.Wait()
	s.up = nil
}

// Send implements gateway.Sink: nil when the broker has confirmed every record
// with PUBACK. Over reconnects it remembers which it has, and publishes the
// others again in their order.
func (s *Sink) Send(ctx context.Context, b *gateway.Batch) error {
	if s.up == nil || s.up.dead() {
		return s.lost(nil)
	}
	if s.job.batch != b && s.job.flying > 0 { // a panic of ours ended the one before
		s.up.fail(errors.New("what was on its way was given up"))
		return s.lost(ctx.Err())
	}
	s.job.take(b, s.gateway)
	stop := context.AfterFunc(ctx, s.up.shut) // a write may block
	defer stop()
	for {
		err := s.fill()
		if s.job.left == 0 {
			return s.job.finish()
		}
		if err != nil {
			return s.lost(ctx.Err())
		}
		select {
		case id := <-s.up.acks:
			err = s.confirm(id)
		case <-s.up.closed:
			return s.lost(ctx.Err())
		}
		if err != nil {
			s.up.fail(err)
			return s.lost(ctx.Err())
		}
	}
}

// confirm notes a PUBACK. What the window of one was tried with is seen to pass.
func (s *Sink) confirm(id uint16) error {
	if !s.job.confirm(id) {
		return fmt.Errorf("%w: PUBACK for packet %d, which is not on its way", errMalformed, id)
	}
	s.up.confirmed()
	s.ever, s.inRow = true, 0
	if s.job.skip >= 0 { // others pass: it is the record
		s.refuseSuspect()
	}
	if s.grown++; s.grown >= s.window && s.window < s.cfg.Window {
		s.window, s.grown = min(2*s.window, s.cfg.Window), 0
	}
	return nil
}

// fill publishes as many records as the window has room for.
func (s *Sink) fill() error {
	for s.job.left > 0 {
		s.out = s.out[:0]
		n := s.gather()
		if n == 0 {
			return nil
		}
		if err := s.up.publish(s.out, n); err != nil {
			return err
		}
		if cap(s.out) > int(s.cfg.MaxPayload)+int(s.cfg.WindowBytes) {
			s.out = nil
		}
	}
	return nil
}

// gather appends the next messages to out, a slice of the link at once, and
// returns how many.
func (s *Sink) gather() (n int) {
	for len(s.out) < linkSlice && s.job.flying < s.window {
		i := s.job.next()
		if i < 0 {
			break
		}
		start := len(s.out)
		if !s.encode(i) {
			continue // refused
		}
		size := len(s.out) - start
		if s.job.flying > 0 && s.job.bytes+size > int(s.cfg.WindowBytes) {
			s.out = s.out[:start]
			break
		}
		s.job.fly(i, size)
		n++
	}
	return n
}

// encode appends the PUBLISH of record i (section 3.3) to out, or refuses it.
func (s *Sink) encode(i int) bool {
	j := &s.job
	r := &j.batch.Items[i].Record
	j.body = appendTopic(append(j.body[:0], 0, 0), s.topic, &j.place, r)
	n := len(j.body) - 2
	j.body[0], j.body[1] = byte(n>>8), byte(n)
	if j.state[i].id == 0 {
		j.state[i].id = s.nextID
		if s.nextID++; s.nextID == 0 {
			s.nextID = 1
		}
	}
	j.body = append(j.body, byte(j.state[i].id>>8), byte(j.state[i].id))
	head := len(j.body)
	var err error
	if j.body, err = s.enc.Encode(j.body, r, nil); err != nil {
		j.refuse(i, err.Error())
		return false
	}
	if s.cfg.Encoding == codec.NameJSON {
		j.body = j.where(j.body, i)
	}
	if size := len(j.body) - head; size > int(s.cfg.MaxPayload) {
		j.refuse(i, fmt.Sprintf("payload of %d bytes exceeds max_payload (%s)", size, s.cfg.MaxPayload))
		return false
	}
	first := byte(typePublish<<4 | 1<<1)
	if j.state[i].again {
		first |= 1 << 3 // DUP
		s.again.Add(1)
	}
	if s.cfg.Retained {
		first |= 1
	}
	s.out = append(appendHeader(s.out, first, len(j.body)), j.body...)
	return true
}

// lost ends a connection that was lost, or ctx, and says why. What was
// confirmed before is taken first.
func (s *Sink) lost(ended error) error {
	if s.up == nil {
		return fmt.Errorf("%s: %s: send: not connected", s.addr, s.url.Host)
	}
	s.up.shut()
	s.up.readers.Wait()
	for more := true; more; {
		select {
		case id := <-s.up.acks:
			more = s.confirm(id) == nil
		default:
			more = false
		}
	}
	why := s.up.why()
	s.drop()
	hint := s.blame(why, ended)
	s.job.land()
	if ended != nil {
		why = ended
	} else if s.job.batch != nil && s.job.left == 0 {
		return s.job.finish()
	}
	if why == nil {
		why = net.ErrClosed
	}
	return fmt.Errorf("%s: %s: connection lost: %w%s", s.addr, s.url.Host, why, hint)
}

// tell sets the suspect that the facts name.
func (s *Sink) tell(suspect string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspect = suspect
}

// factAgain is the name of the fact that tells of repeats.
const factAgain = "sent again"

// Facts implements gateway.Reporter.
func (s *Sink) Facts() []gateway.Fact {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []gateway.Fact{{Name: "delivery", Value: "at least once, QoS 1"}}
	if s.suspect != "" {
		out = append(out, gateway.Fact{Name: "refused message", Value: s.suspect, Warn: true})
	}
	if n := s.again.Load(); n > 0 {
		out = append(out, gateway.Fact{Name: factAgain, Value: fmt.Sprintf("%d messages, after lost connections", n)})
	}
	return append(out, s.creds.Facts(time.Now())...)
}

// closedByPeer reports whether the broker ended the connection, not the network.
func closedByPeer(err error) bool {
	return errors.Is(err, errClosedByBroker) || isReset(err) || errors.As(err, new(tls.AlertError))
}
