package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// ErrNoQueue says that a directory holds no queue.
var ErrNoQueue = errors.New("no queue in this directory")

// ExamineOptions say how closely to look.
type ExamineOptions struct {
	Keys []Key // to read sealed blocks; without them they are counted and checked, not read
}

// Queue is what a directory holds, as far as its files tell. It is read
// without a lock and without writing anything, also while a gateway has the
// queue open: it is then the state of one moment in each lane.
type Queue struct {
	Dir        string
	Generation string     // "" when no lane tells it
	InUse      bool       // a process has the queue open
	PID        int        // of that process; 0 = not known, or none
	Bytes      int64      // of all files
	Reserve    int64      // of the reserve file
	Letters    ShelfState // the dead letters
	Lanes      []LaneState

	coder *coder
}

// ShelfState is what the file of dead letters holds.
type ShelfState struct {
	Count int
	Bytes int64
	Err   error // why it cannot be read
}

// LaneState is one lane. Whether it is configured the files do not tell.
type LaneState struct {
	Name        string // without the generation of a guest
	Dir         string // name of its directory
	Guest       bool   // taken over from another queue
	Generation  string // of the queue that gave its seqs
	Origin      string // who a guest's queue belonged to
	First, Next uint64 // oldest seq that is stored, and that of the next record
	Oldest      time.Time
	Bytes       int64
	Segments    []SegmentState // ascending; those set aside among them
	Cursors     []CursorState  // by name
	Losses      []Loss         // the journal
	Err         error          // why the newest segment does not tell the state of the lane
	Damaged     []string       // values of its state that failed their checksum

	scope scope
	path  string
	meta  *meta // of the newest segment that can be read
}

// SegmentState is one file of a lane.
type SegmentState struct {
	Path        string
	Bytes       int64
	First, Next uint64    // First is that of the name; Next is where the next one begins
	From, To    time.Time // when its first and last block were committed
	Aside       bool      // set aside as damaged: *.seg.bad
	Newest      bool
	Err         error // why it cannot be read; ErrNewerFormat among them
	Torn        bool  // one of its two meta pages is not valid
}

// CursorState is a reader's place in a lane, as the disk has it.
type CursorState struct {
	Name string
	CursorStats
}

// Examine reads the state of a queue. What cannot be read is noted where it
// belongs; an error says that there is no queue to look at.
func Examine(dir string, o ExamineOptions) (*Queue, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case isGone(err):
		return nil, fmt.Errorf("examine queue %s: %w: there is no such directory; it is buffer.dir of the configuration", dir, ErrNoQueue)
	case err != nil:
		return nil, fmt.Errorf("examine queue: %w", explainDir(dir, err))
	}
	q := &Queue{Dir: dir, coder: readingCoder(o.Keys)}
	marked := false
	for _, e := range entries {
		marked = marked || e.Name() == lockName
		if _, _, ok := parseLaneDir(e.Name()); ok && e.IsDir() && holdsSegments(dir, e.Name()) {
			ln, err := q.examineLane(e.Name())
			if err != nil {
				return nil, fmt.Errorf("examine queue: %w", explainDir(dir, err))
			}
			q.Lanes = append(q.Lanes, *ln)
		}
	}
	if len(q.Lanes) == 0 && !marked {
		return nil, fmt.Errorf("examine queue %s: %w: give the one that has the lanes (alarm, telemetry, …) in it", dir, ErrNoQueue)
	}
	for i := range q.Lanes {
		ln := &q.Lanes[i]
		q.Bytes += ln.Bytes
		if !ln.Guest && q.Generation == "" && ln.meta != nil && ln.meta.generation != (Generation{}) {
			q.Generation = ln.meta.generation.String()
		}
	}
	for i := range q.Lanes {
		q.own(&q.Lanes[i])
	}
	if st, err := os.Stat(filepath.Join(dir, reserveName)); err == nil {
		q.Reserve = st.Size()
	}
	q.Letters = examineShelf(filepath.Join(dir, shelfName))
	q.Bytes += q.Reserve + q.Letters.Bytes
	q.InUse, q.PID = lockOwner(dir)
	return q, nil
}

