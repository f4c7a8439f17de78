package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
)

// newSink builds a sink for a broker at addr.
func newSink(t testing.TB, url string, change func(*SinkConfig)) *Sink {
	t.Helper()
	c := sinkDefaults()
	c.URL, c.Topic, c.Encoding, c.Timeout, c.KeepAlive = url, "fleet/{device}", "raw", 2*time.Second, 5*time.Second
	if change != nil {
		change(c)
	}
	s, err := c.Sink(gateway.Env{GatewayID: "gw", Name: "up", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*Sink)
}

// numbered is a batch of records from, from+1 … to, dealt to three devices.
func numbered(from, to int) *gateway.Batch {
	b := &gateway.Batch{Lane: gateway.LaneTelemetry, LaneName: "telemetry", Generation: "gen"}
	for n := from; n <= to; n++ {
		b.Items = append(b.Items, gateway.Item{Seq: uint64(n), Record: gateway.Record{Source: "deck", Device: fmt.Sprint("d", n%3), Name: fmt.Sprint("n/", n),
			Payload: []byte(fmt.Sprint(n))}})
	}
	return b
}

// forward sends a batch as the forwarder does, over reconnects, and returns how
// many tries it took and what was refused.
func forward(t *testing.T, s *Sink, b *gateway.Batch) (tries int, refused []gateway.Refusal) {
	t.Helper()
	for tries = 1; tries < 200; tries++ {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := s.Connect(ctx)
		if err == nil {
			err = s.Send(ctx, b)
		}
		cancel()
		if r := new(gateway.RefusedError); errors.As(err, &r) {
			return tries, r.Refused
		}
		if err == nil {
			return tries, nil
		}
		t.Logf("try %d: %v", tries, err)
	}
	t.Fatal("the batch is not sent after 200 tries")
	return tries, nil
}

// checkArrived checks that records 1 to n arrived, those of each topic in order
// when repeats are left out, and returns how many repeats there were. Of all
// copies at most the first sent is not marked DUP; it may be looked at last,
// since the broker reads the connection that was cut to its end meanwhile.
func checkArrived(t *testing.T, taken []mqtttest.Event, n int) (repeats int) {
	t.Helper()
	seen, fresh, last := map[string]bool{}, map[string]int{}, map[string]int{}
	for _, e := range taken {
		if e.First&(1<<3) == 0 {
			if fresh[e.Payload]++; fresh[e.Payload] > 1 {
				t.Errorf("%s comes again without DUP", e.Payload)
			}
		}
		if seen[e.Payload] {
			repeats++
			continue
		}
		seen[e.Payload] = true
		var no int
		if _, err := fmt.Sscan(e.Payload, &no); err != nil || e.Topic != fmt.Sprint("fleet/d", no%3) || no <= last[e.Topic] {
			t.Fatalf("%q on %s after %d", e.Payload, e.Topic, last[e.Topic])
		}
		last[e.Topic] = no
	}
	if len(seen) != n {
		t.Fatalf("%d of %d records arrived", len(seen), n)
	}
	return repeats
}

// Everything arrives once and in order, with topic, place and flags as configured.
func TestSinkDelivers(t *testing.T) {
	broker := mqtttest.New(t, mqtttest.Options{})
	s := newSink(t, "tcp://"+broker.Addr(), nil)
	for i := range 10 {
		if tries, refused := forward(t, s, numbered(i*300+1, i*300+300)); tries != 1 || refused != nil {
			t.Fatalf("%d tries, refused %v", tries, refused)
		}
	}
	if n := checkArrived(t, broker.Taken(), 3000); n != 0 {
		t.Errorf("%d repeats on a good connection", n)
	}
	s = newSink(t, "tcp://"+broker.Addr(), func(c *SinkConfig) {
		c.Encoding, c.Topic, c.Retained, c.ClientID = "json", "x/{gateway}/{lane}/{source}/{name}/{tag.k}", true, "other"
	})
	b := numbered(7, 7)
	b.Gateway, b.Items[0].Record.Tags = "ship-7", []gateway.Tag{{Key: "k", Value: "a+b#c"}}
	forward(t, s, b)
	e := broker.Taken()[3000]
	var doc struct {
		Schema int
		Queue  struct {
			Gateway, Generation, Lane string
			Seq                       int
		}
	}
	if err := json.Unmarshal([]byte(e.Payload), &doc); err != nil || doc.Schema != 1 || doc.Queue.Seq != 7 || doc.Queue.Gateway != "ship-7" ||
		doc.Queue.Generation != "gen" || doc.Queue.Lane != "telemetry" || e.Topic != "x/ship-7/telemetry/deck/n/7/a_b_c" || e.First&1 == 0 {
		t.Errorf("%s: %s, flags %x, %v", e.Topic, e.Payload, e.First, err)
	}
}

// A connection that is cut anywhere costs repeats of what was on its way, and
// nothing is lost or out of order; what was confirmed before is not sent again.
func TestSinkCutAnywhere(t *testing.T) {
	for _, window := range []int{1, 5, 64} {
		broker := mqtttest.New(t, mqtttest.Options{})
		s := newSink(t, "tcp://"+broker.Addr(), func(c *SinkConfig) { c.Window = window })
		const n, cuts = 1500, 12
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for i := range cuts {
				at := (i + 1) * n / (cuts + 2)
				broker.Await("messages", func(events []mqtttest.Event) bool { return mqtttest.Count(events, 3, false) >= at })
				broker.CutOnce()
			}
		}()
		for i := range 6 {
			forward(t, s, numbered(i*n/6+1, i*n/6+n/6))
		}
		<-ended
		if got := checkArrived(t, broker.Taken(), n); got > cuts*window {
			t.Errorf("window %d: %d repeats after %d cuts", window, got, cuts)
		}
	}
}

