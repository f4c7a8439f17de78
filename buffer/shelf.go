package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Shelf keeps byte strings that were taken out of the flow and wait for a
// person: each has an id, can be listed and dropped. It is one bbolt file
// beside the queue, made at the first Put, with a byte budget of its own;
// over it the oldest go first and are counted.
type Shelf struct {
	path     string
	maxBytes int64
	crc      *crc32.Table

	mu      sync.Mutex // guards what follows and serialises access to the file
	db      *bolt.DB
	bytes   int64
	count   int
	evicted int64
}

// Kept is one entry of a Shelf.
type Kept struct {
	ID   uint64
	Data []byte
}

const bucketShelf = "shelf"

// OpenShelf opens the shelf in dir, or notes that there is none yet. A file
// that cannot be read is renamed to .bad and a new one begun.
func OpenShelf(dir string, maxBytes int64) (*Shelf, error) {
	s := &Shelf{path: filepath.Join(dir, "dead-letters.db"), maxBytes: maxBytes, crc: crc32.MakeTable(crc32.Castagnoli)}
	if _, err := os.Stat(s.path); errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	err := s.open()
	if errors.Is(err, errDamaged) || errors.Is(err, bolt.ErrInvalid) || errors.Is(err, bolt.ErrChecksum) {
		if renameErr := os.Rename(s.path, s.path+".bad"); renameErr != nil {
			return nil, fmt.Errorf("set damaged %s aside: %w", s.path, renameErr)
		}
		s.db, s.bytes, s.count = nil, 0, 0
		return s, nil
	}
	return s, err
}

// open opens the file and counts what it holds. s.mu is held or s is new.
func (s *Shelf) open() error {
	return guard(func() error {
		db, err := bolt.Open(s.path, 0o600, &bolt.Options{Timeout: time.Second, PageSize: 4096, FreelistType: bolt.FreelistMapType, NoStatistics: true})
		if err != nil {
			return fmt.Errorf("open dead letters %s: %w", s.path, err)
		}
		db.AllocSize = 256 << 10
		s.db = db
		return db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucketShelf))
			if b == nil {
				return nil
			}
			return b.ForEach(func(_, v []byte) error {
				s.bytes, s.count = s.bytes+int64(len(v)), s.count+1
				return nil
			})
		})
	})
}

// Put stores the entries in one synced commit.
func (s *Shelf) Put(entries [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		if err := s.open(); err != nil {
			return wrapSpace("keep dead letters", err)
		}
	}
	bytes, count, evicted := s.bytes, s.count, s.evicted
	err := guard(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(bucketShelf))
			if err != nil {
				return err
			}
			for _, e := range entries {
				id, err := b.NextSequence()
				if err != nil {
					return err
				}
				v := binary.BigEndian.AppendUint32(nil, crc32.Checksum(e, s.crc))
				v = append(v, e...)
				if err := b.Put(binary.BigEndian.AppendUint64(nil, id), v); err != nil {
					return err
				}
				s.bytes, s.count = s.bytes+int64(len(v)), s.count+1
			}
			return s.trim(b)
		})
	})
	if err != nil {
		s.bytes, s.count, s.evicted = bytes, count, evicted
		return wrapSpace("keep dead letters", err)
	}
	return nil
}

// trim deletes the oldest entries while the shelf is over its budget.
func (s *Shelf) trim(b *bolt.Bucket) error {
	for s.bytes > s.maxBytes {
		k, v := b.Cursor().First()
		if k == nil {
			return nil
		}
		n := int64(len(v))
		if err := b.Delete(append([]byte(nil), k...)); err != nil {
			return err
		}
		s.bytes, s.count, s.evicted = s.bytes-n, s.count-1, s.evicted+1
	}
	return nil
}

// List returns up to n entries with ids above after, oldest first. Entries
// that fail their checksum are left out.
func (s *Shelf) List(after uint64, n int) (out []Kept, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil, nil
	}
	err = guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucketShelf))
			if b == nil {
				return nil
			}
			c := b.Cursor()
			for k, v := c.Seek(binary.BigEndian.AppendUint64(nil, after+1)); k != nil && len(out) < n; k, v = c.Next() {
				if len(k) != 8 || len(v) < 4 || crc32.Checksum(v[4:], s.crc) != binary.BigEndian.Uint32(v) {
					continue
				}
				out = append(out, Kept{ID: binary.BigEndian.Uint64(k), Data: append([]byte(nil), v[4:]...)})
			}
			return nil
		})
	})
	return out, err
}

// Count returns how many entries there are, and how many the budget deleted
// since the shelf was opened.
func (s *Shelf) Count() (kept int, evicted int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count, s.evicted
}

// Close closes the file.
func (s *Shelf) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return guard(db.Close)
}
