package gateway

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// letterNote is what is noted of a dead letter beside it: version u8 | flags
// u8 | retries varint | asked i64 | at i64 (Unix ns, 0 = never) | reason |
// report error.
type letterNote struct {
	retries     uint64    // that were refused
	asked       time.Time // to be sent again
	at          time.Time // when it was refused last, after a retry
	reason      string    // of that refusal
	reported    bool      // is on the dead-letter topic
	cut         bool      // is to be reported without its payload
	reportError string    // why it cannot be reported
}

const (
	noteVersion  = 1
	noteReported = 1
	noteCut      = 2
)

func (n *letterNote) append(p []byte) []byte {
	var flags byte
	if n.reported {
		flags |= noteReported
	}
	if n.cut {
		flags |= noteCut
	}
	p = binary.AppendUvarint(append(p, noteVersion, flags), n.retries)
	for _, t := range []time.Time{n.asked, n.at} {
		ns := int64(0)
		if !t.IsZero() {
			ns = t.UnixNano()
		}
		p = binary.BigEndian.AppendUint64(p, uint64(ns))
	}
	return appendText(appendText(p, n.reason), n.reportError)
}

// parseNote reads a note. One that cannot be read says nothing.
func parseNote(p []byte) (n letterNote) {
	if len(p) < 2 || p[0] != noteVersion {
		return n
	}
	c := cut{p: p[2:], d: &RecordDecoder{}}
	n.reported, n.cut, n.retries = p[1]&noteReported != 0, p[1]&noteCut != 0, c.varint()
	for _, t := range []*time.Time{&n.asked, &n.at} {
		if ns := int64(c.u64()); ns != 0 {
			*t = time.Unix(0, ns)
		}
	}
	n.reason, n.reportError = c.text(), c.text()
	if c.bad {
		return letterNote{}
	}
	return n
}

// LetterResult is what became of a request to retry or drop letters.
type LetterResult struct {
	Count    int            `json:"count"`               // letters that are dropped, or are to be sent again
	NoSink   map[string]int `json:"no_sink,omitempty"`   // letters left alone because their sink is not configured any more, by its name
	NoRecord int            `json:"no_record,omitempty"` // letters left alone because they cannot be read
}

// each calls fn with the selected letters in pages of bounded size. ids above
// those there are at the beginning are not looked at: it ends.
func (ls *Letters) each(q LetterFilter, fn func(page []DeadLetter) error) error {
	var dec RecordDecoder
	for p := q.page(0); ; {
		kept, more, err := ls.shelf.Read(p)
		if err != nil {
			return err
		}
		var page []DeadLetter
		for i := range kept {
			p.After = kept[i].ID
			if l := readLetter(&kept[i]); q.wants(&l, &dec) {
				page = append(page, l)
			}
		}
		if len(page) > 0 {
			if err := fn(page); err != nil {
				return err
			}
		}
		if !more || q.past(p.After) {
			return nil
		}
	}
}

// Drop deletes the selected letters for good. A letter that is being sent
// again may still arrive.
func (ls *Letters) Drop(q LetterFilter) (r LetterResult, err error) {
	if err := q.Check(true); err != nil {
		return r, err
	}
	err = ls.each(q, func(page []DeadLetter) error {
		ids := make([]uint64, len(page))
		for i := range page {
			ids[i] = page[i].ID
		}
		if !q.DryRun {
			if err := ls.shelf.Drop(ids...); err != nil {
				return err
			}
		}
		r.Count += len(ids)
		return nil
	})
	if q.DryRun {
		return r, err
	}
	ls.dropped.Add(int64(r.Count))
	if r.Count > 0 {
		ls.log.Warn("dead letters dropped by a person", "count", r.Count)
	}
	return r, err
}

// Retry has the selected letters sent again: to the sink that refused them, or
// to the sink named. They stay until they are confirmed. The error is
// ErrLetterRequest when none of them can be sent.
func (ls *Letters) Retry(q LetterFilter, to string) (r LetterResult, err error) {
	if err := q.Check(true); err != nil {
		return r, err
	}
	ls.mu.Lock()
	sinks := ls.sinks
	ls.mu.Unlock()
	known := func(name string) bool { return sinks == nil || slices.Contains(sinks, name) }
	if to != "" && !known(to) {
		return r, fmt.Errorf("%w: there is no sink %q; name one of: %s", ErrLetterRequest, to, strings.Join(sinks, ", "))
	}
	r.NoSink = map[string]int{}
	wake := map[string]bool{}
	err = ls.each(q, func(page []DeadLetter) error {
		var marks []buffer.Mark
		for i := range page {
			l := &page[i]
			sink := l.Sink
			if to != "" {
				sink = to
			}
			switch {
			case l.Unreadable:
				r.NoRecord++
				continue
			case !known(sink):
				r.NoSink[sink]++
				continue
			}
			n := l.note()
			n.asked, wake[sink] = ls.clock.Now(), true
			marks = append(marks, buffer.Mark{ID: l.ID, Queue: retryQueue(sink), Note: n.append(nil)})
		}
		r.Count += len(marks)
		if len(marks) == 0 || q.DryRun {
			return nil
		}
		return ls.shelf.Change(nil, marks)
	})
	for sink := range wake {
		ls.wake(sink)
	}
	if err == nil && r.Count == 0 && len(r.NoSink) > 0 {
		for name := range r.NoSink {
			return r, fmt.Errorf("%w: sink %s is not configured any more: send them to another one with to, one of: %s", ErrLetterRequest, name, strings.Join(sinks, ", "))
		}
	}
	if r.Count > 0 && !q.DryRun {
		ls.log.Info("dead letters are to be sent again", "count", r.Count)
	}
	return r, err
}

// note is what is noted of a letter, as it was read.
func (l *DeadLetter) note() letterNote {
	n := letterNote{retries: uint64(l.Retries), asked: l.Asked, reported: l.Reported, reportError: l.ReportError}
	if l.FirstReason != "" {
		n.at, n.reason = l.At, l.Reason
	}
	return n
}

// status returns the state of the letters, with those of sinks that are not
// configured any more.
func (ls *Letters) status() LetterStatus {
	st := ls.shelf.Stats()
	s := LetterStatus{Kept: st.Count, Evicted: st.Evicted, Bytes: st.Bytes, MaxBytes: st.MaxBytes, Delivered: ls.delivered.Load(), Dropped: ls.dropped.Load()}
	ls.mu.Lock()
	sinks := ls.sinks
	ls.mu.Unlock()
	at := func(name string) *SinkLetters {
		i := slices.IndexFunc(s.Sinks, func(k SinkLetters) bool { return k.Sink == name })
		if i < 0 {
			i = len(s.Sinks)
			s.Sinks = append(s.Sinks, SinkLetters{Sink: name, Gone: !slices.Contains(sinks, name)})
		}
		return &s.Sinks[i]
	}
	for _, g := range st.Groups {
		k := at(g.Name)
		if k.Kept, k.Bytes = g.Count, g.Bytes; !g.Oldest.IsZero() {
			k.Oldest = &g.Oldest
		}
	}
	for queue, n := range st.Queued {
		if sink, ok := strings.CutPrefix(queue, retryQueue("")); ok {
			at(sink).Retrying += n
			s.Retrying += n
		} else if sink, ok := strings.CutPrefix(queue, reportQueue("")); ok {
			at(sink).Unreported += n
		}
	}
	slices.SortFunc(s.Sinks, func(a, b SinkLetters) int { return strings.Compare(a.Sink, b.Sink) })
	return s
}
