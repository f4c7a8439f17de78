package buffer

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// blockAt returns the stored block of a seq.
func blockAt(t *testing.T, path string, first uint64) (p []byte) {
	t.Helper()
	edit(t, path, func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte(bucketBlocks)).Cursor()
		for k, v := c.Seek(pieceKey(first, 0)); bytes.HasPrefix(k, pieceKey(first, 0)[:8]); k, v = c.Next() {
			p = append(p, v...)
		}
		return nil
	})
	if len(p) == 0 {
		t.Fatalf("%s has no block %d", path, first)
	}
	return p
}

// putBlock stores p as the block of a seq.
func putBlock(t *testing.T, path string, first uint64, p []byte) {
	t.Helper()
	edit(t, path, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketBlocks))
		for i := range 1000 {
			if err := b.Delete(pieceKey(first, uint16(i))); err != nil {
				return err
			}
		}
		return putPieces(b, first, p)
	})
}

// at returns a block as it would have to look to belong to another seq.
func at(p []byte, first uint64) []byte {
	p = bytes.Clone(p)
	binary.BigEndian.PutUint64(p[8:], first)
	reseal(p)
	return p
}

// tampered reads a lane of 100 records of which those of the blocks of 10 from
// the given seqs on must be reported as tampered, and all others delivered.
func tampered(t *testing.T, o Options, lane int, firsts ...uint64) {
	t.Helper()
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	l := mustOpen(t, o)
	r := drain(t, mustCursor(t, l, "reader"), lane, 100)
	if r.got != uint64(100-10*len(firsts)) || len(r.losses) != len(firsts) {
		t.Fatalf("lane %d: %d records, losses %+v", lane, r.got, r.losses)
	}
	for i, loss := range r.losses {
		if loss.First != firsts[i] || loss.Last != firsts[i]+9 || loss.Reason != ReasonTampered || !loss.Exact {
			t.Fatalf("lane %d: %+v, want the block of %d", lane, loss, firsts[i])
		}
	}
	if n := strings.Count(log.String(), `level=ERROR msg="tampered block`); n != len(firsts) || n > 0 && !strings.Contains(log.String(), segSuffix) {
		t.Fatalf("%d errors are logged: %s", n, &log)
	}
	if l.Stats().Quarantined != 0 {
		t.Fatal("a segment was set aside")
	}
	mustClose(t, l)
}

// twoLanes makes an encrypted queue of 100 records in blocks of 10 in each of
// two lanes, and returns their files.
func twoLanes(t *testing.T) (o Options, a, b string) {
	t.Helper()
	o = keyed(fastDir(t), testKey(1))
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 100, 10, 100})
	fill(t, l, lot{1, 1, 100, 10, 100})
	mustClose(t, l)
	return o, segmentFiles(t, o.Dir, "a")[0], segmentFiles(t, o.Dir, "b")[0]
}

// TestTampering changes and moves blocks in the files of a queue as someone
// without the key can: what was touched is reported as lost, the rest arrives.
func TestTampering(t *testing.T) {
	t.Run("nothing", func(t *testing.T) {
		o, a, _ := twoLanes(t)
		putBlock(t, a, 11, blockAt(t, a, 11))
		tampered(t, o, 0)
	})
	t.Run("changed", func(t *testing.T) {
		o, a, b := twoLanes(t)
		for path, i := range map[string]int{a: 20, b: 200} { // when it was committed, and the body
			p := blockAt(t, path, 21)
			p[i] ^= 1
			putBlock(t, path, 21, at(p, 21))
		}
		tampered(t, o, 0, 21)
		tampered(t, o, 1, 21)
	})
	for name, as := range map[string]func([]byte, uint64) []byte{
		"as it is": func(p []byte, _ uint64) []byte { return p }, "with its seq changed": at,
	} {
		t.Run("swapped in a lane "+name, func(t *testing.T) {
			o, a, _ := twoLanes(t)
			p, q := blockAt(t, a, 31), blockAt(t, a, 51)
			putBlock(t, a, 31, as(q, 31))
			putBlock(t, a, 51, as(p, 51))
			tampered(t, o, 0, 31, 51)
		})
	}
	t.Run("swapped between lanes", func(t *testing.T) {
		o, a, b := twoLanes(t)
		p, q := blockAt(t, a, 41), blockAt(t, b, 41)
		putBlock(t, a, 41, q)
		putBlock(t, b, 41, p)
		tampered(t, o, 0, 41)
		tampered(t, o, 1, 41)
	})
	t.Run("from another queue with the same key", func(t *testing.T) {
		o, a, _ := twoLanes(t)
		_, other, _ := twoLanes(t)
		g := mustOpen(t, o)
		own := g.generation
		mustClose(t, g)
		putBlock(t, a, 61, blockAt(t, other, 61))
		p := blockAt(t, other, 71) // and with the name of this queue put on it
		copy(p[blockHeader+1+keyIDBytes:], own[:])
		putBlock(t, a, 71, at(p, 71))
		tampered(t, o, 0, 61, 71)
	})
}

