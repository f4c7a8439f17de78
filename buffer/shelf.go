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
	closed  bool
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
// that cannot be read is renamed to .bad and a new one begun. On a read-only
// file system what is there can be listed.
func OpenShelf(dir string, maxBytes int64) (*Shelf, error) {
	s := &Shelf{path: filepath.Join(dir, "dead-letters.db"), maxBytes: maxBytes, crc: crc32.MakeTable(crc32.Castagnoli)}
	if _, err := os.Stat(s.path); errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	err := s.open(false)
	if classify(err) == ErrReadOnly {
		err = s.open(true)
	}
	if isDamage(err) {
		if renameErr := os.Rename(s.path, s.path+".bad"); renameErr != nil && classify(renameErr) == nil {
			return nil, fmt.Errorf("set damaged %s aside: %w", s.path, renameErr)
		}
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// open opens the file and counts what it holds. s.mu is held or s is new.
func (s *Shelf) open(readOnly bool) error {
	if s.closed {
		return ErrClosed
	}
	if st, err := os.Stat(s.path); err == nil && st.Size() > 0 {
		if err := checkTree(s.path); err != nil { // bbolt would panic or never return
			return fmt.Errorf("open dead letters %s: %w", s.path, err)
		}
	}
	s.bytes, s.count = 0, 0
	err := guard(func() (err error) {
		s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{Timeout: time.Second, PageSize: pageBytes,
			FreelistType: bolt.FreelistMapType, NoStatistics: true, ReadOnly: readOnly})
		if err != nil {
			return fmt.Errorf("open dead letters %s: %w", s.path, err)
		}
		s.db.AllocSize = 256 << 10
		return s.db.View(func(tx *bolt.Tx) error {
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
	if err != nil {
		_ = s.drop()
	}
	return err
}

// drop closes the file; the next Put opens it again. s.mu is held.
func (s *Shelf) drop() error {
	db := s.db
	s.db = nil
	if db == nil {
		return nil
	}
	return guard(db.Close)
}

// Put stores the entries in one synced commit.
func (s *Shelf) Put(entries [][]byte) error {
	return s.update("keep dead letters", func(b *bolt.Bucket) error {
		for _, e := range entries {
			id, err := b.NextSequence()
			if err != nil {
				return err
			}
			k := binary.BigEndian.AppendUint64(nil, id)
			v := binary.BigEndian.AppendUint32(nil, s.sum(k, e))
			v = append(v, e...)
			if err := b.Put(k, v); err != nil {
				return err
			}
			s.bytes, s.count = s.bytes+int64(len(v)), s.count+1
		}
		return s.trim(b)
	})
}

// Drop deletes entries by id. Ids that are not there are passed over.
func (s *Shelf) Drop(ids ...uint64) error {
	return s.update("drop dead letters", func(b *bolt.Bucket) error {
		for _, id := range ids {
			k := binary.BigEndian.AppendUint64(nil, id)
			v := b.Get(k)
			if v == nil {
				continue
			}
			s.bytes, s.count = s.bytes-int64(len(v)), s.count-1
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}

// update changes the file in one synced commit. After an error the file is
// closed, and counted anew when it is next opened.
func (s *Shelf) update(what string, fn func(*bolt.Bucket) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil && s.db.IsReadOnly() {
		_ = s.drop()
	}
	if s.db == nil {
		if err := s.open(false); err != nil {
			return wrapSpace(what, err)
		}
	}
	evicted := s.evicted
	err := guard(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(bucketShelf))
			if err != nil {
				return err
			}
			return fn(b)
		})
	})
	if err != nil {
		s.evicted = evicted
		_ = s.drop()
		if openErr := s.open(false); openErr != nil {
			_ = s.open(true)
		}
		return wrapSpace(what, err)
	}
	return nil
}

// sum is the checksum of an entry and its id.
func (s *Shelf) sum(id, data []byte) uint32 {
	return crc32.Update(crc32.Checksum(id, s.crc), s.crc, data)
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
				if len(k) != 8 || len(v) < 4 || s.sum(k, v[4:]) != binary.BigEndian.Uint32(v) {
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
	s.closed = true
	return s.drop()
}
