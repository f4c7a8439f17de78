package modbus

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// TestPoisonAfterOutage: when a line opens after a while, those that answer are
// asked first. A dead unit whose probe makes the line fall would else be first
// each time, and the pauses before the line is opened again would be all that
// the others get.
func TestPoisonAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &Config{URL: "tcp://10.0.0.5", Devices: devices(4)})
		r.start()
		r.after(10 * time.Second)
		r.set(3, func(x *rigUnit) { x.lose = true })
		r.after(time.Minute)
		r.change(func() { r.broken = errCut })
		_ = r.returned(2 * time.Second)
		r.change(func() { r.broken, r.refuse = nil, errors.New("refused") })
		r.start()
		_ = r.returned(time.Second)
		r.after(10 * time.Minute) // its probe is due long since
		r.change(func() { r.refuse = nil })
		from := r.s.now()
		r.start()
		r.after(time.Minute)
		if all := r.seen(0, from); len(all) == 0 || all[0].unit == 3 {
			t.Errorf("asked first: %+v", all[:min(3, len(all))])
		}
		for _, u := range []byte{1, 2, 4} {
			if n := r.answers(u, from); n < 58 {
				t.Errorf("%d answers of unit %d in a minute", n, u)
			}
		}
		select {
		case err := <-r.runs:
			t.Fatal(err)
		default:
		}
		r.end()
	})
}

// TestHalfAnswer: after half an answer the line is not fit for the next request,
// whose answer would be taken for the other half. Who stopped is blamed.
func TestHalfAnswer(t *testing.T) {
	s := tellingPlant(t, 1, 2)
	l := tcpLine(t, s, 1)
	s.Unit(1).Fault(modbustest.Fault{StopAfter: 4})
	_, err := l.Ask(t.Context(), &request{unit: 1, function: readHolding, count: 2, timeout: brief})
	if err == nil || isSilence(err) || !strings.Contains(err.Error(), "stopped in its middle: 4 bytes of the header of an answer") {
		t.Error(err)
	}
}
