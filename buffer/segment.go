package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// pieceBytes is the length of a stored piece of a block. bbolt does not split
// leaves of four keys or fewer: with larger values each append would rewrite
// pages of earlier ones.
const pieceBytes = 480

// minFileBytes is the size of an empty bbolt file: two meta pages, a freelist and a leaf.
const minFileBytes = 4 * pageBytes

// pageBytes is the page size of every segment.
const pageBytes = 4096

// keyBytes is the length of a piece's key: first seq u64, piece number u16.
const keyBytes = 10

const (
	segSuffix = ".seg"
	badSuffix = ".seg.bad"
	newName   = "new.tmp"
	thinName  = "thin.tmp"
)

// segment is one bbolt file.
type segment struct {
	path    string
	first   uint64       // seq of its first record, from the name
	size    atomic.Int64 // of the file, bytes
	bytes   int64        // limit, for the size of the map
	rebuilt bool         // from what a damaged one held: not again
	kept    int64        // the committer's: size of the file when dropPages last ran
	zeroed  int64        // the committer's: size of the file when fillAhead last looked
	mean    int64        // the committer's: bytes stored by the last commits, on average
	log     *commitLog   // nil unless the file is open for writing
	file    *os.File     // bbolt's own; nil while closed
	brief   brief        // what its file says, read once

	mu    sync.Mutex // guards what follows for viewers: held while the file is opened, viewed or closed
	db    *bolt.DB   // nil while closed; the committer's segment stays open
	ended error      // why it is never opened again: deleted, replaced, set aside, or the queue is closed
}

// segmentPath names the segment that begins with seq.
func segmentPath(dir string, seq uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", seq, segSuffix))
}

// parseSegmentName reads the first seq from a file name. A segment that is set
// aside when one of its name was before gets a number.
func parseSegmentName(name string) (first uint64, bad, ok bool) {
	base, number, isBad := strings.Cut(name, badSuffix)
	if !isBad {
		if base, ok = strings.CutSuffix(name, segSuffix); !ok {
			return 0, false, false
		}
	}
	if _, err := strconv.ParseUint(strings.TrimPrefix(number, "."), 10, 16); number != "" && (err != nil || number[0] != '.') {
		return 0, false, false
	}
	if len(base) != 16 {
		return 0, false, false
	}
	first, err := strconv.ParseUint(base, 16, 64)
	return first, isBad, err == nil
}

// boltOptions are the options for every segment. The page size is forced:
// the default is the kernel's, which is 16 KiB on some ARM boards and then
// multiplies what each commit writes.
func boltOptions(limit int64, readOnly bool) *bolt.Options {
	return &bolt.Options{
		Timeout: time.Second, PageSize: pageBytes, FreelistType: bolt.FreelistMapType, NoFreelistSync: true,
		NoStatistics: true, InitialMmapSize: int(limit + limit/4), ReadOnly: readOnly,
	}
}

// guard turns a panic in bbolt, or a page fault on a truncated or unreadable
// map, into an error.
func guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		r := recover()
		if a, ok := r.(aborted); ok {
			err = a.err
		} else if r != nil {
			err = fmt.Errorf("%w: bbolt: %v", errDamaged, r)
		}
	}()
	return fn()
}

// view runs fn in a read transaction, opening the file when needed.
func (s *segment) view(fn func(*bolt.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return s.ended
	}
	return guard(func() error {
		if s.db == nil {
			if err := s.open(); err != nil {
				return fmt.Errorf("open segment %s: %w", s.path, err)
			}
		}
		return s.read(fn)
	})
}

// read runs fn in a read transaction. s.mu is held.
func (s *segment) read(fn func(*bolt.Tx) error) error {
	tx, err := s.begin(false)
	if err != nil {
		return err
	}
	return errors.Join(guard(func() error { return fn(tx) }), guard(tx.Rollback))
}

// begin starts a transaction. bbolt reads the meta pages with its locks held:
// after a page fault there it can be neither used nor closed, and its file is
// closed under it. Its map is then lost to the process, its file lock is not.
func (s *segment) begin(writable bool) (tx *bolt.Tx, err error) {
	returned := false
	err = guard(func() (err error) {
		tx, err = s.db.Begin(writable)
		returned = true
		return err
	})
	if !returned {
		if writable { // a viewer holds it already
			s.mu.Lock()
			defer s.mu.Unlock()
		}
		s.forsake()
	}
	return tx, err
}

// forsake closes the file under bbolt. The map keeps the open file, and so its
// lock, alive.
func (s *segment) forsake() {
	_ = syscall.Flock(int(s.file.Fd()), syscall.LOCK_UN)
	_ = s.file.Close()
	s.db, s.file, s.log = nil, nil, nil
}

