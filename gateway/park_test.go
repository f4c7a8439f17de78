package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// parkQueue is lanes of records that can be read again, one per chunk.
type parkQueue struct {
	*laneQueue
	read    []uint64 // by lane: the next to read
	freed   []uint64 // by lane: released below
	failing int      // the lane that cannot be read; -1 = none
}

func newParkQueue(ends ...uint64) *parkQueue {
	q := &parkQueue{laneQueue: newLaneQueue(ends...), failing: -1}
	q.read, q.freed = make([]uint64, len(ends)), make([]uint64, len(ends))
	for i := range ends {
		q.read[i], q.freed[i] = 1, 1
	}
	return q
}

func (q *parkQueue) Waiting(lane int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.read[lane] <= q.end[lane]
}

func (q *parkQueue) Read(lane int, _ buffer.Limit, ch *buffer.Chunk) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if lane == q.failing {
		return fmt.Errorf("open block: %w", buffer.ErrNoKey)
	}
	*ch = buffer.Chunk{First: q.read[lane], Records: [][]byte{storedRecord(int(q.read[lane]))}}
	q.read[lane]++
	return nil
}

func (q *parkQueue) Rewind(lane int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.read[lane] = q.freed[lane]
}

func (q *parkQueue) Release(lane int, next uint64, _ buffer.Released) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.freed[lane] = next
}

func (q *parkQueue) fail(lane int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failing = lane
}

// parkSink puts off a record of one lane until it is let go.
type parkSink struct {
	fakeSink
	wake    chan struct{}
	mu      sync.Mutex // guards off
	off     uint64     // seq in lane 2 that waits; 0 = none
	tries   int        // of that
	batches map[*Batch]bool
	sent    []string // "lane/seq"
}

// let lets what waits go.
func (s *parkSink) let() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = 0
}

func (s *parkSink) Wake() <-chan struct{} { return s.wake }

func (s *parkSink) Send(_ context.Context, b *Batch) error {
	it := &b.Items[0]
	s.mu.Lock()
	off := s.off
	s.mu.Unlock()
	if b.Lane == 2 && it.Seq == off {
		s.tries++
		s.batches[b] = true
		return &LaterError{After: time.Minute, Err: errors.New("on its way to the store")}
	}
	s.sent = append(s.sent, fmt.Sprintf("%d/%d", b.Lane, it.Seq))
	return nil
}

// startParked runs a forwarder over q.
func startParked(q *parkQueue, sink Sink) *forwardBench {
	b := &forwardBench{dead: &fakeKeeper{}, log: &logText{}, ended: make(chan struct{})}
	clock := NewClock(time.Now, nil)
	var lanes []buffer.LaneInfo
	for i := range q.end {
		lanes = append(lanes, buffer.LaneInfo{Name: fmt.Sprint("lane", i), Generation: "own"})
	}
	b.forwarder = &forwarder{name: "shore", sink: sink, queue: q, peek: q, lanes: lanes, shares: defaultShares(len(lanes)), dead: b.dead, gateway: "gw",
		log: b.log.logger(), clock: clock, link: newLink(b.log.logger(), clock), wait: backoff{min: retryMin, max: retryMax}}
	ctx, cancel := context.WithCancel(context.Background())
	hard, cut := context.WithCancel(context.Background())
	b.cancel, b.cut = cancel, cut
	go func() { defer close(b.ended); b.run(ctx, hard) }()
	return b
}

// A batch that must wait holds up its own lane and no other; its lane goes on
// in order when the sink wakes it, or when the time has come.
func TestParkedLaneHoldsUpNoOther(t *testing.T) {
	for _, woken := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			q := newParkQueue(3, 5, 4)
			s := &parkSink{wake: make(chan struct{}, 1), off: 2, batches: map[*Batch]bool{}}
			f := startParked(q, s)
			defer f.stop()
			wait(10 * time.Second)
			if len(s.sent) != 9 || s.tries != 1 || slices.Contains(s.sent, "2/3") {
				t.Fatalf("sent %v with %d tries", s.sent, s.tries)
			}
			if st := f.link.status(); st.State != Up || st.Retries != 0 {
				t.Errorf("link %+v", st)
			}
			if facts := f.status(nil).Facts; len(facts) != 1 || facts[0].Name != "lane lane2 waits" || facts[0].Warn || !strings.Contains(facts[0].Value, "on its way") {
				t.Errorf("facts %+v", facts)
			}
			q.add(0, 1) // an alarm meanwhile
			wait(time.Second)
			if s.sent[len(s.sent)-1] != "0/4" {
				t.Fatalf("sent %v", s.sent)
			}
			if woken {
				s.let()
				s.wake <- struct{}{}
				wait(time.Second)
			} else {
				wait(time.Minute)
				if s.tries != 2 || len(s.batches) != 2 {
					t.Fatalf("%d tries of %d batches", s.tries, len(s.batches))
				}
				s.let()
				wait(time.Minute)
			}
			if want := []string{"2/2", "2/3", "2/4"}; !slices.Equal(s.sent[len(s.sent)-3:], want) {
				t.Errorf("sent %v, want %v at the end", s.sent, want)
			}
			if q.freed[2] != 5 || len(f.status(nil).Facts) != 0 {
				t.Errorf("released below %d, facts %+v", q.freed[2], f.status(nil).Facts)
			}
		})
	}
}

