package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func entryOf(n int, group string) Entry {
	return Entry{Data: fmt.Appendf(nil, "letter %d", n), Place: fmt.Sprint("place ", n), Group: group, At: time.Unix(int64(n), 0)}
}

func mustAdd(t *testing.T, s *Shelf, entries ...Entry) {
	t.Helper()
	if err := s.Add(entries); err != nil {
		t.Fatal(err)
	}
}

// statsOf is the state of a shelf in one line.
func statsOf(s *Shelf) string {
	st := s.Stats()
	text := fmt.Sprint(st.Count, " ")
	for _, g := range st.Groups {
		text += fmt.Sprintf("%s:%d@%d ", g.Name, g.Count, max(g.Oldest.Unix(), 0))
	}
	return text + fmt.Sprint(st.Queued)
}

// An entry of a place that is taken is not stored twice; once the first is
// gone it is.
func TestShelfPlaces(t *testing.T) {
	dir := fastDir(t)
	s := mustShelf(t, dir, 1<<20)
	mustAdd(t, s, entryOf(1, "a"), entryOf(2, "b"), entryOf(1, "a"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustShelf(t, dir, 1<<20)
	mustAdd(t, s, entryOf(2, "b"), entryOf(3, "a"))
	if got := statsOf(s); got != "3 a:2@1 b:1@2 map[]" {
		t.Fatal(got)
	}
	if err := s.Drop(1); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, s, Entry{Data: []byte("letter 4"), Place: "place 1", Group: "a", At: time.Unix(9, 0)})
	if got := statsOf(s); got != "3 a:2@3 b:1@2 map[]" || fmt.Sprint(shelfIDs(t, s, 0, 9)) != "[2 3 4]" {
		t.Fatal(got, shelfIDs(t, s, 0, 9))
	}
}

// Marks and queues survive a restart, go with their entries, and are encrypted.
func TestShelfMarks(t *testing.T) {
	for _, keys := range [][]Key{nil, {testKey(1)}} {
		dir := fastDir(t)
		s := mustShelf(t, dir, 1<<20, keys...)
		mustAdd(t, s, entryOf(1, "a"), entryOf(2, "a"), entryOf(3, "b"))
		first := entryOf(4, "b")
		first.Queue = "report b"
		mustAdd(t, s, first)
		if err := s.Change(nil, []Mark{{1, "retry a", []byte("noted of one")}, {3, "retry a", nil}, {99, "retry a", nil}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		p, err := os.ReadFile(filepath.Join(dir, shelfName))
		if err != nil || bytes.Contains(p, []byte("noted of one")) == (keys != nil) {
			t.Fatalf("note in plain: %v", err)
		}
		s = mustShelf(t, dir, 1<<20, keys...)
		if got := statsOf(s); got != "4 a:2@1 b:2@3 map[report b:1 retry a:2]" {
			t.Fatal(got)
		}
		got, more, err := s.Read(ShelfPage{Queue: "retry a", Entries: 1})
		if err != nil || !more || len(got) != 1 || got[0].ID != 1 || got[0].Queue != "retry a" || string(got[0].Note) != "noted of one" || got[0].Group != "a" {
			t.Fatalf("%+v, %v, %v", got, more, err)
		}
		got, more, err = s.Read(ShelfPage{Group: "b", Entries: 9})
		if err != nil || more || len(got) != 2 || got[0].ID != 3 || got[1].ID != 4 {
			t.Fatalf("%+v, %v, %v", got, more, err)
		}
		if err := s.Change([]uint64{3}, []Mark{{ID: 1, Note: []byte("x")}, {ID: 3, Queue: "retry a"}}); err != nil { // one step
			t.Fatal(err)
		}
		if e, ok, err := s.Get(1); !ok || err != nil || e.Queue != "" || string(e.Note) != "x" {
			t.Fatalf("%+v, %v", e, err)
		}
		if _, ok, err := s.Get(3); ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := s.Drop(1, 2, 4); err != nil {
			t.Fatal(err)
		}
		if st := s.Stats(); st.Bytes != 0 || statsOf(s) != "0 map[]" {
			t.Fatalf("%+v", st)
		}
	}
}

// The budget counts marks too, and what it evicts takes all that is noted with it.
func TestShelfBudgetWithMarks(t *testing.T) {
	s := mustShelf(t, fastDir(t), 2400)
	for i := 1; i <= 50; i++ {
		mustAdd(t, s, entryOf(i, "a"))
		if err := s.Change(nil, []Mark{{uint64(i), "q", []byte("note")}}); err != nil {
			t.Fatal(err)
		}
	}
	mustAdd(t, s, entryOf(51, "a"))
	st := s.Stats()
	if st.Bytes > 2400 || st.Evicted == 0 || int(st.Evicted)+st.Count != 51 || st.Queued["q"] != st.Count-1 || st.Groups[0].Count != st.Count {
		t.Fatalf("%+v", st)
	}
	if st.Groups[0].Oldest != time.Unix(st.Evicted+1, 0) {
		t.Errorf("oldest %v after %d evictions", st.Groups[0].Oldest, st.Evicted)
	}
}

// What an older version does to the file, which knows only the entries, does
// no harm: entries it removed are counted nowhere, those it added are adopted.
func TestShelfAfterOlderVersion(t *testing.T) {
	dir := fastDir(t)
	s := mustShelf(t, dir, 1<<20)
	mustAdd(t, s, entryOf(1, "a"), entryOf(2, "a"), entryOf(3, "a"))
	if err := errors.Join(s.Change(nil, []Mark{{1, "q", nil}, {2, "q", nil}}), s.Close()); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, shelfName), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketShelf))
		k, v, err := s.encode(4, []byte("letter 4"))
		return errors.Join(err, b.Delete(idKey(1)), b.SetSequence(4), b.Put(k, v))
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustShelf(t, dir, 1<<20)
	if got := statsOf(s); got != "3 :1@0 a:2@2 map[q:1]" {
		t.Fatal(got)
	}
	if got, _, err := s.Read(ShelfPage{Queue: "q", Entries: 9}); err != nil || len(got) != 1 || got[0].ID != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	mustAdd(t, s, Entry{Data: []byte("letter 5"), Place: "place 1", Group: "a"}) // its first entry is gone
	if err := s.Adopt(func(id uint64, data []byte) (Entry, bool) {
		return Entry{Place: "place 4", Group: "b", At: time.Unix(4, 0)}, id == 4 && string(data) == "letter 4"
	}); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, s, entryOf(4, "b"))
	if got := statsOf(s); got != "4 a:3@2 b:1@4 map[q:1]" || fmt.Sprint(shelfIDs(t, s, 0, 9)) != "[2 3 4 5]" {
		t.Fatal(got, shelfIDs(t, s, 0, 9))
	}
}

