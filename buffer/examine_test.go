package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// scanned is what a scan showed of one lane.
type scanned struct {
	recs  map[uint64]bool
	holes []Run
	last  uint64
}

// scanRecords scans a lane and checks order and content of every record.
func scanRecords(t testing.TB, q *Queue, o ScanOptions, size int) (s scanned) {
	t.Helper()
	s.recs = map[uint64]bool{}
	if err := q.Scan(o, func(r *Run) error {
		if r.Next <= r.First || r.First <= s.last && s.last > 0 && r.First != s.last {
			return fmt.Errorf("run %d..%d after %d", r.First, r.Next, s.last)
		}
		s.last = r.Next
		if r.Err != nil {
			s.holes = append(s.holes, *r)
			return nil
		}
		return r.Each(func(seq uint64, rec []byte) error {
			if seq < r.First || seq >= r.Next {
				return fmt.Errorf("record %d in run %d..%d", seq, r.First, r.Next)
			}
			if !bytes.Equal(rec, record(seq, size)) {
				return fmt.Errorf("altered record %d", seq)
			}
			s.recs[seq] = true
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

func mustExamine(t testing.TB, dir string) *Queue {
	t.Helper()
	q, err := Examine(dir, ExamineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func mustVerify(t testing.TB, dir string) *Report {
	t.Helper()
	r, err := Verify(dir, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestExamine: what the tools say of a closed queue is what the queue says of
// itself, and nothing is touched.
func TestExamine(t *testing.T) {
	o := small(fastDir(t))
	o.Compression = Zstd
	l := mustOpen(t, o)
	c, slow := mustCursor(t, l, "shore"), mustCursor(t, l, "slow")
	fill(t, l, lot{0, 1, 6000, 50, 100})
	fill(t, l, lot{1, 1, 10, 10, 40})
	c.Release(0, 5001, Released{Sent: 4990, Dead: 10})
	slow.Release(0, 2001, Released{Sent: 2000})
	mustSync(t, c)
	mustClose(t, l)
	want, curs, gen := l.Stats(), c.Stats(), l.Generation()
	before := snapshot(t, o.Dir)
	q := mustExamine(t, o.Dir)
	if q.InUse || q.Generation != gen || len(q.Lanes) != 2 || q.Bytes != want.Bytes {
		t.Fatalf("%+v, want %+v", q, want)
	}
	for i, ln := range q.Lanes {
		w := want.Lanes[i]
		if ln.Name != w.Name || ln.Next != w.Next || ln.First != w.First || len(ln.Segments) != w.Segments || ln.Bytes != w.Bytes || ln.Err != nil || ln.Guest {
			t.Fatalf("%+v, want %+v", ln, w)
		}
		for _, cur := range ln.Cursors {
			if cur.Name == "shore" && cur.CursorStats != curs[i] {
				t.Fatalf("cursor %+v, want %+v", cur, curs[i])
			}
		}
		if len(ln.Cursors) != 2 || ln.Oldest.IsZero() || ln.Segments[0].From.IsZero() || ln.Segments[0].String() != "ok" {
			t.Fatalf("%+v", ln)
		}
	}
	first := q.Lanes[0].First
	s := scanRecords(t, q, ScanOptions{Lane: "a"}, 100)
	if len(s.recs) != int(6001-first) || len(s.holes) > 0 {
		t.Fatalf("%d records from %d, holes %v", len(s.recs), first, s.holes)
	}
	for _, r := range [][2]uint64{{first, first}, {first + 13, first + 77}, {4999, 5051}, {5990, 9000}} {
		s := scanRecords(t, q, ScanOptions{Lane: "a", From: r[0], To: r[1]}, 100)
		if n := min(r[1], 6000) - r[0] + 1; len(s.recs) != int(n) || !s.recs[r[0]] {
			t.Fatalf("%v: %d records", r, len(s.recs))
		}
	}
	if rep := mustVerify(t, o.Dir); len(rep.Damage) > 0 || rep.Records != int64(6001-first)+10 || rep.Blocks == 0 {
		t.Fatalf("%+v", rep)
	}
	for f, p := range snapshot(t, o.Dir) {
		if before[f] != p {
			t.Fatalf("%s was touched", f)
		}
	}
}

// TestExamineNothing: what is no queue is said to be none.
func TestExamineNothing(t *testing.T) {
	dir := fastDir(t)
	for _, d := range []string{dir, filepath.Join(dir, "none")} {
		if _, err := Examine(d, ExamineOptions{}); !errors.Is(err, ErrNoQueue) {
			t.Fatalf("%s: %v", d, err)
		}
	}
}

// keepFilling appends to lane 0, and releases all but the last thousand, until
// it is told to finish.
func keepFilling(l *Log, c *Cursor) (finish func() error) {
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := uint64(1); ; n += 40 {
			b := &Batch{}
			for i := range uint64(40) {
				b.Add(record(n+i, 100))
			}
			err := appendWait(l, 0, b)
			if n > 2000 && n%3 == 0 {
				c.Release(0, n-1000, Released{Sent: n - 1000 - c.Stats()[0].Next})
			}
			select {
			case <-stop:
				stopped <- err
				return
			default:
			}
		}
	}()
	return func() error { close(stop); return <-stopped }
}

// TestExamineRunning examines, verifies and scans a queue that is appended to
// and released all the time: never an error, a damage or an altered record,
// and all that nobody has released is there.
func TestExamineRunning(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 256 << 10
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	finish := keepFilling(l, c)
	eventually(t, "records", func() bool { return l.Stats().Lanes[0].Next > 3000 })
	held := false
	for range 60 {
		low := c.Stats()[0].Next
		q := mustExamine(t, o.Dir)
		held = held || q.InUse && q.PID == os.Getpid()
		ln := q.Lanes[0]
		if ln.Err != nil || len(ln.Damaged) > 0 || ln.Next < low || q.Generation != l.Generation() {
			t.Fatalf("%+v", ln)
		}
		s := scanRecords(t, q, ScanOptions{Lane: "a"}, 100)
		after := c.Stats()[0].Next
		for _, h := range s.holes {
			if h.Next > after {
				t.Fatalf("hole %d..%d: %v; released below %d", h.First, h.Next, h.Err, after)
			}
		}
		for seq := after; seq < ln.Next; seq++ {
			if !s.recs[seq] {
				t.Fatalf("%d is not shown: %d..%d, released below %d", seq, ln.First, ln.Next, after)
			}
		}
		if rep := mustVerify(t, o.Dir); len(rep.Damage) > 0 {
			t.Fatalf("%+v", rep.Damage)
		}
	}
	if err := finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/locks"); err == nil && !held {
		t.Error("nobody has the queue open, it says")
	}
}

// TestVerifyDamage: whatever is harmed in a segment, what the scan shows is
// unaltered, and what it does not show is reported.
func TestVerifyDamage(t *testing.T) {
	const size, records = 60, 3000
	master := filepath.Join(fastDir(t), "master")
	o := small(master)
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, records, 25, size})
	mustClose(t, l)
	files := segmentFiles(t, master, "a")
	base, n := fastDir(t), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := fmt.Sprintf("%s/%d", base, n)
		if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
			t.Fatal(err)
		}
		harm(t, filepath.Join(dir, "a", filepath.Base(rapid.SampledFrom(files).Draw(t, "segment"))))
		rep, err := Verify(dir, VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		q, err := Examine(dir, ExamineOptions{})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[uint64]bool{}
		if err := q.Scan(ScanOptions{}, func(r *Run) error {
			return r.Each(func(seq uint64, rec []byte) error {
				if !bytes.Equal(rec, record(seq, size)) {
					return fmt.Errorf("altered record %d", seq)
				}
				seen[seq] = true
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		for seq := uint64(1); seq <= records; seq++ {
			told := seen[seq]
			for _, d := range rep.Damage {
				told = told || d.First <= seq && seq <= d.Last
			}
			if !told && !strings.Contains(fmt.Sprint(rep.Damage), "meta page") { // then the commit before the last one shows
				t.Fatalf("%d is not there, and no damage tells: %+v", seq, rep.Damage)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	})
}

// TestVerifySaysWhat: kinds of damage and what is said of them.
func TestVerifySaysWhat(t *testing.T) {
	for name, tc := range map[string]struct {
		harm func(t *testing.T, dir, path string)
		want string
	}{
		"block": {func(t *testing.T, _, path string) {
			p, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.LastIndex(p, record(150, 100)[:20])
			overwrite(t, path, int64(at), []byte("spoilt"))
		}, "checksum differs"},
		"newer":    {func(t *testing.T, _, path string) { edit(t, path, newer) }, "newer version"},
		"aside":    {func(t *testing.T, _, path string) { rename(t, path, path+".bad") }, "set aside"},
		"leftover": {func(t *testing.T, dir, _ string) { touch(t, filepath.Join(dir, "a", newName)) }, "interrupted"},
		"meta page": {func(t *testing.T, _, path string) {
			overwrite(t, path, 40, []byte{0xff, 0xff, 0xff})
		}, "meta page"},
		"letters": {func(t *testing.T, dir, _ string) { touch(t, filepath.Join(dir, shelfName)) }, "dead letters"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := fastDir(t)
			l := mustOpen(t, small(dir))
			fill(t, l, lot{0, 1, 200, 50, 100})
			mustClose(t, l)
			if rep := mustVerify(t, dir); len(rep.Damage) > 0 {
				t.Fatalf("whole, yet %+v", rep.Damage)
			}
			tc.harm(t, dir, segmentFiles(t, dir, "a")[0])
			before := snapshot(t, dir)
			rep := mustVerify(t, dir)
			all := append(rep.Damage, rep.Notes...)
			if got := fmt.Sprint(all); len(all) == 0 || !strings.Contains(got, tc.want) || all[0].Remedy == "" || (len(rep.Damage) > 0) == (name == "leftover") {
				t.Fatalf("damage %s", got)
			}
			for f, p := range snapshot(t, dir) {
				if before[f] != p {
					t.Fatalf("%s was touched", f)
				}
			}
		})
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func touch(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestShelfState counts dead letters large and small beside the running shelf.
func TestShelfState(t *testing.T) {
	dir := fastDir(t)
	s, err := OpenShelf(ShelfOptions{Dir: dir, MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := 0
	for _, size := range []int{10, 5000, 100, 70000, 3, 900, 12000} {
		for range 7 {
			if err := s.Put([][]byte{record(uint64(n), size)}); err != nil {
				t.Fatal(err)
			}
			n++
			if got := examineShelf(filepath.Join(dir, shelfName)); got.Err != nil || got.Count != n || got.Bytes != s.bytes {
				t.Fatalf("%+v, want %d of %d bytes", got, n, s.bytes)
			}
		}
	}
}

// TestHeldBy reads lines of /proc/locks.
func TestHeldBy(t *testing.T) {
	st := &syscall.Stat_t{Ino: 1234, Dev: 0x801}
	for line, want := range map[string]int{
		"1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF":  4711,
		"1: FLOCK  ADVISORY  WRITE 99 00:2f:1234 0 EOF":    99, // the pid in the file
		"1: FLOCK  ADVISORY  WRITE 4711 00:2f:1234 0 EOF":  0,
		"1: FLOCK  ADVISORY  WRITE 4711 08:01:12345 0 EOF": 0,
		"1: POSIX  ADVISORY  WRITE 4711 08:01:1234 0 EOF":  0,
		"1: -> FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 E": 0,
		"": 0,
	} {
		if pid, ok := heldBy(line, st, 99); pid != want && ok || ok != (want > 0) {
			t.Errorf("%q: %d, %v", line, pid, ok)
		}
	}
}

// FuzzPageWalk: no bytes make the reader without bbolt panic or go on without
// end, and what it shows is what a checksum vouches for.
func FuzzPageWalk(f *testing.F) {
	o := small(fastDir(f))
	l := mustOpen(f, o)
	fill(f, l, lot{0, 1, 400, 20, 50})
	mustClose(f, l)
	p, err := os.ReadFile(segmentFiles(f, o.Dir, "a")[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p, uint32(0), uint64(0))
	for at := 2 * pageBytes; at < len(p); at += 3 * pageBytes {
		f.Add(p, uint32(at+pageHeader+8), uint64(2))
	}
	k := newCoder(None)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, p []byte, at uint32, word uint64) {
		p = bytes.Clone(p)
		if int64(at)+8 <= int64(len(p)) {
			binary.NativeEndian.PutUint64(p[at:], word)
		}
		path := filepath.Join(dir, "x.seg")
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := openBlocks(k, path, 1, 1<<21)
		if err != nil {
			return
		}
		defer r.close()
		last := uint64(1)
		for b, ok := r.next(); ok; b, ok = r.next() {
			if b.first != last || b.end <= b.first || b.err == nil && k.check(b.block) != nil {
				t.Fatalf("%d..%d after %d", b.first, b.end, last)
			}
			last = b.end
		}
		_, _ = countShelf(r.t)
		_, _ = lastKey(r.t)
	})
}