// TestPlainBlockAdded puts a block in plain among the encrypted ones.
func TestPlainBlockAdded(t *testing.T) {
	t.Run("as it is", func(t *testing.T) {
		o, a, _ := twoLanes(t)
		putBlock(t, a, 81, plainBlock(t, 81))
		tampered(t, o, 0, 81)
	})
	t.Run("and the mark taken away", func(t *testing.T) {
		o, a, _ := twoLanes(t)
		putBlock(t, a, 81, plainBlock(t, 81))
		edit(t, a, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Delete([]byte(keySealed)) })
		tampered(t, o, 0, 81)
	})
	t.Run("and the mark of another lane", func(t *testing.T) {
		o, a, _ := twoLanes(t)
		putBlock(t, a, 81, plainBlock(t, 81))
		edit(t, a, func(tx *bolt.Tx) error {
			return putMark(tx, scope{lane: "b"})
		})
		tampered(t, o, 0, 81)
	})
	t.Run("and the mark of another queue", func(t *testing.T) {
		o, a, _ := twoLanes(t)
		putBlock(t, a, 81, plainBlock(t, 81))
		edit(t, a, func(tx *bolt.Tx) error { return putMark(tx, scope{generation: Generation{1}, lane: "a"}) })
		tampered(t, o, 0, 81)
	})
}

// putMark gives a segment the mark of a lane that is encrypted from seq 1000 on.
func putMark(tx *bolt.Tx, of scope) error {
	v, err := newCoder(None, testKey(1)).mark(of, 1000)
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucketMeta)).Put([]byte(keySealed), seal(v))
}

// plainBlock returns a block of 10 records in plain.
func plainBlock(t *testing.T, first uint64) []byte {
	t.Helper()
	raw := &Batch{}
	for n := range uint64(10) {
		raw.Add(record(first+n, 100))
	}
	p, err := newCoder(None).encode(nil, scope{}, block{first: first, count: 10, span: 10, raw: raw.buf})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestEncryptionSwitchedOn: what waits in plain when the first key comes is
// delivered, also after restarts and when a mark is damaged; what someone adds
// in plain after that is not.
func TestEncryptionSwitchedOn(t *testing.T) {
	for _, spoiled := range []bool{false, true} {
		o := keyed(fastDir(t))
		l := mustOpen(t, o)
		mustCursor(t, l, "reader")
		fill(t, l, lot{0, 1, 50, 10, 100})
		mustClose(t, l)
		o.Keys = []Key{testKey(1)}
		var log bytes.Buffer
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		mustClose(t, mustOpen(t, o)) // nothing is appended: the mark is on disk all the same
		if !strings.Contains(log.String(), "switched on") || !strings.Contains(log.String(), testKey(1).ID()) {
			t.Fatalf("logged %s", &log)
		}
		log.Reset()
		l = mustOpen(t, o)
		if l.lanes[0].sealed != 51 || strings.Contains(log.String(), "switched on") {
			t.Fatalf("sealed from %d, logged %s", l.lanes[0].sealed, &log)
		}
		fill(t, l, lot{0, 51, 30, 10, 100})
		mustClose(t, l)
		l = mustOpen(t, o)
		fill(t, l, lot{0, 81, 20, 10, 100})
		mustClose(t, l)
		files := segmentFiles(t, o.Dir, "a")
		last := files[len(files)-1]
		putBlock(t, last, 91, plainBlock(t, 91))
		if spoiled {
			edit(t, last, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Put([]byte(keySealed), []byte("rot")) })
		}
		tampered(t, o, 0, 91)
	}
}