// readingCoder returns a coder that decodes with any of keys.
func readingCoder(keys []Key) *coder { return newCoder(None, keys...) }

// own fills in the generation of a lane of this queue.
func (q *Queue) own(ln *LaneState) {
	if !ln.Guest {
		ln.Generation = q.Generation
		for _, other := range q.Lanes {
			if !other.Guest && other.meta != nil && other.meta.generation.String() == q.Generation {
				ln.scope.generation = other.meta.generation
			}
		}
	}
}

// examineLane reads the state of a lane. Segments that go away meanwhile were
// delivered: the lane is then listed again.
func (q *Queue) examineLane(dir string) (*LaneState, error) {
	for try := 0; ; try++ {
		name, g, _ := parseLaneDir(dir)
		ln := &LaneState{Name: name, Dir: dir, Guest: g != Generation{}, path: filepath.Join(q.Dir, dir), scope: scope{generation: g, lane: name}}
		if ln.Guest {
			ln.Generation = g.String()
		}
		entries, err := os.ReadDir(ln.path)
		if err != nil {
			return nil, err
		}
		ln.list(entries)
		gone := false
		for i := range ln.Segments {
			s := &ln.Segments[i]
			q.examineSegment(ln, s)
			gone = gone || isGone(s.Err)
		}
		if gone && try < maxRereads {
			continue
		}
		ln.Segments = slices.DeleteFunc(ln.Segments, func(s SegmentState) bool { return isGone(s.Err) })
		q.summarize(ln)
		return ln, nil
	}
}

// list notes the files of a lane.
func (ln *LaneState) list(entries []fs.DirEntry) {
	newest := -1
	for _, e := range entries {
		first, bad, ok := parseSegmentName(e.Name())
		if !ok {
			continue
		}
		s := SegmentState{Path: filepath.Join(ln.path, e.Name()), First: first, Aside: bad}
		if st, err := e.Info(); err == nil {
			s.Bytes = st.Size()
		}
		ln.Bytes += s.Bytes
		ln.Segments = append(ln.Segments, s)
	}
	slices.SortStableFunc(ln.Segments, func(a, b SegmentState) int { return cmp.Compare(a.First, b.First) })
	end := uint64(0)
	for i, s := range slices.Backward(ln.Segments) {
		ln.Segments[i].Next = end
		if !s.Aside {
			if newest < 0 {
				newest = i
			}
			end = s.First
		}
	}
	if newest >= 0 {
		ln.Segments[newest].Newest = true
	}
}

// examineSegment reads the state of a segment, its first and its last block.
// The state of the lane is that of the newest segment that can be read.
func (q *Queue) examineSegment(ln *LaneState, s *SegmentState) {
	if s.Newest {
		s.Next = strideAfter(s.First) // unless it says
	}
	r, err := openBlocks(q.coder, s.Path, s.First, 0)
	if err != nil {
		s.Err = err
		return
	}
	defer r.close()
	s.Torn, s.Err = isTorn(r.f), r.metaE
	if r.m != nil && r.m.first != 0 && r.m.first != s.First && !s.Aside {
		s.Err = fmt.Errorf("%w: it is the segment of seq %d", errDamaged, r.m.first)
	}
	if r.m == nil || s.Aside {
		return
	}
	if s.Newest || ln.meta == nil || ln.meta.first <= s.First {
		ln.meta = r.m
	}
	if s.Newest {
		s.Next = plausibleNext(s.First, r.m.next)
		r.end = s.Next
	} else {
		r.end = max(s.Next, s.First)
	}
	s.times(r)
}

// isTorn reports whether a meta page is not valid, and not just being written.
func isTorn(f io.ReaderAt) bool {
	last := uint64(0)
	for range maxRereads {
		t, err := newestTree(f)
		if err != nil || t.torn && t.txid == last {
			return true
		}
		if !t.torn {
			return false
		}
		last = t.txid
	}
	return false
}

