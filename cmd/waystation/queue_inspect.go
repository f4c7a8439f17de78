package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
)

const queueInspectUsage = `usage: waystation queue inspect DIR

Shows the records of a queue, or with --segments or --blocks how they are
stored. It only reads: the gateway may run. Exit code 1 when something of what
was asked for cannot be read.

  waystation queue inspect --lane alarm --from 2h /var/lib/waystation
  waystation queue inspect --device pump-3 --from 120000 --limit 5 --json DIR
  waystation queue inspect --blocks --lane telemetry DIR
`

// queueInspect is `waystation queue inspect`.
func queueInspect(args []string, out, errOut io.Writer) int {
	t := newTool("inspect", queueInspectUsage, out, errOut)
	t.withKeys()
	var s selection
	s.flags(t, 20)
	segments := t.fs.Bool("segments", false, "show the segments instead")
	blocks := t.fs.Bool("blocks", false, "show the blocks instead")
	if code, ok := t.parse(args, 0); !ok {
		return code
	}
	if *segments && *blocks {
		return t.usageError("give --segments or --blocks")
	}
	o, err := s.options(time.Now())
	if err != nil {
		return t.usageError("%v", err)
	}
	q, err := buffer.Examine(t.dir, buffer.ExamineOptions{Keys: t.keys})
	if err != nil {
		return t.fail(err)
	}
	w := bufio.NewWriter(out)
	x := &inspector{t: t, q: q, s: &s, w: w}
	switch {
	case *segments:
		err = x.segments(o)
	case *blocks:
		err = x.blocks(o)
	default:
		err = s.scan(q, o, x.record, x.hole)
	}
	if err = errors.Join(err, w.Flush()); err != nil {
		return t.fail(err)
	}
	if x.holes > 0 {
		return exitFound
	}
	return exitGood
}

type inspector struct {
	t     *queueTool
	q     *buffer.Queue
	s     *selection
	w     *bufio.Writer
	line  []byte
	shown int
	holes int
}

// record shows one record.
func (x *inspector) record(r *shown) (err error) {
	if x.t.asJSON {
		x.line, err = r.appendJSON(x.line[:0])
		if err == nil {
			_, err = x.w.Write(x.line)
		}
		return err
	}
	if r.err != nil {
		_, err = fmt.Fprintf(x.w, "%s/%d  %s  %d bytes: %v\n", r.lane.Dir, r.seq, stamp(r.when), len(r.stored), r.err)
		return err
	}
	at := ""
	if !r.rec.Time.IsZero() {
		at = " at " + r.rec.Time.UTC().Format(time.RFC3339Nano)
	}
	device := r.rec.Device
	if device == "" {
		device = r.rec.Name
	}
	_, err = fmt.Fprintf(x.w, "%s/%d  %s%s  %s  %s  %s  %s\n", r.lane.Dir, r.seq, stamp(r.rec.Received), at, r.rec.Source, printable(device), printable(r.rec.Name), content(&r.rec))
	return err
}

// content writes what a record says, shortened.
func content(r *gateway.Record) string {
	const most = 120
	var b strings.Builder
	for i := range r.Values {
		if b.Len() > most {
			break
		}
		_, _ = fmt.Fprintf(&b, "%s=%s ", printable(r.Values[i].Name), printable(r.Values[i].String()))
	}
	if r.Payload != nil {
		if utf8.Valid(r.Payload) {
			b.WriteString(printable(string(r.Payload[:min(len(r.Payload), 4*most)])))
		} else {
			_, _ = fmt.Fprintf(&b, "%d bytes: %x", len(r.Payload), r.Payload[:min(len(r.Payload), 24)])
		}
	}
	if r.Reason != "" {
		_, _ = fmt.Fprintf(&b, " (%s)", printable(r.Reason))
	}
	s := []rune(strings.TrimSpace(b.String()))
	if len(s) > most {
		return string(s[:most]) + "…"
	}
	return string(s)
}

