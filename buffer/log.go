package buffer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Log is the queue. Its methods may be called from any goroutine.
type Log struct {
	o          Options
	generation Generation
	coder      *coder
	lock       *os.File
	lanes      []*lane

	wake     chan struct{} // capacity 1: there is something to commit
	quit     chan struct{} // closed by Close
	finished chan struct{} // closed when the committer has ended
	saveDue  atomic.Bool   // the cursor delay is over
	chores   atomic.Bool   // files want looking after: a rewrite is done, a segment too old
	armed    atomic.Bool   // pace.save is set, or about to be
	timer    *time.Timer   // wakes the committer when something is due

	pendMu  sync.Mutex // guards what follows
	pending []request
	pace    pace
	closed  bool // Close was called
	ended   bool // the committer answers nothing more

	homeMu sync.Mutex // guards what follows
	home   home       // where the queue is
	gone   error      // why it is not there; nil when it is

	curMu    sync.RWMutex // guards cursors and expected; taken before a Cursor's own mutex
	cursors  map[string]*Cursor
	expected map[string]bool // names that Forget was told to keep and that are not on disk: until they are opened nothing is deleted as delivered

	stateMu sync.Mutex // guards state
	state   error      // why the last commit failed; nil when it did not

	counts  counters
	times   durations // of commits
	base    int64     // what this process had given to block devices when the queue was opened
	c       committer
	reserve atomic.Int64 // size of the reserve file
	budgets []*budget    // the queue's, then those of lanes that have one
	thin    rewriting    // the committer's and the background's: a segment being thinned
	aging   *time.Timer  // wakes the committer when a segment kept for replay is too old

	fault func(op, path string) error // tests only: fails "commit", "sync", "create", "reserve", "probe" or "thin"; told of "await"
}

// request is one Append, or with a nil batch one Sync and what else is set.
type request struct {
	lane   int
	batch  *Batch
	err    error // set when the request cannot be met whatever the disk does
	done   func(error)
	broken *segment        // to be set aside because of err
	keep   map[string]bool // cursors to keep
	gone   *[]string       // where the names of those dropped go
}

// inject returns the error a test wants instead of an operation, or after it.
func (l *Log) inject(op, path string) error {
	if l.fault == nil {
		return nil
	}
	return l.fault(op, path)
}

// counters of what the queue did since it was opened.
type counters struct {
	commits, records, payload, stored, evicted, thinned atomic.Int64
}

// Open opens or makes the queue in o.Dir. It reads only the newest segment of
// each lane, whatever the backlog, and needs no space: on a full or read-only
// disk what is there can be read, and appending fails until there is space.
// Until the first request (Append, Forget, Sync, Release) nothing is deleted:
// a cursor that a crash kept from the disk would begin behind it.
func Open(o Options) (*Log, error) { return open(o, nil) }

func open(o Options, fault func(op, path string) error) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Log{o: o, coder: newCoder(o.Compression, o.Keys...), cursors: map[string]*Cursor{},
		wake: make(chan struct{}, 1), quit: make(chan struct{}), finished: make(chan struct{}), fault: fault}
	l.c.roundBytes = int(min(commitBytes, o.SegmentBytes))
	if err := makeDir(o.Dir); err != nil {
		return nil, fmt.Errorf("open queue: %w", explainDir(o.Dir, err))
	}
	if l.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	if l.home, err = findHome(o.Dir); err != nil {
		l.closeFiles()
		return nil, fmt.Errorf("open queue: %w", err)
	}
	for _, lo := range o.Lanes {
		ln, err := l.openLane(lo.Name)
		if err != nil {
			l.closeFiles()
			return nil, explainDir(o.Dir, err)
		}
		ln.o = lo
		l.lanes = append(l.lanes, ln)
	}
	if err := l.openRetired(); err != nil {
		l.closeFiles()
		return nil, explainDir(o.Dir, err)
	}
	if l.generation == (Generation{}) {
		l.findGeneration()
	}
	if err := l.settleMarks(); err != nil {
		l.closeFiles()
		return nil, fmt.Errorf("open queue %s: %w", o.Dir, err)
	}
	l.findReserve()
	l.base, _ = deviceBytes()
	l.setBudgets()
	l.aging = time.AfterFunc(time.Hour, l.nudge)
	l.aging.Stop()
	l.timer = time.AfterFunc(time.Hour, l.kick)
	l.timer.Stop()
	for _, ln := range l.lanes {
		if ln.stale { // something was set aside: write the cursors and the loss again
			l.arm()
		}
	}
	go l.run()
	return l, nil
}

