package gateway

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// past is a history in memory: records of one lane, and what is wrong with it.
type past struct {
	lane   int
	stored [][]byte
	lost   map[uint64]uint64 // first to last of what is gone
	err    atomic.Pointer[error]
	reads  atomic.Int64
}

func (h *past) ReadAt(lane int, seq uint64, lim buffer.Limit, ch *buffer.Chunk) error {
	h.reads.Add(1)
	if err := h.err.Load(); err != nil {
		return *err
	}
	*ch = buffer.Chunk{First: seq}
	for first, last := range h.lost {
		if first <= seq && seq <= last {
			ch.Loss = &buffer.Loss{First: seq, Last: last, Reason: buffer.ReasonEvicted}
			return nil
		}
		if seq < first {
			lim.Records = min(lim.Records, int(first-seq))
		}
	}
	if lane == h.lane && seq <= uint64(len(h.stored)) {
		ch.Records = h.stored[seq-1 : min(uint64(len(h.stored)), seq-1+uint64(lim.Records))]
	}
	return nil
}

func (h *past) SeqAt(int, time.Time) (uint64, error) { return 1, nil }

// replayBench is a forwarder over lanes and a past, with a list of replays.
type replayBench struct {
	*forwardBench
	store  *replayStore
	past   *past
	device string // asked for
}

// startReplays runs a forwarder of three lanes whose past is n records of telemetry.
func startReplays(t *testing.T, q *laneQueue, n int, sink Sink) *replayBench {
	b := &replayBench{past: &past{lane: 1}}
	for i := range n {
		r := Record{Source: "s", Device: "d", Name: "past", Received: sampleTime.Add(time.Duration(i) * time.Second)}
		b.past.stored = append(b.past.stored, AppendRecord(nil, &r))
	}
	f := startLanes(q, 0, sink)
	f.stop() // to be run again with replays
	f.store(t, b)
	return b
}

func (f *forwardBench) store(t *testing.T, b *replayBench) {
	b.store = openReplays(t.TempDir(), f.log.logger(), f.clock)
	f.forwarder.replay = newReplayer(b.store, "shore", b.past, f.lanes)
	f.ended = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	hard, cut := context.WithCancel(context.Background())
	f.cancel, f.cut = cancel, cut
	b.forwardBench = f
	go func() { defer close(f.ended); f.run(ctx, hard) }()
}

// ask adds a replay of seqs first to last.
func (b *replayBench) ask(t *testing.T, first, last uint64, rate int) string {
	t.Helper()
	id, err := b.store.add(&Replay{State: ReplayWaiting, Created: sampleTime,
		ReplayRequest: ReplayRequest{From: sampleTime, To: sampleTime.Add(24 * time.Hour), Sink: "shore", Device: b.device, Rate: rate},
		Lanes:         []ReplayLane{{Lane: "lane1", Generation: "own", First: first, Next: first, End: last + 1}}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (b *replayBench) replay(id string) Replay {
	all := b.store.list()
	return all[slices.IndexFunc(all, func(r Replay) bool { return r.ID == id })]
}

// A live record waits for one small batch of a replay at most, under a flood
// too, and the replay goes on meanwhile.
func TestReplayNeverDelaysLive(t *testing.T) {
	for name, flood := range map[string]uint64{"a trickle": 0, "a flood": 1 << 40} {
		synctest.Test(t, func(t *testing.T) {
			q := newLaneQueue(0, flood, 0)
			var arrived, sent, alarms, largest, run int
			b := startReplays(t, q, 200_000, &fakeSink{send: func(_ context.Context, b *Batch) error {
				sent++
				<-time.After(100 * time.Millisecond)
				switch {
				case b.Replayed:
					if run++; run > 1 && flood > 0 {
						t.Errorf("%s: two batches of a replay in a row", name)
					}
					largest = max(largest, len(b.Items))
				case b.Lane == LaneAlarm:
					alarms++
					if sent != arrived+1 {
						t.Errorf("%s: an alarm of batch %d was sent as batch %d", name, arrived, sent)
					}
					fallthrough
				default:
					run = 0
				}
				if sent%5 == 0 && (b.Replayed || b.Lane != LaneAlarm) {
					q.add(0, 1)
					arrived = sent
				}
				return nil
			}})
			rate, most := 500, uint64(30_125)
			if flood > 0 { // one batch of two
				rate, most = 10_000, 80_000
			}
			id := b.ask(t, 1, 200_000, rate)
			wait(time.Minute)
			b.stop()
			if r := b.replay(id); r.Sent < 9000 || r.Sent > most || largest > min(rate/4, replayBatch) || alarms < 30 {
				t.Errorf("%s: %+v, batches up to %d, %d alarms", name, r, largest, alarms)
			}
		})
	}
}

// A replay whose records the far side does not take lets live records go
// ahead, says why, and is tried again; so does one that makes the sink panic.
func TestReplayThatFailsLetsLiveGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newLaneQueue(0, 0, 0)
		var broken atomic.Int64
		broken.Store(1)
		live := 0
		b := startReplays(t, q, 1000, &fakeSink{send: func(_ context.Context, b *Batch) error {
			if b.Replayed && broken.Load() == 1 {
				return errFake
			}
			if b.Replayed && broken.Load() == 2 {
				panic("bug")
			}
			if !b.Replayed {
				live++
			}
			return nil
		}})
		defer b.stop()
		id := b.ask(t, 1, 1000, 10_000)
		wait(time.Second)
		q.add(0, 1)
		wait(time.Minute)
		if r := b.replay(id); live != 1 || r.State != ReplayRunning || r.Sent != 0 || !strings.Contains(r.Error, errFake.Error()) {
			t.Fatalf("%d live batches, %+v", live, r)
		}
		broken.Store(2)
		wait(5 * time.Minute)
		q.add(1, 1)
		wait(time.Minute)
		if live != 2 || b.replay(id).State != ReplayRunning {
			t.Fatalf("%d live batches, %+v", live, b.replay(id))
		}
		broken.Store(0)
		wait(5 * time.Minute)
		if r := b.replay(id); r.State != ReplayDone || r.Sent != 1000 || r.Error != "" {
			t.Fatalf("%+v", r)
		}
	})
}

