package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// lane is one ordered log of records: a directory of segments.
type lane struct {
	name string
	dir  string

	mu          sync.RWMutex        // guards what follows, down to quarantined
	segs        []*segment          // ascending first; the last one may be the active one
	first       uint64              // oldest seq that can be read; next when there is none
	next        uint64              // seq of the next record
	journal     []Loss              // what can no longer be read, newest last
	lossy       bool                // journal differs from what is on disk
	onDisk      map[string]position // cursors as the newest segment has them; replaced, never changed
	retire      bool                // a reader found the active segment damaged
	quarantined int64               // segments set aside in this run

	recentMu sync.Mutex // guards recent; taken after mu
	recent   []*segment // old segments opened by readers, used last at the end

	active *segment // the committer's: the segment being written; nil until the first append of this run
}

// firstSeq is the seq of the first record of a new queue. It is 1, so that 0
// can mean "none".
const firstSeq = 1

// maxSegmentRecords bounds the seqs of a segment. After a newest segment that
// cannot be read, the lane goes on so many seqs later, so that none is ever
// given twice.
const maxSegmentRecords = 1 << 20

// openLane reads the state of a lane. It writes nothing but the names of
// segments that it must set aside, and needs no space.
func (l *Log) openLane(name string) (*lane, error) {
	ln := &lane{name: name, dir: filepath.Join(l.o.Dir, name), first: firstSeq, next: firstSeq, onDisk: map[string]position{}}
	if err := os.MkdirAll(ln.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		if _, statErr := os.Stat(ln.dir); statErr == nil || classify(err) == nil {
			return nil, fmt.Errorf("open queue %s: %w", ln.dir, err)
		}
		return ln, nil // a full or read-only disk: an empty lane, made at the first append
	}
	entries, err := os.ReadDir(ln.dir)
	if err != nil {
		return nil, fmt.Errorf("open queue %s: %w", ln.dir, err)
	}
	var lastBad uint64
	for _, e := range entries {
		first, bad, ok := parseSegmentName(e.Name())
		if bad {
			lastBad = max(lastBad, first)
		}
		if !ok || bad {
			continue
		}
		s := &segment{path: filepath.Join(ln.dir, e.Name()), first: first, bytes: l.o.SegmentBytes}
		s.updateSize()
		ln.segs = append(ln.segs, s)
	}
	sort.Slice(ln.segs, func(i, j int) bool { return ln.segs[i].first < ln.segs[j].first })
	if err := l.recoverLane(ln); err != nil {
		return nil, err
	}
	if lastBad >= ln.next { // what it held is not known: never give those seqs again
		ln.next = strideAfter(lastBad)
		if len(ln.segs) == 0 {
			ln.first = ln.next
		}
	}
	return ln, nil
}

// strideAfter is where a lane goes on after a newest segment beginning at
// first that cannot be read.
func strideAfter(first uint64) uint64 { return first + maxSegmentRecords }

// recoverLane finds the cursors and the next seq in the newest readable segment.
func (l *Log) recoverLane(ln *lane) error {
	for i := len(ln.segs) - 1; i >= 0; i-- {
		s := ln.segs[i]
		newest := i == len(ln.segs)-1
		err := s.view(func(tx *bolt.Tx) error { return l.adopt(ln, tx, newest) })
		if err == nil {
			break
		}
		if errors.Is(err, ErrNewerFormat) || errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("open queue: %s: %w", s.path, err)
		}
		end := strideAfter(s.first)
		if !newest {
			end = ln.segs[i+1].first
		} else {
			ln.next = max(ln.next, end)
		}
		l.setAside(ln, s, end, err)
	}
	if len(ln.segs) == 0 {
		ln.first = ln.next
		return nil
	}
	ln.first = ln.segs[0].first
	if err := ln.segs[0].view(func(tx *bolt.Tx) error {
		k, _ := tx.Bucket([]byte(bucketBlocks)).Cursor().First()
		if first, _, ok := splitKey(k); ok {
			ln.first = first
		}
		return nil
	}); err != nil {
		l.o.Log.Warn("read first block", "segment", ln.segs[0].path, "error", err)
	}
	return nil
}

// adopt takes the state of a lane from a segment.
func (l *Log) adopt(ln *lane, tx *bolt.Tx, newest bool) error {
	m, err := readMeta(tx)
	if err != nil {
		return err
	}
	end, ok, err := lastEnd(tx)
	if err != nil {
		return err
	}
	if !ok {
		end = m.first
	}
	if newest || ln.next < end {
		ln.next = max(ln.next, end)
	}
	ln.onDisk, ln.journal = m.cursors, append(m.journal, ln.journal...)
	if l.generation == (Generation{}) {
		l.generation = m.generation
	}
	return nil
}

// setAside renames a segment that cannot be read, takes it out of the lane and
// notes the loss of its records up to end-1. ln.mu is held, or the lane is not
// in use yet.
func (l *Log) setAside(ln *lane, s *segment, end uint64, cause error) {
	_ = s.close()
	bad := s.path + ".bad"
	if err := os.Rename(s.path, bad); err != nil {
		l.o.Log.Error("set damaged segment aside", "segment", s.path, "error", err)
	}
	ln.segs = slices.DeleteFunc(ln.segs, func(x *segment) bool { return x == s })
	ln.quarantined++
	l.o.Log.Error("queue segment cannot be read and is set aside; the rest goes on",
		"segment", bad, "lane", ln.name, "first_seq", s.first, "error", cause)
	if end > s.first {
		ln.journal = addLoss(ln.journal, Loss{First: s.first, Last: end - 1, Reason: ReasonQuarantined})
		ln.lossy = true
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

// losses returns a copy of the journal and whether it must be written.
func (ln *lane) losses() ([]Loss, bool) {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	return slices.Clone(ln.journal), ln.lossy
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
	return n
}
