package mqtttest

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
)

// Options say how a Broker behaves.
type Options struct {
	TLS    *tls.Config                      // secures the connections; nil for plain ones
	Auth   func(user, password string) bool // who may connect; nil for everybody
	Refuse func(filter string) bool         // filters that are answered with 0x80; nil for none
	Poison func(topic, payload string) bool // a message on which the connection is closed; nil for none
	OnSent func(e Event)                    // called for every PUBLISH that goes out; must not block
	OnAck  func(e Event)                    // called for every PUBACK and PUBREC that comes in; must not block
}

// Broker is a broker in this process, on loopback.
type Broker struct {
	tb     testing.TB
	opts   Options
	listen net.Listener
	ended  sync.WaitGroup

	pubMu  sync.Mutex // held while a message is published and while a session is handed over
	number int64      // messages published: their order

	mu     sync.Mutex // guards what follows
	server *mochi.Server
	door   *door
	conns  map[*spied]net.Conn // with the TCP connection below
	opened int
	cut    bool
	hole   chan struct{} // open while everything is swallowed; nil when nothing is
	closed bool
	events []Event
	taken  []Event // published by clients
	change chan struct{}
}

// New starts a broker and stops it at the end of the test.
func New(tb testing.TB, opts Options) *Broker {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	b := &Broker{tb: tb, opts: opts, listen: l, conns: map[*spied]net.Conn{}, change: make(chan struct{})}
	b.server, b.door = b.serve()
	b.ended.Add(1)
	go b.accept()
	tb.Cleanup(b.Close)
	return b
}

// serve starts a server with no sessions.
func (b *Broker) serve() (*mochi.Server, *door) {
	caps := mochi.NewDefaultServerCapabilities()
	caps.MaximumInflight, caps.ReceiveMaximum, caps.MaximumClientWritesPending = 60000, 60000, 1<<16
	s := mochi.New(&mochi.Options{InlineClient: true, Capabilities: caps,
		Logger: slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))})
	if err := s.AddHook(&rules{b: b}, nil); err != nil {
		b.tb.Error(err)
	}
	d := &door{addr: b.listen.Addr().String(), in: make(chan *spied), shut: make(chan struct{})}
	if err := s.AddListener(d); err != nil {
		b.tb.Error(err)
	}
	go func() { _ = s.Serve() }()
	return s, d
}

// Addr is host:port.
func (b *Broker) Addr() string { return b.listen.Addr().String() }

// accept hands connections to the server of the moment.
func (b *Broker) accept() {
	defer b.ended.Done()
	for {
		tcp, err := b.listen.Accept()
		if err != nil {
			return
		}
		b.ended.Add(1)
		go func() {
			defer b.ended.Done()
			b.admit(tcp)
		}()
	}
}

func (b *Broker) admit(tcp net.Conn) {
	var c net.Conn = tcp
	if b.opts.TLS != nil {
		c = tls.Server(tcp, b.opts.TLS)
	}
	s := &spied{Conn: c, b: b, sent: map[uint16]string{}, gone: make(chan struct{})}
	b.mu.Lock()
	d, refuse := b.door, b.cut || b.closed
	if !refuse {
		b.opened++
		s.number = b.opened
		b.conns[s] = tcp
	}
	b.mu.Unlock()
	if refuse {
		s.reset(tcp)
		return
	}
	if b.swallow(s) != nil || !d.pass(s) {
		_ = s.Close()
	}
}

var errSwallowed = errors.New("connection closed in the black hole")

// swallow blocks while the broker is a black hole.
func (b *Broker) swallow(c *spied) error {
	b.mu.Lock()
	hole := b.hole
	b.mu.Unlock()
	if hole == nil {
		return nil
	}
	select {
	case <-hole:
		return nil
	case <-c.gone:
		return errSwallowed
	}
}

func (b *Broker) forget(c *spied) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
	b.changed()
}

// note keeps an event and shows it.
func (b *Broker) note(e Event) {
	b.mu.Lock()
	b.events = append(b.events, e)
	b.changed()
	b.mu.Unlock()
	switch {
	case e.Out && e.Type == 3 && b.opts.OnSent != nil:
		b.opts.OnSent(e)
	case !e.Out && (e.Type == 4 || e.Type == 5) && b.opts.OnAck != nil:
		b.opts.OnAck(e)
	}
}

// changed wakes those who wait. mu is held.
func (b *Broker) changed() {
	close(b.change)
	b.change = make(chan struct{})
}

// Publish publishes one message.
func (b *Broker) Publish(topic, payload string, qos byte, retain bool) {
	b.mu.Lock()
	s := b.server
	b.mu.Unlock()
	b.pubMu.Lock()
	defer b.pubMu.Unlock()
	b.number++
	if err := s.Publish(topic, []byte(payload), retain, qos); err != nil {
		b.tb.Errorf("publish %s: %v", topic, err)
	}
}

// PublishN publishes the payloads from to to, as decimal numbers, at a QoS.
func (b *Broker) PublishN(topic string, from, to int, qos byte) {
	for n := from; n <= to; n++ {
		b.Publish(topic, strconv.Itoa(n), qos, false)
	}
}

// Events returns what has passed, in order.
func (b *Broker) Events() []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.events[:len(b.events):len(b.events)]
}

// Await waits until cond holds of the events.
func (b *Broker) Await(what string, cond func(events []Event) bool) {
	b.tb.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		b.mu.Lock()
		events, change := b.events[:len(b.events):len(b.events)], b.change
		b.mu.Unlock()
		if cond(events) {
			return
		}
		select {
		case <-change:
		case <-limit.C:
			b.tb.Fatalf("waited 20s for %s; %d events", what, len(events))
		}
	}
}

// Count counts the packets of a type in one direction.
func Count(events []Event, kind byte, out bool) (n int) {
	for _, e := range events {
		if e.Type == kind && e.Out == out {
			n++
		}
	}
	return n
}

// Cut resets all connections and refuses new ones until Restore.
func (b *Broker) Cut() {
	b.mu.Lock()
	b.cut = true
	conns := b.copyConns()
	b.mu.Unlock()
	for c, tcp := range conns {
		c.reset(tcp)
	}
}

// CutOnce resets all connections.
func (b *Broker) CutOnce() {
	b.Cut()
	b.Restore()
}

func (b *Broker) copyConns() map[*spied]net.Conn {
	out := make(map[*spied]net.Conn, len(b.conns))
	for c, tcp := range b.conns {
		out[c] = tcp
	}
	return out
}

// Restore ends Cut and Swallow.
func (b *Broker) Restore() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = false
	if b.hole != nil {
		close(b.hole)
		b.hole = nil
	}
}

// Swallow makes the broker a black hole until Restore: connections stay open,
// nothing is read and nothing is sent.
func (b *Broker) Swallow() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hole == nil {
		b.hole = make(chan struct{})
	}
}

// Conns is how many connections are open.
func (b *Broker) Conns() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// Restart replaces the broker by one that knows no sessions, subscriptions and
// retained messages, as after a power cut without persistence.
func (b *Broker) Restart() {
	b.Cut()
	b.mu.Lock()
	old := b.server
	b.server, b.door = b.serve()
	b.mu.Unlock()
	_ = old.Close()
	b.Restore()
}

// Close stops the broker. It may be called more than once.
func (b *Broker) Close() {
	b.mu.Lock()
	was := b.closed
	b.closed = true
	b.mu.Unlock()
	if was {
		return
	}
	_ = b.listen.Close()
	b.Cut()
	b.mu.Lock()
	s := b.server
	b.mu.Unlock()
	_ = s.Close()
	b.Restore()
	b.ended.Wait()
}
