package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
)

const (
	// maxThinned is how often a segment is thinned.
	maxThinned = 6
	// thinStep is how many bytes of blocks a transaction of a rewrite stores.
	thinStep = 1 << 20
	// thinPause is for how many rounds nothing is thinned after it failed for
	// another reason than the segment itself.
	thinPause = 1024
)

// Why a rewrite gave nothing.
var (
	errAbandoned = errors.New("rewrite was abandoned")
	errNoGain    = errors.New("rewrite frees less than a quarter of the segment")
)

// rewriting is the state of thinning. There is one rewrite at a time.
type rewriting struct {
	run   *rewrite     // the committer's: under way, or done and not taken
	pause int          // the committer's: rounds until the next may begin
	bytes atomic.Int64 // size of the file being written
}

// rewrite thins one segment beside the committer, which starts it and takes
// its result once done is closed.
type rewrite struct {
	l     *Log
	lanes []*lane // to choose from
	room  int64   // largest size of the new file, set aside in the budget
	coder *coder  // of its own: encoding is for one goroutine
	stop  atomic.Bool
	done  chan struct{}

	ln        *lane // of what follows, set before done is closed
	s         *segment
	end       uint64 // seq at which the segment after s begins
	level     uint32
	made      *segment // closed, under the name of a rewrite; nil when there is none
	had, kept int      // records
	err       error
}

// thinMark returns the bytes above which segments are thinned, so that a
// rewrite fits beside what is stored and appended meanwhile.
func (l *Log) thinMark(b *budget) int64 {
	return min(l.highWater(b), b.max-2*l.o.SegmentBytes-l.need(b, 1))
}

// closing reports whether Close was called.
func (l *Log) closing() bool {
	select {
	case <-l.quit:
		return true
	default:
		return false
	}
}

// candidates calls fn for each segment of a lane that may be thinned, oldest
// first: not the newest, and none that was delivered.
func (l *Log) candidates(ln *lane, fn func(s *segment, end uint64)) {
	below := uint64(0)
	if num := l.numberOf(ln); l.retains() {
		below = l.delivered(num)
	}
	ln.mu.RLock()
	segs := slices.Clone(ln.segs)
	ln.mu.RUnlock()
	for i := 0; i+1 < len(segs); i++ {
		if end := segs[i+1].first; end > below && segs[i].brief.thinnable() {
			fn(segs[i], end)
		}
	}
}

// thinnable reports whether, as far as it is known, a rewrite may give something.
func (b *brief) thinnable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.unfit && b.level < maxThinned
}

// spent notes that another rewrite gives nothing.
func (b *brief) spent() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unfit = true
}

// startThin begins to thin a segment of b's lanes, deleting what goes before
// anything unsent when the new file needs the room. It reports whether a
// rewrite is under way.
func (l *Log) startThin(b *budget) bool {
	if l.thin.run != nil {
		return true
	}
	if l.thin.pause > 0 {
		l.thin.pause--
		return false
	}
	largest := int64(0)
	for _, ln := range b.lanes {
		l.candidates(ln, func(s *segment, _ uint64) { largest = max(largest, s.size.Load()) })
	}
	if largest == 0 {
		return false
	}
	room := largest - largest/4
	for _, x := range []*budget{b, l.budgets[0]} {
		for l.total(x)+room > x.max {
			if l.dropBad(x.lanes) == 0 && l.dropRetained(x.lanes) == 0 {
				return false
			}
		}
	}
	own := *l.coder
	own.enc = nil
	l.thin.run = &rewrite{l: l, lanes: b.lanes, room: room, coder: &own, done: make(chan struct{})}
	go l.thin.run.work()
	return true
}

// work does the rewrite on a goroutine of its own.
func (r *rewrite) work() {
	defer r.l.nudge()
	defer close(r.done)
	defer func() {
		if p := recover(); p != nil { // in the Thinner: bbolt is guarded
			r.err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	if r.choose(); r.s != nil {
		r.err = r.build()
	}
}

// choose picks the segment that was thinned least often, among these the oldest.
func (r *rewrite) choose() {
	var when int64
	for _, ln := range slices.Backward(r.lanes) {
		first := true // in its lane, of its level
		var of uint32
		r.l.candidates(ln, func(s *segment, end uint64) {
			if r.stop.Load() {
				return
			}
			_, to, level := s.about()
			if !s.brief.thinnable() || !first && level >= of {
				return
			}
			first, of = false, level
			if r.s == nil || level < r.level || level == r.level && ln != r.ln && to != 0 && when != 0 && to < when {
				r.ln, r.s, r.end, r.level, when = ln, s, end, level, to
			}
		})
	}
}

// build asks a Thinner which records stay and writes them to a new file.
func (r *rewrite) build() error {
	thinner := r.l.o.Thin()
	n := 0
	if err := r.blocks(func(b *block) error {
		for rest := b.raw; len(rest) > 0; n++ {
			var rec []byte
			rec, rest, _ = nextFramed(rest)
			thinner.Observe(n, rec)
		}
		return nil
	}); err != nil {
		return err
	}
	keep := thinner.Keep()
	if len(keep) != n {
		return fmt.Errorf("thin: answer for %d records of %d", len(keep), n)
	}
	w, err := r.newThinWriter()
	if err == nil {
		i := 0
		err = r.blocks(func(b *block) error {
			stay := keep[i : i+b.count]
			i += b.count
			return w.add(b, stay)
		})
		err = errors.Join(err, w.finish(err == nil))
	}
	if err != nil {
		r.dropFile()
		return err
	}
	from, to, _ := r.s.about()
	w.s.brief.know(from, to, r.level+1)
	r.had, r.kept, r.made = n, w.kept, w.s
	return nil
}

// dropFile deletes the file of the rewrite.
func (r *rewrite) dropFile() {
	_ = os.Remove(filepath.Join(r.ln.dir, thinName))
	r.l.thin.bytes.Store(0)
}

// blocks calls fn for every block of the segment, decoded, in order and cut at
// the end of the segment. One block is in memory at a time.
func (r *rewrite) blocks(fn func(b *block) error) error {
	var ch Chunk
	of := r.l.scopeOf(r.ln)
	for pos := r.s.first; pos < r.end; {
		if r.stop.Load() {
			return errAbandoned
		}
		ch.reset(Limit{Records: 1, Bytes: 1})
		found, err := r.l.gather(r.s, pos, r.end, &ch)
		if err != nil {
			return err
		}
		if found > pos { // a hole stays one
			pos = found
			continue
		}
		p := ch.places[0]
		var b block
		if ch.raw, b, err = r.l.coder.decode(ch.raw, ch.stored[p.from:p.to], of); err != nil {
			return err
		}
		if b.first != pos || b.end() <= pos {
			return fmt.Errorf("%w: block %d at %d", errDamaged, b.first, pos)
		}
		b.cut(r.end)
		pos = b.end()
		if err := fn(&b); err != nil {
			return err
		}
	}
	return nil
}

// cut shortens a block to the seqs below end.
func (b *block) cut(end uint64) {
	if b.end() <= end {
		return
	}
	b.span = end - b.first
	n, rest := 0, b.raw
	for len(rest) > 0 && b.seq(n) < end {
		_, rest, _ = nextFramed(rest)
		n++
	}
	b.raw, b.count = b.raw[:len(b.raw)-len(rest)], n
	if b.seqs != nil {
		b.seqs = b.seqs[:n]
	}
}

// seq returns the seq of record i.
func (b *block) seq(i int) uint64 {
	if b.seqs != nil {
		return b.seqs[i]
	}
	return b.first + uint64(i)
}
