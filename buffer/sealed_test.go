package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// keyed returns options for a small encrypted queue.
func keyed(dir string, keys ...Key) Options {
	o := small(dir)
	o.Keys = keys
	return o
}

// patient is a record that nobody without the key may read.
func patient(n int) []byte {
	return fmt.Appendf(nil, `{"device":"ventilator-%d","patient":"Jane Doe","t":%d}`, n%7, n)
}

// putPatients appends patients from..to-1 to two lanes.
func putPatients(t *testing.T, l *Log, from, to int) {
	t.Helper()
	for lane := range 2 {
		for n := from; n < to; {
			b := &Batch{}
			for range 20 {
				b.Add(patient(n))
				n++
			}
			if err := appendWait(l, lane, b); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// leave fills a queue with all that can be on disk: full and half-full
// segments of two lanes, one rebuilt after damage, those set aside, one that a
// crash left half-made, the reserve, thinned blocks and dead letters. The
// last is copied while the queue is open, as a crash leaves it.
func leave(t *testing.T, keys ...Key) (crashed string) {
	t.Helper()
	dir := fastDir(t)
	l := mustOpen(t, keyed(dir, keys...))
	putPatients(t, l, 0, 4000)
	mustClose(t, l)
	files := segmentFiles(t, dir, "a")
	overwrite(t, files[0], 0, make([]byte, 8<<10)) // both meta pages: nothing is left of it
	second, _, _ := parseSegmentName(filepath.Base(files[1]))
	overwrite(t, files[1], damagedLeaf(t, files[1], second+200)*pageBytes, make([]byte, pageBytes)) // rebuilt
	l = mustOpen(t, keyed(dir, keys...))
	c := mustCursor(t, l, "shore")
	var ch Chunk
	for {
		if err := c.Read(0, Limit{Records: 500, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatal(err)
		}
		if len(ch.Records) == 0 && ch.Loss == nil {
			break
		}
	}
	putPatients(t, l, 4000, 4100)
	thin := sealedBlock(t, l.coder, l.scopeOf(l.lanes[0]), true)
	raw := &Batch{}
	raw.Add(patient(1))
	whole, err := l.coder.encode(nil, l.scopeOf(l.lanes[0]), block{first: 1, count: 1, span: 1, raw: raw.buf})
	if err != nil {
		t.Fatal(err)
	}
	made, err := buildSegment(l.lanes[0].dir, 64<<10, &meta{mark: l.lanes[0].mark, first: 1}, func(b *bolt.Bucket) error {
		return errors.Join(putPieces(b, 1, whole), putPieces(b, 4711, thin))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = made.close() }()
	s := mustShelf(t, dir, 1<<20, keys...)
	if err := s.Put([][]byte{patient(3)}); err != nil {
		t.Fatal(err)
	}
	crashed = fastDir(t)
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"reserve", "dead-letters.db", "a/new.tmp", "a/*.seg", "b/*.seg", "a/*.bad"} {
		if found, _ := filepath.Glob(filepath.Join(crashed, want)); len(found) == 0 {
			t.Fatalf("nothing is left as %s", want)
		}
	}
	if bad, _ := filepath.Glob(filepath.Join(crashed, "a/*.bad")); len(bad) != 2 {
		t.Fatalf("set aside: %v", bad)
	}
	return crashed
}

// inPlain returns the files below dir in which words of the records are found.
func inPlain(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		p, err := os.ReadFile(path)
		for _, word := range []string{"ventilator", "Jane", "Doe", "patient", "pump-"} {
			if bytes.Contains(p, []byte(word)) {
				files = append(files, path)
				break
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestNothingInPlain searches the raw files of an encrypted queue for what is
// in its records; in those of one that is not encrypted the same search finds
// it in every kind of file.
func TestNothingInPlain(t *testing.T) {
	if files := inPlain(t, leave(t, testKey(1))); len(files) > 0 {
		t.Errorf("in plain with a key: %v", files)
	}
	dir := leave(t)
	found := strings.Join(inPlain(t, dir), "\n")
	for _, want := range []string{"dead-letters.db", "new.tmp", ".bad", "a/0", "b/0"} {
		if !strings.Contains(found, want) {
			t.Errorf("without a key nothing is found in %s", want)
		}
	}
}

// refused opens a queue that must say which key is missing, and leave
// everything as it is.
func refused(t *testing.T, o Options, missing Key) {
	t.Helper()
	before := snapshot(t, o.Dir)
	for range 2 {
		if _, err := Open(o); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), missing.ID()) || !strings.Contains(err.Error(), "give that key") {
			t.Fatalf("open: %v", err)
		}
	}
	after := snapshot(t, o.Dir)
	if len(before) != len(after) {
		t.Fatalf("%d files, then %d", len(before), len(after))
	}
	for f, p := range before {
		if after[f] != p {
			t.Fatalf("%s was touched", f)
		}
	}
}

// TestKeyRotation: a new key takes effect with a new segment, the old one is
// needed until what it encrypted is delivered: without it nothing is lost.
func TestKeyRotation(t *testing.T) {
	dir := fastDir(t)
	old, now := testKey(1), testKey(2)
	l := mustOpen(t, keyed(dir, old))
	mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 1000, 50, 100})
	mustClose(t, l)
	refused(t, keyed(dir), old)
	refused(t, keyed(dir, now), old)

	l = mustOpen(t, keyed(dir, now, old))
	fill(t, l, lot{0, 1001, 500, 50, 100})
	fill(t, l, lot{1, 1, 50, 50, 100})
	mustClose(t, l)
	for lane, ids := range map[string][]Key{"a": {old, old, now}, "b": {now}} {
		files := segmentFiles(t, dir, lane)
		for i, want := range []Key{ids[0], ids[len(ids)-1]} {
			p, err := os.ReadFile(files[i*(len(files)-1)])
			if err != nil || !bytes.Contains(p, newXAES(want).id[:]) {
				t.Fatalf("lane %s: no block with the key expected in %v", lane, files)
			}
		}
	}

	l = mustOpen(t, keyed(dir, now)) // the newest segments need only the new key
	c := mustCursor(t, l, "x")
	var ch Chunk
	for range 3 {
		if err := c.Read(0, Limit{Records: 100, Bytes: 1 << 20}, &ch); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), old.ID()) || ch.Loss != nil {
			t.Fatalf("read: %v, loss %v", err, ch.Loss)
		}
	}
	fill(t, l, lot{0, 1501, 50, 50, 100})
	if s := l.Stats(); s.Quarantined != 0 || s.Lanes[0].First != 1 {
		t.Fatalf("%+v", s)
	}
	if r := drain(t, c, 1, 100); r.got != 50 {
		t.Fatalf("%+v of the other lane", r)
	}
	mustClose(t, l)

	l = mustOpen(t, keyed(dir, now, old))
	c = mustCursor(t, l, "x")
	if r := drain(t, c, 0, 100); r.got != 1550 || len(r.losses) != 0 {
		t.Fatalf("%+v with both keys", r)
	}
	balanced(t, c)
}

// TestOldKeyCanGo: after one run with a new key a lane to which nothing was
// appended needs the old one no more, once it is drained.
func TestOldKeyCanGo(t *testing.T) {
	dir := fastDir(t)
	old, now := testKey(1), testKey(2)
	l := mustOpen(t, keyed(dir, old))
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 100, 50, 100})
	drain(t, c, 0, 100)
	mustClose(t, l)
	refused(t, keyed(dir, now), old)
	l = mustOpen(t, keyed(dir, now, old))
	mustCursor(t, l, "x")
	mustClose(t, l)
	refused(t, keyed(dir), now)
	l = mustOpen(t, keyed(dir, now))
	c = mustCursor(t, l, "x")
	fill(t, l, lot{0, 101, 10, 10, 100})
	if r := drain(t, c, 0, 100); r.got != 10 || len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
	if files := segmentFiles(t, dir, "a"); len(files) != 1 {
		t.Fatalf("%v are left", files)
	}
}

