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

// round is one exchange with the brokers: at most one chunk per partition.
type round struct {
	err      error // first trouble that may pass
	progress bool  // records were settled, a chunk was halved or a producer id taken
	lost     bool  // the network failed
	reset    error // the transaction must be given up
	end      error // nothing can be done any more
}

// note keeps the first trouble.
func (r *round) note(err error) {
	if r.err == nil {
		r.err = err
	}
}

// request is one ProduceRequest on its way.
type request struct {
	broker *sarama.Broker
	parts  []*part
	body   *sarama.ProduceRequest
	answer *sarama.ProduceResponse
	err    error
}

// Send implements gateway.Sink. It returns within about a second of the end
// of ctx; the connections are closed then.
func (s *Sink) Send(ctx context.Context, b *gateway.Batch) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: send: %w", s.addr, err)
	}
	if s.sess == nil {
		return fmt.Errorf("%s: send: not connected", s.addr)
	}
	s.renewSession(ctx)
	if err := s.ready(b); err != nil {
		return err
	}
	s.patience.begin()
	s.take(b)
	if s.job.placed {
		s.learnSchemas(ctx)
	}
	tries, resets := 0, 0
	var since time.Time // of the first try without progress
	for !s.over() {
		r := s.step(ctx)
		if r.reset != nil {
			resets++
			r.end = cmp.Or(r.end, s.reset(r.reset))
			r.note(fmt.Errorf("%s: send: give up the transaction: %w%s", s.addr, r.reset, s.hint(r.reset, "")))
		}
		if ctx.Err() != nil {
			return s.cancelled(ctx)
		}
		if r.end != nil || resets > maxResets {
			return cmp.Or(r.end, r.err)
		}
		if r.err == nil && r.progress {
			tries = 0
			continue
		}
		if r.err == nil { // only topics that may not be written are left
			err := s.blockedError()
			s.rollBack(ctx)
			return err
		}
		if r.progress || tries == 0 {
			tries, since = 0, time.Now()
		}
		if tries++; tries >= s.tries || time.Since(since) > s.cfg.RequestTimeout {
			if err := s.giveUp(ctx, r); err != nil {
				return err
			}
			continue
		}
		if rest(ctx, s.pauseBefore(tries)); ctx.Err() != nil {
			return s.cancelled(ctx)
		}
	}
	return s.finish()
}

// cancelled ends a Send whose ctx has ended.
func (s *Sink) cancelled(ctx context.Context) error {
	s.leave(grace)
	_ = s.drop()
	return fmt.Errorf("%s: send: %w", s.addr, context.Cause(ctx))
}

// pauseBefore is how long to wait after so many tries without progress. The
// first is mostly over at once: Kafka is still closing the transaction before.
func (s *Sink) pauseBefore(tries int) time.Duration {
	if tries < 2 {
		return s.pause / 20
	}
	return min(s.pause<<(tries-2), time.Second)
}

// rest waits before the next try.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// giveUp ends the tries of this Send, unless records can be given up for a
// topic that does not exist.
func (s *Sink) giveUp(ctx context.Context, r *round) error {
	before := s.job.left
	for _, t := range s.job.topics {
		if t.trouble != nil && !r.lost {
			s.block(t, t.trouble)
		}
	}
	if s.job.left < before {
		return nil
	}
	if r.lost {
		s.sess.broken = true
		s.patience.lost(r.err, s.cfg.RequestTimeout)
	} else {
		s.rollBack(ctx)
	}
	return r.err
}

// block ends the tries for t in this Send, or for good.
func (s *Sink) block(t *topic, err error) {
	if s.job.batch.Letters != nil {
		s.postponeLetters(t, err)
		return
	}
	t.trouble, t.refresh = nil, true
	if t.position {
		s.copyOff(err)
		s.refuseAll(t, "")
		return
	}
	if s.cfg.UnknownTopic == wordDeadLetter || s.job.onlyNotices(t) {
		s.refuseAll(t, fmt.Sprintf("topic %s: %v", t.name, err))
		return
	}
	t.blocked = fmt.Errorf("%s: produce %s: %w%s", s.addr, t.name, err, s.hint(err, t.name))
}

func (s *Sink) blockedError() error {
	for _, t := range s.job.topics {
		if t.blocked != nil {
			return t.blocked
		}
	}
	return fmt.Errorf("%s: send: no progress with %d records left", s.addr, s.job.left)
}

// finish reports a batch that is done.
func (s *Sink) finish() error {
	refused := s.job.refused
	if s.job.batch.Letters != nil {
		s.lettersSent()
	}
	s.claims.finished(s.job.batch, s.env.GatewayID)
	s.patience.kept(s.cfg.RequestTimeout)
	s.endJob("records in doubt were given up")
	if len(refused) == 0 {
		return nil
	}
	sortRefused(refused)
	return &gateway.RefusedError{Refused: refused}
}

func sortRefused(all []gateway.Refusal) {
	slices.SortFunc(all, func(a, b gateway.Refusal) int { return cmp.Compare(a.Index, b.Index) })
}

