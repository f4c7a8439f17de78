package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// lane is one ordered log of records: a directory of segments.
type lane struct {
	name    string // of its directory
	label   string // name without the generation of a guest
	dir     string
	o       LaneOptions
	guest   Generation // of the queue a guest comes from; zero for a lane of this queue
	origin  string     // who that queue belonged to
	retired bool       // not configured: only delivered
	mark    []byte     // see mark; of the newest segment, then under the current key
	sealed  uint64     // seq from which on every block must be sealed; 0 = none must

	mu          sync.RWMutex        // guards what follows, down to quarantined
	segs        []*segment          // ascending first; the last one may be the active one
	first       uint64              // oldest seq that can be read; next when there is none
	next        uint64              // seq of the next record
	journal     []Loss              // what can no longer be read, newest last
	begin       uint64              // where a cursor that is not on disk begins when cursors were lost with a segment; else 0
	stale       bool                // the journal or the cursors on disk are behind journal and onDisk
	onDisk      map[string]position // cursors as last written; replaced, never changed
	head        uint64              // below it lie only delivered segments kept for replay: a new cursor begins there; 0 = not known
	quarantined int64               // segments set aside in this run
	bad         []badFile           // segments set aside, oldest first

	recentMu sync.Mutex // guards recent; taken after mu
	recent   []*segment // old segments opened by readers, used last at the end

	waited waited // when the oldest record that a cursor waits for was committed

	own     *budget  // the lane's own; nil when it has none
	lacks   int64    // the committer's: bytes of the last commit of records that was tried
	running bool     // the lane is open: the committer knows more than the disk
	active  *segment // the committer's: the segment being written; nil until the first append of this run
}

// badFile is a segment that was set aside, kept until its space is needed.
type badFile struct {
	path  string
	first uint64
	size  int64
}

// firstSeq is the seq of the first record of a new queue. It is 1, so that 0
// can mean "none".
const firstSeq = 1

// maxCommitRecords is how many records of a lane a commit adds at most: a full
// round and one more batch.
const maxCommitRecords = 2 * batchRecords

// maxSegmentRecords bounds the seqs of a segment. After a newest segment that
// cannot be read, the lane goes on so many seqs later, so that none is ever
// given twice.
const maxSegmentRecords = 1 << 20

// openLane reads the state of a lane. It writes nothing but the names of
// segments that it must set aside, and needs no space.
func (l *Log) openLane(name string) (*lane, error) {
	ln := &lane{name: name, label: name, dir: filepath.Join(l.o.Dir, name), first: firstSeq, next: firstSeq, onDisk: map[string]position{}}
	ln.label, ln.guest, _ = parseLaneDir(name)
	if err := makeDir(ln.dir); err != nil {
		if _, statErr := os.Stat(ln.dir); statErr == nil || classify(err) == nil {
			return nil, fmt.Errorf("open queue %s: %w", ln.dir, err)
		}
		return ln, nil // a full or read-only disk: an empty lane, made at the first append
	}
	entries, err := os.ReadDir(ln.dir)
	if err != nil {
		return nil, fmt.Errorf("open queue %s: %w", ln.dir, err)
	}
	for _, e := range entries {
		first, bad, ok := parseSegmentName(e.Name())
		if e.Name() == thinName { // a rewrite that a crash ended
			_ = os.Remove(filepath.Join(ln.dir, thinName))
		}
		if !ok {
			continue
		}
		s := &segment{path: filepath.Join(ln.dir, e.Name()), first: first, bytes: l.o.SegmentBytes}
		s.updateSize()
		if bad {
			ln.bad = append(ln.bad, badFile{path: s.path, first: first, size: s.size.Load()})
			continue
		}
		ln.segs = append(ln.segs, s)
	}
	// ReadDir sorts by name, and names sort by first seq.
	if err := l.recoverLane(ln); err != nil {
		for _, s := range ln.segs {
			s.end(ErrClosed)
		}
		return nil, err
	}
	ln.running = true
	return ln, nil
}

// strideAfter is where a lane goes on after a newest segment beginning at
// first whose end cannot be read.
func strideAfter(first uint64) uint64 { return first + maxSegmentRecords }

// recoverLane finds the cursors and the next seq in the newest readable segment.
func (l *Log) recoverLane(ln *lane) error {
	var oldest uint64 // of what is set aside
	for len(ln.segs) > 0 {
		s := ln.segs[len(ln.segs)-1]
		err := s.view(func(tx *bolt.Tx) error { return l.adopt(ln, s, tx) })
		if err == nil {
			break
		}
		if !isDamage(err) {
			return fmt.Errorf("open queue: %s: %w", s.path, err)
		}
		end := strideAfter(s.first)
		if oldest != 0 { // a newer one was set aside before
			end = oldest
		}
		l.setAside(ln, s, end, err)
		if n := len(ln.segs); n > 0 && ln.segs[n-1].first == s.first {
			continue // rebuilt: read it
		}
		ln.next, oldest = max(ln.next, end), s.first
		if len(ln.segs) == 0 {
			ln.first = ln.next
		}
	}
	if n := len(ln.bad); n > 0 && ln.bad[n-1].first >= ln.next { // set aside in an earlier run, and nothing written since
		last := ln.bad[n-1].first
		ln.next, oldest, ln.stale = strideAfter(last), last, true
		ln.journal = addLoss(ln.journal, Loss{First: last, Last: ln.next - 1, Reason: ReasonQuarantined})
	}
	if len(ln.segs) == 0 {
		ln.first, ln.begin = ln.next, oldest
		return nil
	}
	ln.first = ln.segs[0].first
	if err := ln.segs[0].view(func(tx *bolt.Tx) error {
		k, v := tx.Bucket([]byte(bucketBlocks)).Cursor().First()
		first, _, ok := splitKey(k)
		_, end := ln.segmentFor(ln.first)
		// A key that was damaged is believed only with the block's header; reading
		// finds what is wrong. A guest may hold some that are not taken over.
		if h, err := parseHeader(v); ok && err == nil && h.first == first && first <= end {
			ln.first = max(ln.first, first)
		}
		return nil
	}); err != nil {
		l.o.Log.Warn("read first block", "segment", ln.segs[0].path, "error", err)
	}
	return nil
}

