package buffer

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is what the queue must look like: a slice per lane.
type model struct {
	t       *rapid.T
	dir     string
	log     *Log
	cur     [2]*Cursor
	records [2][][]byte  // records[lane][seq-1]
	read    [2][2]uint64 // [cursor][lane]: seqs read
	release [2][2]uint64
	dead    [2][2]uint64
	serial  int
}

func (m *model) open() {
	l, err := Open(Options{Dir: m.dir, Lanes: NamedLanes("alarm", "telemetry"), MaxBytes: 512 << 20,
		SegmentBytes: 64 << 10, CursorDelay: time.Hour})
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	m.log = l
	for i := range m.cur {
		if m.cur[i], err = l.Cursor(fmt.Sprintf("sink-%d", i)); err != nil {
			m.t.Fatalf("cursor: %v", err)
		}
	}
}

func (m *model) close() {
	if err := m.log.Close(context.Background()); err != nil {
		m.t.Fatalf("close: %v", err)
	}
}

func (m *model) append(t *rapid.T) {
	lane := rapid.IntRange(0, 1).Draw(t, "lane")
	batches := rapid.IntRange(1, 4).Draw(t, "batches")
	done := make(chan error, batches)
	order := make(chan int, batches)
	for i := range batches {
		b := &Batch{}
		for range rapid.IntRange(1, 300).Draw(t, "n") {
			m.serial++
			rec := []byte(fmt.Sprintf("record %d of lane %d ", m.serial, lane))
			rec = append(rec, bytes.Repeat([]byte{byte(m.serial), byte(m.serial >> 8)}, m.serial%97)...)
			if m.serial%50 == 0 {
				rec = nil
			}
			b.Add(rec)
			m.records[lane] = append(m.records[lane], rec)
		}
		m.log.Append(lane, b, func(err error) { order <- i; done <- err })
	}
	for i := range batches {
		if err := <-done; err != nil {
			t.Fatalf("append: %v", err)
		}
		if got := <-order; got != i {
			t.Fatalf("done of batch %d came in place %d", got, i)
		}
	}
}

func (m *model) readSome(t *rapid.T) {
	lane, cur := rapid.IntRange(0, 1).Draw(t, "lane"), rapid.IntRange(0, 1).Draw(t, "cursor")
	read := &m.read[cur][lane]
	var ch Chunk
	lim := Limit{Records: rapid.IntRange(1, 5000).Draw(t, "records"), Bytes: rapid.IntRange(1, 1<<20).Draw(t, "bytes")}
	if err := m.cur[cur].Read(lane, lim, &ch); err != nil {
		t.Fatalf("read: %v", err)
	}
	have := uint64(len(m.records[lane]))
	if len(ch.Records) == 0 {
		if ch.Loss != nil || *read != have {
			t.Fatalf("read nothing at %d of %d, loss %v", *read, have, ch.Loss)
		}
		return
	}
	if ch.First != *read+1 {
		t.Fatalf("read begins at %d, not %d", ch.First, *read+1)
	}
	for i, r := range ch.Records {
		want := m.records[lane][*read+uint64(i)]
		if !bytes.Equal(r, want) {
			t.Fatalf("lane %d seq %d: %q, want %q", lane, ch.First+uint64(i), r, want)
		}
	}
	*read += uint64(len(ch.Records))
}

func (m *model) releaseSome(t *rapid.T) {
	lane, cur := rapid.IntRange(0, 1).Draw(t, "lane"), rapid.IntRange(0, 1).Draw(t, "cursor")
	from, read := m.release[cur][lane], m.read[cur][lane]
	if read == from {
		return
	}
	to := rapid.Uint64Range(from, read).Draw(t, "to")
	dead := rapid.Uint64Range(0, to-from).Draw(t, "dead")
	m.cur[cur].Release(lane, to+1, Released{Sent: to - from - dead, Dead: dead})
	m.release[cur][lane] = to
	m.dead[cur][lane] += dead
	if rapid.Bool().Draw(t, "sync") {
		if err := m.cur[cur].Sync(context.Background()); err != nil {
			t.Fatalf("sync: %v", err)
		}
	}
}

func (m *model) reopen(*rapid.T) {
	m.close()
	m.open()
	m.read = m.release
}

func (m *model) rewind(t *rapid.T) {
	lane, cur := rapid.IntRange(0, 1).Draw(t, "lane"), rapid.IntRange(0, 1).Draw(t, "cursor")
	m.cur[cur].Rewind(lane)
	m.read[cur][lane] = m.release[cur][lane]
}

// check holds the books against the model.
func (m *model) check(t *rapid.T) {
	s := m.log.Stats()
	for c, cursor := range m.cur {
		for i, cs := range cursor.Stats() {
			have := uint64(len(m.records[i]))
			if s.Lanes[i].Next != have+1 {
				t.Fatalf("lane %d: next %d, want %d", i, s.Lanes[i].Next, have+1)
			}
			if cs.Sent+cs.Dead != m.release[c][i] || cs.Dead != m.dead[c][i] || cs.Waiting != have-m.release[c][i] || cs.Lost != 0 {
				t.Fatalf("lane %d: books %+v, model released %d of %d", i, cs, m.release[c][i], have)
			}
		}
	}
}

// TestModel appends, reads, releases and reopens at random, with two cursors,
// and compares with a slice: order, content, gap-free seqs over restarts and
// emptied queues.
func TestModel(t *testing.T) {
	base := fastDir(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := &model{t: t, dir: fmt.Sprintf("%s/%d", base, n)}
		m.open()
		defer func() { m.close() }()
		t.Repeat(map[string]func(*rapid.T){
			"append": m.append, "read": m.readSome, "release": m.releaseSome,
			"reopen": m.reopen, "rewind": m.rewind, "": m.check,
		})
	})
}
