package gateway

import (
	"hash/crc32"
	"testing"

	"github.com/waystation-iot/waystation/buffer"
)

// A sink can ask the queue about a record: the one it is sending, one before,
// one that is not there.
func TestRecall(t *testing.T) {
	var sums []uint32
	for i := range 40 {
		sums = append(sums, crc32.Checksum([]byte{byte(i)}, crc32.MakeTable(crc32.Castagnoli)))
	}
	a := &fakeArchive{}
	for i := range 40 {
		a.records = append(a.records, []byte{byte(i)})
	}
	f := &forwarder{name: "shore", past: a, chunk: buffer.Chunk{First: 31, Records: a.records[30:]}}
	for seq := uint64(1); seq <= 40; seq++ {
		if got := f.recall(0, seq); !got.Found || got.Sum != sums[seq-1] || got.Next != 41 {
			t.Errorf("seq %d: %+v", seq, got)
		}
	}
	if a.reads != 30 {
		t.Errorf("%d reads of the queue", a.reads)
	}
	if got := f.recall(0, 41); got.Found || got.Next != 41 {
		t.Errorf("seq 41: %+v", got)
	}
	a.gone = 5
	if got := f.recall(0, 5); got.Found {
		t.Errorf("seq 5 is deleted: %+v", got)
	}
}

// fakeArchive holds records from seq 1 on; those up to gone are deleted.
type fakeArchive struct {
	records [][]byte
	gone    uint64
	reads   int
}

func (a *fakeArchive) next(int) uint64 { return uint64(len(a.records)) + 1 }

func (a *fakeArchive) ReadAt(_ int, seq uint64, _ buffer.Limit, ch *buffer.Chunk) error {
	a.reads++
	*ch = buffer.Chunk{First: seq}
	if seq <= a.gone {
		ch.Loss = &buffer.Loss{First: seq, Last: a.gone}
		return nil
	}
	ch.Records = a.records[seq-1 : seq]
	return nil
}
