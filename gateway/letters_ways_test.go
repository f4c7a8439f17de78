package gateway

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// Each letter is reported to the dead-letter topic once; those from before the
// option too; one that is too large comes without its payload, one that cannot
// be sent now later, and data goes on. keep says whether they stay.
func TestReportDeadLetters(t *testing.T) {
	for _, keep := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			dir, shore := t.TempDir(), newPicky(even)
			g := lettered(t, dir, 10, map[string]Sink{"shore": shore})
			stop := startLettered(t, g)
			wait(time.Second)
			stop()
			if len(shore.report) != 0 {
				t.Fatal("reported by a sink that has no place for it")
			}
			shore.topic, shore.keep = true, keep
			missing := true
			shore.rule = func(b *Batch, i int) string {
				switch {
				case b.Letters == nil:
					return even(b, i)
				case b.Items[i].Seq == 2 && missing:
					b.Letters[i].Later = true
					return "no topic"
				case b.Items[i].Seq == 4 && !b.Letters[i].Cut:
					return "too large"
				case b.Items[i].Seq == 6:
					return "too large however cut"
				}
				return ""
			}
			g = lettered(t, dir, 4, map[string]Sink{"shore": shore})
			stop = startLettered(t, g)
			wait(30 * time.Second)
			if live, again := shore.seqs(); len(live) != 7 || len(again) != 0 {
				t.Errorf("%v, %v", live, again)
			}
			if n := len(shore.report); n != 4 { // 8 10 12 14; 4 comes after those that cannot be sent
				t.Errorf("%d reported: %+v", n, shore.report)
			}
			shore.mu.Lock()
			missing = false
			shore.mu.Unlock()
			wait(5 * time.Minute)
			stop()
			checkReported(t, dir, shore, keep)
		})
	}
}

// checkReported holds what was reported, and what is left.
func checkReported(t *testing.T, dir string, shore *pickySink, keep bool) {
	t.Helper()
	seen := map[uint64]DeadLetterInfo{}
	for _, x := range shore.report {
		if _, twice := seen[x.ID]; twice || x.At.IsZero() || x.Reason != "too large" {
			t.Errorf("%+v", x)
		}
		seen[x.ID] = x
	}
	s := openShelf(t, dir)
	left := all(t, NewLetters(s, SystemClock(), nil), LetterFilter{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 6 || !seen[2].Cut || seen[1].Cut {
		t.Errorf("%+v", seen)
	}
	if keep && len(left) != 7 || !keep && len(left) != 1 {
		t.Fatalf("%d left: %+v", len(left), left)
	}
	for _, l := range left {
		if l.Reported == (l.Seq == 6) || (l.ReportError != "") != (l.Seq == 6) {
			t.Errorf("%+v", l)
		}
	}
}

// A crash between the refusal and its release makes no second letter; one
// between the confirmation of a retry and its commit sends it once more, with
// the same seq; a letter is never lost.
func TestLettersAndCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, shore := t.TempDir(), newPicky(even)
		var copies []string
		snap := func() {
			to := t.TempDir()
			if p, err := os.ReadFile(filepath.Join(dir, "dead-letters.db")); err == nil {
				if err := os.WriteFile(filepath.Join(to, "dead-letters.db"), p, 0o600); err != nil {
					t.Error(err)
				}
			}
			copies = append(copies, to)
		}
		g := lettered(t, dir, 10, map[string]Sink{"shore": shore})
		stop := startLettered(t, g)
		wait(time.Second)
		snap() // kept
		entries := [][]byte{}
		for _, l := range all(t, g.Letters(), LetterFilter{}) {
			f := &forwarder{name: l.Sink, lanes: g.lanes, lane: int(l.Lane), clock: SystemClock()}
			entries = append(entries, f.letter(l.Seq, "refused after the crash", l.Stored))
		}
		shore.mu.Lock()
		shore.each = func(*Batch) error { snap(); return nil } // asked for, and sent
		shore.mu.Unlock()
		if _, err := g.Letters().Retry(LetterFilter{All: true}, ""); err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		stop()
		snap() // delivered
		checkCopies(t, copies, entries)
		shore.mu.Lock()
		shore.each = nil
		shore.mu.Unlock()
		g = lettered(t, copies[1], 0, map[string]Sink{"shore": shore})
		stop = startLettered(t, g)
		wait(time.Second)
		stop()
		if _, again := shore.seqs(); fmt.Sprint(again) != "[2 4 6 8 10 2 4 6 8 10]" {
			t.Errorf("%v", again)
		}
	})
}