// printable keeps control characters from a terminal.
func printable(s string) string {
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// hole shows seqs that cannot be read.
func (x *inspector) hole(r *buffer.Run) error {
	if r.Reason == buffer.ReasonDamaged || r.Reason == buffer.ReasonUnknown {
		x.holes++
	}
	if x.t.asJSON {
		return json.NewEncoder(x.w).Encode(map[string]any{"lane": r.Lane, "first": r.First, "last": r.Next - 1, "missing": r.Reason, "error": r.Err.Error()})
	}
	_, err := fmt.Fprintf(x.w, "%s/%s  not there: %s: %v\n", r.Lane, seqs(r.First, r.Next-1), r.Reason, r.Err)
	return err
}

// segmentCounts is what reading a whole segment tells.
type segmentCounts struct {
	Blocks  int      `json:"blocks"`
	Records int      `json:"records"`
	Stored  int64    `json:"stored_bytes"`
	Raw     int64    `json:"expanded_bytes"`
	Sealed  int      `json:"encrypted_blocks,omitempty"`
	Keys    []string `json:"keys,omitempty"`
	Thinned int      `json:"thinned_blocks,omitempty"`
	Missing uint64   `json:"missing_seqs,omitempty"`
}

// segments shows the files of each lane, with what is in them.
func (x *inspector) segments(o buffer.ScanOptions) error {
	counts := map[string]*segmentCounts{}
	if err := x.q.Scan(o, func(r *buffer.Run) error {
		c := counts[r.Segment]
		if c == nil {
			c = &segmentCounts{}
			counts[r.Segment] = c
		}
		c.add(r)
		return nil
	}); err != nil {
		return err
	}
	for _, ln := range x.q.Lanes {
		for i := range ln.Segments {
			s := &ln.Segments[i]
			if c := counts[s.Path]; o.Lane == "" || o.Lane == ln.Dir {
				if err := x.segment(s, c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *segmentCounts) add(r *buffer.Run) {
	if r.Err != nil {
		c.Missing += r.Next - r.First
		return
	}
	c.Blocks, c.Records, c.Stored, c.Raw = c.Blocks+1, c.Records+r.Records, c.Stored+int64(len(r.Stored)), c.Raw+int64(r.Raw)
	if r.Sparse {
		c.Thinned++
	}
	if id := r.KeyID(); r.Sealed {
		c.Sealed++
		if len(c.Keys) == 0 || c.Keys[len(c.Keys)-1] != id {
			c.Keys = append(c.Keys, id)
		}
	}
}

func (x *inspector) segment(s *buffer.SegmentState, c *segmentCounts) error {
	if x.t.asJSON {
		v := viewOfSegment(s)
		v.segmentCounts = c
		return json.NewEncoder(x.w).Encode(v)
	}
	text := fmt.Sprintf("%s  %s  %s", s.Path, s.String(), gateway.Size(s.Bytes))
	if c != nil {
		text += fmt.Sprintf("  seqs %d..%d  %s in %s, %s  %s to %s", s.First, s.Next-1, count(c.Records, "record"), count(c.Blocks, "block"), gateway.Size(c.Stored), stamp(s.From), stamp(s.To))
		if c.Sealed > 0 {
			text += fmt.Sprintf("  %d encrypted with %s", c.Sealed, strings.Join(c.Keys, ", "))
		}
		if c.Thinned > 0 {
			text += fmt.Sprintf("  %d thinned", c.Thinned)
		}
		if c.Missing > 0 {
			text += fmt.Sprintf("  %d seqs missing", c.Missing)
		}
	}
	if s.Err != nil {
		text += "  " + s.Err.Error()
	}
	_, err := fmt.Fprintln(x.w, text)
	return err
}

// blocks shows the blocks.
func (x *inspector) blocks(o buffer.ScanOptions) error {
	err := x.q.Scan(o, func(r *buffer.Run) error {
		if r.Err != nil {
			return x.hole(r)
		}
		if x.shown++; x.s.limit > 0 && x.shown > x.s.limit {
			return errLimit
		}
		if x.t.asJSON {
			return json.NewEncoder(x.w).Encode(map[string]any{"lane": r.Lane, "segment": r.Segment, "first": r.First, "next": r.Next, "committed": r.When.UTC(),
				"records": r.Records, "stored_bytes": len(r.Stored), "expanded_bytes": r.Raw, "compression": r.Codec, "thinned": r.Sparse, "encrypted": r.Sealed, "key": r.KeyID()})
		}
		more := ""
		if r.Sparse {
			more += "  thinned"
		}
		if r.Sealed {
			more += "  encrypted with " + r.KeyID()
		}
		_, err := fmt.Fprintf(x.w, "%s/%s  %s  %s  %d bytes, %d expanded, %s%s\n", r.Lane, seqs(r.First, r.Next-1), stamp(r.When), count(r.Records, "record"), len(r.Stored), r.Raw, r.Codec, more)
		return err
	})
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// jsonText writes a JSON string.
func jsonText(s string) []byte {
	p, _ := json.Marshal(s) // of a string never fails
	return p
}
