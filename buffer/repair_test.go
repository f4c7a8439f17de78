package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

func mustRepair(t testing.TB, dir string, o RepairOptions) *RepairReport {
	t.Helper()
	rep, err := Repair(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// shown returns the seqs a scan shows, unaltered.
func shown(t interface{ Fatal(...any) }, dir string, size int) map[uint64]bool {
	q, err := Examine(dir, ExamineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	if err := q.Scan(ScanOptions{Lane: "a"}, func(r *Run) error {
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
	return seen
}

// TestRepairDamage harms segments, also the newest, and repairs: a dry run
// touches nothing; afterwards all that could be read before can be read, no
// record is altered, the queue opens without rebuilding anything, and the
// undamaged segments are as they were.
func TestRepairDamage(t *testing.T) {
	const size, records = 60, 6000
	master := filepath.Join(fastDir(t), "master")
	o := small(master)
	o.SegmentBytes = 96 << 10
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, records, 25, size})
	mustSync(t, mustCursor(t, l, "x"))
	mustClose(t, l)
	files := segmentFiles(t, master, "a")
	base, n := fastDir(t), 0
	fewChecks(t, 40)
	rapid.Check(t, func(t *rapid.T) {
		n++
		o.Dir = fmt.Sprintf("%s/%d", base, n)
		if err := os.CopyFS(o.Dir, os.DirFS(master)); err != nil {
			t.Fatal(err)
		}
		harmed := map[int]bool{}
		for range rapid.IntRange(1, 3).Draw(t, "harms") {
			i := rapid.IntRange(0, len(files)-1).Draw(t, "segment")
			harmed[i] = true
			harm(t, filepath.Join(o.Dir, "a", filepath.Base(files[i])))
		}
		before := shown(t, o.Dir, size)
		deep := rapid.Bool().Draw(t, "deep")
		if _, err := Repair(o.Dir, RepairOptions{DryRun: true, Deep: deep}); err != nil {
			t.Fatal(err)
		}
		if after := shown(t, o.Dir, size); len(after) != len(before) {
			t.Fatal("a dry run changed something")
		}
		if _, err := Repair(o.Dir, RepairOptions{Deep: deep, Discard: rapid.Bool().Draw(t, "discard")}); err != nil {
			t.Fatal(err)
		}
		after := shown(t, o.Dir, size)
		for seq := range before {
			if !after[seq] {
				t.Fatalf("%d could be read before the repair", seq)
			}
		}
		q, err := Examine(o.Dir, ExamineOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range q.Lanes[0].Segments {
			if !s.Aside && s.String() != "ok" {
				t.Fatalf("%s: %s: %v", s.Path, s.String(), s.Err)
			}
		}
		d := damaged{o: o, firsts: firstsOf(files, records+1), harmed: harmed, size: size}
		if d.check(t) < uint64(len(after)-len(before)) {
			t.Fatal("the queue does not deliver what repair brought back")
		}
		if err := os.RemoveAll(o.Dir); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d queues repaired", n)
}

// firstsOf returns the first seqs of segments, and next.
func firstsOf(files []string, next uint64) (firsts []uint64) {
	for _, f := range files {
		first, _, _ := parseSegmentName(filepath.Base(f))
		firsts = append(firsts, first)
	}
	return append(firsts, next)
}

// TestRepairRunning: a queue that is open is left alone.
func TestRepairRunning(t *testing.T) {
	o := small(fastDir(t))
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 100, 50, 100})
	if _, err := Repair(o.Dir, RepairOptions{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("repair: %v", err)
	}
	mustRepair(t, o.Dir, RepairOptions{DryRun: true})
	mustClose(t, l)
	if rep := mustRepair(t, o.Dir, RepairOptions{}); len(rep.Actions) > 0 {
		t.Fatalf("%+v", rep.Actions)
	}
}

// TestRepairAside brings back a segment that was set aside whole, or leaves it
// when every cursor has passed it.
func TestRepairAside(t *testing.T) {
	for name, passed := range map[string]bool{"waited for": false, "passed": true} {
		t.Run(name, func(t *testing.T) {
			o := small(fastDir(t))
			l := mustOpen(t, o)
			c := mustCursor(t, l, "x")
			fill(t, l, lot{0, 1, 1500, 50, 100})
			if passed {
				c.Release(0, 1401, Released{Sent: 1400})
			}
			files := segmentFiles(t, o.Dir, "a")
			second, err := os.ReadFile(files[1])
			if err != nil {
				t.Fatal(err)
			}
			mustSync(t, c)
			mustClose(t, l)
			keep := files[1]
			if passed { // a copy is all there is: released segments are deleted
				if _, err := os.Stat(keep); err == nil {
					t.Fatal("still there")
				}
				if err := os.WriteFile(keep+".bad", second, 0o600); err != nil {
					t.Fatal(err)
				}
			} else {
				rename(t, keep, keep+".bad")
			}
			rep := mustRepair(t, o.Dir, RepairOptions{Deep: true})
			if passed {
				if len(rep.Actions) != 1 || rep.Actions[0].Done != "nothing to do" {
					t.Fatalf("%+v", rep.Actions)
				}
				mustRepair(t, o.Dir, RepairOptions{Discard: true})
				if _, err := os.Stat(keep + ".bad"); err == nil {
					t.Fatal("not discarded")
				}
				return
			}
			if len(rep.Actions) != 1 || rep.Actions[0].Done != "brought back" || len(rep.Actions[0].Back) != 1 || rep.Actions[0].Blocks != 5 || len(rep.Actions[0].Missing) > 0 {
				t.Fatalf("%+v", rep.Actions)
			}
			l = mustOpen(t, o)
			if r := drain(t, mustCursor(t, l, "x"), 0, 100); r.got != 1500 || len(r.losses) > 0 {
				t.Fatalf("%+v", r)
			}
		})
	}
}

// TestRepairNewestAside: the only segment of a lane was set aside: the cursors
// and the next seq come back with it.
func TestRepairNewestAside(t *testing.T) {
	o := small(fastDir(t))
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 200, 50, 100})
	c.Release(0, 51, Released{Sent: 50})
	mustSync(t, c)
	mustClose(t, l)
	path := segmentFiles(t, o.Dir, "a")[0]
	rename(t, path, path+".bad")
	mustRepair(t, o.Dir, RepairOptions{})
	l = mustOpen(t, o)
	if s := mustCursor(t, l, "x").Stats()[0]; s != (CursorStats{From: 1, End: 201, Next: 51, Sent: 50, Waiting: 150}) {
		t.Fatalf("%+v", s)
	}
}

// TestRepairCursors: the newest segment has lost its cursors: those of the
// segment before serve.
func TestRepairCursors(t *testing.T) {
	o := small(fastDir(t))
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	fill(t, l, lot{0, 1, 50, 50, 100})
	c.Release(0, 31, Released{Sent: 31 - 1})
	fill(t, l, lot{0, 51, 1000, 50, 100})
	mustClose(t, l)
	files := segmentFiles(t, o.Dir, "a")
	edit(t, files[len(files)-1], func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(cursorPrefix+"x"), []byte("spoilt by something"))
	})
	mustRepair(t, o.Dir, RepairOptions{})
	q := mustExamine(t, o.Dir)
	if cur := q.Lanes[0].Cursors; len(cur) != 1 || cur[0].Next != 31 || cur[0].Sent != 30 {
		t.Fatalf("%+v", cur)
	}
}

// TestRepairDeep: a branch page is lost, and with it the way to most blocks:
// only the deep scan finds them again, and it brings nothing back that another
// block has taken the place of.
func TestRepairDeep(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 5000, 500, 100})
	mustSync(t, mustCursor(t, l, "x"))
	mustClose(t, l)
	path := segmentFiles(t, o.Dir, "a")[0]
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := newestTree(f)
	if err != nil {
		t.Fatal(err)
	}
	w, err := tree.bucket(bucketBlocks)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	overwrite(t, path, int64(w.root)*pageBytes, make([]byte, pageBytes))
	if rep := mustRepair(t, o.Dir, RepairOptions{DryRun: true}); len(rep.Actions) != 1 || rep.Actions[0].Blocks != 0 {
		t.Fatalf("%+v", rep.Actions)
	}
	rep := mustRepair(t, o.Dir, RepairOptions{Deep: true})
	if len(rep.Actions) != 1 || rep.Actions[0].Done != "rebuilt" || len(rep.Actions[0].Missing) > 0 || rep.Actions[0].Kept == "" {
		t.Fatalf("%+v", rep.Actions)
	}
	l = mustOpen(t, o)
	if r := drain(t, mustCursor(t, l, "x"), 0, 100); r.got != 5000 || len(r.losses) > 0 {
		t.Fatalf("%d records, %+v", r.got, r.losses)
	}
}

