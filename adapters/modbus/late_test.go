package modbus

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rtuTruth is a unit whose values say which register they are of and in which
// request they were read, and a judge of what a line makes of them.
type rtuTruth struct {
	mu    sync.Mutex // guards asked
	asked uint16     // requests so far
}

// refusedFrom is the first address that the unit refuses.
const refusedFrom = 12

// answer makes the PDU of an answer to an RTU request.
func (u *rtuTruth) answer(adu []byte) (function byte, data []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	address, count := binary.BigEndian.Uint16(adu[2:]), binary.BigEndian.Uint16(adu[4:])
	if address >= refusedFrom {
		return adu[1] | exceptionBit, []byte{2}
	}
	data = []byte{byte(2 * count)}
	for i := range count {
		data = binary.BigEndian.AppendUint16(data, (address+i)<<12|u.asked&0xfff)
	}
	return adu[1], data
}

func (u *rtuTruth) requests() uint16 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked
}

// check asks q and says what is false about the outcome.
func (u *rtuTruth) check(t *testing.T, l line, q *request) (answered bool, wrong error) {
	before := u.requests()
	data, err := l.Ask(t.Context(), q)
	switch {
	case isSilence(err):
		return false, nil
	case exception(err) != 0:
		if q.address < refusedFrom {
			wrong = fmt.Errorf("%s: the refusal of another request", q)
		}
	case err != nil:
		t.Fatal(err)
	case q.address >= refusedFrom:
		wrong = fmt.Errorf("%s: a value of a register that is refused", q)
	case len(data) != 2*int(q.count):
		wrong = fmt.Errorf("%s: %d bytes", q, len(data))
	default:
		for i := range q.count {
			v := binary.BigEndian.Uint16(data[2*i:])
			if v>>12 != (q.address+i)&0xf || v&0xfff <= before {
				return true, fmt.Errorf("%s: register %d has %#x, of request %d; asked after request %d", q, q.address+i, v, v&0xfff, before)
			}
		}
	}
	return true, wrong
}

// any returns a request: of few forms, so that they are mistaken easily.
func anyRequest(r *rand.Rand) *request {
	q := &request{unit: 1, function: readHolding, address: uint16(r.IntN(refusedFrom + 2)), count: uint16(1 + r.IntN(4)), timeout: 200 * time.Millisecond}
	if r.IntN(3) == 0 {
		q.function = readInput
	}
	return q
}

// TestLateInOrder: a unit that answers in the order in which it was asked,
// however late, and loses requests and answers: no value is ever that to
// another request.
func TestLateInOrder(t *testing.T) {
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			f := newRTUFraming()
			k := newFake(t, newRTUFraming(), even(19200))
			u := &rtuTruth{}
			// How slow it is and how much is lost differ from run to run.
			slow, lost := r.IntN(100), r.IntN(30)
			queue := make(chan []byte, 1000)
			k.serve(func(adu []byte, n int) { queue <- adu })
			k.all.Go(func() {
				r := rand.New(rand.NewPCG(seed, 2))
				for {
					select {
					case adu := <-queue:
						if r.IntN(100) < lost {
							continue
						}
						delay := r.IntN(20)
						if r.IntN(100) < slow {
							delay = r.IntN(900)
						}
						time.Sleep(time.Duration(delay) * time.Millisecond)
						function, data := u.answer(adu)
						if r.IntN(100) >= lost {
							k.say(frame(f, adu[0], function, data...))
						}
					case <-k.line.ear.gone:
						return
					}
				}
			})
			answered := 0
			for range 60 {
				ok, wrong := u.check(t, k.line, anyRequest(r))
				if wrong != nil {
					t.Fatalf("seed %d, %d%% slow, %d%% lost: %v", seed, slow, lost, wrong)
				}
				if ok {
					answered++
				}
				if r.IntN(3) == 0 {
					time.Sleep(time.Duration(r.IntN(700)) * time.Millisecond)
				}
			}
			if slow < 10 && lost < 5 && answered < 40 {
				t.Fatalf("seed %d: %d of 60 answered by a good unit", seed, answered)
			}
		})
	}
}

// TestLateOutOfOrder: answers that come at some time later, whatever was
// answered meanwhile, one at a time, from a unit that else is prompt.
func TestLateOutOfOrder(t *testing.T) {
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			f := newRTUFraming()
			k := newFake(t, newRTUFraming(), even(19200))
			u := &rtuTruth{}
			late := 1 + r.IntN(30)
			var mu sync.Mutex // held while a frame goes out
			var busy time.Time
			k.serve(func(adu []byte, n int) {
				function, data := u.answer(adu)
				b := frame(f, adu[0], function, data...)
				delay := 5
				if r.IntN(100) < late && n > 1 && time.Now().After(busy) {
					delay = 250 + r.IntN(5000)
					busy = time.Now().Add(time.Duration(delay) * time.Millisecond)
				}
				k.all.Go(func() {
					time.Sleep(time.Duration(delay) * time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					k.say(b)
				})
			})
			answered := 0
			ask := rand.New(rand.NewPCG(seed, 3))
			for range 100 {
				ok, wrong := u.check(t, k.line, anyRequest(ask))
				if wrong != nil {
					t.Fatalf("seed %d, %d%% late: %v", seed, late, wrong)
				}
				if ok {
					answered++
				}
			}
			if want := 98 - 4*late; answered < want {
				t.Fatalf("seed %d: %d of 100 answered with %d%% late", seed, answered, late)
			}
		})
	}
}
