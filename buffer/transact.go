package buffer

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// After a commit that failed bbolt looks for the free pages by following every
// page of the file, in a goroutine of its own: a page that cannot be read, as
// on a stick that was pulled out, ends the process there, and no recover of
// ours is on that goroutine's stack. It tells its log of the error before it
// does so, in every case. commitLog therefore leaves the commit at that
// moment by a panic; the transaction is then rolled back without reading
// anything (Tx.Rollback). What is lost by that are free pages that the failed
// commit had taken: they stay unused until the segment is deleted.

// commitLog is what bbolt logs to.
type commitLog struct {
	armed atomic.Bool // a commit is under way
}

// aborted is what a commit is left with.
type aborted struct{ err error }

// leave ends a commit that is under way.
func (c *commitLog) leave(text string, v []any) {
	if !c.armed.Load() {
		return
	}
	for _, x := range v {
		if err, ok := x.(error); ok {
			panic(aborted{err})
		}
	}
	panic(aborted{fmt.Errorf("bbolt: %s", text)})
}

func (c *commitLog) Error(v ...any)                 { c.leave(fmt.Sprint(v...), v) }
func (c *commitLog) Errorf(format string, v ...any) { c.leave(format, v) }
func (c *commitLog) Fatal(v ...any)                 { c.leave(fmt.Sprint(v...), v) }
func (c *commitLog) Fatalf(format string, v ...any) { c.leave(format, v) }
func (c *commitLog) Panic(v ...any)                 { c.leave(fmt.Sprint(v...), v) }
func (c *commitLog) Panicf(format string, v ...any) { c.leave(format, v) }
func (*commitLog) Warning(...any)                   {}
func (*commitLog) Warningf(string, ...any)          {}
func (*commitLog) Info(...any)                      {}
func (*commitLog) Infof(string, ...any)             {}
func (*commitLog) Debug(...any)                     {}
func (*commitLog) Debugf(string, ...any)            {}

// openWriting opens or makes the file at path for writing.
func (s *segment) openWriting(path string) error {
	s.log = &commitLog{}
	o := boltOptions(s.bytes, false)
	o.Logger = s.log
	if err := s.openBolt(path, o); err != nil {
		s.log = nil
		return err
	}
	return nil
}

// update runs fn in a write transaction and commits it: data pages, sync, meta
// page, sync. It returns how long the commit took. The segment was opened for
// writing by this process.
func (s *segment) update(fn func(*bolt.Tx) error) (took time.Duration, err error) {
	tx, err := s.begin(true)
	if err != nil {
		return 0, err
	}
	if err := guard(func() error { return fn(tx) }); err != nil {
		return 0, s.abandon(tx, err)
	}
	start := time.Now()
	s.log.armed.Store(true)
	err = guard(tx.Commit)
	s.log.armed.Store(false)
	if took = time.Since(start); err != nil {
		return took, s.abandon(tx, err)
	}
	return took, nil
}

// abandon rolls a transaction back without reading the file and returns cause.
// When even that fails bbolt would wait for the transaction for ever.
func (s *segment) abandon(tx *bolt.Tx, cause error) error {
	err := guard(tx.Rollback)
	if err == nil || errors.Is(err, bolterrors.ErrTxClosed) {
		return cause
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forsake()
	return errors.Join(cause, err)
}