// A replay is cancelled while it waits for the far side too, and the next one
// begins; one that is over is taken off the list.
func TestReplayIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		sent := 0
		b := startReplays(t, newLaneQueue(0, 0, 0), 10_000, &fakeSink{send: func(_ context.Context, b *Batch) error {
			if away.Load() {
				return errFake
			}
			sent += len(b.Items)
			return nil
		}})
		defer b.stop()
		first, second := b.ask(t, 1, 10_000, 100), b.ask(t, 1, 50, 100)
		wait(10 * time.Second)
		if r := b.replay(second); r.State != ReplayWaiting || sent < 900 || sent > 1100 {
			t.Fatalf("sent %d, %+v", sent, r)
		}
		away.Store(true)
		wait(30 * time.Second)
		if err := b.store.end(first); err != nil {
			t.Fatal(err)
		}
		away.Store(false)
		wait(30 * time.Second)
		if one, two := b.replay(first), b.replay(second); one.State != ReplayCancelled || one.Ended == nil || two.State != ReplayDone || two.Sent != 50 {
			t.Fatalf("%+v\n%+v", one, two)
		}
		if err := b.store.end(first); err != nil || len(b.store.list()) != 1 {
			t.Errorf("%v, %d in the list", err, len(b.store.list()))
		}
		if err := b.store.end(first); !errors.Is(err, ErrNoReplay) {
			t.Errorf("a replay that is not there: %v", err)
		}
	})
}

// Nothing of a replay is sent after it was cancelled, though a batch of it was
// under way and was to be tried again.
func TestCancelledBatchIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		sent := 0
		b := startReplays(t, newLaneQueue(0, 0, 0), 1000, &fakeSink{send: func(_ context.Context, b *Batch) error {
			if away.Load() {
				return errFake
			}
			sent += len(b.Items)
			return nil
		}})
		defer b.stop()
		id := b.ask(t, 1, 1000, 100)
		wait(retryMin / 4) // the first try has failed, the second is not made
		if err := b.store.end(id); err != nil || b.replay(id).Error == "" {
			t.Fatalf("%v, %+v", err, b.replay(id))
		}
		away.Store(false)
		wait(time.Hour)
		if r := b.replay(id); sent != 0 || r.State != ReplayCancelled || r.Sent != 0 {
			t.Errorf("%d sent, %+v", sent, r)
		}
	})
}

// What was deleted meanwhile is counted, as is a lane that is not there any
// more; a queue that cannot be read makes the replay wait.
func TestReplayOfWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startReplays(t, newLaneQueue(0, 0, 0), 1000, &fakeSink{})
		defer b.stop()
		b.past.lost = map[uint64]uint64{301: 400}
		err := errors.New("disk is gone")
		b.past.err.Store(&err)
		id := b.ask(t, 1, 1000, 10_000)
		b.store.mu.Lock()
		b.store.jobs[0].Lanes = append(b.store.jobs[0].Lanes, ReplayLane{Lane: "lane1", Generation: "another", Next: 5, End: 25})
		b.store.mu.Unlock()
		wait(time.Second)
		if r := b.replay(id); r.State != ReplayRunning || r.Error != "disk is gone" || b.past.reads.Load() != 1 {
			t.Fatalf("%+v after %d reads", r, b.past.reads.Load())
		}
		b.past.err.Store(nil)
		wait(time.Hour)
		if r := b.replay(id); r.State != ReplayDone || r.Sent != 900 || r.Gone != 120 || r.Error != "" {
			t.Fatalf("%+v", r)
		}
		one, two := b.ask(t, 11, 40, 10_000), b.ask(t, 41, 50, 10_000) // one after the other
		wait(time.Hour)
		if one, two := b.replay(one), b.replay(two); one.Sent != 30 || two.Sent != 10 || two.State != ReplayDone {
			t.Fatalf("%+v\n%+v", one, two)
		}
		id = b.ask(t, 350, 380, 10_000) // gone from end to end
		wait(time.Hour)
		if r := b.replay(id); r.State != ReplayDone || r.Sent != 0 || r.Gone != 31 {
			t.Fatalf("%+v", r)
		}
		id = b.ask(t, 990, 1100, 10_000) // the queue has become shorter
		wait(time.Hour)
		if r := b.replay(id); r.State != ReplayDone || r.Sent != 11 || r.Gone != 100 {
			t.Fatalf("%+v", r)
		}
	})
}

// Looking for a few among many neither spins nor takes for ever.
func TestReplayLooksAtManyForFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startReplays(t, newLaneQueue(0, 0, 0), 200_000, &fakeSink{})
		defer b.stop()
		b.device = "*z"
		id := b.ask(t, 1, 200_000, 1000)
		wait(2 * time.Second)
		if r := b.replay(id); r.State != ReplayRunning || r.Skipped < 90_000 || r.Skipped > 110_000 {
			t.Errorf("after 2 s: %+v", r)
		}
		wait(3 * time.Second)
		if r := b.replay(id); r.State != ReplayDone || r.Skipped != 200_000 || b.past.reads.Load() > 100 {
			t.Errorf("%+v after %d reads", r, b.past.reads.Load())
		}
	})
}
