package buffer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// salvage is what a damaged segment still holds. It is read page by page,
// without bbolt, from what the newer valid meta page refers to: pages that a
// failed or a later commit left behind are not looked at, so that nothing
// comes back that was never acknowledged or was replaced.
type salvage struct {
	m      meta
	pieces map[string][][]byte // by key; a damaged one can be that of another
	firsts []uint64            // of the blocks, ascending
	blocks map[uint64][]byte   // whole ones whose checksum is right

	filtered map[string][]byte // what cursors filtered, as stored
}

// salvageSegment reads what is left of a damaged segment.
func (k *coder) salvageSegment(path string, first uint64) (*salvage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	t := tree{f: f, pages: uint64(st.Size()) / pageBytes, seen: map[uint64]bool{}}
	root, err := t.root()
	if err != nil {
		return nil, err
	}
	s := &salvage{filtered: map[string][]byte{}, m: meta{first: first, cursors: map[string]position{}}, pieces: map[string][][]byte{}, blocks: map[uint64][]byte{}}
	s.collect(&t, root, 0)
	for name, p := range s.m.cursors {
		s.m.cursors[name] = p.apart(s.filtered[name])
	}
	for key := range s.pieces {
		if at, piece, _ := splitKey([]byte(key)); piece == 0 && at >= first { // below lies what a misdirected write brought
			if b := deepBlock(k, at, s.pieces); b.block != nil {
				s.blocks[at] = b.block
				s.firsts = append(s.firsts, at)
			}
		}
	}
	slices.Sort(s.firsts)
	if len(s.firsts) == 0 {
		return nil, fmt.Errorf("%w: no whole block is left", errDamaged)
	}
	if hasTornMeta(path) && s.m.next != 0 {
		s.m.next += maxCommitRecords
	}
	if s.m.next < first || s.m.next > strideAfter(first) {
		s.m.next = strideAfter(first)
	}
	return s, nil
}

// collect takes what the pages below id hold, passing over what is not right.
func (s *salvage) collect(t *tree, id uint64, depth int) {
	if id < 2 || id >= t.pages || t.seen[id] || depth > maxDepth {
		return
	}
	t.seen[id] = true
	p, err := t.page(id)
	ne := binary.NativeEndian
	if err != nil || ne.Uint64(p) != id {
		return
	}
	switch count := int(ne.Uint16(p[10:])); ne.Uint16(p[8:]) {
	case pageBranch:
		for e := range min(count, (pageBytes-pageHeader)/elementSize) {
			s.collect(t, ne.Uint64(p[pageHeader+e*elementSize+8:]), depth+1)
		}
	case pageLeaf:
		s.leaf(t, p, depth)
	}
}

// leaf takes the items of a leaf page. A bucket is a page of its own, or lies
// inside the item: root page u64 (0), sequence u64, page.
func (s *salvage) leaf(t *tree, p []byte, depth int) {
	ne := binary.NativeEndian
	end := uint64(len(p))
	for e := range int(ne.Uint16(p[10:])) {
		at := pageHeader + e*elementSize
		if at+elementSize > len(p) {
			return
		}
		k := uint64(at) + uint64(ne.Uint32(p[at+4:]))
		v := k + uint64(ne.Uint32(p[at+8:]))
		to := v + uint64(ne.Uint32(p[at+12:]))
		if k > end || v > end || to > end {
			continue
		}
		switch key, value := string(p[k:v]), p[v:to]; {
		case ne.Uint32(p[at:]) == 0:
			s.item(key, value)
		case len(value) >= 16 && ne.Uint64(value) != 0:
			s.collect(t, ne.Uint64(value), depth+1)
		case len(value) >= 16+pageHeader && depth <= maxDepth:
			s.leaf(t, value[16:], depth+1)
		}
	}
}

