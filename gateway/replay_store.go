package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// replayFile is the list of replays in the queue's directory.
const replayFile = "replays.json"

// replayVersion is the version of the list. A list of a newer one is left
// alone, and there are no replays then.
const replayVersion = 1

// maxReplayFile bounds what is read, bytes.
const maxReplayFile = 4 << 20

// replayStore is the list of replays, in memory and on disk. What is on disk
// may be behind by what was sent in replaySave: that is sent again after a crash.
type replayStore struct {
	path  string
	log   *slog.Logger
	clock *Clock

	mu    sync.Mutex // guards what follows, the replays and the file
	err   error      // why there can be no replays
	next  uint64     // id of the next one
	jobs  []*Replay  // oldest first
	saved time.Time
	dirty bool
	loud  bool                     // the last save failed, and that was logged
	wakes map[string]chan struct{} // by sink; capacity 1
}

// replayList is the list on disk.
type replayList struct {
	Version int       `json:"version"`
	Next    uint64    `json:"next"`
	Replays []*Replay `json:"replays"`
}

// openReplays reads the list in a directory. One that is damaged is set aside,
// and without one that cannot be opened there are no replays: they are worth
// less than a gateway that starts.
func openReplays(dir string, log *slog.Logger, clock *Clock) *replayStore {
	s := &replayStore{path: filepath.Join(dir, replayFile), log: log, clock: clock, next: 1, wakes: map[string]chan struct{}{}}
	list, err := readReplays(s.path)
	switch {
	case errors.Is(err, errNewerReplays), errors.As(err, new(*fs.PathError)):
		s.err = fmt.Errorf("there are no replays: %w", err)
		log.Error("there are no replays", "error", err)
	case err != nil:
		log.Error("the list of replays cannot be read; it is set aside and begun anew", "file", s.path, "error", err)
		if err := os.Rename(s.path, s.path+".bad"); err != nil {
			log.Error("set the list of replays aside", "error", err)
		}
	default:
		s.next, s.jobs = list.Next, list.Replays
	}
	return s
}

var errNewerReplays = errors.New("the list of replays was written by a newer version: use that version, or remove the file")

// readReplays reads and checks the list.
func readReplays(path string) (replayList, error) {
	list := replayList{Next: 1}
	if st, err := os.Stat(path); err == nil && st.Size() > maxReplayFile {
		return list, fmt.Errorf("%s: %d bytes are too many for a list of replays", path, st.Size())
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err != nil {
		return list, err
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return list, fmt.Errorf("%s: %w", path, err)
	}
	if list.Version > replayVersion {
		return list, fmt.Errorf("%s: %w", path, errNewerReplays)
	}
	seen := map[string]bool{}
	for _, r := range list.Replays {
		if r == nil {
			return list, fmt.Errorf("%s: an entry is empty", path)
		}
		n, err := strconv.ParseUint(r.ID, 10, 63)
		if err != nil || seen[r.ID] {
			return list, fmt.Errorf("%s: bad or double id %q", path, r.ID)
		}
		seen[r.ID] = true
		list.Next = max(list.Next, n+1)
	}
	return list, nil
}

// save writes the list. s.mu is held.
func (s *replayStore) save() error {
	text, err := json.MarshalIndent(replayList{replayVersion, s.next, s.jobs}, "", " ")
	if err == nil {
		err = writeFileSynced(s.path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the list of replays: %w", err)
	}
	s.saved, s.dirty = time.Now(), false
	return nil
}

// writeFileSynced replaces a file so that a crash leaves the old or the new one.
func writeFileSynced(path string, text []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// keep saves what has changed, if it is due or must be now. A disk that takes
// no writes is logged once: after a crash more is sent again. s.mu is held.
func (s *replayStore) keep(now bool) {
	s.dirty = true
	if !now && time.Since(s.saved) < replaySave {
		return
	}
	if err := s.save(); err != nil {
		if !s.loud {
			s.log.Warn("the progress of replays is not on disk; after a crash they begin where it was last", "error", err)
		}
		s.loud, s.saved = true, time.Now()
		return
	}
	s.loud = false
}

// close writes what is not on disk yet.
func (s *replayStore) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirty {
		s.keep(true)
	}
}

// add puts a replay at the end of the list, on disk, and returns its id.
func (s *replayStore) add(r *Replay) (id string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return "", s.err
	}
	n := 0
	for _, j := range s.jobs {
		if j.open() {
			n++
		}
	}
	if n >= maxOpenReplays {
		return "", fmt.Errorf("%w: %d are under way; wait for one or cancel it", ErrReplayRequest, n)
	}
	before, next := s.jobs, s.next
	r.ID = strconv.FormatUint(s.next, 10)
	s.next++
	s.jobs = append(slices.Clone(s.jobs), r)
	for len(s.jobs) > keepReplays {
		old := slices.IndexFunc(s.jobs, func(j *Replay) bool { return !j.open() }) // there is one: few are open
		s.jobs = slices.Delete(s.jobs, old, old+1)
	}
	if err := s.save(); err != nil {
		s.jobs, s.next = before, next
		return "", err
	}
	s.wake(r.Sink)
	return r.ID, nil
}

// wake tells a sink's forwarder to look at the list. s.mu is held.
func (s *replayStore) wake(sink string) {
	select {
	case s.bell(sink) <- struct{}{}:
	default:
	}
}

// bell returns the channel that wakes a sink. s.mu is held.
func (s *replayStore) bell(sink string) chan struct{} {
	c, ok := s.wakes[sink]
	if !ok {
		c = make(chan struct{}, 1)
		s.wakes[sink] = c
	}
	return c
}

// list returns copies of the replays, oldest first.
func (s *replayStore) list() []Replay {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Replay, 0, len(s.jobs))
	for _, r := range s.jobs {
		out = append(out, r.copy())
	}
	return out
}

// end cancels a replay, or takes one that is over off the list.
func (s *replayStore) end(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.jobs, func(r *Replay) bool { return r.ID == id })
	if i < 0 {
		return fmt.Errorf("%w: %q", ErrNoReplay, id)
	}
	r := s.jobs[i]
	if r.open() {
		s.finish(r, ReplayCancelled)
		s.wake(r.Sink)
		return nil
	}
	s.jobs = slices.Delete(slices.Clone(s.jobs), i, i+1)
	s.keep(true)
	return nil
}

// finish ends a replay and writes that down. s.mu is held.
func (s *replayStore) finish(r *Replay, state ReplayState) {
	now := s.clock.Now()
	r.State, r.Ended = state, &now
	if state == ReplayDone {
		r.Error = ""
	}
	s.keep(true)
	s.log.Info("replay ended", "id", r.ID, "sink", r.Sink, "state", string(state), "sent", r.Sent, "refused", r.Refused, "gone", r.Gone)
}
