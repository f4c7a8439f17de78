package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	bolt "go.etcd.io/bbolt"
)

// The tape records, in their true order, the operations of a running queue
// that decide what a power cut leaves, without help from the product:
//
//   - what bbolt writes is seen one level above the system call, in a field of
//     its DB that is made for tests;
//   - names that appear, change or go, what is written past bbolt, and the
//     syncs of directories (a directory opened and closed but not listed) come
//     from inotify, which queues its events within the system call: read at
//     every other event, they are in order;
//   - the syncs of a segment are not seen: they are taken to be where bbolt has
//     them, before a meta page is written and before Update returns, unless
//     NoSync is set. TestBboltSyncs holds that. A segment that was built and
//     renamed counts as synced on the same condition.
//
// Whatever else is written (the reserve, zeros ahead of commits) counts as not
// synced until bbolt syncs the same file: more is lost in the states built from
// the tape than a disk would lose. The recording file system of buffer/lab sees
// the system calls themselves.
type tape struct {
	mu     sync.Mutex // guards what follows
	t      testing.TB
	base   string // directory above the queue's
	fd     int
	dirs   map[int32]string // by watch
	listed map[string]bool  // directories opened, and whether they were listed
	moved  string           // what is being renamed
	ids    map[string]int   // of files, by path
	shadow map[int][]byte   // content of files
	last   int              // id given last
	hooked map[*bolt.DB]bool
	noSync bool
	ops    []diskOp
}

// diskOp is one entry of the tape.
type diskOp struct {
	kind     opKind
	path, to string // relative to base
	id       int    // of a file
	off      int64  // of a write; the new size of a truncate
	data     []byte
	lane     int
	cursor   string
	seq      uint64 // acknowledged, or released, below this
}

type opKind byte

const (
	opMkdir opKind = iota
	opCreate
	opRename
	opUnlink
	opSyncDir
	opWrite
	opTruncate
	opSync
	opAppend  // records below seq were handed over
	opAck     // records below seq were acknowledged
	opRelease // records below seq may be released from here on
)

const watchMask = syscall.IN_CREATE | syscall.IN_DELETE | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO |
	syscall.IN_MODIFY | syscall.IN_OPEN | syscall.IN_ACCESS | syscall.IN_CLOSE_NOWRITE

// newTape records what happens in a directory below base.
func newTape(t testing.TB, base, dir string) *tape {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	r := &tape{t: t, base: base, fd: fd, dirs: map[int32]string{}, listed: map[string]bool{}, ids: map[string]int{},
		shadow: map[int][]byte{}, hooked: map[*bolt.DB]bool{}}
	r.watch(dir)
	return r
}

// watch has a directory watched.
func (r *tape) watch(dir string) {
	wd, err := syscall.InotifyAddWatch(r.fd, filepath.Join(r.base, dir), watchMask)
	if err != nil {
		r.t.Fatal(err)
	}
	r.dirs[int32(wd)] = dir
}

// note records what the test itself does or is told.
func (r *tape) note(op diskOp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drain()
	r.ops = append(r.ops, op)
}

// fault is the hook of a Log: it runs on the committer before and after each
// transaction.
func (r *tape) fault(l *Log, op, path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ln := range l.lanes {
		if ln.active != nil && !r.hooked[ln.active.db] {
			r.hook(ln.active.db, r.rel(ln.active.path))
		}
	}
	r.drain()
	if op == "sync" && !r.noSync {
		r.ops = append(r.ops, diskOp{kind: opSync, id: r.ids[r.rel(path)]})
	}
}

func (r *tape) rel(path string) string {
	rel, err := filepath.Rel(r.base, path)
	if err != nil {
		r.t.Error(err)
	}
	return rel
}

// boltField returns a field of a DB that bbolt keeps to itself.
func boltField[T any](db *bolt.DB, path ...string) *T {
	v := reflect.ValueOf(db).Elem()
	for _, name := range path {
		v = v.FieldByName(name)
	}
	return (*T)(unsafe.Pointer(v.UnsafeAddr()))
}

// hook puts the tape between a DB and its file.
func (r *tape) hook(db *bolt.DB, path string) {
	r.hooked[db] = true
	r.noSync = r.noSync || db.NoSync || db.NoGrowSync
	write := boltField[func([]byte, int64) (int, error)](db, "ops", "writeAt")
	real := *write
	*write = func(p []byte, off int64) (int, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.drain()
		id := r.ids[path]
		if off < 2*pageBytes && !db.NoSync { // a meta page: the data pages are synced
			r.ops = append(r.ops, diskOp{kind: opSync, id: id})
		}
		n, err := real(p, off)
		r.wrote(id, off, p[:n])
		return n, err
	}
}