// A broker that restarts and knows nothing gets what it had not confirmed.
func TestSinkBrokerRestarts(t *testing.T) {
	broker := mqtttest.New(t, mqtttest.Options{})
	s := newSink(t, "tcp://"+broker.Addr(), nil)
	for i := range 5 {
		forward(t, s, numbered(i*100+1, i*100+100))
		broker.Restart()
	}
	checkArrived(t, broker.Taken(), 500)
}

// A message on which the broker closes the connection is found and refused, the
// others arrive; also when it is the very first, and when it comes alone.
func TestSinkPoison(t *testing.T) {
	for _, bad := range [][]string{{"1"}, {"150"}, {"300"}, {"17", "18", "200"}} {
		broker := mqtttest.New(t, mqtttest.Options{Poison: func(_, payload string) bool { return slices.Contains(bad, payload) }})
		s := newSink(t, "tcp://"+broker.Addr(), nil)
		_, refused := forward(t, s, numbered(1, 300))
		var got []string
		for _, r := range refused {
			got = append(got, fmt.Sprint(r.Index+1))
		}
		slices.Sort(got)
		want := slices.Clone(bad)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("refused %v instead of %v", got, want)
		}
		if f := s.Facts(); len(f) < 2 || !f[1].Warn {
			t.Errorf("facts %v", f)
		}
		distinct := map[string]bool{}
		for _, e := range broker.Taken() {
			distinct[e.Payload] = true
		}
		if len(distinct) != 300-len(bad) {
			t.Errorf("%d arrived", len(distinct))
		}
	}
	broker := mqtttest.New(t, mqtttest.Options{Poison: func(_, payload string) bool { return payload == "2" }})
	s := newSink(t, "tcp://"+broker.Addr(), nil)
	forward(t, s, numbered(1, 1))
	if tries, refused := forward(t, s, numbered(2, 2)); len(refused) != 1 || tries > 8 {
		t.Errorf("alone: %d tries, refused %v", tries, refused)
	}
}

