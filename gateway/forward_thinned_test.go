package gateway

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// What thinning left is sent under its own seqs, with one report of the loss
// in its place, and the counts released are exactly the seqs that are done with.
func TestThinnedChunks(t *testing.T) {
	loss := func(first, last, missing uint64) *buffer.Loss {
		return &buffer.Loss{First: first, Last: last, Missing: missing, Reason: buffer.ReasonThinned, Exact: true}
	}
	rec := storedRecord
	for name, c := range map[string]struct {
		chunk  buffer.Chunk
		refuse []int
		sent   string
		dead   []uint64
		want   buffer.Released
	}{
		"loss in the middle": {buffer.Chunk{First: 10, Records: [][]byte{rec(10), rec(11), rec(15), rec(19)}, Seqs: []uint64{10, 11, 15, 19}, Loss: loss(12, 18, 6)},
			nil, "[10:10 11:11 12:queue-loss 15:15 19:19]", nil, buffer.Released{Sent: 4, Lost: 6}},
		"loss first": {buffer.Chunk{First: 10, Records: [][]byte{rec(12)}, Seqs: []uint64{12}, Loss: loss(10, 11, 2)},
			nil, "[10:queue-loss 12:12]", nil, buffer.Released{Sent: 1, Lost: 2}},
		"refused and unreadable": {buffer.Chunk{First: 10, Records: [][]byte{rec(10), []byte("junk"), rec(15), rec(19)}, Seqs: []uint64{10, 11, 15, 19}, Loss: loss(12, 18, 6)},
			[]int{2, 3}, "[10:10 12:queue-loss 15:15 19:19]", []uint64{11, 15, 19}, buffer.Released{Sent: 1, Dead: 3, Lost: 6}},
		"report refused": {buffer.Chunk{First: 10, Records: [][]byte{rec(10), rec(19)}, Seqs: []uint64{10, 19}, Loss: loss(11, 18, 8)},
			[]int{0, 1}, "[10:10 11:queue-loss 19:19]", []uint64{10, 11}, buffer.Released{Sent: 1, Dead: 1, Lost: 8}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sent, count string
				tries := 0
				f := startForwarder(&fakeSink{send: func(_ context.Context, b *Batch) error {
					if tries++; tries == 1 {
						return errFake
					}
					sent = fmt.Sprint(names(b))
					for _, it := range b.Items {
						if it.Record.Source == NoticeSource {
							count = it.Record.Values[3].String()
						}
					}
					if c.refuse == nil {
						return nil
					}
					e := &RefusedError{}
					for _, i := range c.refuse {
						e.Refused = append(e.Refused, Refusal{i, "drawn"})
					}
					return e
				}})
				defer f.stop()
				f.queue.put(c.chunk)
				wait(time.Minute)
				if sent != c.sent || count != fmt.Sprint(c.want.Lost) {
					t.Errorf("sent %s with a loss of %s, want %s", sent, count, c.sent)
				}
				if r := f.queue.releases(); !slices.Equal(r, []buffer.Released{c.want}) || f.queue.next != c.chunk.Seqs[len(c.chunk.Seqs)-1]+1 {
					t.Errorf("released %+v below %d, want %+v", r, f.queue.next, c.want)
				}
				checkDead(t, f.dead.letters(t), &c.chunk, c.dead)
			})
		})
	}
}

// checkDead: the dead letters are those of the seqs, with what was stored there.
func checkDead(t *testing.T, letters []DeadLetter, ch *buffer.Chunk, want []uint64) {
	t.Helper()
	var dead []uint64
	for _, l := range letters {
		dead = append(dead, l.Seq)
		if i := slices.Index(ch.Seqs, l.Seq); i >= 0 && !bytes.Equal(l.Stored, ch.Records[i]) {
			t.Errorf("the dead letter of seq %d is not the record stored there", l.Seq)
		}
	}
	slices.Sort(dead)
	if !slices.Equal(dead, want) {
		t.Errorf("dead letters %v, want %v", dead, want)
	}
}
