package kafka

import (
	"context"
	"fmt"

	"github.com/waystation-iot/waystation/gateway"
)

// position is what Kafka has of a lane.
type position struct {
	read    bool              // as it is in Kafka; else it must be read first
	next    uint64            // seqs below are there, or were refused; 0 = nothing is known
	sum     *uint32           // of the record before next
	refused map[uint64]string // why, of the last batches
	seen    []string          // instances that had written it when it was first read
	first   bool              // it was read before
	group   string
	key     string // of the copy
}

// laneKey names the position of the batch's lane: lanes of another queue have
// their own.
func laneKey(b *gateway.Batch) string {
	if b.Gateway == "" {
		return laneOf(b)
	}
	return laneOf(b) + "@" + b.Generation
}

// positionOf returns the position of the batch's lane, read or not.
func (s *Sink) positionOf(b *gateway.Batch) *position {
	key := laneKey(b)
	p := s.positions[key]
	if p == nil {
		p = &position{group: s.group + "-" + key, key: s.env.GatewayID + "/" + s.env.Name + "/" + key}
		s.positions[key] = p
	}
	return p
}

// check compares the position with the queue. What another queue has sent under
// this name must not make records of this one look like sent.
func (s *Sink) check(b *gateway.Batch, p *position) error {
	if p.next == 0 || b.Recall == nil {
		return nil
	}
	seq := p.next - 1
	r := b.Recall(seq)
	what := ""
	switch {
	case seq >= r.Next:
		what = fmt.Sprintf("Kafka has records of this queue up to seq %d, but the queue has given seqs only below %d", seq, r.Next)
	case r.Found && p.sum != nil && r.Sum != *p.sum:
		what = fmt.Sprintf("Kafka has another record under seq %d than this queue", seq)
	default:
		return nil
	}
	return gateway.Permanent(fmt.Errorf("%s: lane %s: %s: another gateway wrote as %q, or this queue was restored from an older copy; nothing is sent, so that nothing is lost "+
		"(give this gateway another gateway.id: its queue is then sent from what it has released on)", s.addr, laneOf(b), what, s.env.GatewayID))
}

// readPosition finds the position of p in Kafka. What may pass goes to r; the
// error that is returned is for good.
func (s *Sink) readPosition(ctx context.Context, p *position, r *round) error {
	blocks, err := s.fetchOffsets(ctx, p.group)
	if s.unsupported(err) {
		return s.fallBack(err)
	}
	if err != nil {
		r.trouble(s, fmt.Errorf("%s: read the position of group %s: %w%s", s.addr, p.group, err, s.hint(err, "")), err)
		return nil
	}
	s.lostCoordinator = false
	found := position{}
	var instances []string
	for _, parts := range blocks {
		for _, b := range parts {
			if b.Offset < 0 {
				continue
			}
			n, refused, err := parseNote(b.Metadata)
			if err != nil {
				continue // another's
			}
			instances = append(instances, n.Instance)
			if n.Generation == s.job.batch.Generation && uint64(b.Offset) > found.next {
				found.next, found.sum, found.refused = uint64(b.Offset), n.Sum, refused
			}
		}
	}
	for _, i := range instances {
		if err := s.evidence(p, i); err != nil {
			return err
		}
	}
	if found.next == 0 {
		if err := s.readCopy(ctx, p.key, &found); err != nil {
			r.trouble(s, fmt.Errorf("%s: read the copy of the position: %w%s", s.addr, err, s.readHint(err, s.cfg.PositionTopic)), err)
			return nil
		}
	}
	if !p.first {
		p.first, p.seen = true, instances
	}
	p.read, p.next, p.sum, p.refused = true, found.next, found.sum, found.refused
	return nil
}
