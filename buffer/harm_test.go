package buffer

import (
	"os"

	"pgregory.net/rapid"
)

// harm changes a file in one of the ways of bad storage.
func harm(t *rapid.T, path string) {
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(p))
	if size < pageBytes { // cut short before
		return
	}
	at := rapid.Int64Range(0, size-1).Draw(t, "at")
	switch rapid.SampledFrom([]string{"flip", "zero page", "garbage", "truncate", "swap pages"}).Draw(t, "how") {
	case "flip":
		p[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
	case "zero page":
		from := at &^ (pageBytes - 1)
		to := min(from+pageBytes, size)
		clear(p[from:to])
	case "garbage":
		from, to := at, min(at+rapid.Int64Range(1, 64<<10).Draw(t, "n"), size)
		copy(p[from:to], record(uint64(at), int(to-from)))
	case "truncate":
		p = p[:at]
	case "swap pages": // a misdirected write
		from := at &^ (pageBytes - 1)
		other := rapid.Int64Range(0, size/pageBytes-1).Draw(t, "page") * pageBytes
		copy(p[from:min(from+pageBytes, size)], p[other:])
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// damaged is a queue some of whose segments were harmed; segment i holds the
// records from firsts[i] to firsts[i+1]-1, each of size bytes.
type damaged struct {
	o      Options
	firsts []uint64
	harmed map[int]bool
	size   int
}

// check opens and reads the queue, and returns how many records of harmed
// segments were read.
func (d *damaged) check(t *rapid.T) (salvaged uint64) {
	l, err := Open(d.o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer func() {
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}()
	last := len(d.firsts) - 2
	next := l.Stats().Lanes[0].Next
	if next < d.firsts[last+1] || next > d.firsts[last+1] && !d.harmed[last] {
		t.Fatalf("next seq %d, want %d or more", next, d.firsts[last+1])
	}
	c, err := l.Cursor("x")
	if err != nil {
		t.Fatal(err)
	}
	seen := d.read(t, c, next)
	for i := range last + 1 {
		for seq := d.firsts[i]; seq < d.firsts[i+1]; seq++ {
			if !d.harmed[i] && !seen[seq] {
				t.Fatalf("record %d of segment %d, which was not harmed, is lost", seq, i)
			}
			if d.harmed[i] && seen[seq] {
				salvaged++
			}
		}
	}
	b := &Batch{}
	b.Add(record(next, d.size))
	if err := appendWait(l, 0, b); err != nil {
		t.Fatalf("append: %v", err)
	}
	var ch Chunk
	if err := c.Read(0, Limit{Records: 200, Bytes: 1 << 20}, &ch); err != nil || ch.First != next || len(ch.Records) != 1 {
		t.Fatalf("read %d of the new record at %d: %v", ch.First, next, err)
	}
	return salvaged
}

// read reads and releases everything up to next.
func (d *damaged) read(t *rapid.T, c *Cursor, next uint64) map[uint64]bool {
	at, seen := c.Stats()[0].Next, map[uint64]bool{}
	var ch Chunk
	for {
		if err := c.Read(0, Limit{Records: 200, Bytes: 1 << 20}, &ch); err != nil {
			t.Fatalf("read: %v", err)
		}
		if ch.Loss == nil && len(ch.Records) == 0 {
			break
		}
		if ch.First != at || ch.Next() <= at {
			t.Fatalf("read %d..%d at %d, loss %v", ch.First, ch.Next(), at, ch.Loss)
		}
		for i, rec := range ch.Records {
			seq := ch.First + uint64(i)
			if string(rec) != string(record(seq, d.size)) {
				t.Fatalf("altered record %d: %x", seq, rec)
			}
			seen[seq] = true
		}
		at = ch.Next()
		if ch.Loss != nil {
			c.Release(0, at, Released{Lost: ch.Loss.Count()})
		} else {
			c.Release(0, at, Released{Sent: uint64(len(ch.Records))})
		}
	}
	if s := c.Stats()[0]; at != next || s.From+s.Sent+s.Dead+s.Lost+s.Waiting != s.End {
		t.Fatalf("read up to %d of %d, books %+v", at, next, s)
	}
	return seen
}
