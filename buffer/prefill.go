package buffer

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Writing ahead. A file that is extended by a commit costs the journal of the
// file system about 24 KiB and a second flush; overwriting blocks that it has
// already costs what is written. bbolt extends a file by step bytes without
// writing them. With Options.Prefill they are overwritten with zeros at once,
// which the next commit syncs: so much at a time that no commit stalls, and
// only while commits are so small that it pays.
const (
	smallCommit = 12 << 10 // bytes stored, on average, below which writing ahead pays
	firstStep   = 64 << 10 // by which a file is extended at first
	lastStep    = 1 << 20  // and at most
)

// zeros is what is written ahead, page by page: what is written in larger
// pieces some kernels keep so, and count whole for every page that changes.
var zeros [64 << 10]byte

// step is by how much the file is extended when it must be: as much as it has.
// A short queue whose pages are used again never needs the large ones.
func (s *segment) step() int {
	return int(min(max(s.size.Load(), firstStep), lastStep, s.bytes/16)) &^ (pageBytes - 1)
}

// average takes a commit of n stored bytes into the mean.
func (s *segment) average(n int) {
	if s.mean == 0 {
		s.mean = int64(n)
	}
	s.mean += (int64(n) - s.mean) / 8
}

// fillAhead writes zeros where active segments were extended. It runs on the
// committer, after everybody was answered.
func (l *Log) fillAhead() {
	if !l.o.Prefill {
		return
	}
	for _, ln := range l.lanes {
		s := ln.active
		if s == nil || s.log == nil || s.size.Load() == s.zeroed {
			continue
		}
		s.zeroed = s.size.Load()
		if s.mean >= smallCommit {
			continue
		}
		if err := s.fill(); err != nil { // nothing depends on it
			l.o.Log.Debug("write ahead", "segment", s.path, "error", err)
		}
	}
}

// fill writes zeros behind the last page that the newest commit knows of.
func (s *segment) fill() error {
	var from int64
	if err := s.view(func(tx *bolt.Tx) error { from = tx.Size(); return nil }); err != nil {
		return err
	}
	for to := s.size.Load(); from < to; {
		n, err := s.file.WriteAt(zeros[:min(to-from, int64(len(zeros)))], from)
		if err != nil {
			return fmt.Errorf("write zeros at %d: %w", from, err)
		}
		from += int64(n)
	}
	return nil
}
