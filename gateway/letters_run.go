package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// How dead letters are sent again.
const (
	letterRate  = 500 // per second at most
	letterBatch = 128 // what a live record may have to wait for
	letterBytes = 256 << 10
)

// DeadLetterInfo says why a record of a batch is a dead letter. A batch with
// such is for the dead-letter topic of the sink and for no other place.
type DeadLetterInfo struct {
	ID     uint64
	At     time.Time // when it was refused
	Reason string
	Later  bool // set by the sink that refuses it: not for good, try again in a while
	Cut    bool // it was refused by the dead-letter topic too: send what is known of it, without its payload
}

// LetterSink is a Sink that can have a place of its own for dead letters.
type LetterSink interface {
	// LettersToo reports whether it has one now: then each dead letter of the
	// sink comes to Send once more, in a Batch with Letters. keep says whether
	// it stays in the gateway afterwards.
	LettersToo() (yes, keep bool)
}

// letterRunner makes the batches of dead letters for one sink: those that a
// person wants sent again, then those for its dead-letter topic. It belongs to
// the sink's forwarder and is used by its goroutine; nil makes none.
//
// A letter leaves the shelf in one commit with what else became of its batch,
// after the far side has confirmed it: a crash in between sends it once more,
// with the same seq.
type letterRunner struct {
	ls     *Letters
	sink   string
	report bool // the sink has a place for letters
	keep   bool // what was reported stays
	bell   <-chan struct{}

	dec     RecordDecoder
	items   []Item
	infos   []DeadLetterInfo
	letters []DeadLetter // parallel to items
	batch   *Batch       // being sent
	begun   time.Time

	due    [2]time.Time // when the next batch may be sent, of each list; zero = now
	skip   [2]uint64    // letters up to this id cannot be sent at present
	non    [2]bool      // nothing was found in the list since the bell rang
	of     int          // list of the batch
	tries  int
	trying bool // Send was called and has not returned: it panicked
	alone  bool // the sink panicked: one letter at a time, until the guilty one is found
}

// The lists of letters for a sink.
const (
	listRetry = iota
	listReport
)

func newLetterRunner(ls *Letters, name string, sink Sink) *letterRunner {
	r := &letterRunner{ls: ls, sink: name, bell: ls.bell(name)}
	r.report, r.keep = lettersToo(sink)
	return r
}

func lettersToo(sink Sink) (yes, keep bool) {
	if l, ok := sink.(LetterSink); ok {
		return l.LettersToo()
	}
	return false, false
}

// waiting returns what tells that next may have a batch, as replayer.waiting.
func (r *letterRunner) waiting() (wake <-chan struct{}, due <-chan time.Time, stop func()) {
	if r == nil {
		return nil, nil, func() {}
	}
	var at time.Time
	for i := range r.due {
		if !r.non[i] && (at.IsZero() || r.due[i].Before(at)) {
			at = r.due[i]
		}
	}
	if r.non == [2]bool{true, true} {
		return r.bell, nil, func() {}
	}
	t := time.NewTimer(time.Until(at))
	return r.bell, t.C, func() { t.Stop() }
}

// rung notes that there may be letters in the lists.
func (r *letterRunner) rung() { r.non = [2]bool{} }

// next returns the next batch of letters, or nil when there is none now.
func (r *letterRunner) next(now time.Time) *Batch {
	if r == nil {
		return nil
	}
	select {
	case <-r.bell:
		r.rung()
	default:
	}
	for of := range r.due {
		if r.non[of] || now.Before(r.due[of]) || of == listReport && !r.report {
			r.non[of] = r.non[of] || of == listReport && !r.report
			continue
		}
		b, err := r.read(of)
		if err != nil {
			r.ls.log.Warn("dead letters cannot be read; tried again in a minute", "sink", r.sink, "error", err)
			r.due[of] = now.Add(replayPause)
			continue
		}
		if b != nil {
			r.batch, r.of, r.begun, r.tries, r.trying = b, of, now, 0, false
			return b
		}
	}
	return nil
}

