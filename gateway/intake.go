package gateway

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
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
	tagged  []Tag  // tags of the record being encoded
	free    sync.Pool

	open atomic.Int64  // deliveries whose done has not returned
	idle chan struct{} // capacity 1: open has come down to 0
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
	parts  *parts      // set when the delivery is appended in several parts
	last   bool        // the part that calls done
	finish func(error) // d.finished, made once
}

// parts joins the answers to the parts of one delivery.
type parts struct {
	mu  sync.Mutex // guards err
	err error      // the first
}

// Bounds of one part of a delivery: a codec may make any number of records of
// one message, and the queue takes only so many at once.
const (
	partRecords = 8 << 10
	partBytes   = 1 << 20
)

// maxCutText is how much of each text of a record stays when its content must go.
const maxCutText = 1 << 10

// NewIntake returns the intake of a source. It is exported for the
// tests of adapters; the gateway makes its own.
func NewIntake(s SourceSpec, q Appender, clock *Clock) *Intake {
	return &Intake{name: s.Name, lane: s.Lane, tags: s.Tags, queue: q, clock: clock, link: newLink(nil, clock), idle: make(chan struct{}, 1)}
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
	text := fmt.Sprintf(format, args...)
	if len(in.count.notes) < 16 && !slices.Contains(in.count.notes, text) {
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
	in.open.Add(1)
	d := in.part()
	now := in.clock.Now()
	trusted := in.clock.Trusted()
	for i := range recs {
		if d.batch.Len() >= partRecords || d.batch.Size() >= partBytes {
			d = in.follow(d)
		}
		r := recs[i] // a copy: the caller's stays as it is
		r.Source = in.name
		if r.Received.IsZero() {
			r.Received, r.ClockTrusted = now, trusted
		}
		r.Tags = in.tag(r.Tags)
		in.encode(d, &r)
	}
	in.count.last.Store(now.UnixNano())
	d.done, d.last = done, true
	in.send(d)
}

// part returns an empty delivery.
func (in *Intake) part() *delivery {
	d, _ := in.free.Get().(*delivery)
	if d == nil {
		d = &delivery{in: in}
		d.finish = d.finished
	}
	return d
}

// follow appends d, which is full, and returns the part after it.
func (in *Intake) follow(d *delivery) *delivery {
	next := in.part()
	if d.parts == nil {
		d.parts = &parts{}
	}
	next.parts = d.parts
	in.send(d)
	return next
}

// send counts d and appends it to the queue.
func (in *Intake) send(d *delivery) {
	in.count.received.Add(int64(d.batch.Len()))
	in.count.bytes.Add(int64(d.batch.Size()))
	in.queue.Append(int(in.lane), &d.batch, d.finish)
}

// tag joins the configured tags with those of a record. A configured key
// cannot be replaced by what a device sends.
func (in *Intake) tag(own []Tag) []Tag {
	if len(own) == 0 {
		return in.tags
	}
	if len(in.tags) == 0 {
		return own
	}
	in.tagged = append(in.tagged[:0], in.tags...)
	for _, t := range own {
		if !slices.ContainsFunc(in.tags, func(fixed Tag) bool { return fixed.Key == t.Key }) {
			in.tagged = append(in.tagged, t)
		}
	}
	return in.tagged
}

// encode adds r to the delivery. A record too large for the queue is kept
// without its payload, values and own tags, marked bad.
func (in *Intake) encode(d *delivery, r *Record) {
	in.scratch = AppendRecord(in.scratch[:0], r)
	if n := len(in.scratch); n > buffer.MaxRecordBytes {
		cut := Record{Source: r.Source, Device: clip(r.Device), Name: clip(r.Name), Received: r.Received, Time: r.Time,
			ClockTrusted: r.ClockTrusted, Tags: in.tags, Quality: Bad,
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

// clip returns the beginning of a text that may be huge.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxCutText)], "") }

// finished is called by the queue.
func (d *delivery) finished(err error) {
	in, n := d.in, int64(d.batch.Len())
	if err == nil {
		in.count.queued.Add(n)
		in.count.bad.Add(d.bad)
	} else {
		in.count.refused.Add(n)
	}
	if p := d.parts; p != nil {
		p.mu.Lock()
		if p.err == nil {
			p.err = err
		}
		err = p.err
		p.mu.Unlock()
	}
	done, last := d.done, d.last
	d.batch.Reset()
	d.done, d.parts, d.last, d.bad = nil, nil, false, 0
	in.free.Put(d)
	if last {
		in.answer(done, err)
	}
}

// answer tells the source. A panic in done must not end the committer.
func (in *Intake) answer(done func(error), err error) {
	defer func() {
		if r := recover(); r != nil {
			in.link.panicked(r)
		}
		if in.open.Add(-1) == 0 {
			select {
			case in.idle <- struct{}{}:
			default:
			}
		}
	}()
	if done != nil {
		done(err)
	}
}

// settle waits until every delivery is answered, or ctx ends (false).
func (in *Intake) settle(ctx context.Context) bool {
	for in.open.Load() > 0 {
		select {
		case <-in.idle:
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
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
