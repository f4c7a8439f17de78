package gateway

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// wire is a link with a round trip and a rate, as a sink sees it.
type wire struct {
	rtt  time.Duration
	rate float64 // bytes per second
}

func (w wire) takes(bytes int) time.Duration {
	return w.rtt + time.Duration(float64(bytes)/w.rate*float64(time.Second))
}

// Under a backlog the batches come to what suits the link within a few of them,
// and stay there.
func TestPaceFindsTheLink(t *testing.T) {
	for _, c := range []struct {
		name     string
		wire     wire
		lo, hi   int // bytes of a batch after n of them
		n        int
		recBytes int
	}{
		{"LAN", wire{300 * time.Microsecond, 100e6}, plainBatchBytes, plainBatchBytes, 6, 1000},
		{"LTE, 60 ms and 10 Mbit/s", wire{60 * time.Millisecond, 1.25e6}, plainBatchBytes, plainBatchBytes, 80, 1000},
		{"satellite, 600 ms and 100 Mbit/s", wire{600 * time.Millisecond, 12.5e6}, mostBatchBytes, mostBatchBytes, 8, 1000},
		{"satellite, small records", wire{600 * time.Millisecond, 12.5e6}, mostBatchBytes, mostBatchBytes, 8, 100},
		{"satellite, 600 ms and 1 Mbit/s", wire{600 * time.Millisecond, 125e3}, plainBatchBytes / 2, plainBatchBytes, 30, 1000},
		{"9.6 kbit/s and 600 ms", wire{600 * time.Millisecond, 1200}, leastBatchBytes, 12 << 10, 3, 200},
		{"2.4 kbit/s", wire{2 * time.Second, 300}, leastBatchBytes, leastBatchBytes, 3, 200},
	} {
		synctest.Test(t, func(t *testing.T) {
			var p pacing
			for i := range 300 {
				n := min(p.records(), max(1, p.bytes()/c.recBytes))
				p.made(&Batch{Bytes: n * c.recBytes, Items: make([]Item, n)}, false)
				p.begin()
				<-time.After(c.wire.takes(n * c.recBytes))
				p.done(n * c.recBytes)
				tried := p.rate > 0 || p.hold > holdSends-3 // it looks whether twice as much is worth it
				if got := p.bytes(); i >= c.n && !tried && (got < c.lo || got > c.hi) {
					t.Fatalf("%s: after %d batches %d bytes instead of %d to %d", c.name, i, got, c.lo, c.hi)
				}
			}
		})
	}
}

// After a failure the next batch is small, however often it was tried, and
// its time says nothing.
func TestPaceAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pacing{limit: plainBatchBytes}
		p.made(&Batch{Bytes: plainBatchBytes}, false)
		for range 10 {
			p.begin()
			p.failed()
		}
		p.begin()
		p.done(plainBatchBytes)
		if p.bytes() != firstBatchBytes {
			t.Errorf("after a failure %d bytes", p.bytes())
		}
		p.made(&Batch{Bytes: firstBatchBytes}, false)
		p.begin() // and panics
		p.begin()
		p.done(firstBatchBytes)
		if p.bytes() != firstBatchBytes {
			t.Errorf("after a panic %d bytes", p.bytes())
		}
		p.limit = plainBatchBytes
		p.made(&Batch{Bytes: 500, Items: make([]Item, 1)}, false)
		p.begin()
		<-time.After(10 * time.Minute)
		if p.done(500); p.bytes() != plainBatchBytes/2 {
			t.Errorf("after a link that stood still %d bytes", p.bytes())
		}
	})
}

// What is configured bounds what is found.
func TestBatchLimits(t *testing.T) {
	p := pacing{max: BatchLimits{Records: 100, Bytes: 16 << 10}, limit: mostBatchBytes}
	if p.bytes() != 16<<10 || p.records() != 100 || !p.enough(100, 0, 1) || p.enough(99, 0, 1) || p.enough(0, 0, 1<<20) || !p.enough(1, 16<<10, 9<<10) {
		t.Errorf("%d bytes, %d records", p.bytes(), p.records())
	}
	if lim := p.narrow(buffer.Limit{Records: maxBatchRecords, Bytes: 9 << 10}, false); lim.Bytes != 9<<10 || lim.Records != 100 {
		t.Errorf("a lane that may have little reads %+v", lim)
	}
	for _, l := range []BatchLimits{{Records: -1}, {Records: 8193}, {Bytes: 100}, {Bytes: mostBatchBytes + 1}, {Wait: -1}} {
		if l.check() == nil {
			t.Errorf("%+v is taken", l)
		}
	}
}

