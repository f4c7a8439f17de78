package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// selection is what inspect and export choose of a queue.
type selection struct {
	lane, from, to, source, device string
	limit                          int
}

// flags adds the options of a selection to a tool.
func (s *selection) flags(t *queueTool, limit int) {
	t.fs.StringVar(&s.lane, "lane", "", "only this `LANE`, named as its directory")
	t.fs.StringVar(&s.from, "from", "", "from this `SEQ|TIME` on: a seq, 2026-11-22T15:04:05Z, 2026-11-22, or 36h for so long ago;\ntimes are those of the commit to the queue")
	t.fs.StringVar(&s.to, "to", "", "up to this `SEQ|TIME`, the seq included")
	t.fs.StringVar(&s.source, "source", "", "only records of this `SOURCE`")
	t.fs.StringVar(&s.device, "device", "", "only records of this `DEVICE`")
	t.fs.IntVar(&s.limit, "limit", limit, "at most `N` records; 0 = all")
}

// options makes what the queue is asked for.
func (s *selection) options(now time.Time) (o buffer.ScanOptions, err error) {
	o.Lane = s.lane
	if o.From, o.Since, err = bound("from", s.from, now); err != nil {
		return o, err
	}
	if o.To, o.Until, err = bound("to", s.to, now); err != nil {
		return o, err
	}
	if s.to != "" && o.Until.IsZero() && o.To == 0 {
		return o, errors.New("--to 0: seqs begin with 1")
	}
	return o, nil
}

// bound reads a seq or a time.
func bound(name, text string, now time.Time) (seq uint64, at time.Time, err error) {
	if text == "" {
		return 0, at, nil
	}
	if seq, err = strconv.ParseUint(text, 10, 64); err == nil {
		return seq, at, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return 0, now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if at, err = time.Parse(layout, text); err == nil {
			return 0, at, nil
		}
	}
	return 0, at, fmt.Errorf("--%s %q: give a seq, a time such as 2026-11-22T15:04:05Z or 2026-11-22 (UTC), or 36h for so long ago", name, text)
}

// place is where a record stands.
type place struct {
	lane *buffer.LaneState
	id   string // gateway; "" = not known
	seq  uint64
}

// shown is one record of a selection.
type shown struct {
	place
	when   time.Time
	stored []byte
	rec    gateway.Record
	err    error // why stored is not a record of a gateway
}

// errLimit ends a scan that has shown enough.
var errLimit = errors.New("limit reached")

// scan calls fn with every record of the selection, and hole with every run of
// seqs that cannot be read.
func (s *selection) scan(q *buffer.Queue, o buffer.ScanOptions, fn func(*shown) error, hole func(*buffer.Run) error) error {
	dec := &gateway.RecordDecoder{}
	n := 0
	err := q.Scan(o, func(r *buffer.Run) error {
		if r.Err != nil {
			return hole(r)
		}
		x := shown{place: place{lane: laneOf(q, r.Lane)}, when: r.When}
		err := r.Each(func(seq uint64, rec []byte) error {
			dec.Reset()
			x.seq, x.stored = seq, rec
			x.err = dec.Decode(&x.rec, rec)
			if x.err != nil {
				x.rec = gateway.Record{}
			}
			if s.source != "" && x.rec.Source != s.source || s.device != "" && x.rec.Device != s.device && (x.rec.Device != "" || x.rec.Name != s.device) {
				return nil
			}
			if s.limit > 0 && n >= s.limit {
				return errLimit
			}
			n++
			return stopped{fn(&x)}.orNil()
		})
		var st stopped
		if err == nil || errors.Is(err, errLimit) || errors.As(err, &st) {
			return err
		}
		r.Err, r.Reason = err, buffer.ReasonDamaged // it cannot be expanded
		return hole(r)
	})
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// stopped marks an error that is not of the block.
type stopped struct{ error }

func (s stopped) Unwrap() error { return s.error }

func (s stopped) orNil() error {
	if s.error == nil {
		return nil
	}
	return s
}

func laneOf(q *buffer.Queue, dir string) *buffer.LaneState {
	for i := range q.Lanes {
		if q.Lanes[i].Dir == dir {
			return &q.Lanes[i]
		}
	}
	return &buffer.LaneState{Dir: dir, Name: dir}
}

// appendJSON writes a record as docs/record-json.md describes it, with one
// more member: its place in the queue.
func (x *shown) appendJSON(dst []byte) ([]byte, error) {
	if x.err != nil {
		dst = append(dst, `{"undecodable":`...)
		dst = append(dst, jsonText(x.err.Error())...)
		dst = append(dst, `,"stored":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, x.stored)
		dst = append(dst, '"', '}')
	} else {
		var err error
		if dst, err = (codec.RecordJSON{}).Encode(dst, &x.rec, nil); err != nil {
			return dst, err
		}
	}
	dst = append(dst[:len(dst)-1], `,"queue":{`...)
	if id := x.gateway(); id != "" {
		dst = append(dst, `"gateway":`...)
		dst = append(dst, jsonText(id)...)
		dst = append(dst, ',')
	}
	dst = append(dst, `"generation":"`+x.lane.Generation+`","lane":"`+x.lane.Name+`","seq":`...)
	dst = strconv.AppendUint(dst, x.seq, 10)
	dst = append(dst, `,"committed":"`...)
	dst = x.when.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	return append(dst, `"}}`+"\n"...), nil
}

// gateway returns whose queue gave the seq.
func (x *shown) gateway() string {
	if x.lane.Guest {
		return x.lane.Origin
	}
	return x.id
}
