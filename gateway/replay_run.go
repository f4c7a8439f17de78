package gateway

import (
	"slices"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// replayer makes the batches of the replays of one sink, one replay at a time.
// It belongs to the sink's forwarder and is used by its goroutine; nil makes none.
type replayer struct {
	store *replayStore
	sink  string
	queue history
	lanes []buffer.LaneInfo
	bell  <-chan struct{}

	filter *Filter // of the sink

	job   *Replay       // its fields are guarded by store.mu; nil = none
	asked ReplayRequest // of the job
	at    int           // the lane of the job, in the order of its list
	num   int           // its number in the queue
	chunk buffer.Chunk  // read at the job's Next in that lane
	from  int           // the first of its records that is not in a batch yet
	full  bool          // chunk is set
	dec   RecordDecoder
	items []Item
	batch *Batch // being sent

	after     uint64 // seq after what the batch comes from
	skipped   uint64 // records looked at for it and not in it
	gone      uint64 // seqs that are not stored, up to after
	tries     int    // of the batch
	begun     time.Time
	notBefore time.Time // of the next batch
}

func newReplayer(s *replayStore, sink string, queue history, lanes []buffer.LaneInfo) *replayer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &replayer{store: s, sink: sink, queue: queue, lanes: lanes, bell: s.bell(sink)}
}

// waiting returns what tells that next may have a batch: the list has changed,
// or the time has come. stop must be called.
func (r *replayer) waiting() (wake <-chan struct{}, due <-chan time.Time, stop func()) {
	if r == nil {
		return nil, nil, func() {}
	}
	if r.job == nil {
		return r.bell, nil, func() {}
	}
	t := time.NewTimer(time.Until(r.notBefore))
	return r.bell, t.C, func() { t.Stop() }
}

// next returns the next batch of a replay, or nil when there is none now. It
// looks at one chunk of the queue at most.
func (r *replayer) next(now time.Time) *Batch {
	if r == nil || !r.current(now) || !r.read(now) {
		return nil
	}
	ln := &r.lanes[r.num]
	b := &Batch{Lane: Lane(r.num), LaneName: ln.Name, Gateway: ln.Origin, Generation: ln.Generation, Replayed: true, Items: r.items[:0]}
	looked := r.fill(b)
	r.items = b.Items
	if len(b.Items) > 0 {
		r.batch, r.tries, r.begun = b, 0, now
		return b
	}
	r.notBefore = now.Add(time.Duration(looked) * time.Second / replayScanRate)
	r.advance(0, 0)
	return nil
}

// current makes sure that there is a replay whose time has come and that its
// place is in a lane of the queue with something left.
func (r *replayer) current(now time.Time) bool {
	s := r.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.job != nil && !r.job.open() { // cancelled
		r.drop()
	}
	if r.job != nil && now.Before(r.notBefore) {
		return false
	}
	if r.job == nil {
		i := slices.IndexFunc(s.jobs, func(j *Replay) bool { return j.open() && j.Sink == r.sink })
		if i < 0 {
			return false
		}
		r.job, r.asked, r.at = s.jobs[i], s.jobs[i].ReplayRequest, 0
		if r.job.State != ReplayRunning {
			r.job.State = ReplayRunning
			s.keep(true)
		}
	}
	for ; r.at < len(r.job.Lanes); r.at++ {
		p := &r.job.Lanes[r.at]
		if p.Next >= p.End {
			continue
		}
		r.num = slices.IndexFunc(r.lanes, func(ln buffer.LaneInfo) bool { return ln.Name == p.Lane && ln.Generation == p.Generation })
		if r.num >= 0 {
			return true
		}
		r.job.Gone += p.End - p.Next // the lane is not there any more
		p.Next = p.End
	}
	s.finish(r.job, ReplayDone)
	r.drop()
	if slices.ContainsFunc(s.jobs, func(j *Replay) bool { return j.open() && j.Sink == r.sink }) {
		s.wake(r.sink)
	}
	return false
}

// drop forgets the replay. store.mu is held.
func (r *replayer) drop() {
	r.job, r.batch, r.full, r.chunk, r.items = nil, nil, false, buffer.Chunk{}, nil
}