// A commit that fails changes nothing, and the next one works.
func TestShelfFailedChange(t *testing.T) {
	s := mustShelf(t, fastDir(t), 1<<20)
	mustAdd(t, s, entryOf(1, "a"), entryOf(2, "a"))
	broken := errors.New("broken")
	if err := s.update("test", func(x *shelfIndex) error {
		if err := x.remove(1); err != nil {
			return err
		}
		return errors.Join(x.mark(&Mark{ID: 2, Queue: "q"}), broken)
	}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if got := statsOf(s); got != "2 a:2@1 map[]" {
		t.Fatal(got)
	}
	if err := s.Drop(1); err != nil || statsOf(s) != "1 a:1@2 map[]" {
		t.Fatal(err, statsOf(s))
	}
}

// The file stays near the budget, however small the entries are, and what is
// counted is the same after a restart.
func TestShelfFileSize(t *testing.T) {
	const budget = 2 << 20
	dir := fastDir(t)
	s := mustShelf(t, dir, budget)
	for first := 0; first < 30_000; first += 500 {
		var e []Entry
		for i := range 500 {
			e = append(e, entryOf(first+i, "shore"))
		}
		mustAdd(t, s, e...)
	}
	before := s.Stats()
	st, err := os.Stat(filepath.Join(dir, shelfName))
	if err != nil || st.Size() > 3*budget/2 || before.Evicted == 0 {
		t.Errorf("a file of %d bytes for a budget of %d, %v, %+v", st.Size(), budget, err, before)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if after := mustShelf(t, dir, budget).Stats(); after.Bytes != before.Bytes || after.Groups[0] != before.Groups[0] {
		t.Errorf("%+v before, %+v after a restart", before, after)
	}
}
