package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// ErrGone says that the directory of the queue is not where it was opened: a
// stick was pulled out, a disk unmounted. Nothing is written to what is in its
// place; the queue goes on by itself when it is back.
var ErrGone = errors.New("queue directory is gone")

// fileID tells one file or directory from all others that exist now.
type fileID struct{ dev, ino uint64 }

// home is what the path of the queue led to when it was opened.
type home struct {
	dir  fileID
	lock fileID // of the lock file; zero where there is none
}

// findHome returns what is at the path now.
func findHome(dir string) (h home, err error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return h, err
	}
	h.dir = fileID{uint64(st.Dev), uint64(st.Ino)}
	switch err := syscall.Stat(filepath.Join(dir, lockName), &st); {
	case err == nil:
		h.lock = fileID{uint64(st.Dev), uint64(st.Ino)}
	case !errors.Is(err, syscall.ENOENT):
		return h, err
	}
	return h, nil
}

// goneError is ErrGone with the directory, the cause and what to do.
func (l *Log) goneError(cause error) error {
	return fmt.Errorf("%w: %s: %w: plug it in or mount it again; records are not acknowledged until it is back", ErrGone, l.o.Dir, cause)
}

var errOtherDir = errors.New("another directory is in its place")

// atHome returns nil when the path leads to the directory that the queue is
// open in, else an ErrGone. It is asked before anything is read by name, made
// or deleted, and after what failed.
func (l *Log) atHome() error {
	l.homeMu.Lock()
	h, gone := l.home, l.gone
	l.homeMu.Unlock()
	if gone != nil {
		return gone
	}
	now, err := findHome(l.o.Dir)
	if err == nil && now != h {
		err = errOtherDir
	}
	if err != nil {
		return l.goneError(err)
	}
	return nil
}

// setHome notes where the queue is, or why it is gone.
func (l *Log) setHome(h home, gone error) {
	l.homeMu.Lock()
	defer l.homeMu.Unlock()
	l.home, l.gone = h, gone
}

// stayHome returns nil when the queue can be written: the path leads to it, or
// to it again. It runs on the committer, before each round.
func (l *Log) stayHome() error {
	err := l.atHome()
	if err == nil {
		return nil
	}
	l.leave(err)
	if back := l.comeBack(); back != nil {
		err = l.goneError(back)
		l.leave(err)
		return err
	}
	return nil
}

// leave lets go of every file of a directory that is gone, so that its device
// can be unmounted and no read meets a page that is not there. The seqs and
// cursors in memory stay. It runs on the committer.
func (l *Log) leave(why error) {
	l.setHome(l.home, why)
	for _, ln := range l.lanes {
		ln.mu.RLock()
		segs := slices.Clone(ln.segs)
		ln.mu.RUnlock()
		for _, s := range segs {
			_ = s.close()
		}
		ln.active = nil
	}
}

// comeBack opens the lanes again when the path leads to this queue, be it in
// the directory as it was or in one mounted or copied anew.
func (l *Log) comeBack() error {
	now, err := findHome(l.o.Dir)
	if err != nil {
		return err
	}
	if err := l.sameQueue(now.dir == l.home.dir); err != nil {
		return err
	}
	if l.lock != nil {
		_ = l.lock.Close()
	}
	if l.lock, err = lockDir(l.o.Dir); err != nil {
		return err
	}
	if err := l.answers(); err != nil {
		return err
	}
	if now, err = findHome(l.o.Dir); err != nil {
		return err
	}
	fresh := make([]*lane, 0, len(l.lanes))
	for _, ln := range l.lanes {
		found, err := l.openLane(ln.name)
		if err != nil {
			for _, f := range fresh {
				f.endSegments(errMoved)
			}
			return err
		}
		fresh = append(fresh, found)
	}
	for i, ln := range l.lanes {
		ln.takeOver(fresh[i])
	}
	l.setHome(now, nil)
	l.findReserve()
	l.fail(nil)
	l.o.Log.Warn("queue directory is back; records that it held are delivered", "dir", l.o.Dir)
	l.arm()
	l.notifyAll()
	return nil
}

// sameQueue returns nil when the lanes at the path are those of this queue by
// their generation. Where there is nothing to tell by, it must be the very
// directory.
func (l *Log) sameQueue(sameDir bool) error {
	told := false
	for _, ln := range l.lanes {
		g, n := l.generationAt(ln)
		switch want := l.generationOf(ln); {
		case n == 0 && ln.segments() > 0:
			return fmt.Errorf("%w: it has no lane %s", errOtherDir, ln.name)
		case n == 0:
		case g == want:
			told = true
		case g != (Generation{}):
			return fmt.Errorf("another queue is in its place, of generation %s, not %s", g, want)
		case !sameDir:
			return fmt.Errorf("lane %s of what is in its place cannot be read", ln.name)
		}
	}
	if !told && !sameDir {
		return errOtherDir
	}
	return nil
}

// generationAt returns the generation of a lane's files as they are at the path
// now, zero when none of them tells, and how many there are.
func (l *Log) generationAt(ln *lane) (g Generation, n int) {
	entries, _ := os.ReadDir(ln.dir)
	for _, e := range slices.Backward(entries) {
		first, bad, ok := parseSegmentName(e.Name())
		if !ok {
			continue
		}
		n++
		if bad || g != (Generation{}) {
			continue
		}
		s := &segment{path: filepath.Join(ln.dir, e.Name()), first: first, bytes: l.o.SegmentBytes}
		_ = s.view(func(tx *bolt.Tx) error { // what is damaged, openLane deals with
			m, err := readMeta(tx)
			if err == nil {
				g = m.generation
			}
			return err
		})
		_ = s.close()
	}
	return g, n
}

// takeOver continues a lane with what was found of it. What is in memory is
// newer, but for a commit whose outcome nobody knew: that counts as queued.
func (ln *lane) takeOver(found *lane) {
	ln.endSegments(errMoved)
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.segs, ln.bad = found.segs, found.bad
	ln.next = max(ln.next, found.next)
	ln.first = max(ln.first, found.first)
	if len(ln.segs) == 0 {
		ln.first = ln.next
	}
	for _, x := range found.journal {
		if !slices.Contains(ln.journal, x) {
			ln.journal = addLoss(ln.journal, x)
		}
	}
	ln.quarantined += found.quarantined
	ln.stale = ln.stale || found.stale || len(ln.segs) > 0
	ln.recentMu.Lock()
	defer ln.recentMu.Unlock()
	ln.recent = nil
}

// endSegments closes the segments for good.
func (ln *lane) endSegments(why error) {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	for _, s := range ln.segs {
		s.end(why)
	}
}

// answers tells damage from a device that was pulled out and whose file system
// is still mounted: there the lock file cannot be written either. A disk that
// is full or read-only answers.
func (l *Log) answers() error {
	if l.lock == nil {
		return nil
	}
	err := l.inject("probe", l.lock.Name())
	if err == nil {
		_, err = l.lock.WriteAt(pidLine(), 0)
	}
	if err == nil {
		err = l.lock.Sync()
	}
	if classify(err) != nil || errors.Is(err, syscall.EBADF) { // the latter: opened on a read-only disk
		return nil
	}
	return err
}

// refuse answers the round that cannot be written.
func (l *Log) refuse(why error) error {
	l.c.results = l.c.results[:0]
	for range l.lanes {
		l.c.results = append(l.c.results, result{err: why})
	}
	return why
}
