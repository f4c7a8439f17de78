package gateway

import (
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// Appender is the end of the queue that takes records; *buffer.Log is one.
type Appender interface {
	Append(lane int, b *buffer.Batch, done func(error))
}

// AppenderFunc is an Appender that is a function, for the tests of adapters.
// stored yields the stored form of the records (see RecordDecoder); what it
// yields is valid until done is called. done must be called once, in order.
type AppenderFunc func(lane Lane, stored iter.Seq[[]byte], done func(error))

// Append implements Appender.
func (f AppenderFunc) Append(lane int, b *buffer.Batch, done func(error)) {
	f(Lane(lane), b.Records(), done)
}

// Intake takes records from one source: it stamps, counts and encodes them and
// appends them to the queue.
type Intake struct {
	name  string
	lane  Lane
	tags  []Tag
	queue Appender
	clock *Clock
	link  *link
	count sourceCounts

	scratch []byte // the record being encoded
	free    sync.Pool
}

// sourceCounts is what SourceStatus shows.
type sourceCounts struct {
	received, queued, refused, bad, bytes, last atomic.Int64

	notesMu sync.Mutex // guards notes
	notes   []string
}

// delivery is one Deliver on its way.
type delivery struct {
	in     *Intake
	batch  buffer.Batch
	bad    int64
	done   func(error)
	finish func(error) // d.finished, made once
}

// NewIntake returns the intake for a source named name. It is exported for the
// tests of adapters; the gateway makes its own.
func NewIntake(name string, lane Lane, tags []Tag, q Appender, clock *Clock) *Intake {
	return &Intake{name: name, lane: lane, tags: tags, queue: q, clock: clock, link: newLink(nil, clock)}
}

// Up says that data can flow: connected, subscribed, the device has answered.
func (in *Intake) Up() { in.link.up() }

// Note shows a standing warning about the source in the status, for instance
// a subscription that was granted at QoS 0; "" clears them all.
func (in *Intake) Note(format string, args ...any) {
	in.count.notesMu.Lock()
	defer in.count.notesMu.Unlock()
	if format == "" {
		in.count.notes = nil
		return
	}
	if text := fmt.Sprintf(format, args...); len(in.count.notes) < 16 {
		in.count.notes = append(in.count.notes, text)
	}
}

// Stamp sets the time of receipt of r to now. A source calls it when it keeps
// a record for a while before it delivers it; else Deliver does.
func (in *Intake) Stamp(r *Record) {
	r.Received, r.ClockTrusted = in.clock.Now(), in.clock.Trusted()
}

// Deliver takes recs and calls done exactly once, in the order of the Deliver
// calls, after the records are in a synced commit (nil) or when they could not
// be stored (the error). Deliver never blocks; the records and what they point
// to may be reused when it returns. One goroutine at a time. done runs on the
// committer's goroutine and must not block; nil is allowed. The source bounds
// what it has delivered and not yet seen done.
func (in *Intake) Deliver(recs []Record, done func(error)) {
	d, _ := in.free.Get().(*delivery)
	if d == nil {
		d = &delivery{in: in}
		d.finish = d.finished
	}
	d.done = done
	now := in.clock.Now()
	trusted := in.clock.Trusted()
	for i := range recs {
		r := &recs[i]
		r.Source = in.name
		if r.Received.IsZero() {
			r.Received, r.ClockTrusted = now, trusted
		}
		if len(r.Tags) == 0 {
			r.Tags = in.tags
		} else if len(in.tags) > 0 {
			r.Tags = append(append(make([]Tag, 0, len(in.tags)+len(r.Tags)), in.tags...), r.Tags...)
		}
		in.encode(d, r)
	}
	in.count.received.Add(int64(len(recs)))
	in.count.bytes.Add(int64(d.batch.Size()))
	in.count.last.Store(now.UnixNano())
	in.queue.Append(int(in.lane), &d.batch, d.finish)
}

// encode adds r to the delivery. A record too large for the queue is kept
// without its payload and values, marked bad.
func (in *Intake) encode(d *delivery, r *Record) {
	in.scratch = AppendRecord(in.scratch[:0], r)
	if n := len(in.scratch); n > buffer.MaxRecordBytes {
		cut := Record{Source: r.Source, Device: r.Device, Name: r.Name, Received: r.Received, Time: r.Time,
			ClockTrusted: r.ClockTrusted, Quality: Bad,
			Reason: fmt.Sprintf("record of %d bytes exceeds the queue's limit of %d; its content was dropped", n, buffer.MaxRecordBytes)}
		in.scratch = AppendRecord(in.scratch[:0], &cut)
		d.bad++
	} else if r.Quality == Bad {
		d.bad++
	}
	d.batch.Add(in.scratch)
	if cap(in.scratch) > 1<<20 {
		in.scratch = nil
	}
}

// finished is called by the queue.
func (d *delivery) finished(err error) {
	c, n, done := &d.in.count, int64(d.batch.Len()), d.done
	if err == nil {
		c.queued.Add(n)
		c.bad.Add(d.bad)
	} else {
		c.refused.Add(n)
	}
	d.batch.Reset()
	d.done, d.bad = nil, 0
	d.in.free.Put(d)
	if done != nil {
		done(err)
	}
}

// Status returns what the source did; typ is its configured type.
func (in *Intake) Status(typ string) SourceStatus {
	c := &in.count
	s := SourceStatus{Name: in.name, Type: typ, Link: in.link.status(), Received: c.received.Load(), Queued: c.queued.Load(),
		Refused: c.refused.Load(), BadQuality: c.bad.Load(), Bytes: c.bytes.Load()}
	if last := c.last.Load(); last != 0 {
		t := time.Unix(0, last)
		s.LastRecord = &t
	}
	c.notesMu.Lock()
	s.Notes = append([]string(nil), c.notes...)
	c.notesMu.Unlock()
	return s
}
