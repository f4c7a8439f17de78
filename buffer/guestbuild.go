package buffer

import (
	"encoding/hex"
	"fmt"
	"os"
	"slices"
)

// guestBuilder makes the segments of one guest lane from parts of an archive.
type guestBuilder struct {
	j     *importJob
	path  string
	pull  func() (archived, bool, error) // the next part
	parts int                            // pulled so far

	blocks []found // of the part that was pulled, not yet taken
	pos    uint64
	more   bool
}

// build makes the segments.
func (g *guestBuilder) build() error {
	if err := makeDir(g.path); err != nil {
		return wrapSpace("make the lane's directory", err)
	}
	m := g.meta()
	g.pos, g.more = g.j.first, true
	for g.more {
		b, ok, err := g.peek()
		if err != nil {
			return err
		}
		if ok && b.first > g.pos && b.end-g.pos > maxSegmentRecords { // a loss longer than a segment may be lies before it
			if err := g.one(m, func(func(found, error) bool) {}); err != nil {
				return err
			}
			g.pos = b.first
		}
		if err := g.one(m, g.segment(m)); err != nil {
			return err
		}
	}
	if g.pos < g.j.in.Next { // and one at the end
		g.pos = g.j.in.Next
		if err := g.one(m, func(func(found, error) bool) {}); err != nil {
			return err
		}
	}
	if g.j.out.Jumped > 0 {
		return g.dropOld()
	}
	return nil
}

// one makes one segment that begins at pos, and moves pos behind it.
func (g *guestBuilder) one(m *meta, blocks blockSeq) error {
	m.first, m.next = g.pos, g.pos
	s, err := fillSegment(g.path, m, blocks)
	if err != nil {
		return err
	}
	if err := s.install(g.path); err != nil {
		return wrapSpace("put the segment in place", err)
	}
	g.pos = m.next
	return nil
}

// meta returns the state of the lane that every new segment carries: the
// cursors there are, moved over what is left out when all of them are at its
// beginning.
func (g *guestBuilder) meta() *meta {
	j := g.j
	m := &meta{origin: j.in.Gateway, cursors: map[string]position{}}
	gen, _ := hex.DecodeString(j.in.Generation)
	copy(m.generation[:], gen)
	if j.old != nil && j.old.meta != nil {
		was := *j.old.meta // with what else it says
		was.origin, was.generation, was.cursors, was.thinned = m.origin, m.generation, m.cursors, 0
		*m = was
		m.journal = slices.Clone(j.old.Losses)
		for name, p := range j.old.cursors() {
			if j.out.Jumped > 0 {
				d := j.in.First - p.next
				p.next, p.from = p.next+d, p.from+d
			}
			m.cursors[name] = p
		}
	}
	for _, l := range j.in.Losses {
		if l.Last >= j.first {
			l.First = max(l.First, j.first)
			m.journal = addLoss(m.journal, l.loss())
		}
	}
	return m
}

// segment yields the blocks of the next segment. At the end of the lane its
// next seq is set.
func (g *guestBuilder) segment(m *meta) blockSeq {
	return func(yield func(found, error) bool) {
		for size := 0; ; {
			b, ok, err := g.peek()
			if err != nil {
				yield(found{}, err)
				return
			}
			if !ok {
				if g.more = false; g.j.in.Next-m.first <= maxSegmentRecords {
					m.next = max(m.next, g.j.in.Next)
				}
				return
			}
			if size > guestSegmentBytes || size > 0 && b.end-m.first > maxSegmentRecords {
				return
			}
			g.blocks = g.blocks[1:]
			if b.end <= m.first { // was there before
				continue
			}
			size += len(b.block)
			if !yield(b, nil) {
				return
			}
		}
	}
}

// peek returns the next block of the lane.
func (g *guestBuilder) peek() (b found, ok bool, err error) {
	for len(g.blocks) == 0 {
		p, ok, err := g.pull()
		if err != nil {
			return b, false, err
		}
		if !ok {
			if g.parts != len(g.j.in.Parts) {
				return b, false, fmt.Errorf("%w: it changed while it was read", ErrArchive)
			}
			return b, false, nil
		}
		if g.parts >= len(g.j.in.Parts) || p.part.SHA256 != g.j.in.Parts[g.parts].SHA256 {
			return b, false, fmt.Errorf("%w: it changed while it was read", ErrArchive)
		}
		g.parts++
		for b, err := range partBlocks(newCoder(None), p.body) {
			if err != nil {
				return b, false, err
			}
			g.blocks = append(g.blocks, b)
		}
	}
	return g.blocks[0], true, nil
}

// dropOld deletes the segments before a jump: every cursor has released them,
// and a sink that is added later must not find a hole behind them.
func (g *guestBuilder) dropOld() error {
	for _, s := range g.j.old.Segments {
		if s.Aside || s.First >= g.j.in.First {
			continue
		}
		if err := os.Remove(s.Path); err != nil && !isGone(err) {
			return fmt.Errorf("delete what was delivered: %w", err)
		}
	}
	return syncDir(g.path)
}