// A broker that closes the connection on whatever we publish has nothing
// refused: it is a matter of rights, and everything waits. One that begins to
// has a few records refused and no more.
func TestSinkMayPublishNothing(t *testing.T) {
	var deny atomic.Bool
	deny.Store(true)
	broker := mqtttest.New(t, mqtttest.Options{Poison: func(string, string) bool { return deny.Load() }})
	s := newSink(t, "tcp://"+broker.Addr(), nil)
	try := func(b *gateway.Batch) error {
		if err := s.Connect(t.Context()); err != nil {
			return err
		}
		return s.Send(t.Context(), b)
	}
	b, single := numbered(1, 50), numbered(51, 51)
	var err error
	for range 40 {
		if err = try(b); err == nil || errors.As(err, new(*gateway.RefusedError)) {
			t.Fatalf("sent: %v", err)
		}
	}
	if !strings.Contains(err.Error(), "fleet/d1: check that we may publish there") {
		t.Errorf("no hint in %q", err)
	}
	deny.Store(false)
	forward(t, s, b)
	deny.Store(true)
	given := 0
	for range 100 {
		if err := try(single); errors.As(err, new(*gateway.RefusedError)) {
			given++
			single = numbered(51+given, 51+given)
		}
	}
	if given != maxSuspects {
		t.Errorf("%d records given up instead of %d", given, maxSuspects)
	}
	if n := checkArrived(t, broker.Taken(), 50); n != 0 {
		t.Errorf("%d repeats", n)
	}
}

// A black hole is found within one and a half keep-alives, with messages on
// their way and without.
func TestSinkBlackHole(t *testing.T) {
	for _, busy := range []bool{true, false} {
		broker := mqtttest.New(t, mqtttest.Options{})
		s := newSink(t, "tcp://"+broker.Addr(), func(c *SinkConfig) { c.KeepAlive = time.Second })
		forward(t, s, numbered(1, 10))
		broker.Swallow()
		begin := time.Now()
		if busy {
			if err := s.Send(t.Context(), numbered(11, 20)); !errors.Is(err, errNoProgress) {
				t.Errorf("Send returned %v", err)
			}
		} else {
			<-s.up.closed
			if !errors.Is(s.up.why(), errNoProgress) {
				t.Errorf("closed for %v", s.up.why())
			}
		}
		if took := time.Since(begin); took > 1700*time.Millisecond {
			t.Errorf("busy %t: found after %s", busy, took)
		}
		broker.Restore()
	}
}

// An idle connection stays.
func TestSinkIdle(t *testing.T) {
	broker := mqtttest.New(t, mqtttest.Options{})
	s := newSink(t, "tcp://"+broker.Addr(), func(c *SinkConfig) { c.KeepAlive = time.Second })
	forward(t, s, numbered(1, 10))
	broker.Await("three PINGREQ", func(events []mqtttest.Event) bool { return mqtttest.Count(events, 12, false) >= 3 })
	if s.up.dead() {
		t.Errorf("closed for %v", s.up.why())
	}
}

// A message that takes longer than the keep-alive on a slow link arrives: its
// bytes are progress.
func TestSinkLargeMessageOnSlowLink(t *testing.T) {
	broker := mqtttest.New(t, mqtttest.Options{})
	link := slowLink(t, broker.Addr(), 120<<10)
	s := newSink(t, "tcp://"+link, func(c *SinkConfig) { c.KeepAlive = time.Second })
	b := numbered(1, 2)
	b.Items[0].Record.Payload = make([]byte, 200<<10)
	begin := time.Now()
	if tries, refused := forward(t, s, b); tries != 1 || refused != nil {
		t.Errorf("%d tries, refused %v", tries, refused)
	}
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("the link is not slow: %s", took)
	}
}

// slowLink passes so many bytes per second on to addr, and all of them back.
func slowLink(t *testing.T, addr string, rate int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.(*net.TCPConn).SetReadBuffer(8 << 10)
		d, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer d.Close()
		go func() { _, _ = io.Copy(c, d) }()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		p := make([]byte, rate/50)
		for range tick.C {
			n, err := c.Read(p)
			if err != nil {
				return
			}
			if _, err := d.Write(p[:n]); err != nil {
				return
			}
		}
	}()
	return l.Addr().String()
}
