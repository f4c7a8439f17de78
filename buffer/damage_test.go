package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// original is a closed queue of two lanes with cursors, from which damaged
// copies are made.
type original struct {
	o     Options
	next  [2]uint64
	files []part            // segments, and whatever else is there
	old   map[string][]byte // files as they were before the last commits
}

// part is one file of an original.
type part struct {
	path  string // relative to the queue's directory
	bytes []byte
	lane  int    // -1 = not a segment
	first uint64 // of a segment
	end   uint64 // seq at which the next one begins
	maps  []pageMap
}

// newOriginal fills a queue of a variant.
func newOriginal(t *testing.T, v variant) *original {
	t.Helper()
	m := &original{o: small(filepath.Join(fastDir(t), "q")), next: [2]uint64{1, 1}}
	m.o.Compression = Zstd
	v.set(&m.o)
	r := rand.New(rand.NewPCG(7, 7))
	add := func(l *Log, commits int) {
		for range commits {
			lane := r.IntN(4) / 3
			b := &Batch{}
			for range 1 + r.IntN([]int{3, 60}[r.IntN(2)]) { // also blocks of one piece
				b.Add(laneRecord(lane, m.next[lane]))
				m.next[lane]++
			}
			if err := appendWait(l, lane, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	l := mustOpen(t, m.o)
	cursors := []*Cursor{mustCursor(t, l, "x"), mustCursor(t, l, "y")}
	add(l, 400)
	for i, c := range cursors {
		share := uint64(4 - i)
		for lane := range 2 {
			c.Release(lane, m.next[lane]/share, Released{Sent: m.next[lane]/share - 1})
		}
		mustSync(t, c)
	}
	l.Forget([]string{"x", "y"}) // forgets none: the committer has then deleted what was released
	m.old = contents(t, m.o.Dir)
	add(l, 30)
	mustClose(t, l)
	m.list(t)
	return m
}

// contents reads all files below dir.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for path, s := range snapshot(t, dir) {
		rel, err := filepath.Rel(dir, path)
		must(t, err)
		out[rel] = []byte(s)
	}
	return out
}

// list takes in the files of the closed queue.
func (m *original) list(t *testing.T) {
	t.Helper()
	files := contents(t, m.o.Dir)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		x := part{path: path, bytes: files[path], lane: -1}
		if first, _, ok := parseSegmentName(filepath.Base(path)); ok {
			x.lane, x.first = strings.Index("ab", filepath.Dir(path)), first
			x.end = m.next[x.lane]
			x.maps = mapPages(t, x.bytes)
			if n := len(m.files); n > 0 && m.files[n-1].lane == x.lane {
				m.files[n-1].end = first
			}
		}
		m.files = append(m.files, x)
	}
	if len(m.files) < 8 {
		t.Fatalf("only %d files", len(m.files))
	}
}

// aim picks where to harm a file: anywhere, in a meta page, or at a key, a
// header or a stored cursor.
func (x *part) aim(r *rand.Rand) int {
	at := r.IntN(len(x.bytes))
	switch mark := []string{"", "", "meta", blockMagic, blockMagic, cursorPrefix, keyNext}[r.IntN(7)]; {
	case x.lane < 0 || mark == "":
	case mark == "meta":
		return r.IntN(2)*pageBytes + r.IntN(80)
	default:
		if i := bytes.Index(x.bytes[at:], []byte(mark)); i >= 0 {
			return min(at+i-keyBytes+r.IntN(keyBytes+blockHeader), len(x.bytes)-1)
		}
	}
	return at
}

