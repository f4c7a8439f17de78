package main

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

const (
	connectLimit = 10 * time.Second // for a device's CONNECT
	ackLimit     = 10 * time.Second // for the last PUBACKs after the devices stopped
	ackWindow    = 512              // messages of one connection under way
	maxLag       = time.Second      // behind its rate, before a device gives up catching up
)

// device is one simulated device. Its messages are numbered from 1; message
// n+1 is not made before n was handed to the client.
type device struct {
	name  string
	topic string
	group *GroupConfig
	gen   *generator // nil: replay
	due   time.Time  // of the next message; only the connection's goroutine touches it

	sent  atomic.Int64 // highest n handed to the client
	acked atomic.Int64 // highest n acknowledged by the broker (PUBACK)
}

// DeviceCount is what one device did.
type DeviceCount struct {
	Topic  string `json:"topic"`
	Sent   int64  `json:"sent"`             // messages handed to the MQTT client
	Acked  int64  `json:"acked"`            // messages acknowledged by the broker
	Replay string `json:"replay,omitempty"` // name of the recording, when it replays one
}

// fleet is all devices of a plant.
type fleet struct {
	broker  string // address
	devices []*device
	conns   []*deviceConn
	start   time.Time

	sent, acked, failed, lost atomic.Int64 // failed: messages whose PUBACK never came; lost: connections lost

	cancel   context.CancelFunc
	running  sync.WaitGroup
	finished chan struct{} // closed when every device is silent and acknowledged

	mu   sync.Mutex // guards errs
	errs []error
}

// newFleet makes the devices of cfg. It connects nothing.
func newFleet(cfg *Config, broker string) *fleet {
	f := &fleet{broker: broker, finished: make(chan struct{})}
	for gi := range cfg.Devices {
		g := &cfg.Devices[gi]
		conns := make([]*deviceConn, min(g.Connections, g.Count))
		for i := range conns {
			conns[i] = &deviceConn{fleet: f, id: fmt.Sprintf("%s%s-%d", deviceClient, g.Name, i+1)}
		}
		for i := range g.Count {
			d := newDevice(g, i, cfg.Seed)
			c := conns[i%len(conns)]
			c.devices = append(c.devices, d)
			f.devices = append(f.devices, d)
		}
		f.conns = append(f.conns, conns...)
	}
	return f
}

func newDevice(g *GroupConfig, i int, seed uint64) *device {
	name := g.Name
	if g.Count > 1 {
		name = fmt.Sprintf("%s-%0*d", g.Name, max(2, len(fmt.Sprint(g.Count))), i+1)
	}
	d := &device{name: name, group: g, topic: strings.NewReplacer("{device}", name, "{group}", g.Name).Replace(g.Topic)}
	if g.Replay == "" {
		h := fnv.New64a()
		_, _ = h.Write([]byte(name)) // a hash never fails
		d.gen = newGenerator(name, g, rand.New(rand.NewPCG(seed, h.Sum64())))
	}
	return d
}

// run starts every connection and returns; stop ends them.
func (f *fleet) run(ctx context.Context) {
	ctx, f.cancel = context.WithCancel(ctx)
	f.start = time.Now()
	for _, c := range f.conns {
		f.running.Go(func() {
			if err := c.run(ctx); err != nil {
				f.mu.Lock()
				f.errs = append(f.errs, err)
				f.mu.Unlock()
			}
		})
	}
	go func() {
		f.running.Wait()
		close(f.finished)
	}()
}

// stop silences the devices and waits, at most ackLimit, for the PUBACKs of
// what they sent.
func (f *fleet) stop() {
	f.cancel()
	<-f.finished
}

func (f *fleet) counts() map[string]DeviceCount {
	m := make(map[string]DeviceCount, len(f.devices))
	for _, d := range f.devices {
		m[d.name] = DeviceCount{Topic: d.topic, Sent: d.sent.Load(), Acked: d.acked.Load(), Replay: d.group.Replay}
	}
	return m
}

// deviceConn is one MQTT connection that several devices share.
type deviceConn struct {
	fleet   *fleet
	id      string
	devices deviceQueue // those still talking
}

// sentMessage waits for its PUBACK.
type sentMessage struct {
	device *device
	n      int64
	token  paho.Token
}