// adopt takes the state of a lane from its newest readable segment.
func (l *Log) adopt(ln *lane, s *segment, tx *bolt.Tx) error {
	m, err := readMeta(tx)
	if err != nil {
		return err
	}
	if m.first != 0 && m.first != s.first {
		return fmt.Errorf("%w: segment of seq %d", errDamaged, m.first)
	}
	if err := l.coder.checkLast(tx); err != nil { // a newer version wrote it
		return err
	}
	end, torn := m.next, hasTornMeta(s.path)
	switch {
	case end < s.first || end > strideAfter(s.first):
		end = strideAfter(s.first)
	case torn: // bbolt may show the commit before the last one
		end = min(end+maxCommitRecords, strideAfter(s.first))
	}
	if torn {
		m.damaged = append(m.damaged, "one of two meta pages")
	}
	if len(m.damaged) > 0 {
		l.o.Log.Error("state of the queue is damaged in part: a cursor named here begins again at the oldest record",
			"segment", s.path, "damaged", m.damaged)
		ln.stale = true
	}
	ln.next = max(ln.next, end)
	ln.onDisk, ln.journal, ln.origin, ln.mark = m.cursors, append(m.journal, ln.journal...), m.origin, m.mark
	ln.head = m.delivered
	if l.generation == (Generation{}) && !strings.Contains(ln.name, guestMark) {
		l.generation = m.generation
	}
	return nil
}

// setAside rebuilds a segment that cannot be read from what is left of it, or
// else renames it, takes it out of the lane and notes the loss of its records
// up to end-1. It runs on the committer, or
// while the lane is opened.
func (l *Log) setAside(ln *lane, s *segment, end uint64, cause error) {
	newest := len(ln.segs) > 0 && ln.segs[len(ln.segs)-1] == s
	if !s.rebuilt {
		_ = s.close()
		err := l.rebuild(ln, s, newest)
		if err == nil {
			return
		}
		cause = errors.Join(cause, err)
	}
	s.end(errMoved)
	bad := s.path + ".bad"
	if err := os.Rename(s.path, bad); err != nil {
		l.o.Log.Error("set damaged segment aside", "segment", s.path, "error", err)
	}
	l.o.Log.Error("queue segment cannot be read and is set aside; the rest goes on",
		"segment", bad, "lane", ln.name, "first_seq", s.first, "error", cause)
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.stale = ln.stale || newest // the cursors went with it
	ln.segs = slices.DeleteFunc(ln.segs, func(x *segment) bool { return x == s })
	ln.bad = append(ln.bad, badFile{path: bad, first: s.first, size: s.size.Load()})
	slices.SortFunc(ln.bad, func(a, b badFile) int { return cmp.Compare(a.first, b.first) })
	ln.quarantined++
	switch {
	case len(ln.segs) == 0:
		ln.first = ln.next
	case ln.segs[0].first > ln.first:
		ln.first = ln.segs[0].first
	}
	if end > s.first {
		ln.journal = addLoss(ln.journal, Loss{First: s.first, Last: end - 1, Reason: ReasonQuarantined})
		ln.stale = true
	}
}

// segmentFor returns the segment that may hold seq, and the seq at which the
// next segment begins (the lane's next for the last one). ln.mu is held.
func (ln *lane) segmentFor(seq uint64) (*segment, uint64) {
	i := sort.Search(len(ln.segs), func(i int) bool { return ln.segs[i].first > seq }) - 1
	if i < 0 {
		return nil, ln.next
	}
	if i+1 < len(ln.segs) {
		return ln.segs[i], ln.segs[i+1].first
	}
	return ln.segs[i], ln.next
}

// touch remembers that an old segment is open for reading and closes the one
// used longest ago, so that the maps of at most two are held. The active
// segment is not to be touched.
func (ln *lane) touch(s *segment) {
	ln.recentMu.Lock()
	defer ln.recentMu.Unlock()
	if slices.Contains(ln.recent, s) {
		return
	}
	ln.recent = append(ln.recent, s)
	if len(ln.recent) > 2 {
		_ = ln.recent[0].close()
		ln.recent = append(ln.recent[:0], ln.recent[1:]...)
	}
}

// losses returns a copy of the journal.
func (ln *lane) losses() []Loss {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	return slices.Clone(ln.journal)
}

// segments returns how many segments the lane has.
func (ln *lane) segments() int {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	return len(ln.segs)
}

// bytes returns the size of the lane's files.
func (ln *lane) bytes() (n int64) {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	for _, s := range ln.segs {
		n += s.size.Load()
	}
	return n + ln.badBytes()
}

// badBytes returns the size of the segments set aside. ln.mu is held.
func (ln *lane) badBytes() (n int64) {
	for _, b := range ln.bad {
		n += b.size
	}
	return n
}