// read reads the chunk at the place of the replay, unless there is one.
func (r *replayer) read(now time.Time) bool {
	if r.full {
		return true
	}
	r.store.mu.Lock()
	p := r.job.Lanes[r.at]
	r.store.mu.Unlock()
	err := r.queue.ReadAt(r.num, p.Next, buffer.Limit{Records: maxBatchRecords, Bytes: replayBytes}, &r.chunk)
	if err != nil {
		r.pause(err, now)
		return false
	}
	r.full, r.from, r.after = true, 0, p.Next
	return true
}

// pause notes why the replay does not go on at present.
func (r *replayer) pause(err error, now time.Time) {
	r.notBefore = now.Add(replayPause)
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	r.job.Error = err.Error()
}

// fill puts the next records of the chunk that are wanted into b and returns
// how many it looked at.
func (r *replayer) fill(b *Batch) (looked int) {
	r.store.mu.Lock()
	end := r.job.Lanes[r.at].End
	r.store.mu.Unlock()
	most := max(1, min(replayBatch, r.asked.Rate/4))
	r.skipped, r.gone = 0, 0
	r.dec.Reset()
	for ; r.from < len(r.chunk.Records) && len(b.Items) < most; r.from++ {
		seq := r.chunk.Seq(r.from)
		if seq >= end {
			r.finishChunk(end)
			return looked
		}
		looked++
		r.after = seq + 1
		b.Items = append(b.Items, Item{Seq: seq})
		it := &b.Items[len(b.Items)-1]
		if p := r.chunk.Records[r.from]; r.dec.Decode(&it.Record, p) != nil || !r.asked.wants(&it.Record) || !r.filter.wants(r.lanes[r.num].Name, &it.Record) {
			b.Items = b.Items[:len(b.Items)-1] // what cannot be read was a dead letter before
			r.skipped++
		} else {
			b.Bytes += len(p)
		}
	}
	if r.from == len(r.chunk.Records) {
		r.finishChunk(end)
	}
	return looked
}

// finishChunk notes that nothing is left of the chunk for this replay, which
// ends before seq end.
func (r *replayer) finishChunk(end uint64) {
	next := r.chunk.Next()
	if r.chunk.Loss != nil {
		r.gone = r.chunk.Loss.Count()
	}
	if len(r.chunk.Records) == 0 && r.chunk.Loss == nil { // the queue has become shorter
		r.gone, next = end-r.after, end
	}
	if next > end {
		if r.chunk.Loss != nil && r.chunk.Loss.Last >= end {
			r.gone -= min(r.gone, r.chunk.Loss.Last+1-end)
		}
		next = end
	}
	r.after, r.full = next, false
}

// advance writes down what was sent and that the replay goes on after it.
func (r *replayer) advance(sent, refused int) {
	s := r.store
	s.mu.Lock()
	defer s.mu.Unlock()
	j := r.job
	j.Lanes[r.at].Next, j.Error = r.after, ""
	j.Sent, j.Refused = j.Sent+uint64(sent), j.Refused+uint64(refused)
	j.Skipped, j.Gone = j.Skipped+r.skipped, j.Gone+r.gone
	s.keep(false)
}

// try counts a try to send the batch.
func (r *replayer) try() { r.tries++ }

// failed notes why the batch was not sent.
func (r *replayer) failed(err error) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	r.job.Error = err.Error()
}

// confirmed moves on behind the batch.
func (r *replayer) confirmed(refused int) {
	n := len(r.batch.Items)
	r.advance(n-refused, refused)
	r.batch = nil
	r.notBefore = r.begun.Add(time.Duration(n) * time.Second / time.Duration(r.asked.Rate))
}

// hopeless reports whether the batch must be given up: the replay was
// cancelled, or the far side takes other records perhaps, but not these. Their
// replay is tried again later.
func (r *replayer) hopeless() bool {
	r.store.mu.Lock()
	over := !r.job.open()
	r.store.mu.Unlock()
	if !over && r.tries < replayTries {
		return false
	}
	r.batch, r.full = nil, false
	r.notBefore = time.Now().Add(replayPause)
	return true
}
