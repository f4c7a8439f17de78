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
	cur     *Cursor
	records [2][][]byte // records[lane][seq-1]
	read    [2]uint64   // next seq Read must return
	release [2]uint64
	serial  int
}

func (m *model) open() {
	l, err := Open(Options{Dir: m.dir, Lanes: []string{"alarm", "telemetry"}, MaxBytes: 512 << 20,
		SegmentBytes: 64 << 10, CursorDelay: time.Hour})
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	m.log = l
	if m.cur, err = l.Cursor("sink"); err != nil {
		m.t.Fatalf("cursor: %v", err)
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
	lane := rapid.IntRange(0, 1).Draw(t, "lane")
	var ch Chunk
	lim := Limit{Records: rapid.IntRange(1, 5000).Draw(t, "records"), Bytes: rapid.IntRange(1, 1<<20).Draw(t, "bytes")}
	if err := m.cur.Read(lane, lim, &ch); err != nil {
		t.Fatalf("read: %v", err)
	}
	have := uint64(len(m.records[lane]))
	if len(ch.Records) == 0 {
		if ch.Loss != nil || m.read[lane] != have {
			t.Fatalf("read nothing at %d of %d, loss %v", m.read[lane], have, ch.Loss)
		}
		return
	}
	if ch.First != m.read[lane]+1 {
		t.Fatalf("read begins at %d, not %d", ch.First, m.read[lane]+1)
	}
	for i, r := range ch.Records {
		want := m.records[lane][m.read[lane]+uint64(i)]
		if !bytes.Equal(r, want) {
			t.Fatalf("lane %d seq %d: %q, want %q", lane, ch.First+uint64(i), r, want)
		}
	}
	m.read[lane] += uint64(len(ch.Records))
}

func (m *model) releaseSome(t *rapid.T) {
	lane := rapid.IntRange(0, 1).Draw(t, "lane")
	if m.read[lane] == m.release[lane] {
		return
	}
	to := rapid.Uint64Range(m.release[lane], m.read[lane]).Draw(t, "to")
	m.cur.Release(lane, to+1, Released{Sent: to - m.release[lane]})
	m.release[lane] = to
	if rapid.Bool().Draw(t, "sync") {
		if err := m.cur.Sync(context.Background()); err != nil {
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
	lane := rapid.IntRange(0, 1).Draw(t, "lane")
	m.cur.Rewind(lane)
	m.read[lane] = m.release[lane]
}

// check holds the books against the model.
func (m *model) check(t *rapid.T) {
	s := m.log.Stats()
	for i, cs := range m.cur.Stats() {
		have := uint64(len(m.records[i]))
		if s.Lanes[i].Next != have+1 {
			t.Fatalf("lane %d: next %d, want %d", i, s.Lanes[i].Next, have+1)
		}
		if cs.Sent != m.release[i] || cs.Waiting != have-m.release[i] || cs.Lost != 0 {
			t.Fatalf("lane %d: books %+v, model released %d of %d", i, cs, m.release[i], have)
		}
	}
}

// TestModel appends, reads, releases and reopens at random and compares with a
// slice: order, content, gap-free seqs over restarts and emptied queues.
func TestModel(t *testing.T) {
	base := t.TempDir()
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
