package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
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
//
// An entry in plain has the key id u64 and the value CRC-32C of id and data,
// data. An encrypted one has the key id u64, form u8 (1) and the value CRC-32C
// of key and the rest, key id 8 bytes, nonce 24 bytes, XAES-256-GCM of the
// data with the key and the key's id as associated data. What else is known of
// an entry stands in buckets of its own, see shelfIndex; an entry without it,
// of an older version, is complete all the same.
type Shelf struct {
	path     string
	maxBytes int64
	crc      *crc32.Table
	sealer   *sealer
	log      *slog.Logger

	mu      sync.Mutex // guards what follows and serialises access to the file
	db      *bolt.DB
	closed  bool
	bytes   int64
	count   int
	evicted int64
	groups  map[string]*GroupStats // by name
	queued  map[string]int         // entries in each queue
}

// ShelfOptions configure a Shelf.
type ShelfOptions struct {
	Dir      string
	MaxBytes int64        // budget for the entries, bytes
	Keys     []Key        // the first encrypts, all decrypt; none = entries are stored in plain
	Log      *slog.Logger // nil = discard
}

// Kept is one entry of a Shelf.
type Kept struct {
	ID    uint64
	Data  []byte // nil when it cannot be read
	Err   error  // why it cannot be read: ErrNoKey when its key was not given
	Group string // "" when none is known
	Queue string // it waits in; "" = none
	Note  []byte // as marked; nil = never, or it cannot be read
}

const bucketShelf = "shelf"

// shelfSealed ends the key of an encrypted entry.
const shelfSealed = 1

// OpenShelf opens the shelf in o.Dir, or notes that there is none yet. A file
// that cannot be read is renamed to .bad and a new one begun. On a read-only
// file system what is there can be listed. Entries whose key was not given are
// kept, and listed without their data.
func OpenShelf(o ShelfOptions) (*Shelf, error) {
	s := &Shelf{path: filepath.Join(o.Dir, "dead-letters.db"), maxBytes: o.MaxBytes, crc: crc32.MakeTable(crc32.Castagnoli),
		sealer: newSealer(o.Keys), log: o.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
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
	s.bytes, s.count, s.groups, s.queued = 0, 0, map[string]*GroupStats{}, map[string]int{}
	err := guard(func() (err error) {
		s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{Timeout: time.Second, PageSize: pageBytes,
			FreelistType: bolt.FreelistMapType, NoStatistics: true, ReadOnly: readOnly})
		if err != nil {
			return fmt.Errorf("open dead letters %s: %w", s.path, err)
		}
		s.db.AllocSize = 256 << 10
		return s.db.View(func(tx *bolt.Tx) error {
			return s.tally(tx)
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

// Put stores entries of which nothing else is known; see Add.
func (s *Shelf) Put(entries [][]byte) error {
	all := make([]Entry, len(entries))
	for i, e := range entries {
		all[i].Data = e
	}
	return s.Add(all)
}

// Add stores the entries in one synced commit, except those whose place is
// taken by one that is kept already. Entries that the budget makes room with,
// and one that is larger than the whole budget and cannot be kept at all, are
// counted as evicted and logged.
func (s *Shelf) Add(entries []Entry) error {
	var huge []int
	var before, after int64
	err := s.update("keep dead letters", func(x *shelfIndex) error {
		for i := range entries {
			e := &entries[i]
			if x.taken(e.Place) {
				continue
			}
			id, err := x.shelf.NextSequence()
			if err != nil {
				return err
			}
			k, v, err := s.encode(id, e.Data)
			if err != nil {
				return err
			}
			if int64(len(v)) > s.maxBytes { // it would take all others with it, and then go itself
				huge = append(huge, len(e.Data))
				continue
			}
			if err := x.put(id, k, v, e); err != nil {
				return err
			}
		}
		before = s.evicted
		err := s.trim(x)
		after = s.evicted
		s.evicted += int64(len(huge))
		return err
	})
	if err != nil {
		return err
	}
	for _, n := range huge {
		s.log.Error("a dead letter is larger than all the space for them and is not kept; raise buffer.dead_letters.max_bytes",
			"file", s.path, "bytes", n, "budget", s.maxBytes)
	}
	if after > before {
		s.log.Warn("the dead letters are over their budget: the oldest are deleted", "file", s.path, "count", after-before, "budget", s.maxBytes)
	}
	return nil
}

// encode returns the key and the value of an entry.
func (s *Shelf) encode(id uint64, data []byte) (k, v []byte, err error) {
	k = binary.BigEndian.AppendUint64(nil, id)
	v = make([]byte, 4, 4+keyIDBytes+nonceBytes+tagBytes+len(data))
	if s.sealer.seals() {
		k = append(k, shelfSealed)
		x, sc := s.sealer.keys[0], &scratch{}
		v = append(v, x.id[:]...)
		v = v[:len(v)+nonceBytes]
		s.sealer.random(v[4+keyIDBytes:])
		sc.aad = append(append([]byte(shelfMagic), k...), x.id[:]...)
		if v, err = x.seal(sc, v, v[4+keyIDBytes:], data); err != nil {
			return nil, nil, err
		}
	} else {
		v = append(v, data...)
	}
	binary.BigEndian.PutUint32(v, s.sum(k, v[4:]))
	return k, v, nil
}

// decode returns the entry that is stored under a key of at least 8 bytes.
func (s *Shelf) decode(k, v []byte) (e Kept) {
	e.ID = binary.BigEndian.Uint64(k)
	if len(v) < 4 || s.sum(k, v[4:]) != binary.BigEndian.Uint32(v) {
		e.Err = fmt.Errorf("%w: checksum differs", errDamaged)
		return e
	}
	switch v = v[4:]; {
	case len(k) == 8:
		e.Data = append([]byte{}, v...)
	case len(k) != 9 || k[8] != shelfSealed:
		e.Err = fmt.Errorf("%w: form of the entry", ErrNewerFormat)
	case len(v) < keyIDBytes+nonceBytes:
		e.Err = fmt.Errorf("%w: cut short", errDamaged)
	default:
		var x *xaes
		if x, e.Err = s.sealer.find(v[:keyIDBytes]); e.Err != nil {
			return e
		}
		sc := &scratch{aad: append(append([]byte(shelfMagic), k...), x.id[:]...)}
		v = v[keyIDBytes:]
		e.Data, e.Err = x.open(sc, []byte{}, v[:nonceBytes], v[nonceBytes:])
	}
	return e
}

// update changes the file in one synced commit. After an error the file is
// closed, and counted anew when it is next opened.
func (s *Shelf) update(what string, fn func(*shelfIndex) error) error {
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
			x, err := s.index(tx)
			if err != nil {
				return err
			}
			return fn(x)
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

// sum is the checksum of an entry's key and what is stored under it.
func (s *Shelf) sum(key, data []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, s.crc), s.crc, data)
}

// trim deletes the oldest entries while the shelf is over its budget.
func (s *Shelf) trim(x *shelfIndex) error {
	for s.bytes > s.maxBytes {
		k, _ := x.shelf.Cursor().First()
		if k == nil {
			return nil
		}
		before := s.count
		var err error
		if len(k) >= 8 {
			err = x.remove(binary.BigEndian.Uint64(k))
		} else { // a damaged page
			err = x.shelf.Delete(append([]byte(nil), k...))
		}
		if err != nil {
			return err
		}
		s.evicted += int64(before - s.count)
		if before == s.count {
			return nil
		}
	}
	return nil
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
