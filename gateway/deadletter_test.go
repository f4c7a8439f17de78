package gateway

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// Stored dead letters stay readable, those of older versions too.
func TestGoldenDeadLetter(t *testing.T) {
	lanes := []buffer.LaneInfo{{}, {}, {Name: "bulk", Generation: "0123abcd", Origin: "ship-7"}}
	f := &forwarder{name: "shore", lanes: lanes, lane: int(LaneBulk), clock: NewClock(func() time.Time { return sampleTime }, nil)}
	for version := 1; version <= deadLetterVersion; version++ {
		want := DeadLetter{ID: 9, Sink: "shore", Generation: "0123abcd", Gateway: "ship-7", Lane: LaneBulk, LaneName: "bulk", Seq: 300, At: sampleTime,
			Reason: "too large", Stored: storedRecord(1)}
		if version == 1 {
			want.Gateway = "" // not in it
		}
		stored := f.letter(want.Seq, want.Reason, want.Stored)
		path := filepath.Join("testdata", fmt.Sprintf("deadletter-v%d.golden", version))
		if _, err := os.Stat(path); *update && errors.Is(err, os.ErrNotExist) {
			if err := os.WriteFile(path, []byte(hex.Dump(stored)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		dump, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		golden := undump(t, string(dump))
		got, err := parseDeadLetter(9, golden)
		if got.At.Equal(want.At) {
			got.At = want.At
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		if version == deadLetterVersion && string(golden) != string(stored) {
			t.Errorf("the stored form has changed: write a new version instead\n%x\n%x", stored, golden)
		}
		for n := range len(golden) - len(want.Stored) {
			if _, err := parseDeadLetter(1, golden[:n]); !errors.Is(err, ErrRecordFormat) {
				t.Fatalf("the first %d bytes: %v", n, err)
			}
		}
	}
	if _, err := parseDeadLetter(1, []byte{deadLetterVersion + 1, 0}); !errors.Is(err, ErrRecordFormat) {
		t.Errorf("a newer version: %v", err)
	}
}

// What cannot be read is listed all the same, and hides nothing behind it.
func TestUnreadableDeadLettersAreListed(t *testing.T) {
	s, err := buffer.OpenShelf(buffer.ShelfOptions{Dir: t.TempDir(), MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := DeadLetters(s, 0, 10); len(l) != 0 || err != nil {
		t.Fatalf("an empty shelf lists %v, %v", l, err)
	}
	f := &forwarder{name: "shore", lanes: make([]buffer.LaneInfo, 1), clock: SystemClock()}
	if err := s.Put([][]byte{f.letter(1, "a", nil), []byte("junk"), {}, f.letter(2, "b", nil)}); err != nil {
		t.Fatal(err)
	}
	l, err := DeadLetters(s, 0, 10)
	if err != nil || len(l) != 4 || l[0].Reason != "a" || l[1].ID != 2 || l[1].Reason == "" || l[2].Reason == "" || l[3].Reason != "b" {
		t.Errorf("listed %+v, %v", l, err)
	}
	if l, err = DeadLetters(s, 2, 1); err != nil || len(l) != 1 || l[0].ID != 3 {
		t.Errorf("a page lists %+v, %v", l, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Those whose key is missing are listed with what to do, and parsed again when
// it is back.
func TestDeadLettersWithoutTheirKey(t *testing.T) {
	dir := t.TempDir()
	f := &forwarder{name: "shore", lanes: make([]buffer.LaneInfo, 1), clock: SystemClock()}
	open := func(keys ...buffer.Key) *buffer.Shelf {
		s, err := buffer.OpenShelf(buffer.ShelfOptions{Dir: dir, MaxBytes: 1 << 20, Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(buffer.Key{1})
	if err := errors.Join(s.Put([][]byte{f.letter(1, "a", nil)}), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(buffer.Key{2})
	if err := s.Put([][]byte{f.letter(2, "b", nil)}); err != nil {
		t.Fatal(err)
	}
	l, err := DeadLetters(s, 0, 10)
	if err != nil || len(l) != 2 || l[0].ID != 1 || !strings.Contains(l[0].Reason, buffer.Key{1}.ID()) || l[1].Reason != "b" {
		t.Errorf("listed %+v, %v", l, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(buffer.Key{2}, buffer.Key{1})
	if l, err = DeadLetters(s, 0, 10); err != nil || len(l) != 2 || l[0].Reason != "a" {
		t.Errorf("listed %+v, %v", l, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// FuzzDeadLetter: no stored bytes make reading a dead letter panic.
func FuzzDeadLetter(f *testing.F) {
	fw := &forwarder{name: "shore", lanes: []buffer.LaneInfo{{Name: "bulk", Generation: "0123abcd"}}, clock: NewClock(func() time.Time { return sampleTime }, nil)}
	f.Add(fw.letter(300, "too large", storedRecord(1)))
	f.Add([]byte{deadLetterVersion, 255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, p []byte) {
		l, err := parseDeadLetter(7, p)
		if err != nil && !errors.Is(err, ErrRecordFormat) || err == nil && (l.ID != 7 || len(l.Stored) > len(p)) {
			t.Fatalf("%+v, %v", l, err)
		}
	})
}
