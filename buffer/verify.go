package buffer

import (
	"errors"
	"time"
)

// Damage is a run of seqs, or a part of the queue, that is not as it was written.
type Damage struct {
	Lane, Segment string // directory of the lane, path of the file; "" = not of one
	First, Last   uint64 // seqs; 0 = none in particular
	Reason        string
	Remedy        string
}

// Report is what Verify found.
type Report struct {
	Lanes   []LaneReport
	Damage  []Damage
	Notes   []Damage // what may be tidied up; nothing is wrong
	Bytes   int64    // read
	Blocks  int64
	Records int64
	Sealed  int64 // blocks that are encrypted
	Locked  int64 // of them those that no key was given for: only their checksums were read
}

// LaneReport sums a lane up.
type LaneReport struct {
	Lane            string
	First, Next     uint64
	Segments        int
	Blocks, Records int64
	Stored, Raw     int64 // bytes
	Sealed, Sparse  int64 // blocks
	Losses          []Loss
}

// VerifyOptions say how to verify.
type VerifyOptions struct {
	Keys     []Key
	Progress func(done, total int64) // bytes; may be nil
}

// The remedies.
const (
	remedyRepair = "waystation queue repair brings back what can still be read; the reader reports the rest upstream as a loss"
	remedyNewer  = "use the version of waystation that wrote it, or a newer one"
	remedyKey    = "give the right key with --key"
	remedyLook   = "waystation queue repair --deep looks for them in pages that are no longer used; the reader reports what stays missing upstream as a loss"
	remedyKept   = "delete it when it is not needed for an inquiry"
	remedyAside  = "waystation queue repair brings back what can still be read of it; delete it when it is not needed"
	remedyStart  = "the gateway removes it when it needs the name, waystation queue repair at once"
)

// Verify reads every block of every segment: checksums, order, holes, and
// what the blocks expand to. It reads only, needs no lock, and never ends at
// damage: an error says that there is nothing to verify.
func Verify(dir string, o VerifyOptions) (*Report, error) {
	q, err := Examine(dir, ExamineOptions{Keys: o.Keys})
	if err != nil {
		return nil, err
	}
	v := &verifier{q: q, o: o, rep: &Report{}}
	for _, ln := range q.Lanes {
		for _, s := range ln.Segments {
			if !s.Aside {
				v.total += s.Bytes
			}
		}
	}
	v.rep.Damage, v.rep.Notes = q.Troubles()
	for i := range q.Lanes {
		v.lane(&q.Lanes[i])
	}
	if o.Progress != nil {
		o.Progress(v.total, v.total)
	}
	return v.rep, nil
}

type verifier struct {
	q     *Queue
	o     VerifyOptions
	rep   *Report
	at    *LaneReport
	total int64
}

func (v *verifier) found(d Damage) { v.rep.Damage = append(v.rep.Damage, d) }

// lane verifies one lane.
func (v *verifier) lane(ln *LaneState) {
	v.rep.Lanes = append(v.rep.Lanes, LaneReport{Lane: ln.Dir, First: ln.First, Next: ln.Next, Losses: ln.Losses})
	v.at = &v.rep.Lanes[len(v.rep.Lanes)-1]
	v.at.Segments = len(ln.Segments)
	o := ScanOptions{Lane: ln.Dir, read: func(n int64) {
		v.rep.Bytes += n
		if v.o.Progress != nil {
			v.o.Progress(min(v.rep.Bytes, v.total), v.total)
		}
	}}
	_ = v.q.Scan(o, func(r *Run) error { v.run(ln, r); return nil })
}

// run verifies one block, or notes a hole.
func (v *verifier) run(ln *LaneState, r *Run) {
	if r.Err != nil {
		d := Damage{Lane: ln.Dir, Segment: r.Segment, First: r.First, Last: r.Next - 1, Reason: r.Err.Error(), Remedy: remedyRepair}
		switch {
		case errors.Is(r.Err, ErrNewerFormat):
			d.Remedy = remedyNewer
		case r.Reason != ReasonDamaged && r.Reason != ReasonUnknown:
			return // noted in the journal: LaneReport.Losses
		case errors.Is(r.Err, errMissing):
			d.Remedy = remedyLook
		}
		v.found(d)
		return
	}
	v.rep.Blocks++
	v.at.Blocks++
	v.at.Stored, v.at.Raw = v.at.Stored+int64(len(r.Stored)), v.at.Raw+int64(r.Raw)
	if r.Sparse {
		v.at.Sparse++
	}
	if r.Sealed {
		v.rep.Sealed++
		v.at.Sealed++
	}
	n := int64(0)
	err := r.Each(func(uint64, []byte) error { n++; return nil })
	switch {
	case errors.Is(err, ErrNoKey):
		v.rep.Locked++
		n = int64(r.Records)
	case err != nil:
		remedy := remedyRepair
		if r.Sealed {
			remedy = remedyKey
		}
		v.found(Damage{Lane: ln.Dir, Segment: r.Segment, First: r.First, Last: r.Next - 1, Reason: err.Error(), Remedy: remedy})
		return
	}
	v.rep.Records += n
	v.at.Records += n
}

// Span returns when the oldest and the newest block of a lane were committed.
func (ln *LaneState) Span() (from, to time.Time) {
	for _, s := range ln.Segments {
		if !s.Aside && !s.From.IsZero() {
			if from.IsZero() {
				from = s.From
			}
			to = s.To
		}
	}
	return from, to
}