// TestDeepTwoVersions: of two whole blocks under one seq one was never
// acknowledged: neither is taken.
func TestDeepTwoVersions(t *testing.T) {
	k := newCoder(None)
	pieces := map[string][][]byte{}
	for _, text := range []string{"was acknowledged", "was not"} {
		raw := &Batch{}
		raw.Add([]byte(text))
		p, err := k.encode(nil, scope{}, block{first: 7, count: 1, span: 1, raw: raw.buf})
		if err != nil {
			t.Fatal(err)
		}
		pieces[string(pieceKey(7, 0))] = append(pieces[string(pieceKey(7, 0))], p)
		if b := deepBlock(k, 7, pieces); (b.block != nil) != (len(pieces[string(pieceKey(7, 0))]) == 1) {
			t.Fatalf("%d versions: %v", len(pieces), b)
		}
	}
}

// TestRepairNewer: nothing is touched when a part is of a newer version.
func TestRepairNewer(t *testing.T) {
	for name, change := range map[string]func(*bolt.Tx) error{
		"block": newer,
		"segment": func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketMeta)).Put([]byte(keyFormat), seal([]byte{0, 0, 0, markedFormat + 1}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := small(fastDir(t))
			l := mustOpen(t, o)
			fill(t, l, lot{0, 1, 1500, 50, 100})
			mustClose(t, l)
			files := segmentFiles(t, o.Dir, "a")
			overwrite(t, files[0], 5*pageBytes, make([]byte, 3*pageBytes))
			touch(t, filepath.Join(o.Dir, "a", newName))
			edit(t, files[1], change)
			before := snapshot(t, o.Dir)
			if _, err := Repair(o.Dir, RepairOptions{Discard: true, Deep: true}); !errors.Is(err, ErrNewerFormat) {
				t.Fatalf("repair: %v", err)
			}
			after := snapshot(t, o.Dir)
			for f, p := range before {
				if after[f] != p || len(before) != len(after) {
					t.Fatalf("%s was touched", f)
				}
			}
		})
	}
}