// round sends the next chunk of every partition that has one.
func (s *Sink) round(ctx context.Context) *round {
	r := &round{}
	s.route(ctx, r)
	if !s.prod.known {
		if err := s.identify(ctx); err != nil {
			r.lost = r.lost || isNetwork(err)
			r.note(fmt.Errorf("%s: get a producer id: %w%s", s.addr, err, s.hint(err, "")))
			return r
		}
	}
	s.locate(ctx, r)
	requests := s.requests(r)
	if len(requests) > 0 {
		s.exchange(ctx, requests)
	}
	for _, q := range requests {
		s.read(q, r)
	}
	s.renewStale(r)
	return r
}

// route finds the partitions of the topics and deals the records to them.
func (s *Sink) route(ctx context.Context, r *round) {
	for _, t := range s.job.topics {
		if len(t.items) == 0 || t.blocked != nil || ctx.Err() != nil {
			continue
		}
		if now := time.Now(); len(t.parts) == 0 || t.refresh || now.Sub(t.learned) > s.keepMeta {
			stale := t.refresh || len(t.parts) > 0
			ids, err := s.sess.partitions(ctx, t.name, stale)
			if err != nil {
				s.topicTrouble(t, err, r)
				continue
			}
			t.learn(ids, now)
			s.probe = t.name
		}
		s.deal(t)
	}
}

// topicTrouble notes why the metadata of t could not be had.
func (s *Sink) topicTrouble(t *topic, err error, r *round) {
	if isTopicError(err) {
		s.denied(t, err, r)
		return
	}
	r.lost = r.lost || isNetwork(err)
	r.note(fmt.Errorf("%s: read metadata of %s: %w%s", s.addr, t.name, err, s.hint(err, t.name)))
}

// denied notes that t cannot be written: at once when it is forbidden, after
// some tries when it is unknown, for a broker may not have heard of it yet.
func (s *Sink) denied(t *topic, err error, r *round) {
	t.refresh = true
	if !errors.Is(err, sarama.ErrUnknownTopicOrPartition) || s.job.batch.Letters != nil {
		before := s.job.left
		s.block(t, err)
		r.progress = r.progress || s.job.left < before
		return
	}
	t.trouble = err
	r.note(fmt.Errorf("%s: produce %s: %w%s", s.addr, t.name, err, s.hint(err, t.name)))
}

// ready reports whether p has something to send in this round.
func (p *part) ready() bool { return p.left() > 0 && !p.stale && p.topic.blocked == nil }

// locate finds the leaders that are not known.
func (s *Sink) locate(ctx context.Context, r *round) {
	var places []place
	var parts []*part
	for _, t := range s.job.topics {
		for _, p := range t.parts {
			if p.ready() && p.leader == nil {
				places = append(places, place{p.key, t.refresh})
				parts = append(parts, p)
			}
		}
	}
	if len(places) == 0 {
		return
	}
	found, err := s.sess.leaders(ctx, places)
	if err != nil {
		r.note(err)
		return
	}
	for i, p := range parts {
		p.leader = found[i].v
		if err := found[i].err; err != nil {
			p.leader = nil
			s.topicTrouble(p.topic, err, r)
			continue
		}
		p.topic.refresh = false
	}
}

// requests builds one request per leader.
func (s *Sink) requests(r *round) []*request {
	s.arena.begin(s.env.GatewayID, s.job.batch)
	var all []*request
	for _, t := range s.job.topics {
		for _, p := range t.parts {
			if !p.ready() || p.leader == nil {
				continue
			}
			before := s.job.left
			batch := s.chunk(p)
			r.progress = r.progress || s.job.left < before
			if batch == nil {
				continue
			}
			i := slices.IndexFunc(all, func(q *request) bool { return q.broker == p.leader })
			if i < 0 {
				i = len(all)
				all = append(all, &request{broker: p.leader, body: &sarama.ProduceRequest{
					Version: s.produce, RequiredAcks: sarama.WaitForAll, Timeout: int32(s.cfg.RequestTimeout.Milliseconds()),
				}})
				if s.exact {
					all[i].body.TransactionalID = &s.txnID
				}
			}
			all[i].parts = append(all[i].parts, p)
			all[i].body.AddBatch(p.key.topic, p.key.id, batch)
		}
	}
	return all
}

// exchange sends the requests and waits for all answers. When ctx ends it cuts
// the connections; what was not answered then is in doubt.
func (s *Sink) exchange(ctx context.Context, requests []*request) {
	type reply struct {
		i      int
		answer *sarama.ProduceResponse
		err    error
	}
	replies := make(chan reply, len(requests))
	for i, q := range requests {
		q.err = errNoAnswer
		go func(broker *sarama.Broker, body *sarama.ProduceRequest) {
			answer, err := broker.Produce(body)
			replies <- reply{i, answer, err}
		}(q.broker, q.body)
	}
	var timer <-chan time.Time
	end := ctx.Done()
	for got := 0; got < len(requests); {
		select {
		case a := <-replies:
			requests[a.i].answer, requests[a.i].err = a.answer, a.err
			got++
		case <-end:
			end = nil
			s.sess.broken = true
			s.sess.cut()
			timer = time.After(grace)
		case <-timer:
			s.arena = arena{} // a call that was left behind may still read it
			return
		}
	}
}