// open opens the file for reading and checks its tree of pages, since bbolt
// follows a damaged one in circles. s.mu is held.
func (s *segment) open() error {
	st, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	if st.Size() < minFileBytes {
		return fmt.Errorf("%w: file of %d bytes", errDamaged, st.Size())
	}
	if err := s.openBolt(s.path, boltOptions(s.bytes, true)); err != nil {
		return err
	}
	if err := checkTree(s.path); err != nil {
		return errors.Join(err, s.closeLocked())
	}
	return nil
}

// openBolt opens or makes the file at path.
func (s *segment) openBolt(path string, o *bolt.Options) error {
	var file *os.File
	o.OpenFile = func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
		f, err = os.OpenFile(name, flag, mode)
		file = f
		return f, err
	}
	err := guard(func() (err error) { s.db, err = bolt.Open(path, 0o600, o); return err })
	if err != nil {
		s.db = nil
		_ = file.Close() // after a panic bbolt has not
		return err
	}
	s.file = file
	return nil
}

// close closes the file; it is opened again by the next view.
func (s *segment) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeLocked()
}

func (s *segment) closeLocked() error {
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db, s.file, s.log = nil, nil, nil
	return guard(db.Close)
}

// end closes the file for good: views fail with why.
func (s *segment) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.closeLocked()
	s.ended = why
}

// updateSize reads the size of the file.
func (s *segment) updateSize() {
	if s.log != nil {
		var st syscall.Stat_t
		if syscall.Fstat(int(s.file.Fd()), &st) == nil {
			s.size.Store(st.Size)
		}
		return
	}
	if st, err := os.Stat(s.path); err == nil {
		s.size.Store(st.Size())
	}
}

// dropPages tells the kernel, once per MiB that the active segment grew, that
// this process needs none of the pages it has mapped: bbolt touches only the
// last of them again, and the rest would count as memory of the process until
// the segment is full. Readers that need one get it from the page cache.
func (s *segment) dropPages() {
	size := s.size.Load()
	if size-s.kept < 1<<20 {
		return
	}
	s.kept = size
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.read(func(tx *bolt.Tx) error {
		// Up to the last page in use: the file can be longer than the map, and
		// what lies behind the map is somebody else's memory.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, s.db.Info().Data, uintptr(tx.Size()), syscall.MADV_DONTNEED)
		return nil
	})
}

// createSegment makes a complete empty segment under another name, syncs it
// and renames it into place. An empty one of the same first seq is replaced.
func createSegment(dir string, limit int64, m *meta) (*segment, error) {
	s, err := buildSegment(dir, limit, m, func(*bolt.Bucket) error { return nil })
	if err != nil {
		return nil, err
	}
	if err := s.install(dir); err != nil {
		return nil, err
	}
	return s, nil
}

// buildSegment makes a segment with what fill puts into it, synced, under the
// name of one that is being made.
func buildSegment(dir string, limit int64, m *meta, fill func(*bolt.Bucket) error) (*segment, error) {
	tmp := filepath.Join(dir, newName)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	s := &segment{path: segmentPath(dir, m.first), first: m.first, bytes: limit}
	err := guard(func() error { return s.openWriting(tmp) })
	if err == nil {
		s.db.AllocSize = 2 * pageBytes // little, for a nearly full disk that reserves what a file is grown by
		_, err = s.update(func(tx *bolt.Tx) error {
			blocks, err := tx.CreateBucket([]byte(bucketBlocks))
			if err != nil {
				return err
			}
			b, err := tx.CreateBucket([]byte(bucketMeta))
			if err != nil {
				return err
			}
			blocks.FillPercent = 1
			return errors.Join(m.putAll(b), fill(blocks))
		})
	}
	if err != nil {
		_ = s.close()
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("create segment %s: %w", s.path, err)
	}
	return s, nil
}

// install gives a segment that was built its name.
func (s *segment) install(dir string) error {
	tmp := filepath.Join(dir, newName)
	err := os.Rename(tmp, s.path)
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		_ = s.close()
		_ = os.Remove(tmp)
		return fmt.Errorf("create segment %s: %w", s.path, err)
	}
	s.updateSize()
	return nil
}

// makeDir makes a directory whose name survives a power cut.
func makeDir(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// putPieces stores an encoded block. p must stay unchanged until the commit.
func putPieces(b *bolt.Bucket, first uint64, p []byte) error {
	var key [keyBytes]byte
	binary.BigEndian.PutUint64(key[:], first)
	for i := 0; len(p) > 0; i++ {
		n := min(len(p), pieceBytes)
		binary.BigEndian.PutUint16(key[8:], uint16(i))
		if err := b.Put(key[:], p[:n:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// pieceKey returns the key of a piece.
func pieceKey(first uint64, piece uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64(nil, first), piece)
}

// splitKey returns a piece key's parts.
func splitKey(k []byte) (first uint64, piece int, ok bool) {
	if len(k) != keyBytes {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(k), int(binary.BigEndian.Uint16(k[8:])), true
}
