package kafka

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// coordinator says which broker to ask: the one that coordinates our
// transactions, or a group.
type coordinator struct {
	group string // "" = of the transactions
	side  bool   // over a connection of its own, beside requests on the other
}

// side returns a connection to addr beside the one of sarama's client, which
// has one request in flight.
func (s *session) side(addr string) *sarama.Broker {
	s.mu.Lock()
	b := s.sides[addr]
	if b == nil {
		b = sarama.NewBroker(addr)
		s.sides[addr] = b
	}
	s.mu.Unlock()
	_ = b.Open(s.client.Config()) // it may be open already; what is wrong comes out of the first call
	return b
}

// closeSides ends the connections that side opened.
func (s *session) closeSides() {
	s.mu.Lock()
	open := slices.Collect(maps.Values(s.sides))
	clear(s.sides)
	s.mu.Unlock()
	for _, b := range open {
		_ = b.Close()
	}
}

// find returns the broker.
func (s *session) find(txnID string, c coordinator, refresh bool) (b *sarama.Broker, err error) {
	if refresh {
		if c.group == "" {
			err = s.client.RefreshTransactionCoordinator(txnID)
		} else {
			err = s.client.RefreshCoordinator(c.group)
		}
	}
	if err == nil && c.group == "" {
		b, err = s.client.TransactionCoordinator(txnID)
	} else if err == nil {
		b, err = s.client.Coordinator(c.group)
	}
	if err == nil && c.side {
		b = s.side(b.Addr())
	}
	return b, err
}

// movedCoordinator reports whether another broker must be looked for, or the
// same one asked again soon.
func movedCoordinator(err error) bool {
	return errors.Is(err, sarama.ErrConsumerCoordinatorNotAvailable) || errors.Is(err, sarama.ErrNotCoordinatorForConsumer) ||
		errors.Is(err, sarama.ErrOffsetsLoadInProgress)
}

// asker puts questions to coordinators. It may run beside other calls and
// outlive the Send that made it: it shares nothing with the sink that changes.
type asker struct {
	sess    *session
	txnID   string
	refresh bool // look the coordinators up again
	timeout time.Duration
}

// asker returns an asker for the session.
func (s *Sink) asker() asker {
	return asker{s.sess, s.txnID, s.lostCoordinator, s.cfg.RequestTimeout}
}

// ask goes on asking while the coordinator moves, or completes the transaction
// before, up to the time-out.
func (a asker) ask(ctx context.Context, c coordinator, question func(*sarama.Broker) error) error {
	end, pause, refresh := time.Now().Add(a.timeout), 2*time.Millisecond, a.refresh
	for {
		b, err := a.sess.find(a.txnID, c, refresh)
		if err == nil {
			err = question(b)
		}
		refresh = movedCoordinator(err)
		again := refresh || errors.Is(err, sarama.ErrConcurrentTransactions) || errors.Is(err, sarama.ErrUnstableOffsetCommit)
		if !again || time.Now().Add(pause).After(end) {
			return err
		}
		rest(ctx, pause)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pause = min(2*pause, 250*time.Millisecond)
	}
}

// answerTo turns what a call returned into one error.
func answerTo(code sarama.KError, err error) error {
	if err != nil {
		return err
	}
	if code != sarama.ErrNoError {
		return code
	}
	return nil
}

// initTransactions takes the transactional id, and with it ends whatever a
// predecessor left open.
func (s *Sink) initTransactions(ctx context.Context) (*sarama.InitProducerIDResponse, error) {
	a, txnID, timeout, version := s.asker(), s.txnID, s.cfg.TransactionTimeout, int16(3)
	if s.version.IsAtLeast(sarama.V2_7_0_0) {
		version = 4 // tells PRODUCER_FENCED from a time-out
	}
	return call(ctx, s.sess, func() (*sarama.InitProducerIDResponse, error) {
		var answer *sarama.InitProducerIDResponse
		err := a.ask(ctx, coordinator{}, func(b *sarama.Broker) (err error) {
			answer, err = b.InitProducerID(&sarama.InitProducerIDRequest{Version: version, TransactionalID: &txnID,
				TransactionTimeout: timeout, ProducerID: -1, ProducerEpoch: -1})
			if err != nil {
				return err
			}
			return answerTo(answer.Err, nil)
		})
		return answer, err
	})
}

// txnVersion is the version of the requests that came with KIP-360.
func (s *Sink) txnVersion() int16 {
	switch {
	case s.version.IsAtLeast(sarama.V2_8_0_0):
		return 3
	case s.version.IsAtLeast(sarama.V2_7_0_0):
		return 2
	}
	return 1
}