// run publishes until ctx ends or every device has said all it has to say.
func (c *deviceConn) run(ctx context.Context) error {
	client := paho.NewClient(c.options())
	token := client.Connect()
	if !token.WaitTimeout(connectLimit) || token.Error() != nil {
		client.Disconnect(0)
		return fmt.Errorf("connect %s to mqtt broker %s: %w", c.id, c.fleet.broker, cmp.Or(token.Error(), context.DeadlineExceeded))
	}
	defer client.Disconnect(250)
	pending := make(chan sentMessage, ackWindow)
	acked := make(chan struct{})
	go func() {
		defer close(acked)
		c.collect(ctx, pending)
	}()
	err := c.publish(ctx, client, pending)
	close(pending)
	<-acked
	return err
}

func (c *deviceConn) options() *paho.ClientOptions {
	return paho.NewClientOptions().AddBroker("tcp://" + c.fleet.broker).SetClientID(c.id).
		SetProtocolVersion(4).SetCleanSession(false).SetStore(paho.NewOrderedMemoryStore()).
		SetAutoReconnect(true).SetMaxReconnectInterval(time.Second).SetOrderMatters(true).
		SetKeepAlive(30 * time.Second).SetConnectTimeout(connectLimit).
		SetConnectionLostHandler(func(paho.Client, error) { c.fleet.lost.Add(1) })
}

// publish sends the messages of all devices, each at its own rate.
func (c *deviceConn) publish(ctx context.Context, client paho.Client, pending chan<- sentMessage) error {
	now := time.Now()
	for i, d := range c.devices { // spread over the first interval
		d.due = now.Add(d.group.Every * time.Duration(i) / time.Duration(len(c.devices)))
	}
	heap.Init(&c.devices)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for len(c.devices) > 0 {
		d := c.devices[0]
		if wait := time.Until(d.due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		n := d.sent.Load() + 1
		token := client.Publish(d.topic, 1, false, c.payload(d, n))
		select {
		case <-token.Done():
			if err := token.Error(); err != nil { // not handed over
				return fmt.Errorf("publish %s message %d: %w", d.name, n, err)
			}
		default:
		}
		d.sent.Store(n)
		c.fleet.sent.Add(1)
		pending <- sentMessage{d, n, token} // collect always takes it
		c.schedule(d, n)
	}
	return nil
}

// schedule says when d, the top of the queue, speaks next, or takes it out
// when it is done.
func (c *deviceConn) schedule(d *device, n int64) {
	if d.group.Messages > 0 && n >= d.group.Messages {
		heap.Pop(&c.devices)
		return
	}
	d.due = d.due.Add(d.group.Every)
	if now := time.Now(); now.Sub(d.due) > maxLag {
		d.due = now
	}
	heap.Fix(&c.devices, 0)
}

func (c *deviceConn) payload(d *device, n int64) []byte {
	if d.gen == nil {
		return d.group.lines[(n-1)%int64(len(d.group.lines))]
	}
	now := time.Now()
	return d.gen.payload(n, now, now.Sub(c.fleet.start))
}

// collect waits for the PUBACKs in the order of sending; once ctx has ended at
// most ackLimit for all that are left.
func (c *deviceConn) collect(ctx context.Context, pending <-chan sentMessage) {
	var giveUp <-chan time.Time
	for m := range pending {
		select {
		case <-m.token.Done():
		case <-ctx.Done():
			if giveUp == nil {
				giveUp = time.After(ackLimit)
			}
			select {
			case <-m.token.Done():
			case <-giveUp:
				giveUp = closedTime()
			}
		}
		if acknowledged(m.token) {
			m.device.acked.Store(m.n)
			c.fleet.acked.Add(1)
		} else {
			c.fleet.failed.Add(1)
		}
	}
}

func acknowledged(t paho.Token) bool {
	select {
	case <-t.Done():
		return t.Error() == nil
	default:
		return false
	}
}

// closedTime is a time that has come for good.
func closedTime() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}

// deviceQueue is a heap of devices, the one due next at the top.
type deviceQueue []*device

func (q deviceQueue) Len() int           { return len(q) }
func (q deviceQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q deviceQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *deviceQueue) Push(x any)        { *q = append(*q, x.(*device)) }
func (q *deviceQueue) Pop() any {
	last := len(*q) - 1
	d := (*q)[last]
	*q = (*q)[:last]
	return d
}
