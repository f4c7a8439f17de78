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

// Intake takes records from one source: it stamps, transforms, counts and
// encodes them and appends them to the queue.
type Intake struct {
	name      string
	lane      Lane
	lowest    Lane // a choice beyond it is this one
	large     int  // stored size from which on a record goes to the lowest lane, bytes; 0 = none does
	tags      []Tag
	transform Transform // nil = none
	queue     Appender
	clock     *Clock
	link      *link
	count     sourceCounts

	// Of the delivery being made.
	now      time.Time
	trusted  bool
	lazy     bool
	parts    [maxLanes]*delivery // being filled, by lane
	newest   *delivery           // the part begun last
	filtered int64               // records a transform dropped
	emitted  int64               // records that go to the queue
	rec      Record              // being transformed
	emit     func(*Record)       // in.put, made once

	scratch []byte // the record being encoded
	tagged  []Tag  // tags of the record being encoded
	free    sync.Pool
	joints  sync.Pool

	open atomic.Int64  // deliveries whose done has not returned
	idle chan struct{} // capacity 1: open has come down to 0
}

// maxLanes is how many lanes a queue can have.
const maxLanes = 16

// sourceCounts is what SourceStatus shows.
type sourceCounts struct {
	last atomic.Int64

	mu    sync.Mutex // guards tally: the books balance at every moment
	tally tally

	notesMu sync.Mutex // guards notes
	notes   []string
}

// tally counts records: received = queued + filtered + refused + flight.
type tally struct{ received, queued, filtered, refused, flight, bad, bytes int64 }

// delivery is one Deliver on its way, or a part of one.
type delivery struct {
	in     *Intake
	lane   Lane
	batch  buffer.Batch
	bad    int64
	done   func(error)
	joint  *joint      // set when the delivery is appended in several parts
	last   bool        // the part that calls done
	finish func(error) // d.finished, made once
}

// joint joins the answers to the parts of one delivery.
type joint struct {
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
	in := &Intake{name: s.Name, lane: s.Lane, lowest: max(s.Lane, LaneBulk), tags: s.Tags, transform: s.Transform, queue: q, clock: clock,
		link: newLink(nil, clock), idle: make(chan struct{}, 1)}
	in.emit = in.put
	return in
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
// be stored (the error). What a rule drops counts as stored. Deliver never
// blocks; the records and what they point to may be reused when it returns.
// One goroutine at a time. done runs on the committer's goroutine and must not
// block; nil means that nobody waits, and the commit may come as much later as
// the lane allows. The source bounds what it has delivered and not yet seen
// done.
func (in *Intake) Deliver(recs []Record, done func(error)) { in.deliver(recs, done, done == nil) }

// DeliverLazy is Deliver for a source that wants to be told and lets nobody
// wait for it, such as one that polls and bounds what is in flight: to spare
// the medium the commit may come as much later as the lane allows (max_delay).
func (in *Intake) DeliverLazy(recs []Record, done func(error)) { in.deliver(recs, done, true) }

func (in *Intake) deliver(recs []Record, done func(error), lazy bool) {
	in.open.Add(1)
	in.now, in.trusted, in.lazy = in.clock.Now(), in.clock.Trusted(), lazy
	for i := range recs {
		if in.transform != nil {
			in.apply(&recs[i])
			continue
		}
		r := recs[i] // a copy: the caller's stays as it is
		in.stamp(&r)
		in.put(&r)
	}
	if len(recs) > 0 {
		in.count.last.Store(in.now.UnixNano())
	}
	last := in.newest
	if last == nil { // nothing to store, to be answered in its turn
		last = in.begin(in.lane)
	}
	for _, d := range in.parts[:in.lowest+1] {
		if d != nil && d != last {
			in.send(d)
		}
	}
	last.done, last.last = done, true
	clear(in.parts[:in.lowest+1])
	in.newest, in.rec = nil, Record{}
	in.send(last)
}

// send counts d and appends it to the queue.
func (in *Intake) send(d *delivery) {
	n := int64(d.batch.Len())
	c := &in.count
	c.mu.Lock()
	c.tally.received += n + in.filtered
	c.tally.filtered += in.filtered
	c.tally.flight += n
	c.tally.bytes += int64(d.batch.Size())
	c.mu.Unlock()
	in.filtered = 0
	in.queue.Append(int(d.lane), &d.batch, d.finish)
}

// encode makes the stored form of r in scratch and reports whether its quality
// is bad. A record too large for the queue is kept without its payload, values
// and own tags, marked bad.
func (in *Intake) encode(r *Record) (bad bool) {
	in.scratch = AppendRecord(in.scratch[:0], r)
	n := len(in.scratch)
	if n <= buffer.MaxRecordBytes {
		return r.Quality == Bad
	}
	cut := Record{Source: r.Source, Device: clip(r.Device), Name: clip(r.Name), Received: r.Received, Time: r.Time,
		ClockTrusted: r.ClockTrusted, Tags: in.tags, Quality: Bad,
		Reason: fmt.Sprintf("record of %d bytes exceeds the queue's limit of %d; its content was dropped", n, buffer.MaxRecordBytes)}
	in.scratch = AppendRecord(in.scratch[:0], &cut)
	return true
}

// add adds what was encoded to a part of the delivery.
func (in *Intake) add(d *delivery, bad bool) {
	if bad {
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
	c := &in.count
	c.mu.Lock()
	c.tally.flight -= n
	if err == nil {
		c.tally.queued += n
		c.tally.bad += d.bad
	} else {
		c.tally.refused += n
	}
	c.mu.Unlock()
	done, last := d.done, d.last
	if j := d.joint; j != nil {
		j.mu.Lock()
		if j.err == nil {
			j.err = err
		}
		err = j.err
		if last { // answers come in order: nobody else has it
			j.err = nil
		}
		j.mu.Unlock()
		if last {
			in.joints.Put(j)
		}
	}
	d.batch.Reset()
	d.done, d.joint, d.last, d.bad = nil, nil, false, 0
	in.free.Put(d)
	if last {
		in.answer(done, err)
	}
}

// answer tells the source. A panic in done must not end the committer.
func (in *Intake) answer(done func(error), err error) {
	defer func() {
		if r := recover(); r != nil {
			in.link.panicked("done", r)
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

// settle waits until every delivery is answered, or ctx ends (false). What was
// delivered lazily is hurried: something that is waited for comes after it.
// It must be called from the goroutine that delivers.
func (in *Intake) settle(ctx context.Context) bool {
	if in.open.Load() > 0 {
		in.Deliver(nil, func(error) {})
	}
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
	c.mu.Lock()
	t := c.tally
	c.mu.Unlock()
	s := SourceStatus{Name: in.name, Type: typ, Link: in.link.status(), Received: t.received, Queued: t.queued, Filtered: t.filtered,
		Refused: t.refused, InFlight: t.flight, BadQuality: t.bad, Bytes: t.bytes,
		Balanced: t.received == t.queued+t.filtered+t.refused+t.flight}
	if last := c.last.Load(); last != 0 {
		t := time.Unix(0, last)
		s.LastRecord = &t
	}
	c.notesMu.Lock()
	s.Notes = append([]string(nil), c.notes...)
	c.notesMu.Unlock()
	return s
}
