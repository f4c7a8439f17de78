package buffer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Entry is what Shelf.Add stores.
type Entry struct {
	Data  []byte
	Place string    // what it is: of two entries of one place the first is kept; "" = not known
	Group string    // what it belongs to, at most maxName bytes; "" = nothing
	Queue string    // it waits in from the start; "" = none
	At    time.Time // when it was made
}

// Mark is what is noted of an entry.
type Mark struct {
	ID    uint64
	Queue string // it waits in; "" = none
	Note  []byte
}

// GroupStats is the state of the entries of one group.
type GroupStats struct {
	Name   string // "" = no group is known, as of entries of an older version or without their key
	Count  int
	Bytes  int64     // stored
	Oldest time.Time // zero when not known
}

// ShelfStats is the state of a shelf.
type ShelfStats struct {
	Count    int
	Bytes    int64
	MaxBytes int64
	Evicted  int64          // by the budget, since the shelf was opened
	Groups   []GroupStats   // sorted by name
	Queued   map[string]int // entries that wait, by the name of the queue
}

// Bounds of a shelf.
const (
	maxName      = 512  // bytes of the name of a group or queue
	shelfChanges = 1024 // entries changed in one transaction
)

// The buckets beside the entries, all in plain but the notes:
//
//	about   id u64 -> at i64 (Unix ns), place 16 bytes, group
//	places  place 16 bytes -> id u64
//	groups  group, 0, id u64 -> nothing
//	queues  queue, 0, id u64 -> nothing
//	marks   id u64, as the entry's key -> as an entry: queue length u16, queue, note
//
// A place is the first half of the SHA-256 of its text. What is said of an
// entry that is not there counts for nothing: an older version removes entries
// and knows nothing of the rest.
const (
	bucketAbout  = "about"
	bucketPlaces = "places"
	bucketGroups = "groups"
	bucketQueues = "queues"
	bucketMarks  = "marks"
	placeBytes   = 16
	aboutBytes   = 8 + placeBytes

	// indexBytes is what the index takes of the file for one entry, about.
	indexBytes = 320
)

// shelfIndex is the buckets of a shelf in one transaction.
type shelfIndex struct {
	s                                           *Shelf
	shelf, about, places, groups, queues, marks *bolt.Bucket
}

// index returns the buckets. In a transaction that only reads, those that are
// not there are nil.
func (s *Shelf) index(tx *bolt.Tx) (*shelfIndex, error) {
	x := &shelfIndex{s: s}
	for name, b := range map[string]**bolt.Bucket{bucketShelf: &x.shelf, bucketAbout: &x.about, bucketPlaces: &x.places,
		bucketGroups: &x.groups, bucketQueues: &x.queues, bucketMarks: &x.marks} {
		if *b = tx.Bucket([]byte(name)); *b == nil && tx.Writable() {
			var err error
			if *b, err = tx.CreateBucket([]byte(name)); err != nil {
				return nil, err
			}
		}
	}
	return x, nil
}

// get reads from a bucket that may not be there.
func get(b *bolt.Bucket, k []byte) []byte {
	if b == nil {
		return nil
	}
	return b.Get(k)
}

func idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// listKey is the key of an entry in the list of a group or queue.
func listKey(name string, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(name), 0), id)
}

func placeOf(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:placeBytes]
}

// entry finds the stored form of an entry.
func (x *shelfIndex) entry(id uint64) (k, v []byte) {
	if x.shelf == nil {
		return nil, nil
	}
	k, v = x.shelf.Cursor().Seek(idKey(id))
	if len(k) < 8 || binary.BigEndian.Uint64(k) != id {
		return nil, nil
	}
	return k, v
}

// taken reports whether an entry of that place is kept and whole.
func (x *shelfIndex) taken(place string) bool {
	if place == "" {
		return false
	}
	p := placeOf(place)
	at := get(x.places, p)
	if len(at) != 8 {
		return false
	}
	id := binary.BigEndian.Uint64(at)
	k, v := x.entry(id)
	about := get(x.about, at)
	return len(v) >= 4 && x.s.sum(k, v[4:]) == binary.BigEndian.Uint32(v) && len(about) >= aboutBytes && bytes.Equal(about[8:aboutBytes], p)
}

