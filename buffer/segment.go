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
	"time"

	bolt "go.etcd.io/bbolt"
)

// pieceBytes is the length of a stored piece of a block. bbolt does not split
// leaves of four keys or fewer: with larger values each append would rewrite
// pages of earlier ones.
const pieceBytes = 480

// keyBytes is the length of a piece's key: first seq u64, piece number u16.
const keyBytes = 10

// segmentFormat is the version in a segment's meta bucket.
const segmentFormat = 1

const (
	segSuffix = ".seg"
	badSuffix = ".seg.bad"
	newName   = "new.tmp"
)

// segment is one bbolt file.
type segment struct {
	path  string
	first uint64       // seq of its first record, from the name
	size  atomic.Int64 // of the file, bytes
	bytes int64        // limit, for the size of the map

	mu sync.Mutex // guards db for viewers: held while it is opened, viewed or closed
	db *bolt.DB   // nil while closed; the committer's segment stays open
}

// segmentPath names the segment that begins with seq.
func segmentPath(dir string, seq uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", seq, segSuffix))
}

// parseSegmentName reads the first seq from a file name.
func parseSegmentName(name string) (first uint64, bad, ok bool) {
	base, isBad := strings.CutSuffix(name, badSuffix)
	if !isBad {
		if base, ok = strings.CutSuffix(name, segSuffix); !ok {
			return 0, false, false
		}
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
		Timeout: time.Second, PageSize: 4096, FreelistType: bolt.FreelistMapType, NoFreelistSync: true,
		NoStatistics: true, InitialMmapSize: int(limit + limit/4), ReadOnly: readOnly,
	}
}

// guard turns a panic in bbolt, or a page fault on a truncated or unreadable
// map, into an error.
func guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: bbolt: %v", errDamaged, r)
		}
	}()
	return fn()
}

// view runs fn in a read transaction, opening the file when needed.
func (s *segment) view(fn func(*bolt.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return guard(func() error {
		if s.db == nil {
			db, err := bolt.Open(s.path, 0o600, boltOptions(s.bytes, true))
			if err != nil {
				return fmt.Errorf("open segment %s: %w", s.path, err)
			}
			s.db = db
		}
		return s.db.View(fn)
	})
}

// close closes the file; it is opened again by the next view.
func (s *segment) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return guard(db.Close)
}

// updateSize reads the size of the file.
func (s *segment) updateSize() {
	if st, err := os.Stat(s.path); err == nil {
		s.size.Store(st.Size())
	}
}

// createSegment makes a complete segment under another name, syncs it and
// renames it into place. An empty segment of the same first seq is replaced.
func createSegment(dir string, limit int64, m *meta) (*segment, error) {
	tmp := filepath.Join(dir, newName)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	s := &segment{path: segmentPath(dir, m.first), first: m.first, bytes: limit}
	err := guard(func() (err error) {
		if s.db, err = bolt.Open(tmp, 0o600, boltOptions(limit, false)); err != nil {
			return err
		}
		s.db.AllocSize = int(max(64<<10, min(1<<20, limit/16)))
		return s.db.Update(func(tx *bolt.Tx) error {
			if _, err := tx.CreateBucket([]byte(bucketBlocks)); err != nil {
				return err
			}
			b, err := tx.CreateBucket([]byte(bucketMeta))
			if err != nil {
				return err
			}
			return m.putAll(b)
		})
	})
	if err == nil {
		err = os.Rename(tmp, s.path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		_ = s.close()
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("create segment %s: %w", s.path, err)
	}
	s.updateSize()
	return s, nil
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

// lastEnd returns the seq after the last block of a segment, and whether it
// has any block.
func lastEnd(tx *bolt.Tx) (end uint64, ok bool, err error) {
	b := tx.Bucket([]byte(bucketBlocks))
	if b == nil {
		return 0, false, fmt.Errorf("%w: no block bucket", errDamaged)
	}
	k, _ := b.Cursor().Last()
	if k == nil {
		return 0, false, nil
	}
	first, _, ok := splitKey(k)
	if !ok {
		return 0, false, fmt.Errorf("%w: key of %d bytes", errDamaged, len(k))
	}
	got, end, ok := blockEnd(b.Get(pieceKey(first, 0)))
	if !ok || got != first || end <= first {
		return 0, false, fmt.Errorf("%w: block %d has no header", errDamaged, first)
	}
	return end, true, nil
}