// wrote records a write and does it to the shadow.
func (r *tape) wrote(id int, off int64, p []byte) {
	s := r.shadow[id]
	if need := int(off) + len(p); need > len(s) {
		s = append(s, make([]byte, need-len(s))...)
	}
	copy(s[off:], p)
	r.shadow[id] = s
	r.ops = append(r.ops, diskOp{kind: opWrite, id: id, off: off, data: bytes.Clone(p)})
}

// drain takes the events that the kernel has queued.
func (r *tape) drain() {
	var buf [64 << 10]byte
	dirty := map[string]bool{}
	for {
		n, err := syscall.Read(r.fd, buf[:])
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if err != nil || n < syscall.SizeofInotifyEvent {
			r.t.Errorf("read events: %d, %v", n, err)
			break
		}
		ne := binary.NativeEndian
		for p := buf[:n]; len(p) > 0; {
			size := int(ne.Uint32(p[12:]))
			name, _, _ := strings.Cut(string(p[16:16+size]), "\x00")
			r.event(r.dirs[int32(ne.Uint32(p))], ne.Uint32(p[4:]), name)
			if name != "" {
				dirty[filepath.Join(r.dirs[int32(ne.Uint32(p))], name)] = true
			}
			p = p[16+size:]
		}
	}
	for path := range dirty {
		r.compare(path)
	}
}

// event takes one event. The two of a rename may come in two reads: the kernel
// queues one after the other, and somebody may read in between.
func (r *tape) event(dir string, mask uint32, name string) {
	path := filepath.Join(dir, name)
	switch isDir := mask&syscall.IN_ISDIR != 0; {
	case mask&syscall.IN_Q_OVERFLOW != 0:
		r.t.Error("events were lost")
	case isDir && name == "":
		r.visited(dir, mask)
	case isDir && mask&syscall.IN_CREATE != 0:
		r.watch(path)
		r.ops = append(r.ops, diskOp{kind: opMkdir, path: path})
	case isDir:
	case mask&syscall.IN_CREATE != 0:
		r.last++
		r.ids[path] = r.last
		r.ops = append(r.ops, diskOp{kind: opCreate, path: path, id: r.last})
	case mask&syscall.IN_MOVED_FROM != 0:
		r.moved = path
	case mask&syscall.IN_MOVED_TO != 0:
		moved := r.moved
		id, known := r.ids[moved]
		if !known {
			r.t.Errorf("%s is renamed from an unknown name %q", path, moved)
		}
		delete(r.ids, moved)
		r.ids[path] = id
		r.compare(path)
		if filepath.Base(moved) == newName && !r.noSync { // bbolt synced it when it was built
			r.ops = append(r.ops, diskOp{kind: opSync, id: id})
		}
		r.ops = append(r.ops, diskOp{kind: opRename, path: moved, to: path, id: id})
	case mask&syscall.IN_DELETE != 0:
		r.ops = append(r.ops, diskOp{kind: opUnlink, path: path, id: r.ids[path]})
		delete(r.ids, path)
	}
}

// visited takes an event of a watched directory itself: one that is opened and
// closed, and not listed in between, was synced.
func (r *tape) visited(dir string, mask uint32) {
	listed, open := r.listed[dir]
	switch {
	case mask&syscall.IN_OPEN != 0:
		r.listed[dir] = false
	case mask&syscall.IN_ACCESS != 0:
		r.listed[dir] = true
	case mask&syscall.IN_CLOSE_NOWRITE != 0 && open:
		if !listed {
			r.ops = append(r.ops, diskOp{kind: opSyncDir, path: dir})
		}
		delete(r.listed, dir)
	}
}

// compare records what was written into a file past bbolt.
func (r *tape) compare(path string) {
	id, known := r.ids[path]
	if !known || filepath.Base(path) == "lock" {
		return
	}
	p, err := os.ReadFile(filepath.Join(r.base, path))
	if err != nil { // gone again: the event that says so follows
		return
	}
	if old := r.shadow[id]; len(old) != len(p) {
		r.ops = append(r.ops, diskOp{kind: opTruncate, id: id, off: int64(len(p))})
		r.shadow[id] = append(old[:min(len(old), len(p))], make([]byte, max(0, len(p)-len(old)))...)
	}
	for at := 0; at < len(p); at += pageBytes {
		if to := min(at+pageBytes, len(p)); !bytes.Equal(p[at:to], r.shadow[id][at:to]) {
			r.wrote(id, int64(at), p[at:to])
		}
	}
}
