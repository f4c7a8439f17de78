package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// Bounds of what is done with dead letters at once.
const (
	letterPage      = 1024    // entries read from the shelf at once
	letterPageBytes = 4 << 20 // and about so many bytes of them
	letterScan      = 16_384  // entries looked at for one page of an answer
	maxLetterIDs    = 10_000  // named in one selection
)

// Errors of dead letters.
var (
	// ErrLetterRequest says that what was asked for cannot be done.
	ErrLetterRequest = errors.New("cannot be done with dead letters")
	// ErrNoLetter says that there is no dead letter of that id.
	ErrNoLetter = errors.New("no dead letter has this id")
)

// LetterFilter selects dead letters: those that fit all that is given.
type LetterFilter struct {
	IDs    []uint64  `json:"ids,omitempty"`
	Sink   string    `json:"sink,omitempty"`    // that refused it: name, or a pattern with * and ?
	Source string    `json:"source,omitempty"`  // as Sink
	Device string    `json:"device,omitempty"`  // as Sink; the name of a record that has no device
	Since  time.Time `json:"since,omitzero"`    // refused at or after
	Until  time.Time `json:"until,omitzero"`    // refused before
	Reason string    `json:"reason,omitempty"`  // is a part of the reason, whatever the case of letters
	All    bool      `json:"all,omitempty"`     // every letter; must be said to retry or drop without any of the others
	DryRun bool      `json:"dry_run,omitempty"` // change nothing, and say what would be done
}

// Check returns what is wrong with a filter. A change needs a selection.
func (q *LetterFilter) Check(change bool) error {
	some := len(q.IDs) > 0 || q.Sink != "" || q.Source != "" || q.Device != "" || !q.Since.IsZero() || !q.Until.IsZero() || q.Reason != ""
	switch {
	case len(q.IDs) > maxLetterIDs:
		return fmt.Errorf("%w: %d ids are named: at most %d at once", ErrLetterRequest, len(q.IDs), maxLetterIDs)
	case slices.Contains(q.IDs, 0):
		return fmt.Errorf("%w: ids begin with 1", ErrLetterRequest)
	case max(len(q.Sink), len(q.Source), len(q.Device), len(q.Reason)) > maxFilterBytes:
		return fmt.Errorf("%w: sink, source, device and reason have at most %d bytes", ErrLetterRequest, maxFilterBytes)
	case !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until):
		return fmt.Errorf("%w: since (%s) must be before until (%s)", ErrLetterRequest, q.Since.Format(time.RFC3339), q.Until.Format(time.RFC3339))
	case change && q.All && some:
		return fmt.Errorf("%w: give a selection or all, not both", ErrLetterRequest)
	case change && !q.All && !some:
		return fmt.Errorf("%w: say which: ids, sink, source, device, since, until or reason, or all of them with all", ErrLetterRequest)
	}
	return nil
}

// wants reports whether the filter selects a letter.
func (q *LetterFilter) wants(l *DeadLetter, dec *RecordDecoder) bool {
	switch {
	case len(q.IDs) > 0 && !slices.Contains(q.IDs, l.ID),
		q.Sink != "" && !like(q.Sink, l.Sink),
		!q.Since.IsZero() && l.At.Before(q.Since),
		!q.Until.IsZero() && (l.At.IsZero() || !l.At.Before(q.Until)),
		q.Reason != "" && !strings.Contains(strings.ToLower(l.Reason), strings.ToLower(q.Reason)):
		return false
	case q.Source == "" && q.Device == "":
		return true
	}
	var r Record
	if dec.Reset(); l.Unreadable || dec.Decode(&r, l.Stored) != nil {
		return false
	}
	device := r.Device
	if device == "" {
		device = r.Name
	}
	return (q.Source == "" || like(q.Source, r.Source)) && (q.Device == "" || like(q.Device, device))
}

