package kafka

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"
)

// outcome is what the answer for a chunk means.
type outcome uint8

const (
	confirmed   outcome = iota // appended, now or before
	notAppended                // try again
	inDoubt                    // perhaps appended: try again as it is
	rejected                   // not appended because of what is in it
	strange                    // not appended: the producer id is not known
	forbidden                  // not appended: the topic cannot be written
)

// outcomeOf sorts the error codes of a ProduceResponse
// (https://kafka.apache.org/protocol#protocol_error_codes). A code that is not
// listed leaves the chunk in doubt.
func outcomeOf(err sarama.KError) outcome {
	switch err {
	case sarama.ErrNoError, sarama.ErrDuplicateSequenceNumber:
		return confirmed
	case sarama.ErrNotLeaderForPartition, sarama.ErrLeaderNotAvailable, sarama.ErrReplicaNotAvailable,
		sarama.ErrBrokerNotAvailable, sarama.ErrNotEnoughReplicas, sarama.ErrKafkaStorageError,
		sarama.ErrFencedLeaderEpoch, sarama.ErrUnknownLeaderEpoch, sarama.ErrThrottlingQuotaExceeded,
		sarama.ErrUnsupportedCompressionType:
		return notAppended
	case sarama.ErrMessageSizeTooLarge, sarama.ErrMessageSetSizeTooLarge, sarama.ErrInvalidRecord,
		sarama.ErrInvalidMessage, sarama.ErrInvalidMessageSize, sarama.ErrInvalidTimestamp, sarama.ErrPolicyViolation:
		return rejected
	case sarama.ErrUnknownProducerID, sarama.ErrInvalidProducerEpoch, sarama.ErrInvalidProducerIDMapping,
		sarama.ErrOutOfOrderSequenceNumber:
		return strange
	case sarama.ErrUnknownTopicOrPartition, sarama.ErrTopicAuthorizationFailed,
		sarama.ErrClusterAuthorizationFailed, sarama.ErrInvalidTopic:
		return forbidden
	}
	return inDoubt
}

// errNoAnswer stands for an answer that did not come.
var errNoAnswer = errors.New("no answer")

// isTopicError reports whether err says that a topic cannot be written.
func isTopicError(err error) bool {
	return errors.Is(err, sarama.ErrUnknownTopicOrPartition) || errors.Is(err, sarama.ErrTopicAuthorizationFailed) ||
		errors.Is(err, sarama.ErrClusterAuthorizationFailed) || errors.Is(err, sarama.ErrInvalidTopic)
}

// isNetwork reports whether err is not an answer of a broker.
func isNetwork(err error) bool {
	var answer sarama.KError
	return errors.Is(err, sarama.ErrOutOfBrokers) || !errors.As(err, &answer)
}

// notSent reports whether err shows that the request was not written.
func notSent(err error) bool {
	var dial *dialError
	return errors.As(err, &dial) || errors.Is(err, sarama.ErrNotConnected)
}

// read takes the answer to q.
func (s *Sink) read(q *request, r *round) {
	if q.err != nil {
		r.lost = true
		for _, p := range q.parts {
			p.doubt = p.doubt || !notSent(q.err)
			p.leader, p.topic.refresh = nil, true
		}
		p := q.parts[0]
		r.note(fmt.Errorf("%s: produce %s/%d at %s: %w", s.addr, p.key.topic, p.key.id, q.broker.Addr(), q.err))
		return
	}
	for _, p := range q.parts {
		block := q.answer.GetBlock(p.key.topic, p.key.id)
		if block == nil {
			p.doubt = true
			r.note(fmt.Errorf("%s: produce %s/%d at %s: the answer does not name the partition", s.addr, p.key.topic, p.key.id, q.broker.Addr()))
			continue
		}
		s.apply(p, block, r)
	}
}

// apply moves p on by the answer to its chunk.
func (s *Sink) apply(p *part, block *sarama.ProduceResponseBlock, r *round) {
	if s.exact && endsTransaction(block.Err) {
		r.reset = fmt.Errorf("produce %s/%d: %w", p.key.topic, p.key.id, block.Err)
		return
	}
	switch outcomeOf(block.Err) {
	case confirmed:
		s.prod.advance(p.key, p.size)
		s.job.left -= p.size
		p.settle(p.size)
		p.topic.trouble, r.progress = nil, true
	case rejected:
		if p.doubt {
			// It may have been appended before, when the broker still liked
			// it. Its sequence must not go to other records.
			p.stale = true
			r.note(fmt.Errorf("%s: produce %s/%d: %w", s.addr, p.key.topic, p.key.id, block.Err))
			return
		}
		r.progress = true
		if p.size > 1 {
			p.halve()
			return
		}
		s.refuse(p, "refused by Kafka: "+brokerText(block))
	case strange:
		p.stale = true
		r.note(fmt.Errorf("%s: produce %s/%d: %w", s.addr, p.key.topic, p.key.id, block.Err))
	case forbidden:
		p.leader = nil
		s.denied(p.topic, block.Err, r)
	default:
		p.doubt = p.doubt || outcomeOf(block.Err) == inDoubt
		p.leader, p.topic.refresh = nil, true
		r.note(fmt.Errorf("%s: produce %s/%d: %w", s.addr, p.key.topic, p.key.id, block.Err))
	}
}

// brokerText is the broker's reason for a rejected batch.
func brokerText(block *sarama.ProduceResponseBlock) string {
	if block.ErrorMessage != nil && *block.ErrorMessage != "" {
		return *block.ErrorMessage
	}
	return block.Err.Error()
}

// renewStale takes a new producer id for the chunks that wait for one, unless
// another chunk is in doubt: that one must be settled under the old id first.
func (s *Sink) renewStale(r *round) {
	var stale *part
	for _, t := range s.job.topics {
		for _, p := range t.parts {
			if p.doubt && !p.stale && p.left() > 0 {
				return
			}
			if p.stale {
				stale = p
			}
		}
	}
	if stale == nil {
		return
	}
	if s.exact { // what is in doubt is rolled back with the rest
		r.reset = fmt.Errorf("produce %s/%d: what is in doubt is now rejected", stale.key.topic, stale.key.id)
		return
	}
	s.renew(fmt.Sprintf("sequence of %s/%d is not usable any more", stale.key.topic, stale.key.id))
	for _, t := range s.job.topics {
		for _, p := range t.parts {
			p.stale, p.doubt = false, false
		}
	}
}
