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

// Bounds of a batch to a sink. Under flow, after a batch that was not full, a
// while is waited before the next is begun, so that the far side gets few large
// requests.
const (
	maxBatchRecords = 2048
	maxBatchBytes   = 1 << 20
	flowBatch       = 32
	denseBatch      = 256
	fullBatch       = maxBatchRecords * 3 / 4
	linger          = 20 * time.Millisecond
	denseLinger     = 40 * time.Millisecond
)

// pauseAfter is how long to wait after a batch of n records. The costs of a
// batch (requests, wake-ups, compression that begins anew) are spread over more
// records the longer it is; the denser the flow, the more a longer wait gathers.
// Few records are never delayed.
func pauseAfter(n int) time.Duration {
	switch {
	case n < flowBatch, n >= fullBatch: // a trickle, or a backlog
		return 0
	case n < denseBatch:
		return linger
	}
	return denseLinger
}

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
// batch is sent twice, or more while the disk takes no writes. Under flow the release rides on the next commit of
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
	lane    int  // of the chunk
	held    bool // the chunk was read and is not a batch yet
	dec     RecordDecoder
	items   []Item   // memory of the batch
	batch   *Batch   // being sent; nil when there is none
	next    uint64   // seq after the batch
	lost    uint64   // seqs the batch reports as lost
	decided bool     // the far side has what it takes of the batch; only the rest is to be kept
	letters [][]byte // what the far side refuses for good
	unread  int      // the first of letters, which could not be decoded
	doubt   bool     // the last session failed after it was connected
	wait    backoff
}

// run forwards until ctx ends; a batch being sent then has until hard ends.
func (f *forwarder) run(ctx, hard context.Context) {
	defer func() {
		if err := recovered(f.sink.Close); err != nil {
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
	if !f.doubt {
		f.link.up()
	}
	for ctx.Err() == nil {
		f.doubt = true // until it turns out otherwise
		if f.batch == nil {
			if err := f.fill(); err != nil {
				return err
			}
		}
		if f.batch == nil {
			f.proven()
			select {
			case <-f.queue.Ready():
			case <-ctx.Done():
			}
			continue
		}
		f.settle(hard)
		n := len(f.batch.Items)
		if err := f.send(hard); err != nil {
			return err
		}
		f.proven()
		f.wait.reset()
		if !sleep(ctx, pauseAfter(n)) {
			return nil
		}
	}
	return nil
}

// proven notes that the session does what it is for. A far side that takes
// connections and no records is not "up".
func (f *forwarder) proven() {
	f.doubt = false
	f.link.up()
}

// fill makes the next batch from the first lane that has records.
func (f *forwarder) fill() error {
	for lane := 0; lane < f.lanes && !f.held; lane++ {
		if err := f.queue.Read(lane, buffer.Limit{Records: maxBatchRecords, Bytes: maxBatchBytes}, &f.chunk); err != nil {
			return err
		}
		f.lane, f.held = lane, f.chunk.Loss != nil || len(f.chunk.Records) > 0
	}
	if !f.held {
		return nil
	}
	b := &Batch{Lane: Lane(f.lane), Generation: f.generation, Items: f.items[:0]}
	f.letters, f.lost = f.letters[:0], 0
	if f.chunk.Loss != nil {
		b.Items = append(b.Items, Item{Seq: f.chunk.Loss.First, Record: f.lossRecord(b.Lane, f.chunk.Loss)})
		f.lost = f.chunk.Loss.Count()
	} else {
		f.decode(b)
	}
	if f.items = b.Items; cap(f.items) > 4*maxBatchRecords {
		f.items = nil
	}
	f.batch, f.next, f.unread = b, f.chunk.Next(), len(f.letters)
	f.held, f.decided = false, false
	return nil
}

// decode fills b from the chunk. A stored record that this version cannot read
// goes to the dead letters as it is.
func (f *forwarder) decode(b *Batch) {
	f.dec.Reset()
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
// When the dead letters cannot be stored, only that is tried again: what the
// far side has confirmed is not sent twice.
func (f *forwarder) send(hard context.Context) error {
	if !f.decided {
		if err := f.offer(hard); err != nil {
			return err
		}
		f.decided = true
	}
	if len(f.letters) > 0 {
		if err := f.dead.Put(f.letters); err != nil {
			return err
		}
		f.log.Warn("records refused for good are kept as dead letters", "sink", f.name, "count", len(f.letters))
	}
	r := buffer.Released{Lost: f.lost}
	if f.lost == 0 {
		r.Dead = uint64(len(f.letters))
		r.Sent = f.next - f.chunk.First - r.Dead
	}
	f.queue.Release(int(f.batch.Lane), f.next, r)
	clear(f.letters)
	f.batch, f.letters = nil, f.letters[:0]
	f.lastSent.Store(f.clock.Now().UnixNano())
	return nil
}

// settle waits until what was released is on disk. Under flow the commit that
// brought the next batch has carried it, and nothing is waited for.
func (f *forwarder) settle(hard context.Context) {
	if err := f.queue.Sync(hard); err != nil && hard.Err() == nil {
		f.log.Debug("write cursor", "sink", f.name, "error", err) // shown as the queue's state; a crash repeats, nothing is lost
	}
}

// offer sends the batch to the far side and makes dead letters of what it refuses.
func (f *forwarder) offer(hard context.Context) error {
	clear(f.letters[f.unread:])
	f.letters = f.letters[:f.unread]
	if len(f.batch.Items) == 0 {
		return nil
	}
	err := f.sink.Send(hard, f.batch)
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	seen := make(map[int]bool, len(refused.Refused))
	for _, r := range refused.Refused {
		if r.Index < 0 || r.Index >= len(f.batch.Items) {
			return fmt.Errorf("send batch: the sink refused record %d of %d, which is a fault in the sink", r.Index, len(f.batch.Items))
		}
		if !seen[r.Index] {
			seen[r.Index] = true
			it := &f.batch.Items[r.Index]
			f.letters = append(f.letters, f.letter(f.batch.Lane, it.Seq, r.Reason, f.stored(it)))
		}
	}
	return nil
}

// stored returns the stored form of a record of the batch: the very bytes, if
// it came from the queue.
func (f *forwarder) stored(it *Item) []byte {
	if f.lost > 0 {
		return AppendRecord(nil, &it.Record)
	}
	return f.chunk.Records[it.Seq-f.chunk.First]
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
