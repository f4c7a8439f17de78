package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// takeThinned puts a segment that was thinned in its place, when there is one.
// It runs on the committer.
func (l *Log) takeThinned() {
	r := l.thin.run
	if r == nil {
		return
	}
	select {
	case <-r.done:
	default:
		return
	}
	l.thin.run = nil
	defer l.thin.bytes.Store(0)
	if r.made != nil {
		r.err = l.swap(r)
	}
	switch {
	case r.s == nil, errors.Is(r.err, errAbandoned), errors.Is(r.err, errMoved), errors.Is(r.err, os.ErrNotExist):
	case r.err == nil:
		l.counts.thinned.Add(int64(r.had - r.kept))
		l.o.Log.Warn("queue is short of room: a segment was thinned", "lane", r.ln.name,
			"first_seq", r.s.first, "last_seq", r.end-1, "kept", r.kept, "of", r.had, "times", r.level+1)
	case errors.Is(r.err, errNoGain):
		r.s.brief.spent()
	case classify(r.err) == nil && isDamage(r.err) || errors.Is(r.err, ErrNoKey) || errors.Is(r.err, ErrNewerFormat):
		r.s.brief.spent()
		l.o.Log.Warn("a segment cannot be thinned", "segment", r.s.path, "error", r.err)
	default:
		l.thin.pause = thinPause
		l.o.Log.Warn("thin a segment", "segment", r.s.path, "error", r.err)
	}
}

// swap renames the new file over the segment's and puts it into the lane's
// list, unless the segment has gone or grown meanwhile.
func (l *Log) swap(r *rewrite) error {
	ln, s := r.ln, r.s
	tmp := filepath.Join(ln.dir, thinName)
	ln.mu.RLock()
	i := slices.Index(ln.segs, s)
	same := i >= 0 && i+1 < len(ln.segs) && ln.segs[i+1].first == r.end
	ln.mu.RUnlock()
	err := errMoved
	if same {
		err = l.inject("thin", s.path)
	}
	if err == nil {
		err = os.Rename(tmp, s.path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("install thinned segment: %w", err)
	}
	if err := syncDir(ln.dir); err != nil { // a power cut may show the old file again: it holds more
		l.o.Log.Warn("sync lane directory", "lane", ln.name, "error", err)
	}
	r.made.updateSize()
	ln.mu.Lock()
	ln.segs[i] = r.made
	ln.mu.Unlock()
	s.end(errMoved) // a reader in the middle of it goes on in the new one
	return nil
}

// awaitThin waits for the rewrite that is under way, or gives it up when the
// queue is being closed, and takes its result.
func (l *Log) awaitThin() {
	_ = l.inject("await", l.o.Dir)
	select {
	case <-l.thin.run.done:
	case <-l.quit:
		l.thin.run.stop.Store(true)
		<-l.thin.run.done
	}
	l.takeThinned()
}

// abandonThin ends a rewrite when the queue is closed.
func (l *Log) abandonThin() {
	if r := l.thin.run; r != nil {
		r.stop.Store(true)
		<-r.done
		if r.made != nil {
			r.dropFile()
		}
		l.thin.run = nil
	}
}
