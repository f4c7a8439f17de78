package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counts serves holding registers with the number of the request in the first,
// notes how many registers each request asks for, and loses the answers to
// those that lose names.
func (k *fake) counts(lose func(n int) bool) func() []int {
	seen := make(chan int, 1000)
	k.serve(func(adu []byte, n int) {
		count := int(binary.BigEndian.Uint16(adu[4:]))
		seen <- count
		if lose(n) {
			return
		}
		data := make([]byte, 1+2*count)
		data[0] = byte(2 * count)
		binary.BigEndian.PutUint16(data[1:], uint16(n))
		time.Sleep(5 * time.Millisecond)
		k.say(frame(newRTUFraming(), adu[0], adu[1], data...))
	})
	return func() (got []int) {
		for len(seen) > 0 {
			got = append(got, <-seen)
		}
		return got
	}
}

// TestSign: after a lost answer one short read tells that the unit is back in
// step, and from then on there is one request for each read.
func TestSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFake(t, newRTUFraming(), even(19200))
		seen := k.counts(func(n int) bool { return n == 2 || n == 5 || n == 6 })
		for i, want := range [][]int{{125}, {125}, {2, 125}, {125}, {2}, {1, 125}, {125}} {
			_, _, err := k.read(1, 0, 125, time.Second)
			if got := seen(); !slices.Equal(got, want) {
				t.Fatalf("read %d asked for %v registers, want %v (%v)", i, got, want, err)
			}
		}
	})
}

// TestSingle: of one register there is no shorter read. It is read twice until
// the lost answer cannot come any more.
func TestSingle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFake(t, newRTUFraming(), even(19200))
		seen := k.counts(func(n int) bool { return n == 2 })
		k.mustRead(1, 1, 1)
		if _, _, err := k.read(1, 0, 1, time.Second); !isSilence(err) {
			t.Fatal(err)
		}
		_ = seen()
		k.mustRead(1, 1, 4)
		if got := seen(); len(got) != 2 {
			t.Fatalf("asked %v, want twice", got)
		}
		k.mustRead(1, 1, 6)
		k.mustRead(2, 1, 7) // another unit
		time.Sleep(debtTime)
		k.mustRead(1, 1, 8)
	})
}

// TestOwedMuch: a unit that owes too much is not asked, until it is forgotten.
func TestOwedMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFake(t, newRTUFraming(), even(19200))
		asked := 0
		seen := k.counts(func(n int) bool { return n <= maxDebts })
		for range 3 * maxDebts {
			if _, _, err := k.read(1, 0, 1, 50*time.Millisecond); !isSilence(err) {
				t.Fatal(err)
			}
			asked += len(seen())
		}
		if asked != maxDebts {
			t.Fatalf("asked %d times", asked)
		}
		time.Sleep(debtTime)
		k.mustRead(1, 1, maxDebts+1)
	})
}

// TestUnasked: what comes before the request is not its answer, and the request
// waits until the line was quiet for a while; else for no longer than the
// standard wants.
func TestUnasked(t *testing.T) {
	inBubble(t, even(19200), func(k *fake, f framing) {
		var at [4]time.Time
		k.serve(func(adu []byte, n int) {
			at[n] = time.Now()
			time.Sleep(20 * time.Millisecond) // the request lasts 10 ms in ASCII
			k.say(frame(f, 1, readHolding, 2, 0, byte(n)))
		})
		k.mustRead(1, 1, 1)
		k.mustRead(1, 1, 2)
		if gap := at[2].Sub(at[1].Add(20 * time.Millisecond)); gap != k.line.gap {
			k.Fatalf("%v between two frames, want %v", gap, k.line.gap)
		}
		time.Sleep(time.Second)
		said := time.Now()
		k.say(frame(f, 1, readHolding, 2, 0, 99))
		k.mustRead(1, 1, 3)
		if quiet := at[3].Sub(said); quiet != breather {
			k.Fatalf("asked %v after something was heard, want %v", quiet, breather)
		}
	})
}

// TestBusyNeighbour: long frames of others do not end the wait for a short answer.
func TestBusyNeighbour(t *testing.T) {
	inBubble(t, even(19200), func(k *fake, f framing) {
		k.serve(func(adu []byte, n int) {
			k.say(frame(f, 2, readHolding, append([]byte{40}, make([]byte, 40)...)...))
			time.Sleep(300 * time.Millisecond)
			k.say(frame(f, 1, readHolding, 2, 0, 7))
		})
		k.mustRead(1, 1, 7)
	})
}

// TestStuckWriteEnds: also a write that is stuck ends with the context.
func TestStuckWriteEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFake(t, newRTUFraming(), even(19200))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := k.line.Ask(ctx, holding(1, time.Minute))
		if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took > 200*time.Millisecond {
			t.Fatalf("%v after %v", err, took)
		}
	})
}

// hungUp is a port that returns nothing, for ever, as one that has hung up.
type hungUp struct {
	io.ReadWriteCloser
	reads atomic.Int64
}

func (h *hungUp) Read([]byte) (int, error) {
	h.reads.Add(1)
	return 0, nil
}

// TestHungUp: such a port is not read for ever.
func TestHungUp(t *testing.T) {
	h := &hungUp{}
	e := newEar(h, 0)
	<-e.gone
	if _, _, err := e.take(nil); !isGone(err) || h.reads.Load() != emptyReads {
		t.Fatalf("%v after %d reads", err, h.reads.Load())
	}
}

// TestHeardIsBounded: what nobody takes does not grow.
func TestHeardIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newFake(t, newRTUFraming(), even(19200))
		for range 20 {
			k.say(make([]byte, maxHeard/3))
		}
		synctest.Wait()
		if heard, _, _ := k.line.ear.take(nil); len(heard) > maxHeard {
			t.Fatalf("%d bytes are kept", len(heard))
		}
	})
}
