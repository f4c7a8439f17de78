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
	name, typ string
	sink      Sink
	queue     Reader
	peek      Peeker // the same cursor
	lanes     []buffer.LaneInfo
	shares    *shares
	replay    *replayer // nil = there are no replays
	past      archive   // nil = nothing can be looked up
	dead      keeper
	gateway   string
	log       *slog.Logger
	clock     *Clock
	link      *link
	lastSent  atomic.Int64

	chunk   buffer.Chunk
	lane    int  // of the chunk
	held    bool // the chunk was read and is not a batch yet
	dec     RecordDecoder
	items   []Item   // memory of the batch
	batch   *Batch   // being sent; nil when there is none
	next    uint64   // seq after the batch
	lost    uint64   // seqs the batch reports as lost
	notice  int      // the item that reports them; -1 = none
	decided bool     // the far side has what it takes of the batch; only the rest is to be kept
	pieces  pieces   // how far the batch is sent
	letters [][]byte // what the far side refuses for good
	notices uint64   // of those, reports of a loss: 1 or 0
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
		f.pieces.note(err)
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
		if err := f.choose(); err != nil {
			return err
		}
		if f.batch == nil {
			f.proven()
			f.idle(ctx)
			continue
		}
		b := f.batch
		if err := f.send(hard); err != nil {
			return err
		}
		f.proven()
		f.wait.reset()
		if !b.Replayed && !f.linger(ctx, f.lane, pauseAfter(len(b.Items))) {
			return nil
		}
	}
	return nil
}

// idle waits until there may be something to send, or ctx ends.
func (f *forwarder) idle(ctx context.Context) {
	wake, due, stop := f.replay.waiting()
	defer stop()
	select {
	case <-f.queue.Ready():
	case <-wake:
	case <-due:
	case <-ctx.Done():
	}
}

// linger waits for d, or until a lane above that of the last batch has
// something to send, and reports whether ctx did not end before.
func (f *forwarder) linger(ctx context.Context, lane int, d time.Duration) bool {
	if d <= 0 || lane == 0 {
		return sleep(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		for above := range lane {
			if f.peek.Waiting(above) {
				return ctx.Err() == nil
			}
		}
		select {
		case <-f.queue.Ready(): // with each commit; choose looks at all lanes afterwards
		case <-t.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// proven notes that the session does what it is for. A far side that takes
// connections and no records is not "up".
func (f *forwarder) proven() {
	f.doubt = false
	f.link.up()
}

// choose makes the next batch, unless there is one: of the lane whose turn it
// is, or of a replay when nothing waits that must not.
func (f *forwarder) choose() error {
	if f.batch != nil && f.batch.Replayed && f.replay.hopeless() {
		f.batch = nil
	}
	if f.batch != nil {
		return nil
	}
	if !f.held {
		lane, lim, free := f.shares.pick(f.peek)
		if free {
			if f.batch = f.replay.next(time.Now()); f.batch != nil || lane < 0 {
				return nil
			}
		}
		if err := f.queue.Read(lane, lim, &f.chunk); err != nil {
			return err
		}
		f.lane, f.held = lane, f.chunk.Loss != nil || len(f.chunk.Records) > 0
	}
	if f.held {
		f.build()
	}
	return nil
}

// send sends the batch, keeps what is refused as dead letters and releases it.
// When the dead letters cannot be stored, only that is tried again: what the
// far side has confirmed is not sent twice.
func (f *forwarder) send(hard context.Context) error {
	if f.batch.Replayed {
		return f.sendAgain(hard)
	}
	f.settle(hard)
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
	f.queue.Release(f.lane, f.next, f.became())
	f.shares.sent(f.batch.Bytes)
	clear(f.letters)
	f.batch, f.letters = nil, f.letters[:0]
	f.lastSent.Store(f.clock.Now().UnixNano())
	return nil
}

// sendAgain sends a batch of a replay. What is refused was a dead letter when
// it was sent first.
func (f *forwarder) sendAgain(hard context.Context) error {
	f.replay.try()
	refused, err := f.deliver(hard, f.batch)
	if err != nil {
		f.replay.failed(err)
		return err
	}
	f.replay.confirmed(len(refused))
	f.shares.passed()
	f.batch = nil
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
	f.letters, f.notices = f.letters[:f.unread], 0
	if len(f.batch.Items) == 0 {
		return nil
	}
	refused, err := f.deliverAll(hard)
	if err != nil {
		return err
	}
	for _, r := range refused {
		it := &f.batch.Items[r.Index]
		f.letters = append(f.letters, f.letter(it.Seq, r.Reason, f.stored(r.Index)))
		if r.Index == f.notice {
			f.notices++
		}
	}
	return nil
}

// deliver sends a batch and returns what the far side refuses, each once.
func (f *forwarder) deliver(hard context.Context, b *Batch) ([]Refusal, error) {
	err := f.sink.Send(hard, b)
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return nil, err
	}
	seen := make(map[int]bool, len(refused.Refused))
	out := make([]Refusal, 0, len(refused.Refused))
	for _, r := range refused.Refused {
		if r.Index < 0 || r.Index >= len(b.Items) {
			return nil, fmt.Errorf("send batch: the sink refused record %d of %d, which is a fault in the sink", r.Index, len(b.Items))
		}
		if !seen[r.Index] {
			seen[r.Index] = true
			out = append(out, r)
		}
	}
	return out, nil
}