// plausibleNext is the seq at which a lane goes on whose newest segment begins
// at first and says next.
func plausibleNext(first, next uint64) uint64 {
	if next < first || next > strideAfter(first) {
		return strideAfter(first)
	}
	return next
}

// committed returns when the first and the last seq of a block were committed.
func committed(block []byte) (from, to time.Time) {
	first, last, _ := blockTimes(block)
	return fromMilli(first), fromMilli(last)
}

// times reads when the first and the last block were committed.
func (s *SegmentState) times(r *blockReader) {
	if b, ok := r.next(); ok && b.err == nil {
		s.From, s.To = committed(b.block)
	} else if !ok {
		return
	}
	for {
		k, err := lastKey(r.t)
		if first, _, ok := splitKey(k); err == nil && ok && first < r.end {
			r.pos, r.tries = first, 0
			r.place()
			if b, ok := r.next(); ok && b.err == nil {
				_, s.To = committed(b.block)
			}
			return
		}
		if !r.newer() {
			return
		}
	}
}

// lastKey returns the last key of the blocks.
func lastKey(t *pageTree) ([]byte, error) {
	w, err := t.bucket(bucketBlocks)
	if err != nil {
		return nil, err
	}
	if err := w.seek(nil, true); err != nil {
		return nil, err
	}
	k, _, err := w.next()
	return k, err
}

// summarize draws the state of a lane from its segments.
func (q *Queue) summarize(ln *LaneState) {
	if ln.meta != nil {
		ln.Origin, ln.Losses, ln.Damaged = ln.meta.origin, ln.meta.journal, ln.meta.damaged
	}
	for _, s := range ln.Segments {
		ln.Next = max(ln.Next, s.Next)
		if s.Newest && s.Err != nil {
			ln.Err = s.Err
			ln.Next = max(ln.Next, strideAfter(s.First))
		}
	}
	ln.First = ln.Next
	low := noCursor
	if ln.meta != nil {
		low = lowest(ln.meta.cursors)
	}
	if low == noCursor {
		low = 0
	}
	q.oldest(ln, low)
	for _, name := range slices.Sorted(maps.Keys(ln.cursors())) {
		p := ln.meta.cursors[name]
		hole := ln.First - min(ln.First, p.next)
		ln.Cursors = append(ln.Cursors, CursorState{name, CursorStats{From: p.from, End: ln.Next, Next: p.next, Sent: p.sent,
			Dead: p.dead, Lost: p.lost + hole, Waiting: ln.Next - min(ln.Next, max(p.next, ln.First)), Filtered: p.filtered}})
	}
}

func (ln *LaneState) cursors() map[string]position {
	if ln.meta == nil {
		return nil
	}
	return ln.meta.cursors
}

// oldest finds the first seq that is stored, and when the record at low or
// after it was committed.
func (q *Queue) oldest(ln *LaneState, low uint64) {
	have := false
	for _, s := range ln.Segments {
		if s.Aside || s.Err != nil || have && (s.Next <= low || low >= ln.Next) {
			continue
		}
		r, err := openBlocks(q.coder, s.Path, s.First, s.Next)
		if err != nil {
			continue
		}
		for b, ok := r.next(); ok && !have; b, ok = r.next() {
			if b.err == nil {
				ln.First, have = b.first, true
			}
		}
		r.pos = max(low, s.First)
		r.place()
		for b, ok := r.next(); ok && low < ln.Next && ln.Oldest.IsZero(); b, ok = r.next() {
			if b.err == nil {
				ln.Oldest, _ = committed(b.block)
			}
		}
		r.close()
		if have && (!ln.Oldest.IsZero() || low >= ln.Next) {
			return
		}
	}
}

// String names the kind of a segment's state.
func (s *SegmentState) String() string {
	switch {
	case s.Aside:
		return "set aside"
	case errors.Is(s.Err, ErrNewerFormat):
		return "newer format"
	case s.Err != nil:
		return "damaged"
	case s.Torn:
		return "one meta page damaged"
	}
	return "ok"
}