// partitionErrors is what a coordinator said of single partitions, by topic.
type partitionErrors map[string][]*sarama.PartitionError

// addPartitions returns a function that makes the partitions part of the
// transaction.
func (s *Sink) addPartitions(ctx context.Context, parts map[string][]int32) func() (partitionErrors, error) {
	a, q := s.asker(), &sarama.AddPartitionsToTxnRequest{Version: s.txnVersion(), TransactionalID: s.txnID, ProducerID: s.prod.id,
		ProducerEpoch: s.prod.epoch, TopicPartitions: parts}
	return func() (bad partitionErrors, err error) {
		err = a.ask(ctx, coordinator{}, func(b *sarama.Broker) error {
			answer, err := b.AddPartitionsToTxn(q)
			if err != nil {
				return err
			}
			bad = answer.Errors
			for _, list := range answer.Errors {
				for _, p := range list {
					if p.Err != sarama.ErrNoError && !isTopicError(p.Err) && p.Err != sarama.ErrOperationNotAttempted {
						return p.Err
					}
				}
			}
			return nil
		})
		return bad, err
	}
}

// addOffsets returns a function that makes the group part of the transaction.
func (s *Sink) addOffsets(ctx context.Context, group string, side bool) func() error {
	a, q := s.asker(), &sarama.AddOffsetsToTxnRequest{Version: s.txnVersion(), TransactionalID: s.txnID, ProducerID: s.prod.id,
		ProducerEpoch: s.prod.epoch, GroupID: group}
	return func() error {
		return a.ask(ctx, coordinator{side: side}, func(b *sarama.Broker) error {
			answer, err := b.AddOffsetsToTxn(q)
			if err != nil {
				return err
			}
			return answerTo(answer.Err, nil)
		})
	}
}

// commitOffset returns a function that writes the position into the transaction.
func (s *Sink) commitOffset(ctx context.Context, p *position, topic, meta string) func() error {
	a, q := s.asker(), &sarama.TxnOffsetCommitRequest{Version: 3, TransactionalID: s.txnID, GroupID: p.group, ProducerID: s.prod.id,
		ProducerEpoch: s.prod.epoch, GenerationID: -1, Topics: map[string][]*sarama.PartitionOffsetMetadata{
			topic: {{Partition: 0, Offset: int64(s.txn.next), LeaderEpoch: -1, Metadata: &meta}}}}
	return func() error {
		return a.ask(ctx, coordinator{group: q.GroupID, side: true}, func(b *sarama.Broker) error {
			answer, err := b.TxnOffsetCommit(q)
			if err != nil {
				return err
			}
			for _, list := range answer.Topics {
				for _, p := range list {
					if p.Err != sarama.ErrNoError {
						return p.Err
					}
				}
			}
			return nil
		})
	}
}

// endTransaction commits.
func (s *Sink) endTransaction(ctx context.Context) error {
	a, q := s.asker(), &sarama.EndTxnRequest{Version: s.txnVersion(), TransactionalID: s.txnID, ProducerID: s.prod.id,
		ProducerEpoch: s.prod.epoch, TransactionResult: true}
	_, err := call(ctx, s.sess, func() (struct{}, error) {
		return struct{}{}, a.ask(ctx, coordinator{}, func(b *sarama.Broker) error {
			answer, err := b.EndTxn(q)
			if err != nil {
				return err
			}
			return answerTo(answer.Err, nil)
		})
	})
	return err
}

// fetchOffsets returns every offset that the group has, committed and stable.
func (s *Sink) fetchOffsets(ctx context.Context, group string) (map[string]map[int32]*sarama.OffsetFetchResponseBlock, error) {
	a, version := s.asker(), s.version
	return call(ctx, s.sess, func() (map[string]map[int32]*sarama.OffsetFetchResponseBlock, error) {
		var blocks map[string]map[int32]*sarama.OffsetFetchResponseBlock
		err := a.ask(ctx, coordinator{group: group, side: true}, func(b *sarama.Broker) error {
			q := sarama.NewOffsetFetchRequest(version, group, nil)
			q.RequireStable = true
			answer, err := b.FetchOffset(q)
			if err != nil {
				return err
			}
			if code := answer.GroupError(); code != sarama.ErrNoError && code != sarama.ErrGroupIDNotFound {
				return code
			}
			blocks = answer.Blocks
			for _, parts := range blocks {
				for _, block := range parts {
					if block.Err != sarama.ErrNoError {
						return block.Err
					}
				}
			}
			return nil
		})
		return blocks, err
	})
}
