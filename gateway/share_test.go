package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// laneQueue is a Reader of several lanes whose records are made when they are
// read: any backlog costs nothing.
type laneQueue struct {
	stored []byte
	mu     sync.Mutex // guards what follows
	next   []uint64   // to be read
	end    []uint64
	sums   []uint64 // released
	ready  chan struct{}
}

func newLaneQueue(end ...uint64) *laneQueue {
	q := &laneQueue{stored: storedRecord(1), end: end, sums: make([]uint64, len(end)), ready: make(chan struct{}, 1)}
	for range end {
		q.next = append(q.next, 1)
	}
	return q
}

func (q *laneQueue) add(lane int, n uint64) {
	q.mu.Lock()
	q.end[lane] += n
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (q *laneQueue) Waiting(lane int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.next[lane] <= q.end[lane]
}

func (q *laneQueue) Read(lane int, lim buffer.Limit, ch *buffer.Chunk) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	*ch = buffer.Chunk{First: q.next[lane], Records: ch.Records[:0]}
	n := min(lim.Records, max(1, lim.Bytes/len(q.stored)))
	for ; n > 0 && q.next[lane] <= q.end[lane]; n-- {
		ch.Records = append(ch.Records, q.stored)
		q.next[lane]++
	}
	return nil
}

func (q *laneQueue) Release(lane int, _ uint64, r buffer.Released) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sums[lane] += r.Sent + r.Dead + r.Lost
}

func (q *laneQueue) Sync(context.Context) error { return nil }
func (q *laneQueue) Ready() <-chan struct{}     { return q.ready }

// startLanes runs a forwarder over a queue of lanes, retired ones last.
func startLanes(q *laneQueue, retired int, sink Sink) *forwardBench {
	b := &forwardBench{dead: &fakeKeeper{}, log: &logText{}, ended: make(chan struct{})}
	clock := NewClock(time.Now, nil)
	var lanes []buffer.LaneInfo
	for i := range q.end {
		ln := buffer.LaneInfo{Name: fmt.Sprint("lane", i), Generation: "own"}
		if i >= len(q.end)-retired {
			ln.Retired, ln.Generation, ln.Origin = true, fmt.Sprint("gen", i), "ship-7"
		}
		lanes = append(lanes, ln)
	}
	s, err := newShares(nil, len(lanes)-retired, len(lanes))
	if err != nil {
		panic(err)
	}
	b.forwarder = &forwarder{name: "shore", sink: sink, queue: q, peek: q, lanes: lanes, shares: s, dead: b.dead, gateway: "gw",
		log: b.log.logger(), clock: clock, link: newLink(nil, clock), wait: backoff{min: retryMin, max: retryMax}}
	ctx, cancel := context.WithCancel(context.Background())
	hard, cut := context.WithCancel(context.Background())
	b.cancel, b.cut = cancel, cut
	go func() { defer close(b.ended); b.run(ctx, hard) }()
	return b
}

// A backlog of millions of a lower lane delays a new record of the first lane
// by the batch in flight and no more, whenever it comes.
func TestAlarmPassesBacklog(t *testing.T) {
	for _, lanes := range [][]uint64{{0, 5_000_000, 0}, {0, 5_000_000, 5_000_000}, {0, 0, 5_000_000}, {0, 5_000_000, 5_000_000, 5_000_000, 5_000_000}, {0, 0, 5_000_000, 5_000_000}} {
		synctest.Test(t, func(t *testing.T) {
			q := newLaneQueue(lanes...)
			q.stored = AppendRecord(nil, &Record{Name: "x", Payload: make([]byte, 1000)}) // so that the lower lanes are often owed a batch
			sent, alarms := 0, 0
			arrived := 0 // the number of the batch during which the alarm came
			rnd := rand.New(rand.NewPCG(1, 2))
			f := startLanes(q, len(lanes)-3, &fakeSink{send: func(_ context.Context, b *Batch) error {
				sent++
				<-time.After(time.Second)
				if b.Lane == LaneAlarm {
					if alarms++; sent != arrived+1 {
						t.Errorf("an alarm that came during batch %d was sent as batch %d", arrived, sent)
					}
				}
				if sent > arrived+len(lanes)+1+rnd.IntN(9) && b.Lane != LaneAlarm {
					q.add(0, 1)
					arrived = sent
				}
				return nil
			}})
			wait(500 * time.Second)
			f.stop()
			if alarms < 30 || sent < 400 {
				t.Errorf("%d alarms in %d batches", alarms, sent)
			}
		})
	}
}

