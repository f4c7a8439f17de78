package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
)

const queueStatusUsage = `usage: waystation queue status DIR

Shows what a queue holds, what waits for each sink, and what is damaged, from
the files alone: the gateway may run. Exit code 1 when something is wrong.

  waystation queue status /var/lib/waystation
  waystation queue status --json /media/usb/queue-copy
`

// queueView is a queue as JSON.
type queueView struct {
	Dir         string       `json:"dir"`
	Generation  string       `json:"generation"`
	InUse       bool         `json:"in_use"`
	PID         int          `json:"pid,omitempty"`
	Bytes       int64        `json:"bytes"`
	Reserve     int64        `json:"reserve"`
	DeadLetters int          `json:"dead_letters"`
	Lanes       []laneView   `json:"lanes"`
	Damage      []damageView `json:"damage"`
	Notes       []damageView `json:"notes"`
}

type laneView struct {
	Lane       string        `json:"lane"` // name of its directory
	Guest      bool          `json:"guest,omitempty"`
	Gateway    string        `json:"gateway,omitempty"` // of a guest
	Generation string        `json:"generation"`
	First      uint64        `json:"first"`
	Next       uint64        `json:"next"`
	Bytes      int64         `json:"bytes"`
	From       *time.Time    `json:"from,omitempty"`
	To         *time.Time    `json:"to,omitempty"`
	Oldest     *time.Time    `json:"oldest_waiting,omitempty"`
	Segments   []segmentView `json:"segments"`
	Cursors    []cursorView  `json:"cursors"`
	Losses     []lossView    `json:"losses"`
}

type segmentView struct {
	File  string     `json:"file"`
	State string     `json:"state"`
	Error string     `json:"error,omitempty"`
	First uint64     `json:"first"`
	Next  uint64     `json:"next"`
	Bytes int64      `json:"bytes"`
	From  *time.Time `json:"from,omitempty"`
	To    *time.Time `json:"to,omitempty"`
	*segmentCounts
}

type cursorView struct {
	Sink    string `json:"sink"`
	Next    uint64 `json:"next"`
	Waiting uint64 `json:"waiting"`
	Sent    uint64 `json:"sent"`
	Dead    uint64 `json:"dead_lettered"`
	Lost    uint64 `json:"lost"`

	Filtered uint64 `json:"filtered"`
}

type lossView struct {
	First  uint64     `json:"first"`
	Last   uint64     `json:"last"`
	Count  uint64     `json:"count"`
	Exact  bool       `json:"exact"`
	Reason string     `json:"reason"`
	From   *time.Time `json:"from,omitempty"`
	To     *time.Time `json:"to,omitempty"`
}

type damageView struct {
	Lane    string `json:"lane,omitempty"`
	Segment string `json:"segment,omitempty"`
	First   uint64 `json:"first,omitempty"`
	Last    uint64 `json:"last,omitempty"`
	Reason  string `json:"reason"`
	Remedy  string `json:"remedy"`
}

// queueStatus is `waystation queue status`.
func queueStatus(args []string, out, errOut io.Writer) int {
	t := newTool("status", queueStatusUsage, out, errOut)
	if code, ok := t.parse(args, 0); !ok {
		return code
	}
	q, err := buffer.Examine(t.dir, buffer.ExamineOptions{})
	if err != nil {
		return t.fail(err)
	}
	v := viewOf(q)
	if t.asJSON {
		err = t.print(v)
	} else {
		err = v.text(out)
	}
	if err != nil || len(v.Damage) > 0 {
		return exitFound
	}
	return exitGood
}

