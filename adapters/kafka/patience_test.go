package kafka

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// Time-outs double up to five minutes, shrink again with success, and other
// errors leave them as they are.
func TestPatience(t *testing.T) {
	var p patience
	limit := 10 * time.Second
	slow := fmt.Errorf("produce: %w", os.ErrDeadlineExceeded)
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		if got := p.of(limit); got != want*time.Second {
			t.Errorf("after %d time-outs %s instead of %s", i, got, want*time.Second)
		}
		p.lost(errors.New("connection refused"), limit)
		p.lost(slow, limit)
	}
	p.begun = time.Now().Add(-2 * time.Minute)
	if p.kept(limit); p.of(limit) != maxPatience {
		t.Errorf("after a batch that took long %s", p.of(limit))
	}
	for range 6 {
		p.begin()
		p.kept(limit)
	}
	if p.of(limit) != limit {
		t.Errorf("after quick batches %s", p.of(limit))
	}
	if p.of(10*time.Minute) != 10*time.Minute {
		t.Error("a longer limit is cut")
	}
}

// The sessions of a sink have the time-outs that its patience says, and a Send
// that ends with a time-out raises it.
func TestPatienceOfSessions(t *testing.T) {
	c := NewConfig()
	c.Brokers, c.Topic = []string{"127.0.0.1:1"}, "t"
	sink, err := c.Sink(gateway.Env{GatewayID: "gw", Name: "shore"})
	if err != nil {
		t.Fatal(err)
	}
	s := sink.(*Sink)
	before, err := s.clientConfig()
	if err != nil {
		t.Fatal(err)
	}
	s.sess = &session{}
	if err := s.giveUp(t.Context(), &round{lost: true, err: fmt.Errorf("produce: %w", os.ErrDeadlineExceeded)}); err == nil {
		t.Fatal("no error")
	}
	after, err := s.clientConfig()
	if err != nil || after.Net.ReadTimeout < 2*before.Net.ReadTimeout-answerSlack || after.Net.WriteTimeout != after.Net.ReadTimeout {
		t.Errorf("%s after %s, %v", after.Net.ReadTimeout, before.Net.ReadTimeout, err)
	}
}