// TestMarksKeepOlderVersionsOut: a version that knows nothing of marks would
// write in plain, so that it must take the segment for one of a newer format.
func TestMarksKeepOlderVersionsOut(t *testing.T) {
	_, a, _ := twoLanes(t)
	edit(t, a, func(tx *bolt.Tx) error {
		if v, ok := unseal(tx.Bucket([]byte(bucketMeta)).Get([]byte(keyFormat))); !ok || v[3] != markedFormat {
			t.Errorf("format %v", v)
		}
		return nil
	})
	o := small(fastDir(t))
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 10, 10, 100})
	mustClose(t, l)
	if p, err := os.ReadFile(filepath.Join(o.Dir, "a", filepath.Base(a))); err != nil || bytes.Contains(p, []byte(keySealed)) {
		t.Errorf("a mark without a key, or %v", err)
	}
}

// TestMarkOfOlderSegment: when the newest segment has lost its mark, what an
// older one says counts, also when the first encrypted blocks are delivered.
func TestMarkOfOlderSegment(t *testing.T) {
	o := keyed(fastDir(t), testKey(1))
	for run := range uint64(3) {
		l := mustOpen(t, o)
		c := mustCursor(t, l, "x")
		fill(t, l, lot{0, 1 + 50*run, 50, 50, 100})
		c.Release(0, 51, Released{Sent: 50})
		mustClose(t, l)
	}
	files := segmentFiles(t, o.Dir, "a")
	if len(files) != 2 {
		t.Fatalf("segments %v: the first is not deleted", files)
	}
	edit(t, files[1], func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Delete([]byte(keySealed)) })
	if l := mustOpen(t, o); l.lanes[0].sealed != 1 {
		t.Fatalf("sealed from %d", l.lanes[0].sealed)
	}
}

// TestRebuiltKeepsMark: a segment that is rebuilt, while the queue is opened
// or when it is read, still says since when the lane is encrypted.
func TestRebuiltKeepsMark(t *testing.T) {
	o := keyed(fastDir(t), testKey(1))
	for run := range uint64(2) {
		l := mustOpen(t, o)
		mustCursor(t, l, "x")
		fill(t, l, lot{0, 1 + 500*run, 500, 50, 100})
		mustClose(t, l)
	}
	files := segmentFiles(t, o.Dir, "a")
	for i, f := range []string{files[0], files[len(files)-1]} {
		overwrite(t, f, damagedLeaf(t, f, uint64(101+800*i))*pageBytes, make([]byte, pageBytes))
	}
	l := mustOpen(t, o)
	drain(t, mustCursor(t, l, "y"), 0, 100)
	if n := l.Stats().Quarantined; n != 2 {
		t.Fatalf("%d are rebuilt", n)
	}
	for _, s := range l.lanes[0].segs {
		if err := s.view(func(tx *bolt.Tx) error {
			m, err := readMeta(tx)
			if err == nil {
				_, _, err = l.coder.readMark(m.mark, "a")
			}
			return err
		}); err != nil {
			t.Errorf("%s: %v", s.path, err)
		}
	}
}

// TestKeyLeftOut: a queue that is encrypted and drained does not go on in
// plain when its key is forgotten.
func TestKeyLeftOut(t *testing.T) {
	o, a, _ := twoLanes(t)
	edit(t, a, func(tx *bolt.Tx) error { // an empty segment that carries the mark
		if err := tx.DeleteBucket([]byte(bucketBlocks)); err != nil {
			return err
		}
		_, err := tx.CreateBucket([]byte(bucketBlocks))
		return err
	})
	if err := os.RemoveAll(filepath.Join(o.Dir, "b")); err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]Key{nil, {testKey(2)}} {
		o.Keys = keys
		refused(t, o, testKey(1))
	}
	o.Keys = []Key{testKey(1)} // and with it the mark tells which queue it is
	l := mustOpen(t, o)
	want := l.Generation()
	lockFiles(l)
	mustAbandon(t, l)
	edit(t, a, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Delete([]byte(keyGeneration)) })
	if l = mustOpen(t, o); l.Generation() != want {
		t.Fatalf("generation %s, was %s", l.Generation(), want)
	}
	mustClose(t, l)

	o, a, b := twoLanes(t) // and one whose mark is gone
	for _, path := range []string{a, b} {
		edit(t, path, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Delete([]byte(keySealed)) })
	}
	for _, keys := range [][]Key{nil, {testKey(2)}} {
		o.Keys = keys
		refused(t, o, testKey(1))
	}
}
