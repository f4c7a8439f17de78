package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// ship makes a queue with two lanes, one cursor, and released records.
func ship(t testing.TB, n uint64) Options {
	t.Helper()
	o := small(fastDir(t))
	l := mustOpen(t, o)
	c := mustCursor(t, l, "shore")
	fill(t, l, lot{0, 1, n, 50, 100})
	fill(t, l, lot{1, 1, 70, 7, 100})
	c.Release(0, 21, Released{Sent: 20})
	mustSync(t, c)
	mustClose(t, l)
	return o
}

func archive(t testing.TB, dir string, o ArchiveOptions) (string, *Manifest) {
	t.Helper()
	file := filepath.Join(fastDir(t), "a.tar")
	o.Gateway = "ship-1"
	if o.Now.IsZero() {
		o.Now = time.Unix(1800000000, 0)
	}
	m, err := ExportArchive(dir, file, o)
	if err != nil {
		t.Fatal(err)
	}
	return file, m
}

func mustImport(t testing.TB, dir string, files ...string) []ImportReport {
	t.Helper()
	reps, err := Import(dir, files, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return reps
}

// guestNumber finds a guest's lane number.
func guestNumber(t testing.TB, l *Log, lane string) int {
	t.Helper()
	i := slices.IndexFunc(l.Lanes(), func(ln LaneInfo) bool { return ln.Name == lane && ln.Origin != "" })
	if i < 0 {
		t.Fatalf("no guest %s among %+v", lane, l.Lanes())
	}
	return i
}

// TestArchiveRoundTrip: export, import, read: seqs, generation and gateway are
// those of the ship; a second import changes nothing; cursors persist; a
// drained guest stays quiet.
func TestArchiveRoundTrip(t *testing.T) {
	from := ship(t, 1500)
	gen := mustExamine(t, from.Dir).Generation
	before := snapshot(t, from.Dir)
	file, m := archive(t, from.Dir, ArchiveOptions{})
	for f, p := range snapshot(t, from.Dir) {
		if before[f] != p {
			t.Fatalf("%s was touched", f)
		}
	}
	if len(m.Lanes) != 2 || m.Lanes[0].First != 21 || m.Lanes[0].Next != 1501 || m.Lanes[1].First != 1 || m.Generation != gen {
		t.Fatalf("%+v", m)
	}
	to := small(fastDir(t))
	to.Lanes = NamedLanes("a")
	l := mustOpen(t, to)
	c := mustCursor(t, l, "far")
	fill(t, l, lot{0, 1, 30, 10, 100})
	mustSync(t, c)
	if _, err := Import(to.Dir, []string{file}, ImportOptions{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("import into a running queue: %v", err)
	}
	mustClose(t, l)
	if reps := mustImport(t, to.Dir, file); reps[0].Lanes[0].Next != 1501 {
		t.Fatalf("%+v", reps)
	}
	before = snapshot(t, to.Dir)
	mustImport(t, to.Dir, file, file)
	after := snapshot(t, to.Dir)
	for f, p := range before {
		if after[f] != p || len(after) != len(before) {
			t.Fatalf("a second import changed %s", f)
		}
	}
	if rep := mustVerify(t, to.Dir); len(rep.Damage) > 0 {
		t.Fatalf("%+v", rep.Damage)
	}
	readGuests(t, to, gen, file)
}

// readGuests reads what was imported, over restarts.
func readGuests(t *testing.T, to Options, gen, file string) {
	t.Helper()
	l := mustOpen(t, to)
	a, b := guestNumber(t, l, "a"), guestNumber(t, l, "b")
	if li := l.Lanes()[a]; li.Generation != gen || li.Origin != "ship-1" || !li.Retired {
		t.Fatalf("%+v", li)
	}
	c := mustCursor(t, l, "far")
	if s := c.Stats()[a]; s.Next != 21 || s.Waiting != 1480 {
		t.Fatalf("%+v", s)
	}
	var ch Chunk
	if err := c.Read(a, Limit{Records: 100, Bytes: 1 << 20}, &ch); err != nil || ch.First != 21 || !bytes.Equal(ch.Records[0], record(21, 100)) {
		t.Fatalf("read %d, %v", ch.First, err)
	}
	c.Release(a, 50, Released{Sent: 29})
	c.Rewind(a)
	mustSync(t, c)
	mustClose(t, l)
	l = mustOpen(t, to)
	c = mustCursor(t, l, "far")
	if s := c.Stats()[a]; s.Next != 50 || s.Sent != 29 {
		t.Fatalf("after a restart %+v", s)
	}
	if r := drain(t, c, a, 100); r.got != 1451 || len(r.losses) > 0 {
		t.Fatalf("%+v", r)
	}
	if r := drain(t, c, b, 100); r.got != 70 || len(r.losses) > 0 {
		t.Fatalf("%+v", r)
	}
	if r := drain(t, c, 0, 100); r.got != 30 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
	mustSync(t, c)
	fill(t, l, lot{0, 31, 30, 10, 100})
	mustClose(t, l)
	if n := len(mustExamine(t, to.Dir).Lanes[1].Segments); n != 1 {
		t.Fatalf("%d segments of a drained guest", n)
	}
	mustImport(t, to.Dir, file) // it remembers
	l = mustOpen(t, to)
	if s := mustCursor(t, l, "far").Stats()[a]; s.Waiting != 0 || s.End != 1501 {
		t.Fatalf("%+v", s)
	}
	if gone := l.Forget([]string{"far"}); len(gone) > 0 {
		t.Fatalf("forgot %v", gone)
	}
}

// TestImportContinues: a later archive goes on where the guest ends; after
// records the ship delivered itself the cursors jump, with no loss, when the
// guest is drained, and the import is refused when it is not.
func TestImportContinues(t *testing.T) {
	from := ship(t, 300)
	first, _ := archive(t, from.Dir, ArchiveOptions{})
	l := mustOpen(t, from)
	fill(t, l, lot{0, 301, 200, 50, 100})
	mustClose(t, l)
	second, _ := archive(t, from.Dir, ArchiveOptions{}) // from 21 too
	l = mustOpen(t, from)
	c := mustCursor(t, l, "shore")
	c.Release(0, 601, Released{}) // clipped to what exists
	c.Release(1, 71, Released{Sent: 70})
	fill(t, l, lot{0, 501, 100, 50, 100})
	c.Release(0, 571, Released{Sent: 70})
	fill(t, l, lot{0, 601, 100, 50, 100})
	mustSync(t, c)
	mustClose(t, l)
	third, m := archive(t, from.Dir, ArchiveOptions{})
	if len(m.Lanes) != 1 || m.Lanes[0].First != 571 {
		t.Fatalf("%+v", m.Lanes)
	}
	to := small(fastDir(t))
	mustClose(t, mustOpen(t, to))
	mustImport(t, to.Dir, first)
	if reps := mustImport(t, to.Dir, second); reps[0].Lanes[0].First != 301 || reps[0].Lanes[0].Next != 501 {
		t.Fatalf("%+v", reps[0].Lanes)
	}
	before := snapshot(t, to.Dir)
	if _, err := Import(to.Dir, []string{third}, ImportOptions{}); !errors.Is(err, ErrNotContinuous) {
		t.Fatalf("import: %v", err)
	}
	if len(snapshot(t, to.Dir)) != len(before) {
		t.Fatal("something was installed")
	}
	l = mustOpen(t, to)
	a := guestNumber(t, l, "a")
	c = mustCursor(t, l, "far")
	if r := drain(t, c, a, 100); r.got != 480 || len(r.losses) > 0 {
		t.Fatalf("%+v", r)
	}
	mustSync(t, c)
	mustClose(t, l)
	if reps := mustImport(t, to.Dir, third); reps[0].Lanes[0].Jumped != 70 {
		t.Fatalf("%+v", reps[0].Lanes)
	}
	l = mustOpen(t, to)
	for _, name := range []string{"far", "new"} {
		c = mustCursor(t, l, name)
		if r := drain(t, c, a, 100); r.got != 130 || len(r.losses) > 0 {
			t.Fatalf("%s: %+v", name, r)
		}
		balanced(t, c)
	}
}

// TestImportInterrupted: an import that ended after any number of segments is
// completed by the next.
func TestImportInterrupted(t *testing.T) {
	from := small(fastDir(t))
	from.SegmentBytes, from.MaxBytes = 16<<20, 512<<20
	l := mustOpen(t, from)
	mustSync(t, mustCursor(t, l, "shore"))
	fill(t, l, lot{0, 1, 600, 100, 70000})
	mustClose(t, l)
	file, _ := archive(t, from.Dir, ArchiveOptions{})
	whole := fastDir(t)
	mustImport(t, whole, file)
	q := mustExamine(t, whole)
	dir := q.Lanes[0].Dir
	segs := segmentFiles(t, whole, dir)
	if len(segs) < 3 {
		t.Fatalf("%d segments", len(segs))
	}
	for n := range segs {
		part := fastDir(t)
		if err := os.MkdirAll(filepath.Join(part, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, s := range segs[:n] {
			p, err := os.ReadFile(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(part, dir, filepath.Base(s)), p, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		touch(t, filepath.Join(part, dir, newName))
		touch(t, filepath.Join(part, lockName))
		mustImport(t, part, file)
		if s := scanRecords(t, mustExamine(t, part), ScanOptions{}, 70000); len(s.recs) != 600 || len(s.holes) > 0 {
			t.Fatalf("after %d segments: %d records, %v", n, len(s.recs), s.holes)
		}
	}
}

// TestImportRefuses: what must not be imported, and that nothing is then installed.
func TestImportRefuses(t *testing.T) {
	from := ship(t, 300)
	file, _ := archive(t, from.Dir, ArchiveOptions{})
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Import(from.Dir, []string{file}, ImportOptions{}); !errors.Is(err, ErrOwnArchive) {
		t.Fatalf("its own: %v", err)
	}
	to := fastDir(t)
	if _, err := Import(to, []string{file}, ImportOptions{MaxBytes: 1000}); !errors.Is(err, ErrFull) {
		t.Fatalf("no room: %v", err)
	}
	if _, err := Import(filepath.Join(to, "none"), []string{file}, ImportOptions{}); !errors.Is(err, ErrNoQueue) {
		t.Fatalf("no directory: %v", err)
	}
	if reps, err := Import(to, []string{file}, ImportOptions{DryRun: true}); err != nil || len(reps[0].Lanes) != 2 {
		t.Fatalf("dry run: %v", err)
	}
	bad := filepath.Join(fastDir(t), "bad.tar")
	for at := 0; at < len(whole)-1024; at += 97 { // the end of a tar is two empty blocks
		p := bytes.Clone(whole)
		p[at] ^= 0x10
		if err := os.WriteFile(bad, p, 0o600); err != nil {
			t.Fatal(err)
		}
		// Padding, and fields of headers that say nothing of the content, may differ.
		if m, err := CheckArchive(bad); err == nil && fmt.Sprint(m.Lanes) != fmt.Sprint(mustManifest(t, file).Lanes) {
			t.Fatalf("byte %d altered, and it is taken", at)
		} else if err != nil && !errors.Is(err, ErrArchive) {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	for n := 0; n < len(whole)-1024-512; n += 511 { // and the last file is padded
		if err := os.WriteFile(bad, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Import(to, []string{bad}, ImportOptions{}); !errors.Is(err, ErrArchive) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if entries, err := os.ReadDir(to); err != nil || slices.ContainsFunc(entries, os.DirEntry.IsDir) {
		t.Fatalf("installed: %v %v", entries, err)
	}
	for i := range maxGuests - 1 {
		d := filepath.Join(to, fmt.Sprintf("x@%016x", i+1))
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		touch(t, segmentPath(d, 1)+".bad")
	}
	if _, err := Import(to, []string{file}, ImportOptions{}); err == nil || !strings.Contains(err.Error(), "at most 64") {
		t.Fatalf("too many guests: %v", err)
	}
}

func mustManifest(t testing.TB, file string) *Manifest {
	t.Helper()
	m, err := CheckArchive(file)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRetiredAgain: a lane that is configured no longer is delivered, and goes
// on with its seqs when it is configured again.
func TestRetiredAgain(t *testing.T) {
	o := small(fastDir(t))
	l := mustOpen(t, o)
	fill(t, l, lot{1, 1, 30, 10, 100})
	mustSync(t, mustCursor(t, l, "x"))
	mustClose(t, l)
	one := o
	one.Lanes = NamedLanes("a")
	l = mustOpen(t, one)
	c := mustCursor(t, l, "x")
	if r := drain(t, c, 1, 100); r.got != 30 || !l.Lanes()[1].Retired {
		t.Fatalf("%+v", r)
	}
	b := &Batch{}
	b.Add([]byte("x"))
	if err := appendWait(l, 1, b); err == nil {
		t.Fatal("a retired lane takes records")
	}
	mustSync(t, c)
	mustClose(t, l)
	l = mustOpen(t, o)
	fill(t, l, lot{1, 31, 5, 5, 100})
	if r := drain(t, mustCursor(t, l, "x"), 1, 100); r.got != 5 || len(r.losses) > 0 {
		t.Fatalf("%+v", r)
	}
}

// TestGuestDamaged: a guest's segment that is damaged is rebuilt under the
// generation it came with.
func TestGuestDamaged(t *testing.T) {
	from := ship(t, 300)
	gen := mustExamine(t, from.Dir).Generation
	file, _ := archive(t, from.Dir, ArchiveOptions{})
	to := small(fastDir(t))
	l := mustOpen(t, to)
	fill(t, l, lot{0, 1, 10, 10, 100})
	mustClose(t, l)
	mustImport(t, to.Dir, file)
	overwrite(t, segmentFiles(t, to.Dir, "a@"+gen)[0], 40, []byte{0xff, 0xff}) // a meta page
	p, err := os.ReadFile(segmentFiles(t, to.Dir, "a@"+gen)[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(p, record(150, 100)[:20])
	overwrite(t, segmentFiles(t, to.Dir, "a@"+gen)[0], int64(at), []byte("spoilt"))
	mustRepair(t, to.Dir, RepairOptions{})
	l = mustOpen(t, to)
	a := guestNumber(t, l, "a")
	if li := l.Lanes()[a]; li.Generation != gen || li.Origin != "ship-1" {
		t.Fatalf("%+v", li)
	}
	if r := drain(t, mustCursor(t, l, "far"), a, 100); r.got != 230 || len(r.losses) == 0 {
		t.Fatalf("%+v", r)
	}
}
