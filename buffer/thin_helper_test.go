package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// nth is a Thinner that keeps one record of n.
type nth struct {
	n    int
	seen int
	wait <-chan struct{} // observing goes on when it is closed
	in   chan<- struct{} // told when observing begins
}

func (x *nth) Observe(i int, rec []byte) {
	if i == 0 && x.in != nil {
		select {
		case x.in <- struct{}{}:
		default:
		}
		<-x.wait
	}
	if i != x.seen || len(rec) == 0 {
		panic(fmt.Sprintf("record %d observed as %d", x.seen, i))
	}
	x.seen++
}

func (x *nth) Keep() []bool {
	keep := make([]bool, x.seen)
	for i := 0; i < x.seen; i += x.n {
		keep[i] = true
	}
	return keep
}

// thinning returns options of a small queue that keeps every second record.
func thinning(dir string) Options {
	o := small(dir)
	o.MaxBytes, o.Policy = MinBytes, Thin
	o.SegmentBytes = 256 << 10
	o.Thin = func() Thinner { return &nth{n: 2} }
	return o
}

// covered is what a reader learned of each seq.
type covered struct {
	got, thinned, lost uint64
	next               uint64
}

// take checks one chunk read at c.next: each seq is a record as it was stored
// or in the loss, once.
func (c *covered) take(t rapid.TB, ch *Chunk, size int) Released {
	t.Helper()
	if ch.First < c.next || ch.Next() <= ch.First {
		t.Fatalf("chunk %d..%d read at %d", ch.First, ch.Next(), c.next)
	}
	var rel Released
	for i, rec := range ch.Records {
		seq := ch.Seq(i)
		if seq < c.next || seq >= ch.Next() || i > 0 && seq <= ch.Seq(i-1) || !bytes.Equal(rec, record(seq, size)) {
			t.Fatalf("seq %d in chunk %d..%d: %x", seq, ch.First, ch.Next(), rec[:8])
		}
		if l := ch.Loss; l != nil && (seq == l.First || seq == l.Last) {
			t.Fatalf("seq %d is there and begins or ends %+v", seq, *l)
		}
		rel.Sent++
	}
	if l := ch.Loss; l != nil {
		if l.First < c.next || l.Last >= ch.Next() || l.Last < l.First || l.Count() > l.Last-l.First+1 {
			t.Fatalf("loss %+v in chunk %d..%d", *l, ch.First, ch.Next())
		}
		rel.Lost = l.Count()
		if l.Reason == ReasonThinned {
			c.thinned += rel.Lost
			if !l.Exact {
				t.Fatalf("loss %+v", *l)
			}
		}
	}
	if rel.Sent+rel.Lost != ch.Next()-c.next {
		t.Fatalf("chunk %d..%d: %d records, %d lost, read at %d", ch.First, ch.Next(), rel.Sent, rel.Lost, c.next)
	}
	c.got, c.lost, c.next = c.got+rel.Sent, c.lost+rel.Lost, ch.Next()
	return rel
}

// readAll reads a lane with a cursor to its end and releases it.
func readAll(t rapid.TB, c *Cursor, lane, size int) *covered {
	t.Helper()
	x := &covered{next: c.Stats()[lane].Next}
	var ch Chunk
	for {
		if err := c.Read(lane, Limit{Records: 300, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatal(err)
		}
		if len(ch.Records) == 0 && ch.Loss == nil {
			return x
		}
		c.Release(lane, ch.Next(), x.take(t, &ch, size))
	}
}

// settle returns when no rewrite is under way and none is wanted: the
// committer answers requests between them.
func settle(t testing.TB, l *Log) {
	t.Helper()
	for quiet := 0; quiet < 3; { // a round that took a rewrite may begin the next
		busy := false
		onCommitter(l, func() {
			if busy = l.thin.run != nil; busy {
				<-l.thin.run.done
			}
		})
		if quiet++; busy {
			quiet = 0
		}
	}
}

// onCommitter runs fn on the committer's goroutine.
func onCommitter(l *Log, fn func()) {
	done := make(chan struct{})
	l.submit(request{err: errors.New("nothing to commit"), done: func(error) { fn(); close(done) }})
	<-done
}

// levels returns how often each segment of a lane was thinned.
func levels(l *Log, lane int) (out []uint32) {
	l.lanes[lane].mu.RLock()
	segs := append([]*segment(nil), l.lanes[lane].segs...)
	l.lanes[lane].mu.RUnlock()
	for _, s := range segs {
		_, _, level := s.about()
		out = append(out, level)
	}
	return out
}