// Where alarms flood for ever, every lower lane gets its share of the bytes,
// and an alarm waits for one batch more at most.
func TestLowerLanesHaveAShare(t *testing.T) {
	const endless = 1 << 40
	for name, c := range map[string]struct {
		lanes   []uint64
		retired int
		want    []int // percent of all bytes
	}{
		"flood of alarms":            {[]uint64{endless, endless, endless}, 0, []int{84, 10, 5}},
		"retired lanes":              {[]uint64{endless, endless, endless, 1000, endless}, 2, []int{79, 10, 5, 0, 4}},
		"telemetry above bulk":       {[]uint64{0, endless, endless}, 0, []int{0, 94, 5}},
		"nothing in between":         {[]uint64{endless, 0, endless}, 0, []int{94, 0, 5}},
		"only alarms":                {[]uint64{endless, 0, 0}, 0, []int{100, 0, 0}},
		"sixteen lanes, all flooded": {slices.Repeat([]uint64{endless}, 16), 0, append([]int{61, 10}, slices.Repeat([]int{2}, 14)...)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newLaneQueue(c.lanes...)
				q.stored = AppendRecord(nil, &Record{Name: "x", Payload: make([]byte, 4000)})
				bytes := make([]int64, len(c.lanes))
				next := make([]uint64, len(c.lanes))
				sum, above := int64(0), 0
				f := startLanes(q, c.retired, &fakeSink{send: func(_ context.Context, b *Batch) error {
					<-time.After(time.Second)
					bytes[b.Lane] += int64(b.Bytes)
					sum += int64(b.Bytes)
					if b.Items[0].Seq != next[b.Lane]+1 {
						t.Errorf("lane %d goes on at %d after %d", b.Lane, b.Items[0].Seq, next[b.Lane])
					}
					next[b.Lane] = b.Items[len(b.Items)-1].Seq
					if above++; b.Lane == 0 {
						above = 0
					}
					if above > 1 && c.lanes[0] > 0 {
						t.Errorf("%d batches in a row ahead of an alarm", above)
					}
					return nil
				}})
				wait(2000 * time.Second)
				f.stop()
				for i, p := range c.want {
					if got := float64(bytes[i]) * 100 / float64(sum); got < float64(p)-0.1 { // at the end a batch may be owed
						t.Errorf("lane %d got %.2f %% of the bytes, want %d", i, got, p)
					}
				}
			})
		})
	}
}

// A trickle in the first lane does not take the share of the last from it, and
// whatever the pattern of the others a lane that is owed a batch gets it.
func TestShareUnderTrickles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const endless = 1 << 40
		q := newLaneQueue(0, 1, endless)
		bytes := make([]int, 3)
		f := startLanes(q, 0, &fakeSink{send: func(_ context.Context, b *Batch) error {
			<-time.After(time.Second)
			bytes[b.Lane] += b.Bytes
			if b.Lane < LaneBulk { // each fills the other: neither waits at two choices in a row
				q.add(1-int(b.Lane), 1500)
			}
			return nil
		}})
		wait(3000 * time.Second)
		f.stop()
		if got := int64(bytes[2]) * 1000 / int64(bytes[0]+bytes[1]+bytes[2]); got < 49 || got > 60 {
			t.Errorf("bulk got %d ‰ of the bytes: %v", got, bytes)
		}
	})
}

// A record of a higher lane ends the linger after a batch of a lower one; the
// others wait for its end.
func TestAlarmEndsTheLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newLaneQueue(0, denseBatch, 0)
		var sent []string
		start := time.Now()
		f := startLanes(q, 0, &fakeSink{send: func(_ context.Context, b *Batch) error {
			sent = append(sent, fmt.Sprintf("%s*%d at %v", b.LaneName, len(b.Items), time.Since(start)))
			return nil
		}})
		defer f.stop()
		synctest.Wait()
		for range 3 { // each wakes the forwarder, and is not what it waits for
			wait(time.Millisecond)
			q.add(1, 10)
		}
		q.add(2, 5)
		wait(time.Millisecond)
		q.add(0, 1)
		wait(time.Second)
		want := []string{"lane1*256 at 0s", "lane0*1 at 4ms", "lane1*30 at 4ms", "lane2*5 at 4ms"}
		if !slices.Equal(sent, want) {
			t.Errorf("sent %v\nwant %v", sent, want)
		}
	})
}

