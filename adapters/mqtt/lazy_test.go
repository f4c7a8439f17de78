package mqtt

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// waits is a queue that notes which appends somebody waits for.
type waits struct {
	lazy []bool
	done []func(error)
}

func (q *waits) Append(_ int, b *buffer.Batch, done func(error)) {
	q.lazy, q.done = append(q.lazy, b.Lazy), append(q.done, done)
}

// Nobody waits for messages of QoS 0: their commit may come later. It may not
// when a message that is acknowledged came with them, when the inbox fills, and
// when the source stops.
func TestQoS0IsLazy(t *testing.T) {
	q := &waits{}
	in := gateway.NewIntake(gateway.SourceSpec{Name: "s"}, q, gateway.NewClock(time.Now, nil))
	cfg := testConfig()
	cfg.MaxInflight = 16
	dec, err := codec.New(cfg.Codec)
	if err != nil {
		t.Fatal(err)
	}
	box := newInbox(in, dec, cfg)
	c := newConn(&segments{}, box, cfg)
	send := func(qos ...byte) {
		t.Helper()
		for i, level := range qos {
			m := publish{topic: fmt.Append(nil, "a/", i), qos: level, id: uint16(i + 1)}
			if level == 0 {
				m.id = 0
			}
			if err := box.add(c, m); err != nil {
				t.Fatal(err)
			}
		}
		if err := box.flush(c); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...bool) {
		t.Helper()
		if !slices.Equal(q.lazy, want) {
			t.Fatalf("lazy %v, want %v", q.lazy, want)
		}
	}
	send(0, 0)
	expect(true)
	send(1)
	send(0, 1)
	expect(true, false, false)
	send(0) // six of sixteen wait
	expect(true, false, false, false)
	for _, done := range q.done {
		done(nil)
	}
	send(0)
	expect(true, false, false, false, true)
	empty := box.end()
	expect(true, false, false, false, true, false)
	for _, done := range q.done[4:] {
		done(nil)
	}
	<-empty
	if s := in.Status(""); s.Queued != 7 || s.InFlight != 0 {
		t.Errorf("%+v", s)
	}
	box.stop()
	box.end()
	expect(true, false, false, false, true, false)
	if err := c.Close(); err != nil && !errors.Is(err, errEnded) {
		t.Error(err)
	}
}
