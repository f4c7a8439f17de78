package buffer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// LaneInfo describes one lane. Lanes that are not configured are retired: what
// they hold is delivered after all others and nothing can be appended.
type LaneInfo struct {
	Name       string
	Generation string // of the queue that gave its seqs; another one's for a guest
	Origin     string // who that queue belonged to; "" for the lanes of this one
	Retired    bool
}

// A guest is a retired lane that was imported from another queue. It keeps
// that queue's generation and seqs. Its directory is named <lane>@<generation>.
const guestMark = "@"

// maxGuests is how many lanes of other queues one queue takes over: each costs
// memory and a look at every commit.
const maxGuests = 64

// guestDir names the directory of a guest.
func guestDir(lane string, g Generation) string { return lane + guestMark + g.String() }

// parseLaneDir reads the name of a lane's directory. g is zero for a lane of
// this queue.
func parseLaneDir(dir string) (lane string, g Generation, ok bool) {
	lane, tail, guest := strings.Cut(dir, guestMark)
	if !laneName(lane) {
		return "", g, false
	}
	if !guest {
		return lane, g, true
	}
	b, err := hex.DecodeString(tail)
	if err != nil || len(b) != len(g) {
		return "", g, false
	}
	copy(g[:], b)
	return lane, g, g != Generation{}
}

// laneName reports whether s can be the name of a lane: 1 to 32 of a-z 0-9 _ -
func laneName(s string) bool {
	return len(s) > 0 && len(s) <= 32 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
}

// openRetired opens the lanes in the directory that are not configured.
func (l *Log) openRetired() error {
	entries, err := os.ReadDir(l.o.Dir)
	if err != nil {
		return fmt.Errorf("open queue %s: %w", l.o.Dir, err)
	}
	guests := 0
	for _, e := range entries {
		name, g, ok := parseLaneDir(e.Name())
		if !ok || !e.IsDir() || slices.ContainsFunc(l.o.Lanes, func(o LaneOptions) bool { return o.Name == e.Name() }) {
			continue
		}
		if !holdsSegments(l.o.Dir, e.Name()) {
			continue
		}
		if g != (Generation{}) {
			if guests++; guests > maxGuests {
				l.o.Log.Error("the queue holds too many lanes of other gateways: this one is left alone until one that is delivered is deleted",
					"lane", e.Name(), "most", maxGuests)
				continue
			}
		}
		ln, err := l.openLane(e.Name())
		if errors.Is(err, ErrNoKey) && g != (Generation{}) { // what was brought along does not stop this gateway
			l.o.Log.Error("a lane of another gateway waits for its key: give it among the old keys and restart; nothing of it is lost",
				"lane", e.Name(), "error", err)
			continue
		}
		if err != nil {
			return err
		}
		ln.label, ln.guest, ln.retired = name, g, true
		if len(ln.segs) > 0 && g != (Generation{}) && ln.begin == 0 {
			ln.begin = ln.segs[0].first // what was lost before the first record came with it, to be reported
		}
		l.lanes = append(l.lanes, ln)
		l.o.Log.Warn("the queue holds a lane that is not configured; it is delivered after the others",
			"lane", ln.label, "origin", ln.origin, "waiting_to_seq", ln.next-1)
	}
	return nil
}

// holdsSegments reports whether a directory has a file of the queue in it.
func holdsSegments(dir, name string) bool {
	entries, _ := os.ReadDir(dir + string(os.PathSeparator) + name)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { _, _, ok := parseSegmentName(e.Name()); return ok })
}

// Lanes describes the lanes by their numbers: the configured ones, then the
// retired ones.
func (l *Log) Lanes() []LaneInfo {
	out := make([]LaneInfo, len(l.lanes))
	for i, ln := range l.lanes {
		out[i] = LaneInfo{Name: ln.label, Generation: l.generationOf(ln).String(), Origin: ln.origin, Retired: ln.retired}
	}
	return out
}

// generationOf returns the generation of the queue that gave a lane its seqs.
func (l *Log) generationOf(ln *lane) Generation {
	if ln.guest != (Generation{}) {
		return ln.guest
	}
	return l.generation
}

// scopeOf returns what the blocks of a lane belong to.
func (l *Log) scopeOf(ln *lane) scope {
	return scope{generation: l.generationOf(ln), lane: ln.label, sealed: ln.sealed}
}