// put stores an entry and what is known of it.
func (x *shelfIndex) put(id uint64, k, v []byte, e *Entry) error {
	if err := x.shelf.Put(k, v); err != nil {
		return err
	}
	x.s.count, x.s.bytes = x.s.count+1, x.s.bytes+int64(len(v))
	x.s.group("").add(1, len(v))
	if err := x.describe(id, e); err != nil {
		return err
	}
	if e.Queue == "" {
		return nil
	}
	return x.mark(&Mark{ID: id, Queue: e.Queue})
}

// describe notes what is known of an entry of which nothing was.
func (x *shelfIndex) describe(id uint64, e *Entry) error {
	if e.Place == "" && e.Group == "" {
		return nil
	}
	p := make([]byte, 8, aboutBytes+len(e.Group))
	if !e.At.IsZero() {
		binary.BigEndian.PutUint64(p, uint64(e.At.UnixNano()))
	}
	group := e.Group[:min(len(e.Group), maxName)]
	place := placeOf(e.Place)
	p = append(append(p, place...), group...)
	_, v := x.entry(id)
	x.s.bytes += indexBytes
	x.s.group("").add(-1, len(v))
	x.s.group(group).add(1, len(v)+indexBytes)
	if err := x.about.Put(idKey(id), p); err != nil {
		return err
	}
	if e.Place != "" {
		if err := x.places.Put(place, idKey(id)); err != nil {
			return err
		}
	}
	return x.groups.Put(listKey(group, id), nil)
}

// remove deletes an entry, in whatever form, and all that is noted of it.
func (x *shelfIndex) remove(id uint64) error {
	group, first, index := x.groupOf(id), idKey(id), 0
	if err := x.unmark(id); err != nil {
		return err
	}
	if about := x.about.Get(first); len(about) >= aboutBytes {
		index = indexBytes
		place := bytes.Clone(about[8:aboutBytes])
		if at := x.places.Get(place); bytes.Equal(at, first) {
			if err := x.places.Delete(place); err != nil {
				return err
			}
		}
		if err := x.groups.Delete(listKey(group, id)); err != nil {
			return err
		}
		if err := x.about.Delete(first); err != nil {
			return err
		}
	}
	c := x.shelf.Cursor()
	for k, v := c.Seek(first); bytes.HasPrefix(k, first); k, v = c.Seek(first) {
		n := len(v) + index
		index = 0
		if err := c.Delete(); err != nil {
			return err
		}
		x.s.bytes, x.s.count = x.s.bytes-int64(n), x.s.count-1
		x.s.group(group).add(-1, n)
	}
	return nil
}

// groupOf returns the group of an entry, "" when none is known.
func (x *shelfIndex) groupOf(id uint64) string {
	if about := get(x.about, idKey(id)); len(about) >= aboutBytes {
		return string(about[aboutBytes:])
	}
	return ""
}

// marked returns what is noted of an entry.
func (x *shelfIndex) marked(id uint64) (queue string, note []byte) {
	if x.marks == nil {
		return "", nil
	}
	k, v := x.marks.Cursor().Seek(idKey(id))
	if len(k) < 8 || binary.BigEndian.Uint64(k) != id {
		return "", nil
	}
	e := x.s.decode(k, v)
	if e.Err != nil || len(e.Data) < 2 {
		return "", nil
	}
	n := 2 + int(binary.BigEndian.Uint16(e.Data))
	if n > len(e.Data) {
		return "", nil
	}
	return string(e.Data[2:n]), e.Data[n:]
}

// unmark forgets what is noted of an entry.
func (x *shelfIndex) unmark(id uint64) error {
	first := idKey(id)
	if queue, _ := x.marked(id); queue != "" {
		if x.queues.Get(listKey(queue, id)) != nil {
			x.s.queued[queue]--
		}
		if err := x.queues.Delete(listKey(queue, id)); err != nil {
			return err
		}
	}
	c := x.marks.Cursor()
	for k, v := c.Seek(first); bytes.HasPrefix(k, first); k, v = c.Seek(first) {
		n := int64(len(v))
		if err := c.Delete(); err != nil {
			return err
		}
		x.s.bytes -= n
	}
	return nil
}

