package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// deviceClient begins the client ids of simulated devices.
const deviceClient = "waystation-sim-"

// sessionLimit is how many messages the broker keeps for one persistent
// session. A packet id has 16 bits, so no MQTT broker can have more under way.
const sessionLimit = 65535

// mqttBroker is an MQTT broker (mochi) that may not lose or reorder anything:
// its own faults would be blamed on the gateway. mochi v2.7.9 left alone
//
//   - keeps 8192 messages for an absent session and drops the rest,
//   - sends them again in the order of whole seconds, at random within one,
//   - mixes new messages into those it sends again, and
//   - loses what is published while it hands a session over to a new connection.
//
// The hooks below cure all four for MQTT 3.1.1: publishing waits while a
// session is resumed (resume), and the kept messages are sent again by us, in
// the order they were published. What is dropped all the same is counted.
type mqttBroker struct {
	server *mqtt.Server
	addr   string

	resume     sync.RWMutex // guards the hand-over of sessions: held for reading while a message is published, for writing while a session is resumed
	resuming   sync.WaitGroup
	order      atomic.Int64 // of publishing; kept in Packet.Created, mochi's sort key
	subscribed chan struct{}
	subOnce    sync.Once

	mu   sync.Mutex                  // guards sent
	sent map[string]map[uint16]int64 // by client and packet id: order of the message last sent

	published   atomic.Int64 // messages received from devices
	unheard     atomic.Int64 // of these: nobody had subscribed
	dropped     atomic.Int64 // messages for a subscriber that the broker lost
	redelivered atomic.Int64 // messages sent once more with DUP after a reconnect
	sessions    atomic.Int64 // connections of clients other than the devices
}

// BrokerCounts is what the MQTT broker did. Dropped must stay 0, or losses are
// the plant's own.
type BrokerCounts struct {
	Published   int64 `json:"published"`
	Unheard     int64 `json:"unheard"`     // published while nobody had subscribed
	Dropped     int64 `json:"dropped"`     // lost by the broker itself
	Redelivered int64 `json:"redelivered"` // sent once more (DUP) after a reconnect
	Waiting     int64 `json:"waiting"`     // not yet acknowledged by subscribers
	Sessions    int64 `json:"sessions"`    // connections made by subscribers
}

// startBroker starts an MQTT broker on a loopback address that keeps at most
// limit messages per session.
func startBroker(listen string, limit uint16) (*mqttBroker, error) {
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumInflight = limit
	caps.MaximumClientWritesPending = sessionLimit + 1 // a write never overflows before the session does
	caps.ReceiveMaximum = sessionLimit
	caps.MaximumMessageExpiryInterval = 0 // Packet.Created is no time here
	b := &mqttBroker{sent: map[string]map[uint16]int64{}, subscribed: make(chan struct{})}
	b.server = mqtt.New(&mqtt.Options{
		Capabilities:           caps,
		Logger:                 slog.New(slog.NewTextHandler(io.Discard, nil)),
		SysTopicResendInterval: 3600,
	})
	if err := b.server.AddHook(&brokerHook{b: b}, nil); err != nil {
		return nil, fmt.Errorf("start mqtt broker: %w", err)
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("start mqtt broker on %s: %w", listen, err)
	}
	l := &brokerListener{ln: ln, broker: b, conns: map[*brokerConn]bool{}}
	if err := b.server.AddListener(l); err != nil {
		return nil, fmt.Errorf("start mqtt broker on %s: %w", listen, err)
	}
	if err := b.server.Serve(); err != nil {
		return nil, fmt.Errorf("start mqtt broker on %s: %w", listen, err)
	}
	b.addr = ln.Addr().String()
	return b, nil
}

func (b *mqttBroker) close() error {
	err := b.server.Close()
	b.resuming.Wait()
	return err
}

// settle waits until every message acknowledged so far has been handed to its
// subscribers: mochi acknowledges first.
func (b *mqttBroker) settle() {
	b.resume.Lock()
	defer b.resume.Unlock()
}

func (b *mqttBroker) counts() BrokerCounts {
	c := BrokerCounts{
		Published:   b.published.Load(),
		Unheard:     b.unheard.Load(),
		Dropped:     b.dropped.Load() + atomic.LoadInt64(&b.server.Info.InflightDropped),
		Redelivered: b.redelivered.Load(),
		Sessions:    b.sessions.Load(),
	}
	for id, cl := range b.server.Clients.GetAll() {
		if !strings.HasPrefix(id, deviceClient) {
			c.Waiting += int64(cl.State.Inflight.Len())
		}
	}
	return c
}

// brokerConn marks what the goroutine of a connection holds. Only that
// goroutine (mochi runs one per connection, and the hooks in it) touches it.
type brokerConn struct {
	net.Conn
	broker     *mqttBroker
	resuming   bool             // holds broker.resume for writing
	publishing bool             // holds broker.resume for reading
	again      []packets.Packet // to be sent again once the session is up
}

func (c *brokerConn) release() {
	if c.resuming {
		c.resuming = false
		c.broker.resume.Unlock()
	}
	if c.publishing {
		c.publishing = false
		c.broker.resume.RUnlock()
	}
}

// brokerListener hands connections to mochi as brokerConns and outlives none
// of them.
type brokerListener struct {
	ln     net.Listener
	broker *mqttBroker
	served sync.WaitGroup // the accept loop and one goroutine per connection

	mu     sync.Mutex // guards conns and closed
	conns  map[*brokerConn]bool
	closed bool
}

func (l *brokerListener) Init(*slog.Logger) error { return nil }
func (l *brokerListener) ID() string              { return "tcp" }
func (l *brokerListener) Address() string         { return l.ln.Addr().String() }
func (l *brokerListener) Protocol() string        { return "tcp" }