// slowSink is a sink at the end of a wire.
type slowSink struct {
	fakeSink
	sizes []int
	begun []time.Time
	seqs  []uint64
}

func newSlowSink(w wire) *slowSink {
	s := &slowSink{}
	s.send = func(ctx context.Context, b *Batch) error {
		s.sizes, s.begun = append(s.sizes, len(b.Items)), append(s.begun, time.Now())
		for i := range b.Items {
			s.seqs = append(s.seqs, b.Items[i].Seq)
		}
		select {
		case <-time.After(w.takes(b.Bytes)):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s
}

// A chunk that is more than the link takes in time goes in several batches,
// each a Batch of its own, and the rest is read again after each.
func TestChunkIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newSlowSink(wire{time.Second, 1200})
		again := 0
		var records [][]byte
		for n := range 1000 {
			r := Record{Source: "s", Device: "d", Name: fmt.Sprint(n), Payload: make([]byte, 100), Received: sampleTime}
			records = append(records, AppendRecord(nil, &r))
		}
		f := startChanged(sink, func(f *forwardBench) {
			f.pace.limit = leastBatchBytes
			f.rewind = func(int) {
				again++
				f.queue.mu.Lock()
				defer f.queue.mu.Unlock()
				f.queue.chunks = append(f.queue.chunks, buffer.Chunk{First: f.queue.next, Records: records[f.queue.next-1:]})
			}
		})
		defer f.stop()
		f.queue.add(1, records...)
		wait(time.Hour)
		if len(sink.seqs) != 1000 || !slices.IsSorted(sink.seqs) || sink.seqs[999] != 1000 {
			t.Fatalf("sent %d seqs", len(sink.seqs))
		}
		if size := len(records[0]); again != len(sink.sizes)-1 || slices.Max(sink.sizes)*size > 20<<10 {
			t.Errorf("%d batches of up to %d records of %d bytes, %d times read again", len(sink.sizes), slices.Max(sink.sizes), size, again)
		}
		var sum buffer.Released
		for _, r := range f.queue.releases() {
			sum.Sent += r.Sent
		}
		if sum.Sent != 1000 || f.queue.next != 1001 {
			t.Errorf("released %+v below %d", sum, f.queue.next)
		}
	})
}

// A trickle over a satellite: records gather while a Send is under way, and no
// more than one Send is begun per round trip.
func TestTrickleIsOneSendPerRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rtt := 600 * time.Millisecond
		sink := newSlowSink(wire{rtt, 12.5e6})
		var q *growing
		f := startChanged(sink, func(f *forwardBench) {
			q = &growing{fakeQueue: f.queue}
			f.forwarder.queue = q
		})
		defer f.stop()
		for n := range 1000 { // 100 per second
			q.add(uint64(n+1), storedRecord(n))
			wait(10 * time.Millisecond)
		}
		wait(time.Minute)
		if len(sink.seqs) != 1000 || !slices.IsSorted(sink.seqs) {
			t.Fatalf("sent %d", len(sink.seqs))
		}
		if most := int(10*time.Second/rtt) + 3; len(sink.sizes) > most {
			t.Errorf("%d Sends for 10 s of trickle; at most %d", len(sink.sizes), most)
		}
		for i := range sink.begun[1:] {
			if sink.begun[i+1].Sub(sink.begun[i]) < rtt {
				t.Fatalf("Sends %s apart", sink.begun[i+1].Sub(sink.begun[i]))
			}
		}
	})
}

// growing is a queue whose Read returns all that waits.
type growing struct{ *fakeQueue }

func (q *growing) Read(lane int, lim buffer.Limit, ch *buffer.Chunk) error {
	if err := q.fakeQueue.Read(lane, lim, ch); err != nil {
		return err
	}
	for more := (buffer.Chunk{}); q.Waiting(lane); {
		if err := q.fakeQueue.Read(lane, lim, &more); err != nil {
			return err
		}
		ch.Records = append(ch.Records, more.Records...)
	}
	return nil
}

// max_wait gathers records between batches that are not full, but not in the
// first lane.
func TestMaxWait(t *testing.T) {
	f := &forwarder{lane: 1, pace: pacing{max: BatchLimits{Wait: time.Minute}}}
	small, large := &Batch{Items: make([]Item, 10)}, &Batch{Bytes: plainBatchBytes}
	f.pace.made(small, false)
	if d := f.pause(small); d != time.Minute {
		t.Errorf("waits %s", d)
	}
	f.pace.made(large, false)
	if d := f.pause(large); d != 0 {
		t.Errorf("after a full batch it waits %s", d)
	}
	f.lane = 0
	f.pace.made(small, false)
	if d := f.pause(small); d != 0 {
		t.Errorf("an alarm waits %s", d)
	}
}
