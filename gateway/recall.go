package gateway

import (
	"cmp"
	"hash/crc32"
	"sort"

	"github.com/waystation-iot/waystation/buffer"
)

// Recalled is what the queue knows of a seq.
type Recalled struct {
	Found bool   // the record is stored and can be read
	Sum   uint32 // CRC-32C of its stored form
	Next  uint64 // seq that the lane gives next: this one and all above were never given
}

// castagnoli is the polynomial of CRC-32C.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// recall looks a seq of a lane up, in the chunk being sent if it is there, else
// in the queue. A seq that cannot be read now is one that was not found.
func (f *forwarder) recall(lane int, seq uint64) Recalled {
	r := Recalled{Next: f.past.next(lane)}
	if lane == f.lane {
		i, ok := sort.Find(len(f.chunk.Records), func(i int) int { return cmp.Compare(seq, f.chunk.Seq(i)) })
		if ok {
			r.Found, r.Sum = true, crc32.Checksum(f.chunk.Records[i], castagnoli())
			return r
		}
	}
	if seq >= r.Next {
		return r
	}
	var ch buffer.Chunk
	if err := f.past.ReadAt(lane, seq, buffer.Limit{Records: 1, Bytes: 1}, &ch); err != nil {
		f.log.Debug("look up a record", "sink", f.name, "seq", seq, "error", err)
		return r
	}
	if len(ch.Records) > 0 && ch.Seq(0) == seq {
		r.Found, r.Sum = true, crc32.Checksum(ch.Records[0], castagnoli())
	}
	return r
}

// archive is the queue as recall reads it; *queuePast is one.
type archive interface {
	ReadAt(lane int, seq uint64, lim buffer.Limit, ch *buffer.Chunk) error
	next(lane int) uint64
}

// queuePast is the archive of a sink's queue.
type queuePast struct {
	*buffer.Log
	cur *buffer.Cursor
}

func (q queuePast) next(lane int) uint64 { return q.cur.Stats()[lane].End }