// A lane that cannot be read, for want of a key, waits for a person; the others
// do not. The sink is down when there is nothing else.
func TestUnreadableLaneHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newParkQueue(2, 2, 2)
		q.failing = 1
		s := &parkSink{batches: map[*Batch]bool{}}
		f := startParked(q, s)
		defer f.stop()
		wait(10 * time.Second)
		if want := []string{"0/1", "0/2", "2/1", "2/2"}; !slices.Equal(s.sent, want) {
			t.Fatalf("sent %v, want %v", s.sent, want)
		}
		if st := f.link.status(); st.State != Up {
			t.Errorf("while others were sent it is %+v", st)
		}
		if facts := f.status(nil).Facts; len(facts) != 1 || !facts[0].Warn || !strings.Contains(facts[0].Value, "lane1") {
			t.Errorf("facts %+v", facts)
		}
		wait(time.Minute)
		if st := f.link.status(); st.State != Down || !strings.Contains(st.Error, "read lane lane1") {
			t.Errorf("when only that lane is left it is %+v", st)
		}
		begun := time.Now()
		q.add(0, 1)
		wait(10 * time.Millisecond)
		if len(s.sent) != 5 || time.Since(begun) > time.Second {
			t.Errorf("an alarm waits behind it: %v", s.sent)
		}
		wait(10 * time.Minute)
		if n := f.log.count("level=WARN"); n > 3 {
			t.Errorf("%d warnings", n)
		}
		q.fail(-1)
		wait(10 * time.Second)
		if st := f.link.status(); st.State != Up || len(s.sent) != 7 || len(f.status(nil).Facts) != 0 {
			t.Errorf("after the key came: %+v, sent %v", st, s.sent)
		}
	})
}

// A shutdown does not wait for a parked lane.
func TestShutdownWithParkedLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newParkQueue(0, 0, 2)
		f := startParked(q, &parkSink{off: 1, batches: map[*Batch]bool{}})
		wait(time.Second)
		begun := time.Now()
		f.stop()
		if time.Since(begun) > 0 || q.freed[2] != 1 {
			t.Errorf("it took %s, released below %d", time.Since(begun), q.freed[2])
		}
	})
}

// What is large waits in the lowest lane, whatever its source says; what is
// not stays where it was, in its order.
func TestLargeRecordsTakeTheLowestLane(t *testing.T) {
	var got []string
	queue := AppenderFunc(func(lane Lane, stored iter.Seq[[]byte], done func(error)) {
		for p := range stored {
			var r Record
			if err := new(RecordDecoder).Decode(&r, bytes.Clone(p)); err != nil {
				t.Error(err)
			}
			got = append(got, fmt.Sprintf("%s %d", r.Name, lane))
		}
		done(nil)
	})
	in := NewIntake(SourceSpec{Name: "deck", Lane: LaneTelemetry}, queue, NewClock(func() time.Time { return sampleTime }, nil))
	in.large = 10_000
	var err error = errFake
	recs := []Record{
		{Name: "alarm", Lane: LaneAlarm.Choice()}, {Name: "image", Lane: LaneAlarm.Choice(), Payload: make([]byte, 10_000)},
		{Name: "small"}, {Name: "below", Payload: make([]byte, 9_900)}, {Name: "image2", Payload: make([]byte, 20_000)},
	}
	in.Deliver(recs, func(e error) { err = e })
	slices.Sort(got)
	if want := []string{"alarm 0", "below 1", "image 2", "image2 2", "small 1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	got, in.large = nil, 0
	in.Deliver(recs[4:], nil)
	if want := []string{"image2 1"}; !slices.Equal(got, want) {
		t.Errorf("turned off: %v, want %v", got, want)
	}
}
