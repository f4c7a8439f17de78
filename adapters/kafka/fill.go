package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/IBM/sarama"
)

// complete sends the next chunks and the position, and commits when all is
// there.
func (s *Sink) complete(ctx context.Context, r *round) {
	meta, err := s.metadata()
	if err != nil { // the list is too long: rather twice after a crash than lost
		s.env.Log.Warn("a batch goes without its position, for too many of its records are refused; after a crash just then it comes twice",
			"lane", laneOf(s.job.batch), "refused", len(s.job.refused))
		s.job.bare, r.reset = true, err
		return
	}
	if s.job.left == 0 {
		s.copyAnew(meta)
	}
	if s.job.left == 0 && s.txn.stored == meta {
		s.commit(ctx, r)
		return
	}
	s.fill(ctx, meta, r)
}

// metadata is what is stored with the position, "" when there is none.
func (s *Sink) metadata() (string, error) {
	if s.txn.bare {
		return "", nil
	}
	s.txn.note.Refused = nil
	own, carried := s.refusals()
	if len(own)+len(carried) == 0 {
		return s.txn.note.text()
	}
	if len(carried) > 0 {
		all := maps.Clone(carried)
		maps.Copy(all, own)
		if err := s.txn.note.list(all); err != nil {
			return "", err
		}
		if text, err := s.txn.note.text(); err == nil {
			return text, nil
		}
	}
	if err := s.txn.note.list(own); err != nil {
		return "", err
	}
	return s.txn.note.text()
}

// refusals returns what of the batch is refused and why, and what was refused
// of the batches just before.
func (s *Sink) refusals() (own, carried map[uint64]string) {
	if len(s.job.refused) > 0 {
		own = make(map[uint64]string, len(s.job.refused))
		for _, r := range s.job.refused {
			own[s.job.batch.Items[r.Index].Seq] = r.Reason
		}
	}
	for seq, reason := range s.positionOf(s.job.batch).refused {
		if seq+carry >= s.txn.next {
			if carried == nil {
				carried = make(map[uint64]string)
			}
			carried[seq] = reason
		}
	}
	return own, carried
}

// fill sends the next chunks, and the position beside them.
func (s *Sink) fill(ctx context.Context, meta string, r *round) {
	s.locate(ctx, r)
	requests := s.requests(r)
	offset := meta != s.txn.stored && ctx.Err() == nil
	if len(requests) > 0 {
		s.at("produce-before")
	}
	var answer chan error
	if offset {
		s.at("txnoffset-before")
		answer = make(chan error, 1)
		write := s.commitOffset(ctx, s.positionOf(s.job.batch), s.txn.at, meta)
		go func() { answer <- write() }()
	}
	if len(requests) > 0 {
		s.exchange(ctx, requests)
		s.at("produce-after")
	}
	if offset {
		err := s.await(ctx, answer)
		s.at("txnoffset-after")
		s.wrote(meta, err, r)
	}
	for _, q := range requests {
		s.read(q, r)
	}
	s.renewStale(r)
}

// await waits for the answer, or not much longer than ctx.
func (s *Sink) await(ctx context.Context, answer <-chan error) error {
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	s.sess.broken = true
	s.sess.cut()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-answer:
	case <-timer.C:
	}
	return context.Cause(ctx)
}

// wrote takes the answer to the position. When there was none, the request may
// still be on its way: it must not meet a later transaction of the same epoch.
func (s *Sink) wrote(meta string, err error, r *round) {
	switch {
	case err == nil:
		s.txn.stored, r.progress = meta, true
	case endsTransaction(err), isNetwork(err) && !notSent(err):
		s.lostCoordinator = s.lostCoordinator || isNetwork(err)
		r.reset = err
	case errors.Is(err, sarama.ErrInvalidCommitOffsetSize):
		s.job.bare, r.reset = true, err // a broker that takes less than it should
	default:
		if isTopicError(err) && s.txn.at == s.cfg.PositionTopic {
			s.copyOff(err)
			r.reset = err
			return
		}
		r.trouble(s, fmt.Errorf("%s: write the position of lane %s: %w%s", s.addr, laneOf(s.job.batch), err, s.readHint(err, s.txn.at)), err)
	}
}

// commit ends the transaction. Whatever is not a plain yes leaves its fate
// unknown: nothing is sent again before the position was read.
func (s *Sink) commit(ctx context.Context, r *round) {
	s.at("end-before")
	s.txn.ending = true
	err := s.endTransaction(ctx)
	s.at("end-after")
	if err != nil {
		if isNetwork(err) {
			r.lost, s.lostCoordinator = true, true
		}
		r.reset = err
		return
	}
	if !s.txn.bare {
		p := s.positionOf(s.job.batch)
		own, carried := s.refusals()
		if carried == nil {
			carried = own
		} else {
			maps.Copy(carried, own)
		}
		p.read, p.next, p.sum, p.refused = true, s.txn.next, s.txn.note.Sum, carried
	}
	s.txn, s.fence.since = txn{}, 0
	s.job.closed, r.progress = true, true
}
