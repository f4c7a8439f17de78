package gatewaytest

import (
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// Harness is what Conform needs to know about an adapter.
type Harness struct {
	// Start starts a simulated device and makes a source that reads it. It is
	// called once for every check. The device tells w what it sees; it must be
	// ready to answer when Start returns.
	Start func(tb testing.TB, w *Witness) *Device

	// Number finds the number of the observation in a record. Records without
	// one (ok is false, or n below 1) are stored and otherwise not looked at.
	Number func(r *gateway.Record) (n int, ok bool)

	// Acks says that the device learns which observations are safe and calls
	// Witness.Acked for each. Unless Latest is set, it keeps those that were
	// not acknowledged and sends them again on the next connection, as an MQTT
	// broker does for a persistent session.
	Acks bool

	// Latest says that the device has only its present value, as a Modbus
	// register does: values change unseen while nobody asks, and one value may
	// be read many times.
	Latest bool

	// InFlight is how many records the source made by Start may have delivered
	// without having seen done. 0 means 1000. A small number makes the suite
	// faster: it publishes four times as many.
	InFlight int

	// Patience is how long the suite waits for something that must happen; 0
	// means 20 s. Only a failing test waits so long.
	Patience time.Duration

	// Earlier is by how much a record may be dated before its delivery: a source
	// that asks a device gives it the time between request and answer. 0 for one
	// that is told.
	Earlier time.Duration

	// Ignore names functions at the top of goroutines that may stay: those of
	// a library that cannot be stopped, e.g.
	// "go.opencensus.io/stats/view.(*worker).start".
	Ignore []string
}

// Device is a simulated device, or a broker, and the source that reads it.
type Device struct {
	// Source reads the device. Its Run is called again whenever it returns.
	Source gateway.Source
	// Publish makes the device produce observation n, 1, 2, 3 …, or with
	// Harness.Latest gives it the value n. It is called from one goroutine at
	// a time, also while the line is cut and while the queue is stuck: it must
	// not wait for the source.
	Publish func(n int)
	// Cut breaks every connection without a goodbye. Until Restore the device
	// is out of reach: it refuses connections, or does not answer.
	Cut func()
	// Restore mends the line.
	Restore func()
	// Conns is how many connections are open; nil when that cannot be said.
	Conns func() int
	// Stop ends the device and all its goroutines. It is called once, after
	// Run has returned.
	Stop func()
}

// Witness is told by the device what happens on its side of the line. Its
// methods may be called from any goroutine.
type Witness struct{ q *queue }

// Sent says that observation n goes out on the line. A device that repeats
// observations in an order other than that of their numbers must call it for
// every one it sends, in the order on the line; others need not call it.
func (w *Witness) Sent(n int) { w.q.sentOne(n) }

// Acked says that the acknowledgement of observation n has reached the device.
func (w *Witness) Acked(n int) { w.q.ackedOne(n) }

// Conform runs the conformance suite. Each check is a subtest.
func Conform(t *testing.T, h Harness) {
	for _, c := range checks() {
		if c.acks && !h.Acks {
			continue // the protocol has no acknowledgement
		}
		t.Run(c.name, func(t *testing.T) { conduct(t, h, c.run) })
	}
}

// check is one promise.
type check struct {
	name string
	acks bool // only for a protocol with acknowledgements
	run  func(*bench)
}

// checks lists the promises.
func checks() []check {
	return []check{
		{"deliver", false, deliver},
		{"ack-after-done", true, ackAfterDone},
		{"cut-ten-times", false, cutTenTimes},
		{"failing-queue", false, failingQueue},
		{"stuck-queue", false, stuckQueue},
		{"stop-while-stuck", false, stopWhileStuck},
		{"stop-while-cut", false, stopWhileCut},
		{"stop-at-once", false, stopAtOnce},
		{"clocks", false, clocks},
	}
}

func (h *Harness) inFlight() int {
	if h.InFlight > 0 {
		return h.InFlight
	}
	return 1000
}

func (h *Harness) patience() time.Duration {
	if h.Patience > 0 {
		return h.Patience
	}
	return 20 * time.Second
}

// keeps reports whether the device sends again what was not acknowledged.
func (h *Harness) keeps() bool { return h.Acks && !h.Latest }
