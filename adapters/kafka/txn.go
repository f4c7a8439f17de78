package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

// maxResets is how often a Send begins a batch anew before it returns, so that
// the forwarder's pauses apply.
const maxResets = 3

// farAway is the round trip from which it pays to send two requests to the
// coordinator side by side, the second a stagger later: the coordinator refuses
// one that comes while it writes down the other.
const (
	farAway = 40 * time.Millisecond
	stagger = 15 * time.Millisecond
)

// txn is the transaction under way.
type txn struct {
	begun    time.Time // zero = none; from then on the coordinator may have one open
	added    bool      // the partitions and the group are part of it
	bare     bool      // it has no position
	next     uint64    // the position
	note     note
	at       string // topic that the position is committed for
	stored   string // metadata that is written, "" = none
	ending   bool   // EndTxn was sent; what came of it is not known
	copied   string // metadata that the copy was made of
	copyText []byte // value of the copy
	copyTime time.Time
}

// step does what comes next for the batch.
func (s *Sink) step(ctx context.Context) *round {
	if !s.exact {
		if !s.job.placed {
			s.assign(0)
			s.learnSchemas(ctx)
		}
		return s.round(ctx)
	}
	r := &round{}
	switch {
	case s.txn.ending:
		r.reset = errors.New("what became of the commit is not known")
	case !s.prod.known:
		s.initialise(ctx, r)
	case !s.job.placed:
		s.place(ctx, r)
	case !s.txn.added:
		s.begin(ctx, r)
	default:
		s.complete(ctx, r)
	}
	return r
}

// over reports whether nothing is left to do for the batch.
func (s *Sink) over() bool {
	if s.exact {
		return s.job.closed
	}
	return s.job.placed && s.job.left == 0
}

// initialise takes the transactional id.
func (s *Sink) initialise(ctx context.Context, r *round) {
	if err := s.identify(ctx); err != nil {
		r.trouble(s, fmt.Errorf("%s: take transactional id %s: %w%s", s.addr, s.txnID, err, s.hint(err, "")), err)
		return
	}
	r.progress = true
}

// trouble notes err, whose cause is known, and that the coordinators must be
// looked up again if it was the network.
func (r *round) trouble(s *Sink, err, cause error) {
	if isNetwork(cause) {
		r.lost, s.lostCoordinator = true, true
	}
	r.note(err)
}

// place finds out what of the batch is in Kafka already and deals the rest out.
func (s *Sink) place(ctx context.Context, r *round) {
	b := s.job.batch
	if b.Replayed {
		s.assign(0)
		s.learnSchemas(ctx)
		r.progress = true
		return
	}
	p := s.positionOf(b)
	if !p.read {
		if r.end = s.readPosition(ctx, p, r); r.end != nil || r.err != nil {
			return
		}
		if !s.exact { // it turned out that the cluster cannot do it
			r.progress = true
			return
		}
		if r.end = s.check(b, p); r.end != nil {
			return
		}
	}
	there := 0
	for there < len(b.Items) && b.Items[there].Seq < p.next {
		if reason, ok := p.refused[b.Items[there].Seq]; ok {
			s.job.refused = append(s.job.refused, gateway.Refusal{Index: there, Reason: reason})
		}
		there++
	}
	if there > 0 {
		s.env.Log.Info("records are in Kafka already and are not sent again", "lane", laneOf(b), "count", there, "next_seq", p.next)
	}
	s.job.left -= there
	s.assign(there)
	s.learnSchemas(ctx)
	s.job.closed = s.job.left == 0
	r.progress = true
}

// begin routes the records and opens the transaction.
func (s *Sink) begin(ctx context.Context, r *round) {
	s.route(ctx, r)
	open := slices.ContainsFunc(s.job.topics, func(t *topic) bool { return t.blocked != nil || len(t.items) > 0 })
	if open || r.err != nil || ctx.Err() != nil {
		return // all or nothing: no transaction is left open while a topic is waited for
	}
	b := s.job.batch
	s.txn.bare, s.txn.next = b.Replayed || s.job.bare, b.Items[len(b.Items)-1].Seq+1
	parts := s.partitionsOfJob()
	if len(parts) == 0 {
		s.job.closed = true // every record was refused before it was sent
		r.progress = true
		return
	}
	if !s.txn.bare {
		s.sumUp(b)
		s.txn.at = s.prepareCopy(ctx, r)
		if r.err != nil {
			return
		}
		parts = s.partitionsOfJob()
		s.txn.at = cmp.Or(s.txn.at, s.firstTopic())
	}
	s.enrol(ctx, parts, r)
}

