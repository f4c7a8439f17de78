package mqtttest

import (
	"errors"
	"log/slog"
	"sync"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// rules is the hook by which the broker asks Options, and by which messages
// keep their order: mochi sends again sorted by a time in seconds.
type rules struct {
	mochi.HookBase
	b *Broker
}

// ID implements mochi.Hook.
func (r *rules) ID() string { return "rules" }

// Provides implements mochi.Hook.
func (r *rules) Provides(b byte) bool {
	switch b {
	case mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnPublish, mochi.OnSessionEstablish, mochi.OnSessionEstablished, mochi.OnPacketRead:
		return true
	}
	return false
}

// OnConnectAuthenticate implements mochi.Hook.
func (r *rules) OnConnectAuthenticate(_ *mochi.Client, pk packets.Packet) bool {
	return r.b.opts.Auth == nil || r.b.opts.Auth(string(pk.Connect.Username), string(pk.Connect.Password))
}

// OnACLCheck implements mochi.Hook.
func (r *rules) OnACLCheck(_ *mochi.Client, topic string, write bool) bool {
	return write || r.b.opts.Refuse == nil || !r.b.opts.Refuse(topic)
}

// OnPublish implements mochi.Hook. pubMu is held by Broker.Publish.
func (r *rules) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if !cl.Net.Inline {
		r.b.take(event(pk.FixedHeader.Type<<4, nil), pk)
	}
	if cl.Net.Inline { // not more than 18 hours off, or mochi lets it expire
		pk.Created = pk.Created&^0xffff + r.b.number&0xffff
	}
	return pk, nil
}

// OnPacketRead implements mochi.Hook.
func (r *rules) OnPacketRead(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if poison := r.b.opts.Poison; poison != nil && pk.FixedHeader.Type == packets.Publish && poison(pk.TopicName, string(pk.Payload)) {
		cl.Stop(errPoison)
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}

var errPoison = errors.New("poison")

// take keeps a message that a client published.
func (b *Broker) take(e Event, pk packets.Packet) {
	e.Topic, e.Payload, e.ID = pk.TopicName, string(pk.Payload), pk.PacketID
	if pk.FixedHeader.Dup {
		e.First |= 1 << 3
	}
	if pk.FixedHeader.Retain {
		e.First |= 1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken = append(b.taken, e)
	b.changed()
}

// Taken returns the messages that clients published and the broker took, in order.
func (b *Broker) Taken() []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken[:len(b.taken):len(b.taken)]
}

// OnSessionEstablish implements mochi.Hook. mochi loses what is published
// while it hands a session over, so nothing is published until it has, or has
// given up.
func (r *rules) OnSessionEstablish(cl *mochi.Client, _ packets.Packet) {
	if c, ok := cl.Net.Conn.(*spied); ok {
		r.b.pubMu.Lock()
		c.holds.Store(true)
	}
}

// OnSessionEstablished implements mochi.Hook.
func (r *rules) OnSessionEstablished(cl *mochi.Client, _ packets.Packet) {
	if c, ok := cl.Net.Conn.(*spied); ok {
		c.release()
	}
}

// release lets messages be published again.
func (c *spied) release() {
	if c.holds.Swap(false) {
		c.b.pubMu.Unlock()
	}
}

// door is the listener of a server: connections are handed to it.
type door struct {
	addr string
	in   chan *spied
	shut chan struct{}
	once sync.Once
}

// pass hands over a connection; false when the server has ended.
func (d *door) pass(c *spied) bool {
	select {
	case d.in <- c:
		return true
	case <-d.shut:
		return false
	}
}

// Serve implements listeners.Listener.
func (d *door) Serve(establish listeners.EstablishFn) {
	for {
		select {
		case c := <-d.in:
			go func() {
				_ = establish(d.ID(), c) // returns at the end of the connection
				c.release()
			}()
		case <-d.shut:
			return
		}
	}
}

// Close implements listeners.Listener.
func (d *door) Close(end listeners.CloseFn) {
	d.once.Do(func() {
		end(d.ID())
		close(d.shut)
	})
}

// Init implements listeners.Listener.
func (d *door) Init(*slog.Logger) error { return nil }

// ID implements listeners.Listener.
func (d *door) ID() string { return "door" }

// Address implements listeners.Listener.
func (d *door) Address() string { return d.addr }

// Protocol implements listeners.Listener.
func (d *door) Protocol() string { return "tcp" }
