package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func mustShelf(t *testing.T, dir string, max int64) *Shelf {
	t.Helper()
	s, err := OpenShelf(dir, max)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func shelfIDs(t *testing.T, s *Shelf, after uint64, n int) (ids []uint64) {
	t.Helper()
	kept, err := s.List(after, n)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kept {
		if string(k.Data) != fmt.Sprintf("letter %d", k.ID) {
			t.Fatalf("entry %d: %q", k.ID, k.Data)
		}
		ids = append(ids, k.ID)
	}
	return ids
}

func putLetters(t *testing.T, s *Shelf, first, n int) {
	t.Helper()
	var p [][]byte
	for i := range n {
		p = append(p, fmt.Appendf(nil, "letter %d", first+i))
	}
	if err := s.Put(p); err != nil {
		t.Fatal(err)
	}
}

func TestShelf(t *testing.T) {
	dir := fastDir(t)
	s := mustShelf(t, dir, 1<<20)
	if ids := shelfIDs(t, s, 0, 10); ids != nil {
		t.Fatalf("%v on a new shelf", ids)
	}
	if _, err := os.Stat(filepath.Join(dir, "dead-letters.db")); !os.IsNotExist(err) {
		t.Fatalf("a file before the first Put: %v", err)
	}
	putLetters(t, s, 1, 5)
	if got := fmt.Sprint(shelfIDs(t, s, 0, 3), shelfIDs(t, s, 3, 9)); got != "[1 2 3] [4 5]" {
		t.Fatal(got)
	}
	if err := s.Drop(2, 4, 99); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Put([][]byte{{1}}); !errors.Is(err, ErrClosed) {
		t.Fatalf("put after close: %v", err)
	}
	s = mustShelf(t, dir, 1<<20)
	putLetters(t, s, 6, 1) // ids are never given twice
	if n, evicted := s.Count(); fmt.Sprint(shelfIDs(t, s, 0, 9), n, evicted) != "[1 3 5 6] 4 0" {
		t.Fatal(shelfIDs(t, s, 0, 9), n, evicted)
	}
}

func TestShelfTrim(t *testing.T) {
	s := mustShelf(t, fastDir(t), 100) // an entry has 12 or 13 bytes
	for i := range 20 {
		putLetters(t, s, 1+i*5, 5)
	}
	kept, evicted := s.Count()
	ids := shelfIDs(t, s, 0, 100)
	if len(ids) != kept || kept < 7 || int(evicted)+kept != 100 || ids[kept-1] != 100 || ids[0] != 100-uint64(kept)+1 {
		t.Fatalf("%d kept, %d evicted, ids %v", kept, evicted, ids)
	}
}

// TestShelfDamage harms every page of the file in turn: the shelf opens, hands
// out nothing altered, and takes entries.
func TestShelfDamage(t *testing.T) {
	dir := fastDir(t)
	s := mustShelf(t, dir, 1<<20)
	for i := range 20 {
		putLetters(t, s, 1+i*50, 50)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "dead-letters.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	read, aside := 0, 0
	for at := 0; at < len(whole); at += 1024 {
		p := append([]byte(nil), whole...)
		switch at / 1024 % 4 {
		case 0:
			clear(p[at&^4095 : at&^4095+4096])
		case 1:
			p[at+100] ^= 1
		case 2:
			copy(p[at:], record(1, 1024))
		case 3:
			p = p[:at]
		}
		sub := filepath.Join(dir, fmt.Sprint(at))
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "dead-letters.db"), p, 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustShelf(t, sub, 1<<20)
		kept, err := s.List(0, 2000)
		for _, k := range kept {
			if string(k.Data) != fmt.Sprintf("letter %d", k.ID) {
				t.Fatalf("damage at %d: altered entry %d: %q", at, k.ID, k.Data)
			}
		}
		if err == nil {
			read += len(kept)
		}
		if _, err := os.Stat(filepath.Join(sub, "dead-letters.db.bad")); err == nil {
			aside++
			if err := s.Put([][]byte{[]byte("letter 1")}); err != nil {
				t.Fatalf("damage at %d: put: %v", at, err)
			}
		}
	}
	if read == 0 || aside == 0 {
		t.Fatalf("%d entries read, %d files set aside", read, aside)
	}
}