// read makes a batch of what stands first in a list: records of one lane with
// growing seqs. Letters that cannot be read any more leave the list.
func (r *letterRunner) read(of int) (*Batch, error) {
	queue := retryQueue(r.sink)
	if of == listReport {
		queue = reportQueue(r.sink)
	}
	for {
		most := letterBatch
		if r.alone {
			most = 1
		}
		kept, _, err := r.ls.shelf.Read(buffer.ShelfPage{Queue: queue, After: r.skip[of], Entries: most, Bytes: letterBytes})
		if err != nil {
			return nil, err
		}
		if len(kept) == 0 && r.skip[of] > 0 { // begin anew in a while
			r.skip[of], r.due[of] = 0, time.Now().Add(replayPause)
			return nil, nil
		}
		if len(kept) == 0 {
			r.non[of] = true
			return nil, nil
		}
		b, bad := r.fill(of, kept)
		if len(bad) > 0 {
			if err := r.ls.shelf.Change(nil, bad); err != nil {
				return nil, err
			}
		}
		if len(b.Items) > 0 {
			return b, nil
		}
	}
}

// fill makes the batch, and the marks of letters that cannot be sent.
func (r *letterRunner) fill(of int, kept []buffer.Kept) (b *Batch, bad []buffer.Mark) {
	b = &Batch{Replayed: true, Items: r.items[:0]}
	r.dec.Reset()
	r.infos, r.letters = r.infos[:0], r.letters[:0]
	for i := range kept {
		l := readLetter(&kept[i])
		n := parseNote(kept[i].Note)
		var rec Record
		if err := r.unsendable(&l, &rec); err != nil {
			if n.asked = (time.Time{}); of == listReport {
				n.reportError = err.Error()
			}
			n.reason, n.at = err.Error(), r.ls.clock.Now()
			bad = append(bad, buffer.Mark{ID: l.ID, Note: n.append(nil)})
			continue
		}
		if m := len(b.Items); m == 0 {
			b.Lane, b.LaneName, b.Gateway, b.Generation = l.Lane, l.LaneName, l.Gateway, l.Generation
		} else if b.LaneName != l.LaneName || b.Gateway != l.Gateway || b.Generation != l.Generation || l.Seq <= b.Items[m-1].Seq {
			break
		}
		b.Items = append(b.Items, Item{Seq: l.Seq, Record: rec})
		b.Bytes += len(l.Stored)
		r.letters = append(r.letters, l)
		r.infos = append(r.infos, DeadLetterInfo{ID: l.ID, At: l.At, Reason: l.Reason, Cut: n.cut})
	}
	if r.items = b.Items; of == listReport {
		b.Letters = r.infos
	}
	return b, bad
}

// unsendable decodes the record of a letter, or says why it cannot be sent.
func (r *letterRunner) unsendable(l *DeadLetter, rec *Record) error {
	if l.Unreadable {
		return errors.New(l.Reason)
	}
	if err := r.dec.Decode(rec, l.Stored); err != nil {
		return fmt.Errorf("it cannot be decoded: %w", err)
	}
	return nil
}

// owns reports whether b is a batch of letters.
func (r *letterRunner) owns(b *Batch) bool { return r != nil && r.batch != nil && r.batch == b }

// hopeless reports whether the batch must be given up, because live records
// may be taken where it is not. It is tried again later.
func (r *letterRunner) hopeless() bool {
	if r.tries < replayTries {
		return false
	}
	if !r.trying {
		r.postpone()
		return true
	}
	if len(r.letters) > 1 {
		r.alone, r.batch = true, nil
		return true
	}
	r.alone = false
	if r.infos[0].Cut = true; r.settle([]Refusal{{Reason: "the sink panics on it"}}) != nil {
		r.postpone()
	}
	return true
}

// postpone gives the batch up for a while.
func (r *letterRunner) postpone() {
	r.batch = nil
	r.due[r.of] = time.Now().Add(replayPause)
}

