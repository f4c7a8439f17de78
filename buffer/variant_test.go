package buffer

import (
	"flag"
	"os"
	"strconv"
	"testing"
)

// variant is a way to run a queue in which the long proofs must hold as well.
// A new option that touches what is on disk gets a row.
type variant struct {
	name string
	set  func(*Options)
}

func variants() []variant {
	return []variant{
		{"plain", func(*Options) {}},
		{"s2", func(o *Options) { o.Compression = S2 }},
		{"none", func(o *Options) { o.Compression = None }},
		{"prefill", func(o *Options) { o.Prefill = true }},
		{"key", func(o *Options) { o.Keys = []Key{{1, 2, 3}} }},
	}
}

// times returns how often a proof is repeated: n, or what the environment
// variable says (make soak), or a tenth of n in a short run.
func times(t testing.TB, env string, n int) int {
	t.Helper()
	if s := os.Getenv(env); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("%s: %v", env, err)
		}
		return n
	}
	if testing.Short() {
		return max(n/10, 1)
	}
	return n
}

// fewChecks has rapid run a long model n times, unless the command line says
// how often (make soak does).
func fewChecks(t *testing.T, n int) {
	t.Helper()
	const name = "rapid.checks"
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if given {
		return
	}
	was := flag.Lookup(name).Value.String()
	t.Cleanup(func() { must(t, flag.Lookup(name).Value.Set(was)) })
	must(t, flag.Lookup(name).Value.Set(strconv.Itoa(n)))
}

// laneRecord is the record that the proofs store under a seq of a lane. Its
// second half compresses.
func laneRecord(lane int, seq uint64) []byte {
	p := record(seq<<4|uint64(lane), 20+int(seq%40))
	return append(p, make([]byte, seq%50)...)
}

// span is what a cursor read of a lane: from where, what, and what was missing.
type span struct {
	from, end uint64
	seen      map[uint64]bool
	losses    []Loss
}

// follow reads a lane to its end without releasing, and checks that every seq
// is handed out once as it was stored, or is covered once by a loss.
func follow(t tester, c *Cursor, lane int, want func(lane int, seq uint64) []byte) span {
	t.Helper()
	c.Rewind(lane)
	r := span{from: c.Stats()[lane].Next, seen: map[uint64]bool{}}
	r.end = r.from
	var ch Chunk
	for {
		if err := c.Read(lane, Limit{Records: 300, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatalf("lane %d at %d: %v", lane, r.end, err)
		}
		if len(ch.Records) == 0 && ch.Loss == nil {
			return r
		}
		if next := ch.Next(); ch.First != r.end || next <= r.end {
			t.Fatalf("lane %d: read %d..%d at %d, loss %+v", lane, ch.First, next, r.end, ch.Loss)
		}
		for i, rec := range ch.Records {
			seq := ch.Seq(i)
			if seq < r.end || seq >= ch.Next() || r.seen[seq] {
				t.Fatalf("lane %d: seq %d out of place in %d..%d", lane, seq, ch.First, ch.Next())
			}
			if string(rec) != string(want(lane, seq)) {
				t.Fatalf("lane %d: altered record %d: %x", lane, seq, rec)
			}
			r.seen[seq] = true
		}
		if ch.Loss != nil {
			r.losses = append(r.losses, *ch.Loss)
			if n := ch.Next() - r.end; uint64(len(ch.Records))+ch.Loss.Count() != n {
				t.Fatalf("lane %d: %d records and a loss of %d in %d seqs: %+v", lane, len(ch.Records), ch.Loss.Count(), n, *ch.Loss)
			}
		} else if uint64(len(ch.Records)) != ch.Next()-r.end {
			t.Fatalf("lane %d: %d records for %d..%d and no loss", lane, len(ch.Records), ch.First, ch.Next())
		}
		r.end = ch.Next()
	}
}

// tester is what *testing.T and *rapid.T have in common, as far as the proofs
// need it.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}