// Letters are the dead letters of a gateway, with every way out of them. They
// may be used from any goroutine.
type Letters struct {
	shelf     *buffer.Shelf
	clock     *Clock
	log       *slog.Logger
	delivered atomic.Int64 // by retries, since the start
	dropped   atomic.Int64 // by a person, since the start

	mu       sync.Mutex // guards what follows
	sinks    []string   // configured; nil = not known
	reporter map[string]bool
	wakes    map[string]chan struct{} // by sink; capacity 1
}

// NewLetters returns the dead letters on a shelf, also of a gateway that is
// not running. Letters of an older version are indexed.
func NewLetters(s *buffer.Shelf, clock *Clock, log *slog.Logger) *Letters {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ls := &Letters{shelf: s, clock: clock, log: log, reporter: map[string]bool{}, wakes: map[string]chan struct{}{}}
	if err := s.Adopt(func(id uint64, data []byte) (buffer.Entry, bool) {
		l, err := parseDeadLetter(id, data)
		return l.entry(nil), err == nil
	}); err != nil {
		log.Warn("dead letters of an older version are not counted by sink", "error", err)
	}
	return ls
}

// place names what a letter is about: one record that one sink refused.
func (l *DeadLetter) place() string {
	p := make([]byte, 0, 128)
	for _, s := range []string{l.Sink, l.Gateway, l.Generation, l.LaneName} {
		p = append(strconv.AppendQuote(p, s), ' ')
	}
	return string(strconv.AppendUint(p, l.Seq, 10))
}

// entry is how the shelf keeps a letter.
func (l *DeadLetter) entry(stored []byte) buffer.Entry {
	return buffer.Entry{Data: stored, Place: l.place(), Group: l.Sink, At: l.At}
}

// Put implements keeper. A record that is kept already, because a crash came
// between its refusal and its release, is not kept twice.
func (ls *Letters) Put(stored [][]byte) error {
	entries := make([]buffer.Entry, len(stored))
	wake := map[string]bool{}
	for i, p := range stored {
		l, err := parseDeadLetter(0, p)
		if err != nil {
			entries[i].Data = p // kept as it is: a person may make sense of it
			continue
		}
		entries[i] = l.entry(p)
		if ls.reports(l.Sink) {
			entries[i].Queue, wake[l.Sink] = reportQueue(l.Sink), true
		}
	}
	if err := ls.shelf.Add(entries); err != nil {
		return err
	}
	for sink := range wake {
		ls.wake(sink)
	}
	return nil
}

// retryQueue and reportQueue name the lists of the shelf: letters to be sent to
// a sink again, and those to be sent to its dead-letter topic.
func retryQueue(sink string) string  { return "retry " + sink }
func reportQueue(sink string) string { return "report " + sink }

// serve notes which sinks there are. reports are those with a dead-letter
// topic: letters that were not reported are queued for them.
func (ls *Letters) serve(sinks, reports []string) {
	ls.mu.Lock()
	ls.sinks = append([]string{}, sinks...)
	for _, s := range reports {
		ls.reporter[s] = true
	}
	ls.mu.Unlock()
	for _, sink := range reports {
		if err := ls.queueReports(sink); err != nil {
			ls.log.Warn("dead letters from before are not sent to the dead-letter topic", "sink", sink, "error", err)
		}
	}
}

// queueReports queues the letters of a sink that were never reported.
func (ls *Letters) queueReports(sink string) error {
	for p := (buffer.ShelfPage{Group: sink, Entries: letterPage, Bytes: letterPageBytes}); ; {
		kept, more, err := ls.shelf.Read(p)
		if err != nil {
			return err
		}
		var marks []buffer.Mark
		for _, k := range kept {
			p.After = k.ID
			if n := parseNote(k.Note); k.Err == nil && k.Queue == "" && !n.reported && n.reportError == "" {
				marks = append(marks, buffer.Mark{ID: k.ID, Queue: reportQueue(sink), Note: n.append(nil)})
			}
		}
		if len(marks) > 0 {
			err = ls.shelf.Change(nil, marks)
		}
		if err != nil || !more {
			return err
		}
	}
}

func (ls *Letters) reports(sink string) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.reporter[sink]
}