// item takes a piece of a block, or a value of the meta bucket when its
// checksum is right.
func (s *salvage) item(key string, value []byte) {
	if len(key) == keyBytes && len(value) <= pieceBytes && !strings.HasPrefix(key, cursorPrefix) && !strings.HasPrefix(key, filterPrefix) && key != keyGeneration {
		if had := s.pieces[key]; len(had) < deepVersions {
			s.pieces[key] = append(had, value)
		}
		return
	}
	v, ok := unseal(value)
	if name, is := strings.CutPrefix(key, cursorPrefix); is {
		if p, ok := decodePosition(value); ok {
			s.m.cursors[name] = p
		}
		return
	}
	if name, is := strings.CutPrefix(key, filterPrefix); is {
		s.filtered[name] = value
		return
	}
	switch {
	case !ok:
	case key == keyGeneration && len(v) == len(s.m.generation):
		copy(s.m.generation[:], v)
	case key == keyOrigin:
		s.m.origin = string(v)
	case key == keySealed:
		s.m.mark = bytes.Clone(v)
	case key == keyNext && len(v) == 8:
		s.m.next = binary.BigEndian.Uint64(v)
	case key == keyThinned && len(v) == 4:
		s.m.thinned = binary.BigEndian.Uint32(v)
	case key == keyDelivered && len(v) == 8:
		s.m.delivered = binary.BigEndian.Uint64(v)
	case key == keyJournal:
		s.m.journal, _ = decodeJournal(v)
	}
}

// rebuild replaces a damaged segment by one with what is left of it; the
// damaged file is kept as .bad. Without the space for both nothing is done.
// It runs on the committer, or while the lane is opened.
func (l *Log) rebuild(ln *lane, s *segment, newest bool) error {
	found, err := l.coder.salvageSegment(s.path, s.first)
	if err != nil {
		return err
	}
	if own := l.generationOf(ln); found.m.generation == (Generation{}) || own != (Generation{}) {
		found.m.generation = own
	}
	if ln.running { // what is in memory is newer
		found.m.mark = ln.mark
		found.m.next = ln.next
		if newest {
			found.m.cursors, _ = l.cursorsOf(l.numberOf(ln))
			found.m.journal = ln.losses()
			found.m.delivered = ln.head
		}
	}
	if err := l.roomBeside(ln, s.size.Load()); err != nil {
		return err
	}
	made, err := buildSegment(ln.dir, l.o.SegmentBytes, &found.m, func(b *bolt.Bucket) error {
		for _, first := range found.firsts {
			if err := putPieces(b, first, found.blocks[first]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	_ = made.close()
	bad := s.path + ".bad"
	if err := os.Rename(s.path, bad); err != nil {
		_ = os.Remove(filepath.Join(ln.dir, newName))
		return err
	}
	if err := made.install(ln.dir); err != nil {
		return err
	}
	made.rebuilt = true
	ln.replace(s, made, badFile{path: bad, first: s.first, size: s.size.Load()})
	l.o.Log.Error("damaged queue segment rebuilt from what can be read; the damaged file is kept",
		"segment", s.path, "kept", bad, "lane", ln.name, "blocks", len(found.firsts))
	return nil
}

// replace puts a rebuilt segment in the place of s.
func (ln *lane) replace(s, made *segment, bad badFile) {
	s.end(errMoved)
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if i := slices.Index(ln.segs, s); i >= 0 {
		ln.segs[i] = made
	}
	ln.quarantined++
	ln.bad = append(ln.bad, bad)
	slices.SortFunc(ln.bad, func(a, b badFile) int { return strings.Compare(a.path, b.path) })
}

// roomBeside deletes segments set aside earlier until n bytes more fit the
// budget. A lane that is being opened is not among l.lanes.
func (l *Log) roomBeside(of *lane, n int64) error {
	for {
		total := l.reserve.Load()
		if !of.running {
			total += of.bytes()
		}
		for _, ln := range l.lanes {
			total += ln.bytes()
		}
		if total+n+l.roomSlack() <= l.o.MaxBytes {
			return nil
		}
		if l.dropBad(l.lanes) == 0 {
			return fmt.Errorf("rebuild a segment of %d bytes: %w: %w", n, errBudget, ErrFull)
		}
	}
}