// mark notes something of an entry, unless it is not there.
func (x *shelfIndex) mark(m *Mark) error {
	if k, _ := x.entry(m.ID); k == nil {
		return nil
	}
	if err := x.unmark(m.ID); err != nil {
		return err
	}
	queue := m.Queue[:min(len(m.Queue), maxName)]
	p := binary.BigEndian.AppendUint16(nil, uint16(len(queue)))
	k, v, err := x.s.encode(m.ID, append(append(p, queue...), m.Note...))
	if err != nil {
		return err
	}
	if err := x.marks.Put(k, v); err != nil {
		return err
	}
	x.s.bytes += int64(len(v))
	if queue == "" {
		return nil
	}
	x.s.queued[queue]++
	return x.queues.Put(listKey(queue, m.ID), []byte{})
}

// tally counts what the file holds.
func (s *Shelf) tally(tx *bolt.Tx) error {
	x, err := s.index(tx)
	if err != nil || x.shelf == nil {
		return err
	}
	if err := x.shelf.ForEach(func(k, v []byte) error {
		name, n := "", len(v)
		if len(k) >= 8 {
			name = x.groupOf(binary.BigEndian.Uint64(k))
			if get(x.about, k[:8]) != nil {
				n += indexBytes
			}
		}
		s.bytes, s.count = s.bytes+int64(n), s.count+1
		s.group(name).add(1, n)
		return nil
	}); err != nil {
		return err
	}
	if x.marks != nil {
		if err := x.marks.ForEach(func(_, v []byte) error { s.bytes += int64(len(v)); return nil }); err != nil {
			return err
		}
	}
	if x.queues == nil {
		return nil
	}
	return x.queues.ForEach(func(k, _ []byte) error {
		if n := len(k) - 9; n >= 0 {
			if e, _ := x.entry(binary.BigEndian.Uint64(k[n+1:])); e != nil {
				s.queued[string(k[:n])]++
			}
		}
		return nil
	})
}

func (s *Shelf) group(name string) *GroupStats {
	g := s.groups[name]
	if g == nil {
		g = &GroupStats{Name: name}
		s.groups[name] = g
	}
	return g
}

func (g *GroupStats) add(n, bytes int) { g.Count, g.Bytes = g.Count+n, g.Bytes+int64(n*bytes) }

// Stats returns the state of the shelf.
func (s *Shelf) Stats() ShelfStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := ShelfStats{Count: s.count, Bytes: s.bytes, MaxBytes: s.maxBytes, Evicted: s.evicted, Queued: map[string]int{}}
	for name, n := range s.queued {
		if n > 0 {
			st.Queued[name] = n
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		if g := *s.groups[name]; g.Count > 0 {
			st.Groups = append(st.Groups, g)
		}
	}
	if s.db == nil {
		return st
	}
	_ = guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			x, err := s.index(tx)
			for i := range st.Groups {
				st.Groups[i].Oldest = x.oldest(st.Groups[i].Name)
			}
			return err
		})
	})
	return st
}

// oldest returns when the first entry of a group was made.
func (x *shelfIndex) oldest(group string) (t time.Time) {
	if x.groups == nil || group == "" {
		return t
	}
	prefix := append([]byte(group), 0)
	c := x.groups.Cursor()
	for k, _ := c.Seek(prefix); len(k) == len(prefix)+8 && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		id := k[len(prefix):]
		if e, _ := x.entry(binary.BigEndian.Uint64(id)); e == nil {
			continue
		}
		if about := get(x.about, id); len(about) >= aboutBytes {
			if ns := int64(binary.BigEndian.Uint64(about)); ns != 0 {
				t = time.Unix(0, ns)
			}
		}
		return t
	}
	return t
}