// Generation identifies this queue among all that ever had its directory.
func (l *Log) Generation() string { return l.generation.String() }

// Append queues the records of b in a lane and returns at once; it never
// blocks and never fails itself. done is called exactly once, in the order of
// the Append calls over all lanes: with nil when the records are in a synced
// commit, else with the reason, and then nothing of b is acknowledged as
// stored. b belongs to the log until then. done runs on the committer's
// goroutine and must not block. The caller bounds what it has appended and not
// yet seen done.
func (l *Log) Append(lane int, b *Batch, done func(error)) {
	r := request{lane: lane, batch: b, done: done}
	if lane < 0 || lane >= len(l.o.Lanes) {
		r.err = fmt.Errorf("append: no lane %d", lane)
	} else if b.n > batchRecords {
		r.err = fmt.Errorf("append %d records: a batch holds at most %d", b.n, batchRecords)
	} else if b.largest > MaxRecordBytes {
		r.err = fmt.Errorf("append %d bytes: %w of %d", b.largest, ErrRecordTooLarge, MaxRecordBytes)
	}
	l.submit(r)
}

func (l *Log) submit(r request) {
	l.pendMu.Lock()
	if l.ended {
		l.pendMu.Unlock()
		r.done(ErrClosed)
		return
	}
	if l.closed { // refused, but in its turn
		r.err = ErrClosed
	}
	l.pending = append(l.pending, r)
	now := time.Now()
	was := l.pace.ready(now)
	if r.batch == nil || r.err != nil || !r.batch.Lazy || l.o.Lanes[r.lane].MaxDelay == 0 {
		l.pace.urgent = true
	} else if l.pace.add(now, l.o.Lanes[r.lane].MaxDelay, r.batch) {
		l.setTimer(now)
	}
	kick := !was && l.pace.ready(now)
	l.pendMu.Unlock()
	if kick {
		l.kick()
	}
}

// nudge has the committer look after its files though nothing is to be committed.
func (l *Log) nudge() {
	l.chores.Store(true)
	l.kick()
}

// kick wakes the committer.
func (l *Log) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Close commits what is pending, writes the cursors and closes the files. It
// waits until that is done or ctx ends; what was appended before is answered.
func (l *Log) Close(ctx context.Context) error {
	l.pendMu.Lock()
	was := l.closed
	l.closed = true
	l.pendMu.Unlock()
	if !was {
		close(l.quit)
	}
	select {
	case <-l.finished:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close queue %s: %w", l.o.Dir, ctx.Err())
	}
}

// closeFiles closes every file, last the lock.
func (l *Log) closeFiles() {
	for _, ln := range l.lanes {
		ln.mu.RLock()
		for _, s := range ln.segs {
			s.end(ErrClosed)
		}
		ln.mu.RUnlock()
	}
	if l.lock != nil {
		_ = l.lock.Close()
	}
}

// fail notes why a commit failed, or nil that one succeeded, and logs a change.
func (l *Log) fail(err error) {
	l.stateMu.Lock()
	defer l.stateMu.Unlock()
	if (err == nil) == (l.state == nil) {
		l.state = err
		return
	}
	l.state = err
	if err != nil {
		l.o.Log.Error("queue takes no records; nothing is acknowledged until it does", "dir", l.o.Dir, "error", err)
		return
	}
	l.o.Log.Info("queue takes records again", "dir", l.o.Dir)
}

// explainDir adds to a permission error who owns the directory and what to do.
func explainDir(dir string, err error) error {
	if !errors.Is(err, os.ErrPermission) {
		return err
	}
	owner := ""
	if st, statErr := os.Stat(dir); statErr == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			owner = fmt.Sprintf("; it belongs to uid %d and this process runs as uid %d", sys.Uid, os.Geteuid())
		}
	}
	return fmt.Errorf("%w%s: change its owner (chown -R) or choose another directory", err, owner)
}
