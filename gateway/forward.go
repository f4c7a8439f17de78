package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// Bounds of a batch to a sink. Under flow a batch below fullBatch waits for
// linger before the next is begun, so that the far side gets few large
// requests; a trickle (batches below flowBatch) is never delayed.
const (
	maxBatchRecords = 2000
	maxBatchBytes   = 1 << 20
	fullBatch       = 1000
	flowBatch       = 32
	linger          = 20 * time.Millisecond
)

// Reader is the end of the queue that a forwarder reads; *buffer.Cursor is one.
type Reader interface {
	Read(lane int, lim buffer.Limit, ch *buffer.Chunk) error
	Release(lane int, next uint64, r buffer.Released)
	Sync(ctx context.Context) error
	Ready() <-chan struct{}
}

// keeper takes what a sink refuses for good; *buffer.Shelf is one.
type keeper interface{ Put(entries [][]byte) error }

// forwarder moves records from its cursor to one sink, one batch at a time.
//
// A batch is released only when the far side has confirmed it, and the next
// one is sent only when that release is on disk: after a crash at most one
// batch is sent twice. Under flow the release rides on the next commit of
// records, so that only a drain pays for a commit of its own.
type forwarder struct {
	name, typ  string
	sink       Sink
	queue      Reader
	lanes      int
	dead       keeper
	gateway    string
	generation string
	log        *slog.Logger
	clock      *Clock
	link       *link
	lastSent   atomic.Int64

	chunk   buffer.Chunk
	dec     RecordDecoder
	batch   *Batch // being sent; nil when there is none
	next    uint64 // seq after the batch
	lost    uint64 // seqs the batch reports as lost
	letters [][]byte
	wait    backoff
}

// run forwards until ctx ends; a batch being sent then has until hard ends.
func (f *forwarder) run(ctx, hard context.Context) {
	f.wait = backoff{min: retryMin, max: retryMax}
	defer func() {
		if err := f.sink.Close(); err != nil {
			f.log.Warn("close sink", "error", err)
		}
		f.link.end(Stopped, nil)
	}()
	for ctx.Err() == nil {
		f.link.trying()
		err := recovered(func() error { return f.session(ctx, hard) })
		if err == nil || ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("sink %s: %w", f.name, err)
		if IsPermanent(err) {
			f.link.end(Failed, err)
			<-ctx.Done()
			return
		}
		pause := f.wait.next()
		var after *RetryAfterError
		if errors.As(err, &after) {
			pause = max(pause, after.After)
		}
		f.link.down(err, pause)
		if !sleep(ctx, pause) {
			return
		}
	}
}

// session connects and forwards until something fails or ctx ends (nil).
func (f *forwarder) session(ctx, hard context.Context) error {
	if err := f.sink.Connect(ctx); err != nil {
		return err
	}
	f.link.up()
	for ctx.Err() == nil {
		if f.batch == nil {
			if err := f.fill(); err != nil {
				return err
			}
		}
		if f.batch == nil {
			select {
			case <-f.queue.Ready():
			case <-ctx.Done():
			}
			continue
		}
		n := len(f.batch.Items)
		if err := f.send(hard); err != nil {
			return err
		}
		f.wait.reset()
		if n >= flowBatch && n < fullBatch && !sleep(ctx, linger) {
			return nil
		}
	}
	return nil
}

// fill makes the next batch from the first lane that has records.
func (f *forwarder) fill() error {
	for lane := range f.lanes {
		if err := f.queue.Read(lane, buffer.Limit{Records: maxBatchRecords, Bytes: maxBatchBytes}, &f.chunk); err != nil {
			return err
		}
		b := &Batch{Lane: Lane(lane), Generation: f.generation}
		switch {
		case f.chunk.Loss != nil:
			b.Items = []Item{{Seq: f.chunk.Loss.First, Record: f.lossRecord(Lane(lane), f.chunk.Loss)}}
			f.lost = f.chunk.Loss.Count()
		case len(f.chunk.Records) > 0:
			b.Items = make([]Item, 0, len(f.chunk.Records))
			f.decode(b)
			f.lost = 0
		default:
			continue
		}
		f.batch, f.next = b, f.chunk.Next()
		return nil
	}
	return nil
}

// decode fills b from the chunk. A stored record that this version cannot read
// goes to the dead letters as it is.
func (f *forwarder) decode(b *Batch) {
	f.dec.Reset()
	f.letters = f.letters[:0]
	for i, p := range f.chunk.Records {
		seq := f.chunk.First + uint64(i)
		b.Items = append(b.Items, Item{Seq: seq})
		it := &b.Items[len(b.Items)-1]
		if err := f.dec.Decode(&it.Record, p); err != nil {
			b.Items = b.Items[:len(b.Items)-1]
			f.letters = append(f.letters, f.letter(b.Lane, seq, err.Error(), p))
			continue
		}
		b.Bytes += len(p)
	}
}

// send sends the batch, keeps what is refused as dead letters and releases it.
func (f *forwarder) send(hard context.Context) error {
	b := f.batch
	dead := len(f.letters)
	if len(b.Items) > 0 {
		err := f.sink.Send(hard, b)
		var refused *RefusedError
		if errors.As(err, &refused) {
			for _, r := range refused.Refused {
				it := &b.Items[r.Index]
				f.letters = append(f.letters, f.letter(b.Lane, it.Seq, r.Reason, AppendRecord(nil, &it.Record)))
			}
		} else if err != nil {
			f.letters = f.letters[:dead]
			return err
		}
	}
	if len(f.letters) > 0 {
		if err := f.dead.Put(f.letters); err != nil {
			f.letters = f.letters[:dead]
			return err
		}
		f.log.Warn("records refused for good are kept as dead letters", "sink", f.name, "count", len(f.letters))
	}
	total := f.next - f.chunk.First - f.lost
	kept := uint64(len(f.letters))
	if f.lost > 0 {
		kept = 0
	}
	f.queue.Release(int(b.Lane), f.next, buffer.Released{Sent: total - kept, Dead: kept, Lost: f.lost})
	f.batch, f.letters = nil, f.letters[:0]
	f.lastSent.Store(f.clock.Now().UnixNano())
	if err := f.queue.Sync(hard); err != nil && hard.Err() == nil {
		f.log.Debug("write cursor", "sink", f.name, "error", err) // shown as the queue's state; a crash repeats, nothing is lost
	}
	return nil
}

// lossRecord tells the far side what the queue lost.
func (f *forwarder) lossRecord(lane Lane, l *buffer.Loss) Record {
	r := Record{Source: NoticeSource, Device: f.gateway, Name: "queue-loss", Quality: Bad, Reason: l.Reason,
		Received: f.clock.Now(), ClockTrusted: f.clock.Trusted(),
		Values: []Value{StringValue("lane", lane.String()), UintValue("first_seq", l.First), UintValue("last_seq", l.Last),
			UintValue("count", l.Count()), BoolValue("exact", l.Exact), StringValue("reason", l.Reason)}}
	if !l.From.IsZero() {
		r.Values = append(r.Values, StringValue("from", l.From.UTC().Format(time.RFC3339Nano)),
			StringValue("to", l.To.UTC().Format(time.RFC3339Nano)))
	}
	return r
}