// TestGenerationFromSealed: when the newest segment does not tell which queue
// it is, what is sealed in it does, or an older segment.
func TestGenerationFromSealed(t *testing.T) {
	spoil := func(keys ...string) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) (err error) {
			for _, k := range keys {
				v := bytes.Clone(tx.Bucket([]byte(bucketMeta)).Get([]byte(k)))
				v[2] ^= 4
				err = errors.Join(err, tx.Bucket([]byte(bucketMeta)).Put([]byte(k), v))
			}
			return err
		}
	}
	for name, x := range map[string]struct {
		keys []Key
		hurt []string // in the newest segment
		runs int
	}{
		"by the mark":          {[]Key{testKey(1)}, []string{keyGeneration}, 1},
		"by a block":           {[]Key{testKey(1)}, []string{keyGeneration, keySealed}, 1},
		"by an older segment":  {nil, []string{keyGeneration}, 2},
		"by an old one sealed": {[]Key{testKey(1)}, []string{keyGeneration, keySealed}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			dir := fastDir(t)
			var want string
			for run := range x.runs {
				l := mustOpen(t, keyed(dir, x.keys...))
				want = l.Generation()
				fill(t, l, lot{0, uint64(1 + run*50), 50, 50, 100})
				mustClose(t, l)
			}
			files := segmentFiles(t, dir, "a")
			edit(t, files[len(files)-1], spoil(x.hurt...))
			l := mustOpen(t, keyed(dir, x.keys...))
			if got := l.Generation(); got != want {
				t.Fatalf("generation %s, was %s", got, want)
			}
			if r := drain(t, mustCursor(t, l, "x"), 0, 100); r.got != uint64(50*x.runs) || len(r.losses) > 0 {
				t.Fatalf("%+v", r)
			}
		})
	}
}

// TestSealedGuest: a lane from another queue is read with that queue's key.
func TestSealedGuest(t *testing.T) {
	theirs, ours := testKey(1), testKey(2)
	from, dir := fastDir(t), fastDir(t)
	l := mustOpen(t, keyed(from, theirs))
	fill(t, l, lot{0, 1, 100, 50, 100})
	g := l.generation
	mustClose(t, l)
	l = mustOpen(t, keyed(dir, ours))
	fill(t, l, lot{0, 1, 10, 5, 100})
	mustClose(t, l)
	if err := os.CopyFS(filepath.Join(dir, guestDir("a", g)), os.DirFS(filepath.Join(from, "a"))); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, keyed(dir, ours)) // left alone, see TestGuestWithoutItsKey
	if n := len(l.Lanes()); n != 2 {
		t.Fatalf("%d lanes", n)
	}
	mustClose(t, l)
	for range 2 { // the second time its mark is under our key
		var log bytes.Buffer
		o := keyed(dir, ours, theirs)
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		l = mustOpen(t, o)
		var ch Chunk
		for pos := uint64(1); pos < 101; pos = ch.Next() {
			if err := l.ReadAt(2, pos, Limit{Records: 50, Bytes: 1 << 20}, &ch); err != nil || ch.Loss != nil || len(ch.Records) != 50 {
				t.Fatalf("at %d: %v, %+v", pos, err, ch.Loss)
			}
		}
		mustClose(t, l)
		if strings.Contains(log.String(), "level=ERROR") {
			t.Fatalf("logged %s", &log)
		}
	}
}
