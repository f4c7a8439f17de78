package modbus

import (
	"sync"
	"testing"
)

// TestFramesNeverFewer holds that the counters of frames never go back, also
// while a line is being closed.
func TestFramesNeverFewer(t *testing.T) {
	r := newRig(t, &Config{Devices: devices(1)})
	var wg sync.WaitGroup
	closed := make(chan struct{})
	wg.Go(func() {
		for last := int64(0); ; {
			late, _ := r.s.frames()
			if late < last {
				t.Errorf("%d late frames after %d", late, last)
				return
			}
			last = late
			select {
			case <-closed:
				return
			default:
			}
		}
	})
	for range 20_000 {
		b := &bus{s: r.s, line: &countedLine{}}
		r.s.current.Store(b)
		r.s.leave(b)
	}
	close(closed)
	wg.Wait()
	if late, _ := r.s.frames(); late != 7*20_000 {
		t.Errorf("%d late frames", late)
	}
}

// countedLine is a line that dropped frames.
type countedLine struct{ rigLine }

func (l *countedLine) dropped() (late, foreign int64) { return 7, 0 }