// viewOf makes the JSON form of a queue.
func viewOf(q *buffer.Queue) *queueView {
	v := &queueView{Dir: q.Dir, Generation: q.Generation, InUse: q.InUse, PID: q.PID, Bytes: q.Bytes, Reserve: q.Reserve, DeadLetters: q.Letters.Count, Lanes: []laneView{}}
	damage, notes := q.Troubles()
	v.Damage, v.Notes = damages(damage), damages(notes)
	for _, ln := range q.Lanes {
		from, to := ln.Span()
		l := laneView{Lane: ln.Dir, Guest: ln.Guest, Gateway: ln.Origin, Generation: ln.Generation, First: ln.First, Next: ln.Next, Bytes: ln.Bytes,
			From: when(from), To: when(to), Oldest: when(ln.Oldest), Cursors: []cursorView{}, Losses: losses(ln.Losses)}
		for _, s := range ln.Segments {
			l.Segments = append(l.Segments, viewOfSegment(&s))
		}
		for _, c := range ln.Cursors {
			l.Cursors = append(l.Cursors, cursorView{c.Name, c.Next, c.Waiting, c.Sent, c.Dead, c.Lost, c.Filtered})
		}
		v.Lanes = append(v.Lanes, l)
	}
	return v
}

func viewOfSegment(s *buffer.SegmentState) segmentView {
	v := segmentView{File: s.Path, State: s.String(), First: s.First, Next: s.Next, Bytes: s.Bytes, From: when(s.From), To: when(s.To)}
	if s.Err != nil {
		v.Error = s.Err.Error()
	}
	return v
}

func damages(in []buffer.Damage) []damageView {
	out := make([]damageView, len(in))
	for i, d := range in {
		out[i] = damageView(d)
	}
	return out
}

func losses(in []buffer.Loss) []lossView {
	out := make([]lossView, len(in))
	for i, l := range in {
		out[i] = lossView{l.First, l.Last, l.Count(), l.Exact, l.Reason, when(l.From), when(l.To)}
	}
	return out
}

// text writes the view for a person: what is wrong first.
func (v *queueView) text(out io.Writer) error {
	writeDamage(out, v.Damage, "wrong")
	writeDamage(out, v.Notes, "note")
	use := "no process has it open"
	if v.InUse {
		use = fmt.Sprintf("open in process %d", v.PID)
	}
	_, _ = fmt.Fprintf(out, "queue %s, generation %s, %s\n%s in all, %d dead letters\n\n", v.Dir, cmp.Or(v.Generation, "(none yet)"), use, gateway.Size(v.Bytes), v.DeadLetters)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "LANE\tSEQS\tFILES\tBYTES\tOLDEST WAITING\tNEWEST\tFROM GATEWAY")
	for _, l := range v.Lanes {
		held := "none"
		if l.First < l.Next {
			held = seqs(l.First, l.Next-1)
		}
		of := "this one"
		if l.Guest {
			of = l.Gateway
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", l.Lane, held, len(l.Segments), gateway.Size(l.Bytes), stampOf(l.Oldest), stampOf(l.To), of)
	}
	_, _ = fmt.Fprintln(w, "\t\nSINK\tLANE\tWAITING\tSENT\tDEAD\tLOST\tFILTERED\tNEXT SEQ")
	for _, l := range v.Lanes {
		for _, c := range l.Cursors {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n", c.Sink, l.Lane, c.Waiting, c.Sent, c.Dead, c.Lost, c.Filtered, c.Next)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, l := range v.Lanes {
		writeLosses(out, l.Lane, l.Losses)
	}
	return nil
}

func stampOf(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return stamp(*t)
}

// writeLosses writes the journal of a lane.
func writeLosses(out io.Writer, lane string, in []lossView) {
	for _, l := range in {
		about := ""
		if !l.Exact {
			about = "at most "
		}
		_, _ = fmt.Fprintf(out, "lost earlier: %s %s, %s%d records, %s\n", lane, seqs(l.First, l.Last), about, l.Count, l.Reason)
	}
}

// writeDamage writes what is wrong, and what to do.
func writeDamage(out io.Writer, in []damageView, mark string) {
	for _, d := range in {
		where := d.Lane
		if d.First > 0 {
			where += " " + seqs(d.First, d.Last)
		}
		if d.Segment != "" {
			where += " (" + d.Segment + ")"
		}
		if where != "" {
			where += ": "
		}
		_, _ = fmt.Fprintf(out, "%s: %s%s\n    what to do: %s\n", mark, where, d.Reason, d.Remedy)
	}
}