// checkCopies holds what each copy of the shelf has.
func checkCopies(t *testing.T, copies []string, entries [][]byte) {
	t.Helper()
	for i, want := range []int{5, 5, 0} {
		s := openShelf(t, copies[i])
		ls := NewLetters(s, SystemClock(), nil)
		if i < 2 {
			if err := ls.Put(entries); err != nil { // refused again after the crash
				t.Fatal(err)
			}
		}
		left := all(t, ls, LetterFilter{})
		asked := ls.status().Retrying
		if len(left) != want || i == 1 && asked != 5 || i != 1 && asked != 0 {
			t.Errorf("copy %d: %d letters, %d asked for", i, len(left), asked)
		}
		for _, l := range left {
			if l.Reason != "too large" {
				t.Errorf("copy %d: %+v", i, l)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Shelves of the first form, with letters of all versions and an encrypted one,
// are listed, counted by sink and can be retried.
func TestGoldenShelf(t *testing.T) {
	f, err := os.Open("testdata/dead-letters-form1.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dead-letters.db"), p, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openShelf(t, dir)
	ls := NewLetters(s, SystemClock(), nil)
	left := all(t, ls, LetterFilter{})
	if st := ls.status(); len(left) != 3 || left[0].Gateway != "" || left[1].Gateway != "ship-7" || left[1].LaneName != "bulk" || left[1].Seq != 300 ||
		!left[2].Unreadable || !strings.Contains(left[2].Reason, buffer.Key{1}.ID()) || st.Sinks[0].Kept != 1 || st.Sinks[1].Sink != "shore" || st.Sinks[1].Kept != 2 {
		t.Fatalf("%+v, %+v", left, st)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openShelf(t, dir, buffer.Key{2}, buffer.Key{1})
	ls = NewLetters(s, SystemClock(), nil)
	if err := ls.Put([][]byte{storedLetter(t, left[0])}); err != nil { // known by its place
		t.Fatal(err)
	}
	r, err := ls.Retry(LetterFilter{Sink: "shore"}, "")
	left = all(t, ls, LetterFilter{})
	if err != nil || r.Count != 3 || len(left) != 3 || left[2].Reason != "too large" || left[2].RetryTo != "shore" || left[2].ID != 4 || ls.status().Sinks[0].Kept != 3 {
		t.Fatalf("%+v, %v, %+v", r, err, left)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "dead-letters.db")); err != nil || bytes.Contains(raw, []byte("refused again")) {
		t.Error(err)
	}
}

func storedLetter(t *testing.T, l DeadLetter) []byte {
	t.Helper()
	p := []byte{deadLetterVersion}
	for _, s := range []string{l.Sink, l.Gateway, l.Generation, l.LaneName} {
		p = appendText(p, s)
	}
	p = append(p, byte(l.Lane), 0xac, 0x02, 0, 0, 0, 0, 0, 0, 0, 0) // seq 300
	return append(appendText(p, "again"), l.Stored...)
}

// putMany puts n letters of two sinks.
func putMany(t *testing.T, ls *Letters, n int) {
	t.Helper()
	for first := 1; first <= n; first += 2000 {
		var p [][]byte
		for i := range 2000 {
			p = append(p, mustLetter([]string{"shore", "hall"}[i%2], uint64(first+i), "too large"))
		}
		if err := ls.Put(p); err != nil {
			t.Fatal(err)
		}
	}
}

// Many letters are put, listed, selected, asked for and dropped
// in bounded memory and pages.
func TestManyLetters(t *testing.T) {
	n := 12_000 // WAYSTATION_LETTERS=100000 in make soak
	if more, err := strconv.Atoi(os.Getenv("WAYSTATION_LETTERS")); err == nil {
		n = more / 12_000 * 12_000
	}
	dir, err := os.MkdirTemp("/dev/shm", "waystation-letters-") // the commits are not what is tested
	if err != nil {
		dir = t.TempDir()
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s := openShelf(t, dir)
	ls := NewLetters(s, SystemClock(), nil)
	putMany(t, ls, n)
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	most := uint64(0)
	look := func() {
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
	}
	pages, seen := 0, 0
	for after := uint64(0); ; pages++ {
		page, next, err := ls.List(LetterFilter{Sink: "hall", Device: "d1"}, after, 1000)
		if err != nil || len(page) > 1000 {
			t.Fatal(len(page), err)
		}
		seen += len(page)
		look()
		if after = next; next == 0 {
			break
		}
	}
	if seen != n/6 || pages < n/6000 {
		t.Errorf("%d seen in %d pages", seen, pages)
	}
	if page, next, err := ls.List(LetterFilter{Reason: "nothing has this"}, 0, 10); err != nil || len(page) != 0 || n > letterScan && next == 0 || next > letterScan+letterPage {
		t.Errorf("%d, next %d, %v: one page looks at all of it", len(page), next, err)
	}
	if r, err := ls.Retry(LetterFilter{Sink: "hall"}, ""); err != nil || r.Count != n/2 {
		t.Errorf("%+v, %v", r, err)
	}
	look()
	if st := ls.status(); st.Retrying != n/2 || st.Sinks[0].Kept != n/2 || st.Sinks[0].Retrying != n/2 {
		t.Errorf("%+v", st)
	}
	if r, err := ls.Drop(LetterFilter{All: true}); err != nil || r.Count != n {
		t.Errorf("%+v, %v", r, err)
	}
	look()
	if st := ls.status(); st.Kept != 0 || st.Bytes != 0 || st.Retrying != 0 {
		t.Errorf("%+v", st)
	}
	if t.Logf("at most %d KiB more than at the start", most>>10); most > 48<<20 {
		t.Errorf("%d MiB of memory", most>>20)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLetterFilter(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		q      LetterFilter
		change bool
		says   string
	}{
		{LetterFilter{}, false, ""},
		{LetterFilter{}, true, "say which"},
		{LetterFilter{All: true}, true, ""},
		{LetterFilter{All: true, Sink: "a"}, true, "not both"},
		{LetterFilter{Reason: "a"}, true, ""},
		{LetterFilter{IDs: []uint64{0}}, true, "ids begin with 1"},
		{LetterFilter{IDs: make([]uint64, maxLetterIDs+1)}, true, "at most 10000"},
		{LetterFilter{Since: now, Until: now}, true, "must be before"},
		{LetterFilter{Sink: strings.Repeat("x", 513)}, false, "at most 512 bytes"},
	} {
		if err := c.q.Check(c.change); (err == nil) != (c.says == "") || err != nil && (!errors.Is(err, ErrLetterRequest) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%+.100v: %v", c.q, err)
		}
	}
	s := openShelf(t, t.TempDir())
	ls := NewLetters(s, SystemClock(), nil)
	if err := ls.Put([][]byte{mustLetter("a", 1, "Too Large"), mustLetter("b", 2, "no topic"), mustLetter("a", 3, "no topic"), []byte("junk")}); err != nil {
		t.Fatal(err)
	}
	for want, q := range map[string]LetterFilter{"[1 2 3 4]": {}, "[1 3]": {Sink: "a"}, "[2]": {Sink: "?", Reason: "TOPIC", Device: "d2"}, "[3]": {IDs: []uint64{3, 9}},
		"[]": {Until: now}, "[1 2 3]": {Source: "d*"}, "[1]": {IDs: []uint64{1, 2}, Sink: "a"}} {
		got := []uint64{}
		for _, l := range all(t, ls, q) {
			got = append(got, l.ID)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%+v: %v, want %s", q, got, want)
		}
	}
	if _, err := ls.Get(9); !errors.Is(err, ErrNoLetter) {
		t.Error(err)
	}
	if l, err := ls.Get(2); err != nil || l.Sink != "b" || l.ID != 2 {
		t.Errorf("%+v, %v", l, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