func (l *brokerListener) Serve(establish listeners.EstablishFn) {
	for {
		conn, err := l.ln.Accept()
		if err != nil {
			return
		}
		c := &brokerConn{Conn: conn, broker: l.broker}
		if !l.add(c) {
			_ = conn.Close() // the broker is being closed
			return
		}
		go func() {
			defer l.served.Done()
			defer l.remove(c)
			defer c.release()        // whatever way it ended
			_ = establish(l.ID(), c) // the client sees the end of its connection
		}()
	}
}

func (l *brokerListener) add(c *brokerConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.served.Add(1)
	l.conns[c] = true
	return true
}

func (l *brokerListener) remove(c *brokerConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *brokerListener) Close(closeClients listeners.CloseFn) {
	_ = l.ln.Close() // no new connections; the old ones next
	closeClients(l.ID())
	l.mu.Lock()
	l.closed = true
	for c := range l.conns {
		_ = c.Close() // those that had not said who they are
	}
	l.mu.Unlock()
	l.served.Wait()
}

// brokerHook lets everybody in and keeps order; see mqttBroker.
type brokerHook struct {
	mqtt.HookBase
	b *mqttBroker
}

func (h *brokerHook) ID() string { return "waystation-sim" }

func (h *brokerHook) Provides(hook byte) bool {
	return bytes.IndexByte([]byte{
		mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablish, mqtt.OnSessionEstablished,
		mqtt.OnPacketSent, mqtt.OnPacketProcessed, mqtt.OnSubscribed, mqtt.OnPublish, mqtt.OnPublished,
		mqtt.OnPublishDropped, mqtt.OnQosDropped,
	}, hook) >= 0
}

func (h *brokerHook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }
func (h *brokerHook) OnACLCheck(*mqtt.Client, string, bool) bool              { return true }

// OnSessionEstablish runs before mochi takes over an earlier session: from
// here nothing is published until the session is resumed. The messages kept
// for it are taken out of mochi's hands.
func (h *brokerHook) OnSessionEstablish(cl *mqtt.Client, pk packets.Packet) {
	c, ok := cl.Net.Conn.(*brokerConn)
	if !ok {
		return
	}
	h.b.resume.Lock()
	c.resuming = true
	old, ok := h.b.server.Clients.Get(cl.ID)
	if !ok || pk.Connect.Clean || old.Properties.Clean {
		return // mochi throws such a session away and OnQosDropped counts it
	}
	for _, kept := range old.State.Inflight.GetAll(false) {
		if kept.FixedHeader.Type == packets.Publish && old.State.Inflight.Delete(kept.PacketID) {
			c.again = append(c.again, kept)
		}
	}
	slices.SortFunc(c.again, func(x, y packets.Packet) int { return cmp.Compare(x.Created, y.Created) })
}

// OnSessionEstablished runs after the CONNACK. A goroutine of its own sends
// the kept messages, because the acknowledgements have to be read meanwhile.
func (h *brokerHook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	c, ok := cl.Net.Conn.(*brokerConn)
	if !ok || !c.resuming {
		return
	}
	if !strings.HasPrefix(cl.ID, deviceClient) {
		h.b.sessions.Add(1)
	}
	again := c.again
	c.again = nil
	if len(again) == 0 {
		c.release()
		return
	}
	for i := range again {
		again[i].FixedHeader.Dup = h.b.wasSent(cl.ID, again[i])
		cl.State.Inflight.Set(again[i])
	}
	c.resuming = false // the goroutine gives it back
	h.b.resuming.Go(func() {
		defer h.b.resume.Unlock()
		for _, pk := range again {
			if cl.WritePacket(pk) != nil {
				return // gone again; all is still in flight
			}
			if pk.FixedHeader.Dup {
				h.b.redelivered.Add(1)
			}
		}
	})
}

func (b *mqttBroker) wasSent(client string, pk packets.Packet) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	order, ok := b.sent[client][pk.PacketID]
	return ok && order == pk.Created
}

func (h *brokerHook) OnPacketSent(cl *mqtt.Client, pk packets.Packet, _ []byte) {
	if pk.FixedHeader.Type != packets.Publish || pk.FixedHeader.Qos == 0 {
		return
	}
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	m := h.b.sent[cl.ID]
	if m == nil {
		m = map[uint16]int64{}
		h.b.sent[cl.ID] = m
	}
	m[pk.PacketID] = pk.Created
}

func (h *brokerHook) OnSubscribed(*mqtt.Client, packets.Packet, []byte) {
	h.b.subOnce.Do(func() { close(h.b.subscribed) })
}

func (h *brokerHook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if c, ok := cl.Net.Conn.(*brokerConn); ok {
		h.b.resume.RLock()
		c.publishing = true
	}
	pk.Created = h.b.order.Add(1)
	return pk, nil
}

func (h *brokerHook) OnPublished(_ *mqtt.Client, pk packets.Packet) {
	h.b.published.Add(1)
	if s := h.b.server.Topics.Subscribers(pk.TopicName); len(s.Subscriptions)+len(s.Shared) == 0 {
		h.b.unheard.Add(1)
	}
}

func (h *brokerHook) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, _ error) {
	if c, ok := cl.Net.Conn.(*brokerConn); ok && pk.FixedHeader.Type == packets.Publish {
		c.release()
	}
}

func (h *brokerHook) OnPublishDropped(*mqtt.Client, packets.Packet) { h.b.dropped.Add(1) }

// OnQosDropped counts messages thrown away with a session that was not to be
// kept (clean session).
func (h *brokerHook) OnQosDropped(_ *mqtt.Client, pk packets.Packet) {
	if pk.FixedHeader.Type == packets.Publish {
		h.b.dropped.Add(1)
	}
}
