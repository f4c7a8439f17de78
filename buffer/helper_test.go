package buffer

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fastDir returns a directory in memory when there is one: what is tested here
// does not depend on the medium, and syncs cost nothing there.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "waystation-buffer-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// small returns options for a queue with small segments.
func small(dir string) Options {
	return Options{Dir: dir, Lanes: NamedLanes("a", "b"), MaxBytes: 64 << 20, SegmentBytes: 64 << 10, CursorDelay: time.Hour, Compression: None}
}

// mustOpen opens a queue that is closed at the end of the test.
func mustOpen(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, l) })
	return l
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

func mustCursor(t testing.TB, l *Log, name string) *Cursor {
	t.Helper()
	c, err := l.Cursor(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustSync(t testing.TB, c *Cursor) {
	t.Helper()
	if err := c.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// appendWait appends a batch and returns what done said.
func appendWait(l *Log, lane int, b *Batch) error {
	done := make(chan error, 1)
	l.Append(lane, b, func(err error) { done <- err })
	return <-done
}

// record returns the record that the tests store as number n: it begins with n
// and does not compress.
func record(n uint64, size int) []byte {
	r := rand.New(rand.NewPCG(n, uint64(size)))
	p := binary.BigEndian.AppendUint64(nil, n)
	for len(p) < size {
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
	}
	return p[:max(size, 8)]
}

// lot is records first..first+n-1 of a lane, of size bytes, appended per by per.
type lot struct {
	lane      int
	first, n  uint64
	per, size int
}

// fill appends a lot.
func fill(t testing.TB, l *Log, x lot) {
	t.Helper()
	for x.n > 0 {
		b := &Batch{}
		for ; b.Len() < x.per && x.n > 0; x.first, x.n = x.first+1, x.n-1 {
			b.Add(record(x.first, x.size))
		}
		if err := appendWait(l, x.lane, b); err != nil {
			t.Fatal(err)
		}
	}
}

// reading is what a cursor read from a lane to its end.
type reading struct {
	got    uint64 // records
	losses []Loss
}

// drain reads a lane to the end, releases all of it, and checks that seqs
// follow each other and that every record is the one stored under its seq.
func drain(t testing.TB, c *Cursor, lane, size int) (r reading) {
	t.Helper()
	var ch Chunk
	for {
		if err := c.Read(lane, Limit{Records: 500, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatal(err)
		}
		if ch.Loss == nil && len(ch.Records) == 0 {
			return r
		}
		if at := c.Stats()[lane].Next; ch.First != at {
			t.Fatalf("lane %d: read %d at %d", lane, ch.First, at)
		}
		if ch.Loss != nil {
			if ch.Loss.Last < ch.Loss.First {
				t.Fatalf("loss %+v is empty", *ch.Loss)
			}
			r.losses = append(r.losses, *ch.Loss)
			c.Release(lane, ch.Next(), Released{Lost: ch.Loss.Count()})
			continue
		}
		for i, rec := range ch.Records {
			if n := ch.First + uint64(i); string(rec) != string(record(n, size)) {
				t.Fatalf("lane %d seq %d: altered record %x", lane, n, rec[:8])
			}
		}
		r.got += uint64(len(ch.Records))
		c.Release(lane, ch.Next(), Released{Sent: uint64(len(ch.Records))})
	}
}

// balanced checks a cursor's books.
func balanced(t testing.TB, c *Cursor) {
	t.Helper()
	for i, s := range c.Stats() {
		if s.From+s.Sent+s.Dead+s.Lost+s.Waiting != s.End {
			t.Fatalf("books of lane %d do not balance: %+v", i, s)
		}
	}
}

// dirBytes returns the size of all files below dir.
func dirBytes(t testing.TB, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		st, err := d.Info()
		if err == nil {
			n += st.Size()
		}
		return ignoreGone(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// segmentFiles returns the segments of a lane, oldest first.
func segmentFiles(t testing.TB, dir, lane string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, lane, "*"+segSuffix))
	if err != nil || len(files) == 0 {
		t.Fatalf("segments of %s: %v %v", lane, files, err)
	}
	return files
}

// overwrite writes p into a file at off.
func overwrite(t testing.TB, path string, off int64, p []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// eventually polls what a foreign process or a kernel does.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("%s: not within 20 s", what)
}
