package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// RepairOptions say what Repair may do.
type RepairOptions struct {
	Keys     []Key
	DryRun   bool // change nothing, take no lock
	Discard  bool // delete damaged originals instead of keeping them
	Deep     bool // look for missing blocks in pages that are no longer referred to
	Progress func(done, total int64)
}

// SeqRange is a run of seqs, both included.
type SeqRange struct{ First, Last uint64 }

// RepairAction is what was done to one file, or with DryRun would be.
type RepairAction struct {
	Lane    string // directory
	File    string
	Done    string // "rebuilt", "brought back", "removed" or "nothing to do"
	Why     string
	Kept    string     // where the damaged original is
	Blocks  int        // in the segment now
	Back    []SeqRange // seqs that the queue did not show before
	Missing []SeqRange // seqs that nothing holds
}

// RepairReport is what Repair did.
type RepairReport struct{ Actions []RepairAction }

// Repair rebuilds damaged segments of a queue that no process has open from
// what can still be read, brings back what segments set aside still hold and
// no cursor has passed, and removes what interrupted writes left. It works on
// copies: a segment is replaced in one step by one that is complete. It fails
// with ErrInUse when the queue is open, and with ErrNewerFormat, nothing
// touched, when any part of it is of a newer version.
func Repair(dir string, o RepairOptions) (*RepairReport, error) {
	q, unlock, err := holdQueue(dir, o.Keys, o.DryRun)
	if err != nil {
		return nil, fmt.Errorf("repair: %w", err)
	}
	defer unlock()
	x := &repairer{q: q, o: o, rep: &RepairReport{}}
	for _, ln := range q.Lanes {
		for _, s := range ln.Segments {
			x.total += s.Bytes
		}
	}
	var jobs []*repairJob
	for i := range q.Lanes {
		more, err := x.plan(&q.Lanes[i])
		if err != nil {
			return nil, fmt.Errorf("repair: %w", err)
		}
		jobs = append(jobs, more...)
	}
	for _, j := range jobs {
		if err := x.apply(j); err != nil {
			return x.rep, fmt.Errorf("repair %s: %w", j.path, err)
		}
	}
	if err := x.leftovers(); err != nil {
		return x.rep, fmt.Errorf("repair: %w", err)
	}
	return x.rep, nil
}

// holdQueue examines a queue that nobody else may have open, and holds its
// lock until unlock, or with peek takes none.
func holdQueue(dir string, keys []Key, peek bool) (q *Queue, unlock func(), err error) {
	if q, err = Examine(dir, ExamineOptions{Keys: keys}); err != nil || peek {
		return q, func() {}, err
	}
	lock, err := lockDir(dir)
	if err == nil && lock == nil {
		err = fmt.Errorf("%s: %w", dir, ErrReadOnly)
	}
	if err != nil {
		return nil, nil, err
	}
	if q, err = Examine(dir, ExamineOptions{Keys: keys}); err != nil {
		_ = lock.Close()
		return nil, nil, err
	}
	return q, func() { _ = lock.Close() }, nil
}

type repairer struct {
	q           *Queue
	o           RepairOptions
	rep         *RepairReport
	done, total int64
}

func (x *repairer) progress(n int64) {
	x.done += n
	if x.o.Progress != nil {
		x.o.Progress(min(x.done, x.total), x.total)
	}
}

// repairJob is the files of one first seq: at most one in use, and those set aside.
type repairJob struct {
	ln     *LaneState
	path   string // of the one in use
	first  uint64
	end    uint64 // where the next segment begins
	live   *SegmentState
	aside  []*SegmentState
	newest bool
	low    uint64 // below it every cursor has passed

	m       *meta      // of the rebuilt segment
	why     string     // what is wrong with live
	blocks  int        // whole ones in live
	holes   []SeqRange // of live
	fill    []found    // blocks from elsewhere that lie in them
	missing []SeqRange
}

