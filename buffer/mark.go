package buffer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// findGeneration finds out which queue this is when the newest segments do not
// tell: what was sealed is believed first, then what an older segment says. A
// new queue draws one.
func (l *Log) findGeneration() {
	var told Generation
	for _, ln := range l.lanes {
		if ln.guest != (Generation{}) {
			continue
		}
		for i := len(ln.segs) - 1; i >= 0; i-- {
			g, sure := l.generationIn(ln, ln.segs[i])
			if sure {
				l.generation = g
				return
			}
			if told == (Generation{}) {
				told = g
			}
		}
	}
	if l.generation = told; told == (Generation{}) {
		_, _ = rand.Read(l.generation[:])
	}
}

// generationIn returns the generation that a segment tells, and whether it was
// sealed.
func (l *Log) generationIn(ln *lane, s *segment) (g Generation, sure bool) {
	_ = l.peek(ln, s, func(tx *bolt.Tx) error {
		m, err := readMeta(tx)
		if err == nil {
			g = m.generation
			if of, _, err := l.coder.readMark(m.mark, ln.label); err == nil {
				g, sure = of, true
				return nil
			}
		}
		p := firstBlock(tx)
		if h, err := parseHeader(p); err == nil && sealedBy(p, h) != nil {
			of := Generation(p[h.body-sealedHeader+keyIDBytes:])
			if _, _, err := l.coder.decode(nil, p, scope{generation: of, lane: ln.label}); err == nil {
				g, sure = of, true
			}
		}
		return nil
	})
	return g, sure
}

// peek views a segment while the queue is opened, and closes it again.
func (l *Log) peek(ln *lane, s *segment, fn func(*bolt.Tx) error) error {
	defer func() {
		if s != ln.segs[len(ln.segs)-1] {
			_ = s.close()
		}
	}()
	return s.view(fn)
}

// firstBlock returns the first block of a segment, nil when there is none.
func firstBlock(tx *bolt.Tx) (p []byte) {
	b := tx.Bucket([]byte(bucketBlocks))
	if b == nil {
		return nil
	}
	c := b.Cursor()
	k, v := c.First()
	first, _, ok := splitKey(k)
	for at := first; ok && at == first && len(v) <= pieceBytes; at, _, ok = splitKey(k) {
		p = append(p, v...)
		k, v = c.Next()
	}
	return p
}

// settleMarks decides for each lane from which seq on its blocks must be
// sealed. It returns ErrNoKey for a lane whose key was not given: going on
// would write in plain what was to be encrypted.
func (l *Log) settleMarks() error {
	if l.coder.seals() {
		l.o.Log.Info("the queue is encrypted", "dir", l.o.Dir, "key_id", l.o.Keys[0].ID())
	}
	for _, ln := range l.lanes {
		if err := l.settleMark(ln); err != nil {
			return fmt.Errorf("lane %s: %w", ln.name, err)
		}
	}
	return nil
}

func (l *Log) settleMark(ln *lane) error {
	if !l.coder.seals() {
		if len(ln.mark) >= keyIDBytes {
			_, err := l.coder.find(ln.mark[:keyIDBytes])
			return err
		}
		return nil
	}
	from, err := l.sealedFrom(ln, ln.mark)
	if errors.Is(err, ErrNoKey) {
		return err
	}
	current := err == nil && slices.Equal(ln.mark[:keyIDBytes], l.coder.keys[0].id[:])
	if err != nil {
		from = l.searchMark(ln)
		if len(ln.mark) > 0 {
			l.o.Log.Error("the queue does not tell since when it is encrypted; what older segments tell is taken",
				"lane", ln.name, "from_seq", from, "error", err)
		}
	}
	if from == 0 {
		from = ln.next
		if len(ln.segs) > 0 {
			l.o.Log.Warn("encryption of the queue is switched on; what is stored already stays in plain until it is delivered",
				"lane", ln.name, "from_seq", from)
		}
	}
	ln.sealed = from
	if ln.mark, err = l.coder.mark(l.scopeOf(ln), from); err != nil {
		return err
	}
	if !current && len(ln.segs) > 0 {
		ln.stale = true // a new segment with the mark, and nothing that needs an older key
	}
	return nil
}

// sealedFrom reads a mark of a lane. With an error the seq is 0.
func (l *Log) sealedFrom(ln *lane, mark []byte) (uint64, error) {
	g, from, err := l.coder.readMark(mark, ln.label)
	if err == nil && g != l.generationOf(ln) {
		return 0, fmt.Errorf("%w: mark of queue %s", errTampered, g)
	}
	return from, err
}

// searchMark finds since when a lane is encrypted when its newest segment does
// not tell: from another mark, else from the oldest segment that begins with a
// sealed block. It returns 0 when the lane was not encrypted.
func (l *Log) searchMark(ln *lane) (from uint64) {
	for i := len(ln.segs) - 1; i >= 0; i-- {
		s := ln.segs[i]
		var told uint64
		_ = l.peek(ln, s, func(tx *bolt.Tx) error {
			if m, err := readMeta(tx); err == nil {
				told, _ = l.sealedFrom(ln, m.mark)
			}
			p := firstBlock(tx)
			if h, err := parseHeader(p); err == nil && sealedBy(p, h) != nil {
				from = s.first
			}
			return nil
		})
		if told != 0 {
			return told
		}
	}
	return from
}
