package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func mustShelf(t testing.TB, dir string, max int64, keys ...Key) *Shelf {
	t.Helper()
	s, err := OpenShelf(ShelfOptions{Dir: dir, MaxBytes: max, Keys: keys})
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
			if k.Err != nil {
				continue
			}
			if err == nil {
				read++
			}
			if string(k.Data) != fmt.Sprintf("letter %d", k.ID) {
				t.Fatalf("damage at %d: altered entry %d: %q", at, k.ID, k.Data)
			}
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

// TestShelfHuge: an entry larger than the whole budget takes no others with
// it, and is counted and logged.
func TestShelfHuge(t *testing.T) {
	var log bytes.Buffer
	s, err := OpenShelf(ShelfOptions{Dir: fastDir(t), MaxBytes: 1000, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	putLetters(t, s, 1, 3)
	if log.Len() > 0 {
		t.Fatalf("logged %s", &log)
	}
	if err := s.Put([][]byte{[]byte("letter 4"), make([]byte, 997), []byte("letter 6")}); err != nil {
		t.Fatal(err)
	}
	if n, evicted := s.Count(); fmt.Sprint(shelfIDs(t, s, 0, 9), n, evicted) != "[1 2 3 4 6] 5 1" {
		t.Fatal(shelfIDs(t, s, 0, 9), n, evicted)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "bytes=997") {
		t.Fatalf("logged %s", &log)
	}
	putLetters(t, s, 7, 100)
	if _, evicted := s.Count(); evicted < 2 || !strings.Contains(log.String(), fmt.Sprintf("count=%d", evicted-1)) {
		t.Fatalf("%d evicted, logged %s", evicted, &log)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestShelfSealed: entries are encrypted once there is a key; those from
// before, and with old keys, are read; those whose key is missing are counted
// and listed with the reason, not trimmed before their time, and read again
// when the key is back.
func TestShelfSealed(t *testing.T) {
	dir := fastDir(t)
	old, now := testKey(1), testKey(2)
	s := mustShelf(t, dir, 1<<20)
	putLetters(t, s, 1, 2)
	reopen := func(keys ...Key) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustShelf(t, dir, 1<<20, keys...)
	}
	reopen(old)
	putLetters(t, s, 3, 2)
	reopen(now, old)
	putLetters(t, s, 5, 2)
	if got := fmt.Sprint(shelfIDs(t, s, 0, 9)); got != "[1 2 3 4 5 6]" {
		t.Fatal(got)
	}
	p, err := os.ReadFile(filepath.Join(dir, "dead-letters.db"))
	if err != nil || !bytes.Contains(p, []byte("letter 2")) || bytes.Contains(p, []byte("letter 3")) || bytes.Contains(p, []byte("letter 5")) {
		t.Fatalf("in plain on disk, or not what is looked for: %v", err)
	}
	reopen(now)
	kept, err := s.List(0, 9)
	if n, evicted := s.Count(); err != nil || len(kept) != 6 || n != 6 || evicted != 0 {
		t.Fatalf("%d listed, %d kept, %d evicted, %v", len(kept), n, evicted, err)
	}
	for _, k := range kept {
		missing := k.ID == 3 || k.ID == 4
		if missing != errors.Is(k.Err, ErrNoKey) || missing != (k.Data == nil) || missing && !strings.Contains(k.Err.Error(), old.ID()) {
			t.Fatalf("entry %d: %q, %v", k.ID, k.Data, k.Err)
		}
	}
	putLetters(t, s, 7, 1)
	if err := s.Drop(4, 5); err != nil {
		t.Fatal(err)
	}
	reopen(old, now)
	if n, _ := s.Count(); fmt.Sprint(shelfIDs(t, s, 0, 9), n) != "[1 2 3 6 7] 5" {
		t.Fatal(shelfIDs(t, s, 0, 9), n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestShelfTampered: an encrypted entry that was changed, or put under
// another id, is listed as such.
func TestShelfTampered(t *testing.T) {
	dir := fastDir(t)
	s := mustShelf(t, dir, 1<<20, testKey(1))
	putLetters(t, s, 1, 2)
	k1, v1, err := s.encode(1, []byte("letter 1"))
	if err != nil {
		t.Fatal(err)
	}
	if e := s.decode(k1, v1); e.ID != 1 || string(e.Data) != "letter 1" || e.Err != nil {
		t.Fatalf("%+v", e)
	}
	k2, _, _ := s.encode(2, nil)
	moved := bytes.Clone(v1)
	binary.BigEndian.PutUint32(moved, s.sum(k2, moved[4:]))
	if e := s.decode(k2, moved); e.ID != 2 || e.Data != nil || !errors.Is(e.Err, errTampered) {
		t.Fatalf("moved: %+v", e)
	}
	for bit := 32; bit < len(v1)*8; bit++ {
		v := bytes.Clone(v1)
		v[bit/8] ^= 1 << (bit % 8)
		if e := s.decode(k1, v); !errors.Is(e.Err, errDamaged) {
			t.Fatalf("bit %d: %+v", bit, e)
		}
		binary.BigEndian.PutUint32(v, s.sum(k1, v[4:]))
		if e := s.decode(k1, v); e.Data != nil || !errors.Is(e.Err, errTampered) && !errors.Is(e.Err, ErrNoKey) {
			t.Fatalf("bit %d with its checksum: %+v", bit, e)
		}
	}
}
