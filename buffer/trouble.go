package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Troubles says what is wrong with a queue as far as Examine looked, and what
// may be tidied up though nothing is wrong.
func (q *Queue) Troubles() (damage, notes []Damage) {
	for i := range q.Lanes {
		ln := &q.Lanes[i]
		if len(ln.Damaged) > 0 {
			damage = append(damage, Damage{Lane: ln.Dir, Reason: fmt.Sprintf("state of the lane: %q fail their checksums", ln.Damaged),
				Remedy: "none is needed: a cursor named here begins again at the oldest record, which repeats records and loses none"})
		}
		for i := range ln.Segments {
			d := Damage{Lane: ln.Dir, Segment: ln.Segments[i].Path}
			wrong := false
			if d.Reason, d.Remedy, wrong = ln.trouble(&ln.Segments[i]); wrong {
				damage = append(damage, d)
			} else if d.Reason != "" {
				notes = append(notes, d)
			}
		}
		for _, tmp := range leftovers(ln.path) {
			if !q.InUse {
				notes = append(notes, Damage{Lane: ln.Dir, Segment: tmp, Reason: "left over from a write that was interrupted; nothing is missing", Remedy: remedyStart})
			}
		}
	}
	if q.Letters.Err != nil {
		damage = append(damage, Damage{Reason: q.Letters.Err.Error(), Remedy: "the gateway sets the file aside when it starts, and begins a new one"})
	}
	return damage, notes
}

// leftovers lists what interrupted writes left in a lane's directory.
func leftovers(dir string) (out []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") && e.Type().IsRegular() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

// trouble says what is to be said of a segment, and whether it is wrong.
func (ln *LaneState) trouble(s *SegmentState) (reason, remedy string, wrong bool) {
	switch {
	case s.Aside && slices.ContainsFunc(ln.Segments, func(o SegmentState) bool { return !o.Aside && o.First == s.First }):
		return "the damaged original of a segment that was rebuilt", remedyKept, false
	case s.Aside:
		return "set aside as damaged before", remedyAside, true
	case errors.Is(s.Err, ErrNewerFormat):
		return s.Err.Error(), remedyNewer, true
	case s.Err != nil:
		return "state of the segment: " + s.Err.Error(), remedyRepair, true
	case s.Torn:
		return "one of two meta pages is not valid: the last commit may be missing", remedyRepair, true
	}
	return "", "", false
}
