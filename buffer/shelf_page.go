package buffer

import (
	"bytes"
	"encoding/binary"

	bolt "go.etcd.io/bbolt"
)

// ShelfPage says which entries of a Shelf are read at once.
type ShelfPage struct {
	After   uint64 // ids above this
	Entries int    // at most so many
	Bytes   int    // and not more once they have so many; 0 = no limit
	Group   string // only of this group; "" = all
	Queue   string // only what waits in this queue, with Group ""; "" = all
}

// List returns up to n entries with ids above after, oldest first. Entries
// that cannot be read are listed with the reason.
func (s *Shelf) List(after uint64, n int) ([]Kept, error) {
	out, _, err := s.Read(ShelfPage{After: after, Entries: n})
	return out, err
}

// Get returns one entry; ok is false when there is none of that id.
func (s *Shelf) Get(id uint64) (e Kept, ok bool, err error) {
	if id == 0 {
		return e, false, nil
	}
	got, _, err := s.Read(ShelfPage{After: id - 1, Entries: 1})
	if err != nil || len(got) == 0 || got[0].ID != id {
		return e, false, err
	}
	return got[0], true, nil
}

// Read returns the entries of a page, oldest first, those that cannot be read
// with the reason. more says that there are others behind them.
func (s *Shelf) Read(p ShelfPage) (out []Kept, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil, false, nil
	}
	err = guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			x, err := s.index(tx)
			if err != nil || x.shelf == nil {
				return err
			}
			size := 0
			x.each(&p, func(k, v []byte) bool {
				if more = len(out) >= p.Entries || p.Bytes > 0 && size >= p.Bytes; more {
					return false
				}
				e := s.decode(k, v)
				e.Group = x.groupOf(e.ID)
				e.Queue, e.Note = x.marked(e.ID)
				out, size = append(out, e), size+len(v)
				return true
			})
			return nil
		})
	})
	return out, more, err
}

// each calls fn with the stored entries of a page until it returns false.
func (x *shelfIndex) each(p *ShelfPage, fn func(k, v []byte) bool) {
	list, name := x.groups, p.Group
	if name == "" {
		list, name = x.queues, p.Queue
	}
	after := p.After
	if name == "" {
		c := x.shelf.Cursor()
		for k, v := c.Seek(idKey(after + 1)); k != nil; k, v = c.Next() {
			if len(k) < 8 || binary.BigEndian.Uint64(k) <= after {
				continue // a damaged page: what cannot be named, or would be listed twice
			}
			after = binary.BigEndian.Uint64(k)
			if !fn(k, v) {
				return
			}
		}
		return
	}
	if list == nil {
		return
	}
	c, prefix := list.Cursor(), append([]byte(name), 0)
	for k, _ := c.Seek(listKey(name, after+1)); len(k) == len(prefix)+8 && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		id := binary.BigEndian.Uint64(k[len(prefix):])
		if id <= after {
			return // a damaged page
		}
		after = id
		if k, v := x.entry(id); k != nil && !fn(k, v) {
			return
		}
	}
}

// Drop deletes entries by id, also those that cannot be read. Ids that are not
// there are passed over.
func (s *Shelf) Drop(ids ...uint64) error {
	for len(ids) > 0 {
		n := min(len(ids), shelfChanges)
		if err := s.Change(ids[:n], nil); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// Change deletes entries and marks others in one synced commit; those that are
// not there are passed over.
func (s *Shelf) Change(drop []uint64, marks []Mark) error {
	return s.update("change dead letters", func(x *shelfIndex) error {
		for _, id := range drop {
			if err := x.remove(id); err != nil {
				return err
			}
		}
		for i := range marks {
			if err := x.mark(&marks[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Adopt has entries of which nothing is known described, those of an older
// version: fn gets each and returns what is known, or false. It writes nothing
// when there are none.
func (s *Shelf) Adopt(fn func(id uint64, data []byte) (Entry, bool)) error {
	for p := (ShelfPage{Entries: shelfChanges, Bytes: 4 << 20}); ; {
		s.mu.Lock()
		left := s.groups[""] != nil && s.groups[""].Count > 0
		s.mu.Unlock()
		if !left {
			return nil
		}
		got, more, err := s.Read(p)
		if err != nil {
			return err
		}
		found := map[uint64]Entry{}
		for _, k := range got {
			p.After = k.ID
			if k.Group != "" || k.Err != nil {
				continue
			}
			if e, ok := fn(k.ID, k.Data); ok && e.Group != "" {
				found[k.ID] = e
			}
		}
		if err := s.describeAll(found); err != nil || !more {
			return err
		}
	}
}

// describeAll notes what is known of entries that are there.
func (s *Shelf) describeAll(found map[uint64]Entry) error {
	if len(found) == 0 {
		return nil
	}
	return s.update("index dead letters", func(x *shelfIndex) error {
		for id, e := range found {
			if k, _ := x.entry(id); k == nil || x.groupOf(id) != "" {
				continue
			}
			if err := x.describe(id, &e); err != nil {
				return err
			}
		}
		return nil
	})
}