// Records of a guest carry what identifies them: the origin and its generation.
func TestGuestLanesSayWhoseTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newLaneQueue(1, 1, 1, 1)
		var got []string
		f := startLanes(q, 1, &fakeSink{send: func(_ context.Context, b *Batch) error {
			got = append(got, fmt.Sprintf("%s %q %s", b.LaneName, b.Gateway, b.Generation))
			if b.Lane == 3 {
				return &RefusedError{[]Refusal{{0, "too large"}}}
			}
			return nil
		}})
		defer f.stop()
		wait(time.Minute)
		if s := strings.Join(got, ", "); s != `lane0 "" own, lane1 "" own, lane2 "" own, lane3 "ship-7" gen3` {
			t.Errorf("sent %s", s)
		}
		if l := f.dead.letters(t); len(l) != 1 || l[0].Gateway != "ship-7" || l[0].Generation != "gen3" || l[0].LaneName != "lane3" || l[0].Lane != 3 {
			t.Errorf("kept %+v", l)
		}
	})
}

func TestSharesAreChecked(t *testing.T) {
	for want, percent := range map[string][]int{"use 0 to 50": {0, 51}, "lane 1 is -1": {0, -1, 5}, "add up to 54": {0, 44}, "4 shares given for 3": {1, 2, 3, 4}} {
		if _, err := newShares(percent, 3, 3); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("shares %v: %v, want it to say %q", percent, err, want)
		}
	}
	for n := 1; n <= 16; n++ {
		if _, err := newShares(nil, n, n+3); err != nil {
			t.Errorf("the defaults of %d lanes: %v", n, err)
		}
	}
	if s, err := newShares([]int{0, 0}, 2, 2); err != nil || s.accounts[1].percent != 0 {
		t.Errorf("no share at all: %v", err)
	}
}

// The choice is made before every batch: it allocates nothing.
func TestPickIsCheap(t *testing.T) {
	q := newLaneQueue(0, 1<<40, 1<<40, 0, 0, 0, 0, 0)
	s := defaultShares(8)
	if n := testing.AllocsPerRun(1000, func() {
		s.pick(q)
		s.sent(1000)
	}); n != 0 {
		t.Errorf("a choice allocates %v times", n)
	}
}

func BenchmarkPick(b *testing.B) {
	q := newLaneQueue(0, 1<<40, 0, 0, 0, 0, 0, 0)
	s := defaultShares(8)
	b.ReportAllocs()
	for b.Loop() {
		s.pick(q)
		s.sent(1000)
	}
}

// full says which lanes have something waiting.
type full []bool

func (f full) Waiting(lane int) bool { return f[lane] }

// What a lane had while it was served in its turn, or had nothing to send, does
// not count: neither for it nor against it.
func TestOnlyStarvedLanesEarn(t *testing.T) {
	waiting := full{true, false, true}
	s := defaultShares(3)
	send := func(n int, bytes int) (lanes [3]int) {
		for range n {
			lane, _, _ := s.pick(waiting)
			lanes[lane]++
			s.sent(bytes)
		}
		return lanes
	}
	send(1, 1<<20) // the last lane is owed 52 KiB
	waiting[2] = false
	send(1, 1<<20)
	waiting[2] = true
	if got := send(2, 1<<18); got != [3]int{2, 0, 0} { // it is owed 26 KiB, not 78
		t.Errorf("after a pause of the last lane: %v", got)
	}
	waiting = full{false, true, false}
	send(1000, 1<<20)
	waiting = full{true, true, false}
	if got := send(22, 1<<20); got[1] != 2 && got[1] != 3 {
		t.Errorf("in the first batches of a flood the second lane got %v", got)
	}
}