// bell returns the channel that wakes the forwarder of a sink.
func (ls *Letters) bell(sink string) chan struct{} {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	c, ok := ls.wakes[sink]
	if !ok {
		c = make(chan struct{}, 1)
		ls.wakes[sink] = c
	}
	return c
}

func (ls *Letters) wake(sink string) {
	select {
	case ls.bell(sink) <- struct{}{}:
	default:
	}
}

// read makes a letter of an entry. One that cannot be read has the reason and
// no record.
func readLetter(k *buffer.Kept) DeadLetter {
	l, err := DeadLetter{}, k.Err
	if err == nil {
		l, err = parseDeadLetter(k.ID, k.Data)
	}
	if err != nil {
		return DeadLetter{ID: k.ID, Sink: k.Group, Reason: err.Error(), Unreadable: true}
	}
	n := parseNote(k.Note)
	l.Retries, l.Asked, l.Reported, l.ReportError = int(min(n.retries, math.MaxInt32)), n.asked, n.reported, n.reportError
	if to, ok := strings.CutPrefix(k.Queue, retryQueue("")); ok {
		l.RetryTo = to
	} else {
		l.Asked = time.Time{}
	}
	if n.reason != "" {
		l.FirstAt, l.FirstReason, l.At, l.Reason = l.At, l.Reason, n.at, n.reason
	}
	return l
}

// Get returns one letter; the error is ErrNoLetter when there is none.
func (ls *Letters) Get(id uint64) (DeadLetter, error) {
	k, ok, err := ls.shelf.Get(id)
	if err != nil {
		return DeadLetter{}, fmt.Errorf("read dead letter %d: %w", id, err)
	}
	if !ok {
		return DeadLetter{}, fmt.Errorf("%w: %d", ErrNoLetter, id)
	}
	return readLetter(&k), nil
}

// List returns up to n letters with ids above after that the filter selects,
// oldest first, and the id to go on after, 0 when these are the last. It looks
// at a bounded number of letters: there may be fewer than n, or none, and more.
func (ls *Letters) List(q LetterFilter, after uint64, n int) (out []DeadLetter, next uint64, err error) {
	if err := q.Check(false); err != nil {
		return nil, 0, err
	}
	var dec RecordDecoder
	p, size := q.page(after), 0
	for looked := 0; looked < letterScan; {
		kept, more, err := ls.shelf.Read(p)
		if err != nil {
			return nil, 0, fmt.Errorf("list dead letters: %w", err)
		}
		for i := range kept {
			p.After = kept[i].ID
			if l := readLetter(&kept[i]); q.wants(&l, &dec) {
				out, size = append(out, l), size+len(l.Stored)
			}
			if len(out) == n || size > letterPageBytes {
				if i == len(kept)-1 && !more {
					return out, 0, nil
				}
				return out, p.After, nil
			}
		}
		if looked += len(kept); !more || q.past(p.After) {
			return out, 0, nil
		}
	}
	return out, p.After, nil
}

// page is where to begin to look for what the filter selects.
func (q *LetterFilter) page(after uint64) buffer.ShelfPage {
	p := buffer.ShelfPage{After: after, Entries: letterPage, Bytes: letterPageBytes}
	if q.Sink != "" && !strings.ContainsAny(q.Sink, "*?") && len(q.IDs) == 0 {
		p.Group = q.Sink
	}
	if len(q.IDs) > 0 {
		p.After = max(after, slices.Min(q.IDs)-1)
	}
	return p
}

// past reports whether no letter behind this id is selected.
func (q *LetterFilter) past(id uint64) bool { return len(q.IDs) > 0 && id >= slices.Max(q.IDs) }

// DeadLetters lists up to n dead letters with ids above after, oldest first.
// Entries that cannot be read are listed with the reason and no record.
func DeadLetters(s *buffer.Shelf, after uint64, n int) ([]DeadLetter, error) {
	kept, err := s.List(after, n)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	out := make([]DeadLetter, 0, len(kept))
	for i := range kept {
		out = append(out, readLetter(&kept[i]))
	}
	return out, nil
}