// plan lists what a lane needs. Nothing is changed.
func (x *repairer) plan(ln *LaneState) (jobs []*repairJob, err error) {
	byFirst := map[uint64]*repairJob{}
	for i := range ln.Segments {
		s := &ln.Segments[i]
		j := byFirst[s.First]
		if j == nil {
			j = &repairJob{ln: ln, first: s.First, path: segmentPath(ln.path, s.First)}
			byFirst[s.First] = j
			jobs = append(jobs, j)
		}
		if s.Aside {
			j.aside = append(j.aside, s)
		} else {
			j.live = s
		}
	}
	slices.SortFunc(jobs, func(a, b *repairJob) int { return cmp.Compare(a.first, b.first) })
	low := uint64(0)
	if c := ln.cursors(); len(c) > 0 {
		low = lowest(c)
	}
	for i := range slices.Backward(jobs) {
		j := jobs[i]
		j.low, j.newest = low, true
		for _, later := range jobs[i+1:] {
			if later.live != nil || later.m != nil {
				j.newest, j.end = false, later.first
				break
			}
		}
		if err := x.read(j); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(jobs, func(j *repairJob) bool { return j.why == "" && len(j.aside) == 0 && len(j.fill) == 0 }), nil
}

// read finds out what the files of a job hold, and decides the meta of the
// segment that is to be made of them: nil when none is.
func (x *repairer) read(j *repairJob) error {
	j.holes, j.fill, j.missing, j.blocks, j.why = nil, nil, nil, 0, ""
	m, err := x.state(j)
	if err != nil {
		return err
	}
	if j.live != nil {
		if err := x.readLive(j); err != nil {
			return err
		}
	} else {
		j.holes = []SeqRange{{j.first, j.end - 1}}
	}
	if err := x.findFill(j); err != nil {
		return err
	}
	j.missing = minus(j.holes, j.fill, max(j.low, j.first))
	if j.why != "" || len(j.fill) > 0 {
		j.m = m
	}
	return nil
}

// state returns the meta for a rebuilt segment and sets where it ends.
func (x *repairer) state(j *repairJob) (*meta, error) {
	m := &meta{first: j.first, origin: j.ln.Origin, generation: j.ln.scope.generation, cursors: map[string]position{}}
	torn := false
	from := j.live
	if from == nil {
		from = j.aside[0]
	}
	var damaged []string
	if r, err := openBlocks(x.q.coder, from.Path, from.First, 0); err == nil {
		torn = isTorn(r.f)
		if errors.Is(r.metaE, ErrNewerFormat) {
			r.close()
			return nil, fmt.Errorf("%s: %w: %s", from.Path, r.metaE, remedyNewer)
		}
		if r.m != nil {
			was := *m
			*m, damaged = *r.m, r.m.damaged
			if m.first = j.first; was.generation != (Generation{}) {
				m.generation = was.generation
			}
			if m.origin == "" {
				m.origin = was.origin
			}
		}
		r.close()
	} else if isGone(err) {
		return nil, err
	}
	next := m.next
	m.next = plausibleNext(j.first, m.next)
	if torn && next != 0 { // the commit before the last one may be showing
		m.next = min(m.next+maxCommitRecords, strideAfter(j.first))
	}
	if j.newest {
		j.end = m.next
		x.olderCursors(j, m, next == 0 || len(damaged) > 0)
	}
	return m, nil
}

// olderCursors gives a newest segment whose cursors are damaged those of the
// segment before: they are older, which repeats records and loses none.
func (x *repairer) olderCursors(j *repairJob, m *meta, damaged bool) {
	if !damaged {
		return
	}
	for _, s := range slices.Backward(j.ln.Segments) {
		if s.Aside || s.First >= j.first {
			continue
		}
		r, err := openBlocks(x.q.coder, s.Path, s.First, 0)
		if err != nil {
			continue
		}
		defer r.close()
		if r.m == nil {
			continue
		}
		for name, p := range r.m.cursors {
			if _, ok := m.cursors[name]; !ok {
				m.cursors[name] = p
			}
		}
		if m.journal == nil {
			m.journal = r.m.journal
		}
		return
	}
}

// readLive notes what is whole in the segment in use and what is wrong with it.
func (x *repairer) readLive(j *repairJob) error {
	s := j.live
	if s.Err != nil {
		j.why = s.Err.Error()
	} else if s.Torn {
		j.why = "one of two meta pages is not valid"
	} else if s.Newest && len(j.ln.Damaged) > 0 {
		j.why = "damaged: " + strings.Join(j.ln.Damaged, ", ")
	}
	r, err := openBlocks(x.q.coder, s.Path, j.first, j.end)
	if err != nil {
		j.why, j.holes = err.Error(), []SeqRange{{j.first, j.end - 1}}
		return nil
	}
	defer r.close()
	for b, ok := r.next(); ok; b, ok = r.next() {
		switch {
		case errors.Is(b.err, ErrNewerFormat):
			return fmt.Errorf("%s: %w: %s", s.Path, b.err, remedyNewer)
		case b.err != nil:
			j.holes = append(j.holes, SeqRange{b.first, b.end - 1})
			if !errors.Is(b.err, errMissing) {
				j.why = b.err.Error()
			}
		default:
			j.blocks++
		}
	}
	x.progress(r.t.read)
	return nil
}

// findFill takes the blocks of the files set aside, and with Deep those of
// pages no longer referred to, that lie in the holes and that some cursor has
// not passed.
func (x *repairer) findFill(j *repairJob) error {
	if len(j.holes) == 0 {
		return nil
	}
	take := func(b found) {
		in := func(h SeqRange) bool { return h.First <= b.first && b.end-1 <= h.Last }
		if b.end > j.low && slices.ContainsFunc(j.holes, in) && !slices.ContainsFunc(j.fill, func(o found) bool { return o.first < b.end && b.first < o.end }) {
			b.block = slices.Clone(b.block)
			j.fill = append(j.fill, b)
		}
	}
	for _, s := range j.aside {
		r, err := openBlocks(x.q.coder, s.Path, j.first, j.end)
		if err != nil {
			continue // of a damaged file nothing is expected
		}
		for b, ok := r.next(); ok; b, ok = r.next() {
			if b.err == nil {
				take(b)
			}
		}
		x.progress(r.t.read)
		r.close()
	}
	if x.o.Deep {
		for _, s := range append(slices.Clip(j.aside), j.live) {
			if s == nil {
				continue
			}
			blocks, err := deepScan(x.q.coder, s.Path)
			if err != nil {
				return err
			}
			for _, b := range blocks {
				take(b)
			}
		}
	}
	slices.SortFunc(j.fill, func(a, b found) int { return cmp.Compare(a.first, b.first) })
	return nil
}

// minus returns what of holes, from low on, no block of fill holds.
func minus(holes []SeqRange, fill []found, low uint64) (out []SeqRange) {
	for _, h := range holes {
		at := max(h.First, low)
		for _, b := range fill {
			if b.first > h.Last || b.end <= at {
				continue
			}
			if b.first > at {
				out = append(out, SeqRange{at, b.first - 1})
			}
			at = b.end
		}
		if at <= h.Last {
			out = append(out, SeqRange{at, h.Last})
		}
	}
	return out
}

// leftovers removes what interrupted writes left.
func (x *repairer) leftovers() error {
	entries, err := os.ReadDir(x.q.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, _, ok := parseLaneDir(e.Name()); !ok || !e.IsDir() {
			continue
		}
		for _, tmp := range leftovers(filepath.Join(x.q.Dir, e.Name())) {
			if !x.o.DryRun {
				if err := os.Remove(tmp); err != nil {
					return wrapSpace("remove what an interrupted write left", err)
				}
			}
			x.rep.Actions = append(x.rep.Actions, RepairAction{Lane: e.Name(), File: tmp, Done: "removed", Why: "left over from a write that was interrupted"})
		}
	}
	return nil
}
