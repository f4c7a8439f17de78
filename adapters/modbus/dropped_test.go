package modbus

import (
	"sync"
	"testing"
	"time"
)

// TestSerialDropped holds that a line without identifiers counts what it drops,
// as those with identifiers do.
func TestSerialDropped(t *testing.T) {
	inBubble(t, even(19200), func(k *fake, f framing) {
		k.serve(func(adu []byte, n int) {
			switch n {
			case 1:
				time.Sleep(300 * time.Millisecond)
			case 3:
				k.say(frame(f, 2, readHolding, 2, 9, 9))
				time.Sleep(5 * time.Millisecond)
			}
			k.say(frame(f, 1, readHolding, 2, 0, byte(n)))
		})
		if _, _, err := k.read(1, 0, 1, 100*time.Millisecond); !isSilence(err) {
			k.Fatal(err)
		}
		time.Sleep(time.Second)
		k.mustRead(1, 1, 2)
		k.mustRead(1, 1, 3)
		if late, foreign := frameCounter(k.line).dropped(); late != 1 || foreign != 1 {
			k.Errorf("%d late and %d foreign frames, want one of each", late, foreign)
		}
	})
}

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