// settle writes down what became of the batch in one commit.
func (r *letterRunner) settle(refused []Refusal) error {
	why := make(map[int]*Refusal, len(refused))
	later := 0
	for i := range refused {
		why[refused[i].Index] = &refused[i]
		if r.infos[refused[i].Index].Later {
			later++
		}
	}
	var drop []uint64
	var marks []buffer.Mark
	for i := range r.letters {
		l := &r.letters[i]
		x := why[i]
		switch {
		case x != nil && r.infos[i].Later:
		case x == nil && (r.of == listRetry || !r.keep):
			drop = append(drop, l.ID)
		case r.of == listRetry:
			marks = append(marks, r.refusedAgain(l, x.Reason))
		default:
			marks = append(marks, r.reported(l, x, r.infos[i].Cut))
		}
	}
	if len(drop)+len(marks) > 0 {
		if err := r.ls.shelf.Change(drop, marks); err != nil {
			return err
		}
	}
	if r.of == listRetry {
		r.ls.delivered.Add(int64(len(drop)))
	}
	r.non[listReport] = false
	r.due[r.of] = r.begun.Add(time.Duration(len(r.letters)) * time.Second / letterRate)
	if later > 0 {
		r.skip[r.of] = r.letters[len(r.letters)-1].ID
	}
	if later == len(r.letters) {
		r.due[r.of] = time.Now().Add(replayPause)
	}
	r.batch = nil
	return nil
}

// refusedAgain is the mark of a letter that was sent again for nothing.
func (r *letterRunner) refusedAgain(l *DeadLetter, reason string) buffer.Mark {
	n, queue := l.note(), ""
	n.asked, n.at, n.reason, n.retries = time.Time{}, r.ls.clock.Now(), reason, n.retries+1
	if reason == "" {
		n.reason = "refused again"
	}
	if r.ls.reports(l.Sink) && !n.reported && n.reportError == "" {
		queue = reportQueue(l.Sink)
	}
	return buffer.Mark{ID: l.ID, Queue: queue, Note: n.append(nil)}
}

// reported is the mark of a letter that was sent to the dead-letter topic: one
// that was too large is sent once more without its payload.
func (r *letterRunner) reported(l *DeadLetter, x *Refusal, wasCut bool) buffer.Mark {
	n, queue := l.note(), ""
	switch {
	case x == nil:
		n.reported = true
	case wasCut:
		n.reportError = x.Reason
	default:
		n.cut, queue = true, reportQueue(r.sink)
	}
	return buffer.Mark{ID: l.ID, Queue: queue, Note: n.append(nil)}
}

// sendLetters sends a batch of dead letters. What became of it is written down
// in the same step; when the disk does not take that, the batch is sent again
// later, with the same seqs.
func (f *forwarder) sendLetters(hard context.Context) error {
	r := f.letterbox
	r.tries++
	r.trying = true
	refused, err := f.deliver(hard, f.batch)
	r.trying = false
	if err != nil {
		return err
	}
	if err := r.settle(refused); err != nil {
		f.log.Warn("what became of dead letters is not on disk: they are sent again in a minute", "sink", f.name, "error", err)
		r.postpone()
	}
	f.shares.passed()
	f.batch = nil
	f.lastSent.Store(f.clock.Now().UnixNano())
	return nil
}

// background returns the next batch of what can wait: dead letters that a
// person wants sent again, and replays.
func (f *forwarder) background(now time.Time) *Batch {
	if b := f.letterbox.next(now); b != nil {
		return b
	}
	return f.replay.next(now)
}

// hopeless reports whether a batch of the background must be given up.
func (f *forwarder) hopeless() bool {
	if f.letterbox.owns(f.batch) {
		return f.letterbox.hopeless()
	}
	return f.replay.hopeless()
}

// openLetters has the letters served by the forwarders.
func (g *Gateway) openLetters() {
	var names, reports []string
	for _, f := range g.forward {
		names = append(names, f.name)
		if f.letterbox.report {
			reports = append(reports, f.name)
		}
	}
	g.letters.serve(names, slices.Clip(reports))
}

// Letters returns the dead letters and the ways out of them.
func (g *Gateway) Letters() *Letters { return g.letters }