// harm changes a copy of a file in one of the ways of bad storage, and notes
// the pages that are not what they were.
// With plausible set, what is there now looks right and is not: a write that
// never arrived, or one that went to the wrong place.
func (m *original) harm(x *part, p []byte, r *rand.Rand) (out []byte, harmed map[uint64]bool, plausible bool) {
	if len(p) < pageBytes {
		return p, nil, false
	}
	at := x.aim(r)
	page := at &^ (pageBytes - 1)
	to := min(page+pageBytes, len(p))
	how := r.IntN(9)
	switch how {
	default:
		p[at] ^= 1 << r.IntN(8)
	case 1:
		clear(p[page:to])
	case 2:
		n := min(len(p)-at, 1+r.IntN(64<<10))
		copy(p[at:], record(uint64(at), n)[:n])
	case 3:
		p = p[:at]
	case 4: // two pages changed places
		other := r.IntN(len(p)/pageBytes) * pageBytes
		was := slices.Clone(p[page:to])
		copy(p[page:to], p[other:])
		copy(p[other:other+pageBytes], was)
	case 5: // a write that never arrived
		if old := m.old[x.path]; len(old) >= to {
			copy(p[page:to], old[page:to])
		}
	case 6: // a page of another file of the lane: a plain block does not say of which lane it is, a sealed one does
		y := &m.files[r.IntN(len(m.files))]
		if y.lane != x.lane {
			y = x
		}
		other := y.bytes
		if n := len(other) / pageBytes; n > 0 {
			copy(p[page:to], other[r.IntN(n)*pageBytes:])
		}
	}
	harmed = map[uint64]bool{}
	for id := 0; id < len(x.bytes); id += pageBytes {
		end := min(id+pageBytes, len(x.bytes))
		if end > len(p) || !bytes.Equal(p[id:end], x.bytes[id:end]) {
			harmed[uint64(id/pageBytes)] = true
		}
	}
	return p, harmed, how == 5 || how == 6
}

// copyTo writes a damaged copy and returns per lane the seqs that must be
// read, and whether the lane's newest segment is as it was.
func (m *original) copyTo(t *testing.T, dir string, r *rand.Rand) (w wanted) {
	t.Helper()
	want, intact := [2]map[uint64]bool{{}, {}}, [2]bool{true, true}
	hit := map[int]bool{}
	for range 1 + r.IntN(3) {
		i := r.IntN(len(m.files))
		hit[i] = true
		for ; r.IntN(2) == 0 && i < len(m.files)-1 && m.files[i].lane == m.files[i+1].lane; i++ { // rather a newer one
			hit[i+1] = true
		}
	}
	for i := range m.files {
		x := &m.files[i]
		p, harmed := slices.Clone(x.bytes), map[uint64]bool(nil)
		if hit[i] {
			var plausible bool
			p, harmed, plausible = m.harm(x, p, r)
			w.plausible = w.plausible || plausible
		}
		path := filepath.Join(dir, x.path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, p, 0o600)); err != nil {
			t.Fatal(err)
		}
		if x.lane < 0 {
			continue
		}
		if len(harmed) > 0 && x.end == m.next[x.lane] {
			intact[x.lane] = false
		}
		firsts := slices.Sorted(maps.Keys(x.maps[0].blocks))
		ok := whole(x.maps, harmed)
		for j, first := range firsts {
			end := x.end
			if j+1 < len(firsts) {
				end = firsts[j+1]
			}
			for seq := first; seq < end && ok[first]; seq++ {
				want[x.lane][seq] = true
			}
		}
	}
	w.seqs, w.intact = want, intact
	return w
}

// wanted is what is asked of a damaged copy. Of one that looks right in places
// where it is not, no more than that it starts and alters nothing: which of two
// pages is the right one cannot always be told.
type wanted struct {
	seqs      [2]map[uint64]bool // to be read
	intact    [2]bool            // the lane's newest segment is as it was
	plausible bool
}

// check opens a damaged copy, twice.
func (m *original) check(t *testing.T, o Options, w wanted) (read int) {
	t.Helper()
	var before [2]span
	for again := range 2 {
		l, err := Open(o)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		for lane := range 2 {
			for _, name := range []string{"fresh", "x", "y"} {
				c := mustCursor(t, l, name)
				s := follow(t, c, lane, laneRecord)
				balanced(t, c)
				if w.plausible {
					continue
				}
				for seq := range w.seqs[lane] {
					if seq >= s.from && !s.seen[seq] {
						t.Fatalf("lane %d: cursor %s from %d: record %d is whole and was not read, losses %+v", lane, name, s.from, seq, s.losses)
					}
				}
				if s.end < m.next[lane] || s.end > m.next[lane] && w.intact[lane] && again == 0 {
					t.Fatalf("lane %d: next seq %d, want %d", lane, s.end, m.next[lane])
				}
				if s.from > m.next[lane]/3 {
					t.Fatalf("lane %d: cursor %s at %d was never there", lane, name, s.from)
				}
				if name != "fresh" {
					continue
				}
				if read += len(s.seen); again == 1 && !maps.Equal(s.seen, before[lane].seen) {
					t.Fatalf("lane %d: %d records, then %d", lane, len(before[lane].seen), len(s.seen))
				}
				before[lane] = s
			}
			if again == 0 && !w.plausible {
				m.goOn(t, l, lane, &before[lane])
			}
		}
		if n := l.Stats().Quarantined; again == 1 && n > 0 && !w.plausible {
			t.Fatalf("%d segments set aside when opened again", n)
		}
		mustClose(t, l)
	}
	return read / 2
}