// TestRepairFromAside: what a segment lacks comes from the one set aside under
// the same name, and nothing else of it.
func TestRepairFromAside(t *testing.T) {
	o := small(fastDir(t))
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 200, 50, 100})
	mustSync(t, mustCursor(t, l, "x"))
	mustClose(t, l)
	path := segmentFiles(t, o.Dir, "a")[0]
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".bad", p, 0o600); err != nil {
		t.Fatal(err)
	}
	mark := record(70, 100)[:20] // in the block of 51 to 100
	for at := bytes.Index(p, mark); at >= 0; at = bytes.Index(p, mark) {
		p[at] ^= 1
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	rep := mustRepair(t, o.Dir, RepairOptions{})
	if a := rep.Actions; len(a) != 1 || a[0].Blocks != 4 || fmt.Sprint(a[0].Back) != "[{51 100}]" || len(a[0].Missing) > 0 || a[0].Kept != path+".bad.2" {
		t.Fatalf("%+v", a)
	}
	l = mustOpen(t, o)
	if r := drain(t, mustCursor(t, l, "x"), 0, 100); r.got != 200 || len(r.losses) > 0 {
		t.Fatalf("%+v", r)
	}
	if n := l.Stats().BadBytes; n != 2*int64(len(p)) {
		t.Fatalf("%d bytes set aside are counted, of two files of %d", n, len(p))
	}
}

// TestRepairTorn: with the newer meta page the last commit is gone; the lane
// goes on after any seq that was given, and a deep repair finds the records.
func TestRepairTorn(t *testing.T) {
	for _, deep := range []bool{false, true} {
		o := small(fastDir(t))
		o.CursorDelay = 1 << 40
		l := mustOpen(t, o)
		fill(t, l, lot{0, 1, 200, 50, 100})
		path := segmentFiles(t, o.Dir, "a")[0]
		p, err := os.ReadFile(path) // as after a power cut: closing writes no cursor here
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		tree, err := newestTree(bytes.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		p[int(tree.txid%2)*pageBytes+60] ^= 1
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		mustRepair(t, o.Dir, RepairOptions{Deep: deep})
		if next := mustExamine(t, o.Dir).Lanes[0].Next; next <= 200 {
			t.Fatalf("next seq %d: 200 were given", next)
		}
		if seen := shown(t, o.Dir, 100); len(seen) != map[bool]int{false: 150, true: 200}[deep] {
			t.Fatalf("deep %v: %d records", deep, len(seen))
		}
	}
}
