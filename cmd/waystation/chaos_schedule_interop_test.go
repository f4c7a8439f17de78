//go:build interop

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers/link"
	"github.com/waystation-iot/waystation/gateway"
)

const (
	chaosSpan    = 5 * time.Second // of publishing, in which the faults begin
	chaosDevices = 6
	chaosEach    = 200 // messages of each device
	drainLimit   = 3 * time.Minute
)

// schedule is one gateway with its own queue, topic and link, and what happens
// to it. All that is random follows from its seed.
type schedule struct {
	rig    *chaosRig
	t      *testing.T
	name   string
	topic  string
	random *rand.Rand
	line   *link.Link
	gate   *keptGateway
	began  time.Time

	mu     sync.Mutex // guards events
	events []string
}

// log notes what happened and when.
func (s *schedule) log(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, fmt.Sprintf("%6.2fs ", time.Since(s.began).Seconds())+fmt.Sprintf(format, args...))
}

func (s *schedule) history() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.events, "\n")
}

// fault is something that happens to the gateway or its link.
type fault struct {
	at   time.Duration
	kind string
	what string // more exactly
	do   func()
}

// profile draws the link in its good times.
func (s *schedule) profile() link.Profile {
	return []link.Profile{
		{Name: "near", Delay: time.Millisecond},
		{Name: "far", Delay: 60 * time.Millisecond},
		{Name: "slow", Delay: 20 * time.Millisecond, Rate: 32 << 10},
		{Name: "lossy", Delay: 10 * time.Millisecond, Loss: 0.01},
	}[s.random.IntN(4)]
}

// faults draws what happens: one to three things to the gateway or its link,
// besides what the round does to the brokers.
func (s *schedule) faults() []fault {
	var out []fault
	for range 1 + s.random.IntN(3) {
		f := s.draw()
		f.at = time.Duration(s.random.Int64N(int64(chaosSpan)))
		out = append(out, f)
	}
	return out
}

func (s *schedule) draw() fault {
	short := time.Duration(s.random.Int64N(int64(2500*time.Millisecond))) + 100*time.Millisecond
	switch s.random.IntN(8) {
	case 0:
		return fault{kind: "gateway killed", what: "kill -9 of the gateway", do: func() { s.gate.kill(short/4, "") }}
	case 1, 2, 3:
		point := s.failpoint()
		return fault{kind: "gateway killed", what: "kill -9 of the gateway, and again at " + point, do: func() { s.gate.kill(0, point) }}
	case 4:
		return fault{kind: "link silent", what: fmt.Sprintf("link silent for %s", short), do: func() { s.line.Silence(); s.later(short, s.line.Heal) }}
	case 5:
		return fault{kind: "connections reset", what: "connections reset", do: s.line.Reset}
	case 6:
		return fault{kind: "connections lost", what: "connections lost without a word", do: s.line.Lose}
	}
	return fault{kind: "link flapping", what: "link flaps", do: func() {
		for i := range 4 {
			s.later(time.Duration(2*i)*200*time.Millisecond, s.line.Silence)
			s.later(time.Duration(2*i+1)*200*time.Millisecond, s.line.Heal)
		}
	}}
}

// failpoint draws a step of the Kafka transaction to be killed at.
func (s *schedule) failpoint() string {
	points := []string{"init", "partitions", "offsets", "produce", "txnoffset", "end"}
	when := []string{"before", "after"}
	point := points[s.random.IntN(len(points))]
	n := 1 + s.random.IntN(8)
	if point == "init" || point == "offsets" {
		n = 1
	}
	return fmt.Sprintf("%s-%s:%d", point, when[s.random.IntN(2)], n)
}

// later does something after a while; run waits until it is over.
func (s *schedule) later(after time.Duration, do func()) {
	time.AfterFunc(after, do)
}

// run publishes while faults happen, lets all heal and waits for the drain.
func (s *schedule) run() error {
	s.began = time.Now()
	profile := s.profile()
	s.line.Set(profile)
	s.log("link: %s", profile.Name)
	config := gatewayConfig{id: s.name, mqtt: s.rig.mosquitto.Addr, topics: s.name + "/#", brokers: s.rig.addrs(s.line), topic: s.topic,
		more: ", request_timeout: 1500ms, dial_timeout: 1500ms" + chaosDelivery}
	s.gate = keepGateway(s.t, s.rig.binary, config.write(s.t, s.rig.dir+"/"+s.name), s.log)
	if _, err := s.gate.await(time.Minute, func(st *gateway.Status) bool { return st.Sources[0].State == gateway.Up }); err != nil {
		return fmt.Errorf("source up: %w", err)
	}
	published := make(chan error, 1)
	go func() { published <- s.publish() }()
	for _, f := range s.faults() {
		time.AfterFunc(f.at, func() { s.log("%s", f.what); s.rig.count(f.kind); f.do() })
	}
	err := <-published
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	s.rig.awaitHealed()           // the brokers
	<-time.After(3 * time.Second) // what draws began has ended
	s.gate.calm()
	s.line.Heal()
	s.line.Set(link.Profile{})
	s.log("healed")
	const total = chaosDevices * chaosEach
	last, err := s.gate.await(drainLimit, func(st *gateway.Status) bool {
		return st.Sinks[0].Waiting == 0 && st.Books.Queued >= total
	})
	if err != nil {
		return fmt.Errorf("drained: %w; last status %+v", err, last.Sinks)
	}
	s.log("drained")
	return nil
}

// publish sends the messages of all devices in turn, over the span.
func (s *schedule) publish() error {
	p, err := newPublisher(s.rig.mosquitto.Addr, "load-"+s.name, 200)
	if err != nil {
		return err
	}
	tick := time.NewTicker(chaosSpan / chaosEach)
	defer tick.Stop()
	for n := 1; n <= chaosEach; n++ {
		<-tick.C
		for d := range chaosDevices {
			key := chaosKey(s.name, d)
			if err := p.publish(key, fmt.Appendf(nil, `{"device":"%s","n":%d,"state":"running"}`, key, n)); err != nil {
				return err
			}
		}
		if err := p.out.Flush(); err != nil {
			return err
		}
	}
	return p.finish()
}