// partitionsOfJob returns the partitions that something goes to.
func (s *Sink) partitionsOfJob() map[string][]int32 {
	parts := make(map[string][]int32)
	for _, t := range s.job.topics {
		for _, p := range t.parts {
			if p.left() > 0 {
				parts[t.name] = append(parts[t.name], p.key.id)
			}
		}
	}
	return parts
}

// firstTopic is the data topic of the job that the position is committed for.
func (s *Sink) firstTopic() string {
	for _, t := range s.job.topics {
		for _, p := range t.parts {
			if p.left() > 0 && !t.position {
				return t.name
			}
		}
	}
	return ""
}

// sumUp begins the note of the transaction.
func (s *Sink) sumUp(b *gateway.Batch) {
	s.txn.note = note{Version: 1, Generation: b.Generation, Instance: s.instance}
	if b.Recall != nil {
		if last := b.Recall(s.txn.next - 1); last.Found {
			s.txn.note.Sum = &last.Sum
		}
	}
}

// enrol makes the partitions and the group part of the transaction.
func (s *Sink) enrol(ctx context.Context, parts map[string][]int32, r *round) {
	group := ""
	if !s.txn.bare {
		group = s.positionOf(s.job.batch).group
	}
	s.at("partitions-before")
	if group != "" {
		s.at("offsets-before")
	}
	s.txn.begun = time.Now()
	beside := s.trip > farAway
	add, join := s.addPartitions(ctx, parts), s.addOffsets(ctx, group, beside)
	type answers struct {
		bad         partitionErrors
		parts, offs error
		took        time.Duration
	}
	start := time.Now()
	a, err := call(ctx, s.sess, func() (a answers, _ error) {
		offs := make(chan error, 1)
		if group != "" && beside {
			go func() {
				rest(ctx, stagger)
				offs <- join()
			}()
		}
		a.bad, a.parts = add()
		a.took = time.Since(start)
		switch {
		case group == "", !beside && a.parts != nil:
		case beside:
			a.offs = <-offs
		default:
			a.offs = join()
		}
		return a, nil
	})
	if err != nil {
		a.parts = err
	} else if a.parts == nil {
		s.trip = a.took
	}
	s.at("partitions-after")
	if group != "" {
		s.at("offsets-after")
	}
	s.enrolled(a.parts, a.offs, r)
	s.refusedTopics(a.bad, r)
	s.txn.added = a.parts == nil && a.offs == nil && r.err == nil
	r.progress = r.progress || s.txn.added
}

// enrolled notes what went wrong.
func (s *Sink) enrolled(parts, offs error, r *round) {
	for what, err := range map[string]error{"add partitions to the transaction": parts, "add the position to the transaction": offs} {
		switch {
		case err == nil:
		case s.unsupported(err):
			if r.end = s.fallBack(err); r.end == nil {
				r.progress = true
			}
			return
		case endsTransaction(err):
			r.reset = err
		default:
			r.trouble(s, fmt.Errorf("%s: %s: %w%s", s.addr, what, err, s.hint(err, "")), err)
		}
	}
	if parts == nil && offs == nil {
		s.lostCoordinator = false
	}
}

// refusedTopics takes what was said of single partitions.
func (s *Sink) refusedTopics(bad map[string][]*sarama.PartitionError, r *round) {
	for _, t := range s.job.topics {
		for _, p := range bad[t.name] {
			if isTopicError(p.Err) {
				s.denied(t, p.Err, r)
				if r.err == nil { // it was given up at once; the others are asked for again
					r.note(fmt.Errorf("%s: add partitions of %s to the transaction: %w", s.addr, t.name, p.Err))
				}
				break
			}
		}
	}
}

// reset gives the transaction up, whatever became of it: the next steps take
// the transactional id again, which completes it or rolls it back, read the
// position and send what is not there. It returns an error when that must not
// be tried.
func (s *Sink) reset(cause error) error {
	alarm := s.fenced(cause, time.Now())
	s.prod.forget()
	s.txn = txn{}
	for _, p := range s.positions {
		p.read = false
	}
	s.rewind()
	return alarm
}

// lastWord is how long Close tries to end a transaction.
const lastWord = 2 * time.Second

// leave rolls back what is open before the connections are closed, if they
// still work: the consumers of its partitions would wait for transaction_timeout.
func (s *Sink) leave(limit time.Duration) {
	if s.sess == nil || s.sess.broken {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	s.rollBack(ctx)
}

// rollBack ends a transaction that cannot be completed now, so that it does not
// hold up the consumers of its partitions.
func (s *Sink) rollBack(ctx context.Context) {
	if !s.exact || s.txn.begun.IsZero() {
		return
	}
	_ = s.reset(nil)
	if err := s.identify(ctx); err != nil {
		s.env.Log.Debug("roll back", "error", err) // Kafka does, after transaction_timeout
	}
}
