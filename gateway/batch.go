package gateway

import (
	"slices"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// build makes the batch of the chunk that was read. The report of a loss stands
// where the first lost record would. A stored record that this version cannot
// read goes to the dead letters as it is.
func (f *forwarder) build() {
	ln := &f.lanes[f.lane]
	b := &Batch{Lane: Lane(f.lane), LaneName: ln.Name, Gateway: ln.Origin, Generation: ln.Generation, Items: f.items[:0]}
	if lane := f.lane; f.past != nil {
		b.Recall = func(seq uint64) Recalled { return f.recall(lane, seq) }
	}
	f.letters, f.lost, f.notice = f.letters[:0], 0, -1
	f.dec.Reset()
	loss := f.chunk.Loss
	for i, p := range f.chunk.Records {
		seq := f.chunk.Seq(i)
		if loss != nil && loss.First < seq {
			f.report(b, loss)
			loss = nil
		}
		b.Items = append(b.Items, Item{Seq: seq})
		it := &b.Items[len(b.Items)-1]
		if err := f.dec.Decode(&it.Record, p); err != nil {
			b.Items = b.Items[:len(b.Items)-1]
			f.letters = append(f.letters, f.letter(seq, err.Error(), p))
			continue
		}
		b.Bytes += len(p)
	}
	if loss != nil {
		f.report(b, loss)
	}
	if f.items = b.Items; cap(f.items) > 4*maxBatchRecords {
		f.items = nil
	}
	f.batch, f.next, f.unread, f.notices = b, f.chunk.Next(), len(f.letters), 0
	f.held, f.decided = false, false
}

// report adds the record that tells of a loss.
func (f *forwarder) report(b *Batch, l *buffer.Loss) {
	f.notice, f.lost = len(b.Items), l.Count()
	b.Items = append(b.Items, Item{Seq: l.First, Record: f.lossRecord(b, l)})
}

// became says what became of the seqs of the batch. The counts add up to their
// number; the report of a loss is none of them, whatever the far side says of it.
func (f *forwarder) became() buffer.Released {
	seqs := f.next - f.chunk.First
	r := buffer.Released{Lost: min(f.lost, seqs)}
	r.Dead = min(uint64(len(f.letters))-f.notices, seqs-r.Lost)
	r.Sent = seqs - r.Lost - r.Dead
	return r
}

// stored returns the stored form of a record of the batch: the very bytes, if
// it came from the queue.
func (f *forwarder) stored(i int) []byte {
	it := &f.batch.Items[i]
	if i == f.notice {
		return AppendRecord(nil, &it.Record)
	}
	if f.chunk.Seqs != nil {
		at, _ := slices.BinarySearch(f.chunk.Seqs, it.Seq)
		return f.chunk.Records[at]
	}
	return f.chunk.Records[it.Seq-f.chunk.First]
}

// lossRecord tells the far side what the queue lost.
func (f *forwarder) lossRecord(b *Batch, l *buffer.Loss) Record {
	r := Record{Source: NoticeSource, Device: f.gateway, Name: "queue-loss", Quality: Bad, Reason: l.Reason,
		Received: f.clock.Now(), ClockTrusted: f.clock.Trusted(),
		Values: []Value{StringValue("lane", b.LaneName), UintValue("first_seq", l.First), UintValue("last_seq", l.Last),
			UintValue("count", l.Count()), BoolValue("exact", l.Exact), StringValue("reason", l.Reason)}}
	if b.Gateway != "" {
		r.Device = b.Gateway
	}
	if !l.From.IsZero() {
		r.Values = append(r.Values, StringValue("from", l.From.UTC().Format(time.RFC3339Nano)),
			StringValue("to", l.To.UTC().Format(time.RFC3339Nano)))
	}
	return r
}
