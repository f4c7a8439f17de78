package buffer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ScanOptions select what Scan shows.
type ScanOptions struct {
	Lane   string    // directory of a lane; "" = all, in the order of their names
	From   uint64    // seqs from here on
	To     uint64    // up to here, included; 0 = to the end
	Since  time.Time // blocks committed at or after
	Until  time.Time // and before
	read   func(n int64)
	bounds map[string][2]uint64 // per directory, instead of From and To+1
}

// Run is what a scan finds next in a lane: a stored block, or with Err seqs
// that no block holds or that cannot be read.
type Run struct {
	Lane        string // directory
	Segment     string // path
	First, Next uint64 // seqs it speaks for, as far as they were asked for
	Err         error
	Reason      string // with Err: what the journal says, or ReasonDamaged, or ReasonUnknown

	When    time.Time // of the commit
	Records int       // in the whole block
	Raw     int       // bytes of it, expanded
	Stored  []byte    // the block as it is stored; valid until the next run
	Codec   string
	Sparse  bool
	Sealed  bool

	lane *LaneState
	k    *coder
	raw  *[]byte
}

// Each calls fn with the records of the run. An error before the first call
// says why the block cannot be expanded.
func (r *Run) Each(fn func(seq uint64, rec []byte) error) error {
	if r.Err != nil {
		return nil
	}
	out, b, err := r.k.decode((*r.raw)[:0], r.Stored, r.lane.scope)
	*r.raw = out
	if err != nil {
		return err
	}
	seq := b.first
	for i, rest := 0, b.raw; len(rest) > 0; i++ {
		var rec []byte
		rec, rest, _ = nextFramed(rest)
		if b.seqs != nil {
			seq = b.seqs[i]
		}
		if seq >= r.Next {
			return nil
		}
		if seq >= r.First {
			if err := fn(seq, rec); err != nil {
				return err
			}
		}
		seq++
	}
	return nil
}

// Scan shows what the queue holds, lane by lane in the order of the seqs, up
// to where each lane ended when it was examined. It needs no lock, writes
// nothing and holds one block in memory. Segments that a running gateway
// deletes meanwhile were delivered and are passed over. An error of fn ends
// it; damage does not.
func (q *Queue) Scan(o ScanOptions, fn func(*Run) error) error {
	any := false
	for i := range q.Lanes {
		if ln := &q.Lanes[i]; o.Lane == "" || o.Lane == ln.Dir {
			any = true
			if err := q.scanLane(ln, o, fn); err != nil {
				return err
			}
		}
	}
	if !any && o.Lane != "" {
		return fmt.Errorf("scan queue %s: no lane %q", q.Dir, o.Lane)
	}
	return nil
}

func (q *Queue) scanLane(ln *LaneState, o ScanOptions, fn func(*Run) error) error {
	from, to := o.From, noCursor
	if o.To > 0 {
		to = o.To + 1
	}
	if b, ok := o.bounds[ln.Dir]; ok {
		from, to = b[0], b[1]
	}
	pos, raw := from, []byte(nil)
	for i := range ln.Segments {
		s := &ln.Segments[i]
		if s.Aside || s.Next <= from || s.First >= to {
			continue
		}
		r := laneRun{q: q, ln: ln, s: s, o: o, fn: fn, raw: &raw}
		next := min(s.Next, to)
		if err := r.segment(max(pos, s.First), next); err != nil {
			return err
		}
		pos = next
	}
	return nil
}

// laneRun reads one segment of a scan.
type laneRun struct {
	q   *Queue
	ln  *LaneState
	s   *SegmentState
	o   ScanOptions
	fn  func(*Run) error
	raw *[]byte
}

func (x *laneRun) segment(pos, end uint64) error {
	r, err := openBlocks(x.q.coder, x.s.Path, pos, end)
	switch {
	case isGone(err):
		return nil
	case err != nil:
		return x.hole(pos, end, err)
	}
	defer r.close()
	if c := x.ln.cursors(); len(c) > 0 {
		r.low = lowest(c)
	}
	if r.m == nil && errors.Is(r.metaE, ErrNewerFormat) {
		return x.hole(pos, end, r.metaE)
	}
	seen := int64(0)
	for {
		b, ok := r.next()
		if x.o.read != nil {
			x.o.read(r.t.read - seen)
			seen = r.t.read
		}
		if !ok {
			return nil
		}
		if b.err != nil {
			err = x.hole(b.first, b.end, b.err)
		} else {
			err = x.block(b)
		}
		if err != nil {
			return err
		}
	}
}

// hole shows seqs that cannot be read, by what the journal says of them.
func (x *laneRun) hole(first, end uint64, cause error) error {
	for first < end {
		loss := findLoss(x.ln.Losses, first, end-1)
		if loss.Reason == ReasonUnknown && !errors.Is(cause, errMissing) {
			loss.Reason = ReasonDamaged
		}
		run := &Run{Lane: x.ln.Dir, Segment: x.s.Path, First: first, Next: loss.Last + 1, Err: cause, Reason: loss.Reason, lane: x.ln}
		if err := x.fn(run); err != nil {
			return err
		}
		first = loss.Last + 1
	}
	return nil
}

// block shows a block.
func (x *laneRun) block(b found) error {
	h, err := parseHeader(b.block)
	if err != nil {
		return x.hole(b.first, b.end, err)
	}
	when := fromMilli(h.when)
	if !x.o.Since.IsZero() && when.Before(x.o.Since) || !x.o.Until.IsZero() && !when.Before(x.o.Until) {
		return nil
	}
	return x.fn(&Run{Lane: x.ln.Dir, Segment: x.s.Path, First: b.first, Next: b.end, When: when, Records: h.count, Raw: h.rawLen,
		Stored: b.block, Codec: codecName(h.codec), Sparse: h.flags&flagSparse != 0, Sealed: h.flags&flagSealed != 0,
		lane: x.ln, k: x.q.coder, raw: x.raw})
}

func codecName(c byte) string {
	switch c {
	case codecZstd:
		return string(Zstd)
	case codecS2:
		return string(S2)
	}
	return string(None)
}

// KeyID returns the id of the key that the block is encrypted with, in
// hexadecimal; "" when it is not.
func (r *Run) KeyID() string {
	h, err := parseHeader(r.Stored)
	if err != nil || h.flags&flagSealed == 0 || sealedHeader < 8 {
		return ""
	}
	at := h.body - sealedHeader
	return hex.EncodeToString(r.Stored[at : at+8])
}