// goOn appends a record, which must be read under a new seq.
func (m *original) goOn(t *testing.T, l *Log, lane int, s *span) {
	t.Helper()
	next := l.Stats().Lanes[lane].Next
	b := &Batch{}
	b.Add(laneRecord(lane, next))
	if err := appendWait(l, lane, b); err != nil {
		t.Fatalf("append: %v", err)
	}
	if *s = follow(t, mustCursor(t, l, "fresh"), lane, laneRecord); !s.seen[next] || s.end != next+1 {
		t.Fatalf("lane %d: appended %d, read up to %d", lane, next, s.end)
	}
}

// TestDamage harms one to three files of a closed queue of two lanes with
// cursors, in every way of bad storage: it opens, hands out no altered record
// and none under another seq, delivers every block that can be reached over
// pages that are whole, covers what is missing by losses, gives no seq twice,
// and is clean when opened again; see wanted for the exception. WAYSTATION_DAMAGED sets how many copies are
// made, over all variants.
func TestDamage(t *testing.T) {
	n := max(times(t, "WAYSTATION_DAMAGED", 100)/len(variants()), 1)
	for i, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			m := newOriginal(t, v)
			base := fastDir(t)
			read, all, began := 0, 0, time.Now()
			for j := range n {
				dir := fmt.Sprintf("%s/%d", base, j)
				want := m.copyTo(t, dir, rand.New(rand.NewPCG(uint64(i), uint64(j))))
				o := m.o
				o.Dir = dir
				t.Run("", func(t *testing.T) {
					watch := time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("damaged copy %d hangs", j)) })
					defer watch.Stop()
					read += m.check(t, o, want)
				})
				if t.Failed() {
					t.Fatalf("damaged copy %d", j)
				}
				all += int(m.next[0] + m.next[1] - 2)
				must(t, os.RemoveAll(dir))
			}
			t.Logf("%d damaged copies of %d files, %d of %d records read, in %v", n, len(m.files), read, all, time.Since(began).Round(time.Millisecond))
		})
	}
}

// TestTreeLoop: a branch page that refers to itself would have bbolt recurse
// until the process dies.
func TestTreeLoop(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 5000, 500, 100})
	mustClose(t, l)
	l = mustOpen(t, o)
	fill(t, l, lot{0, 5001, 100, 100, 100})
	mustClose(t, l)
	path := segmentFiles(t, o.Dir, "a")[0]
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	loops := 0
	for at := 2 * pageBytes; at < len(p); at += pageBytes {
		if ne := binary.NativeEndian; ne.Uint16(p[at+8:]) == pageBranch {
			for e := range int(ne.Uint16(p[at+10:])) {
				ne.PutUint64(p[at+pageHeader+e*elementSize+8:], uint64(at/pageBytes))
			}
			loops++
		}
	}
	if loops == 0 {
		t.Fatal("no branch page")
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, o)
	if r := drain(t, mustCursor(t, l, "x"), 0, 100); r.got != 100 || len(r.losses) != 1 || r.losses[0].Reason != ReasonQuarantined {
		t.Fatalf("%+v", r)
	}
}

// TestTruncatedWhileOpen: a page fault on a map is an error, not the end.
func TestTruncatedWhileOpen(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes = 1 << 20
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 5000, 100, 100})
	mustClose(t, l)
	l = mustOpen(t, o)
	fill(t, l, lot{0, 5001, 100, 100, 100})
	c := mustCursor(t, l, "x")
	var ch Chunk
	if err := c.Read(0, Limit{Records: 100, Bytes: 1 << 20}, &ch); err != nil || len(ch.Records) != 100 {
		t.Fatalf("%d records, %v", len(ch.Records), err)
	}
	c.Release(0, 101, Released{Sent: 100})
	if err := os.Truncate(segmentFiles(t, o.Dir, "a")[0], 64<<10); err != nil {
		t.Fatal(err)
	}
	if r := drain(t, c, 0, 100); r.got < 100 || len(r.losses) == 0 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
}
