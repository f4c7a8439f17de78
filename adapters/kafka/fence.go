package kafka

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

// Another producer that takes our transactional id fences us. Twice can be a
// restart; two gateways with one id would do it to each other for ever. While we
// commit in between, the other is to find our position and stop: if both were
// as quick, both would stop.
const (
	maxFences   = 5  // without a commit of ours
	manyFences  = 20 // in any case
	fenceWindow = 5 * time.Minute
)

// fence remembers when we were fenced.
type fence struct {
	times []time.Time // in the window
	since int         // how many of them after our last commit
}

// endsTransaction reports whether err says that the transaction cannot be
// completed, or that its fate is not known.
func endsTransaction(err error) bool {
	for _, code := range []sarama.KError{sarama.ErrInvalidProducerEpoch, sarama.ErrProducerFenced, sarama.ErrUnknownProducerID,
		sarama.ErrInvalidProducerIDMapping, sarama.ErrInvalidTxnState, sarama.ErrOutOfOrderSequenceNumber,
		sarama.ErrTransactionCoordinatorFenced, errTransactionAbortable} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// errTransactionAbortable is TRANSACTION_ABORTABLE (KIP-890), which sarama does
// not name.
const errTransactionAbortable = sarama.KError(120)

// fenced counts err if it says that another producer has our transactional id.
// The coordinator fences us as well when it rolls back a transaction that took
// too long: that is not counted.
func (s *Sink) fenced(err error, now time.Time) error {
	if !errors.Is(err, sarama.ErrProducerFenced) && !errors.Is(err, sarama.ErrInvalidProducerEpoch) {
		return nil
	}
	if !s.txn.begun.IsZero() && now.Sub(s.txn.begun) >= s.cfg.TransactionTimeout {
		return nil
	}
	kept := s.fence.times[:0]
	for _, t := range s.fence.times {
		if now.Sub(t) < fenceWindow {
			kept = append(kept, t)
		}
	}
	s.fence.times = append(kept, now)
	s.fence.since = min(s.fence.since+1, len(s.fence.times))
	if s.fence.since < maxFences && len(s.fence.times) < manyFences {
		return nil
	}
	return s.cloned(fmt.Sprintf("it was taken from us %d times in %s", len(s.fence.times), fenceWindow))
}

// evidence reports that the position was written by a process that is neither
// this one nor its predecessor. It is asked whenever the position is read again,
// whatever the reason: we may have taken the id back without having noticed
// that another had it, for the error that came first was another.
func (s *Sink) evidence(p *position, instance string) error {
	if !p.first || instance == s.instance || slices.Contains(p.seen, instance) {
		return nil
	}
	return s.cloned("another process has written with it since this one began")
}

func (s *Sink) cloned(why string) error {
	return gateway.Permanent(fmt.Errorf("%s: another gateway uses the transactional id %q, which belongs to gateway.id %q: %s; this one stops sending and keeps its records "+
		"(give one of the two another gateway.id, for instance after a card was copied, and restart it)", s.addr, s.txnID, s.env.GatewayID, why))
}
