package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"
)

// judge looks at every record in Kafka, each partition in the order of its
// offsets, and concludes what was lost, repeated, reordered or altered. Its
// memory grows with the number of records.
type judge struct {
	v         Verdict
	known     map[string]DeviceCount // by device; nil when not known
	devices   map[string]*deviceSeen
	replays   map[string]*replaySeen // by MQTT topic
	positions map[position]*bitmap   // seqs seen
}

// position names one lane of one queue of one gateway.
type position struct{ gateway, generation, lane string }

// deviceSeen is what arrived from one device.
type deviceSeen struct {
	arrived   bitmap
	latest    int64 // highest n so far
	partition string
	split     bool
}

// newJudge makes a judge. known may be nil: then losses at the end of a
// device's numbering go unnoticed. groups may be nil: then recordings that
// were replayed are not compared.
func newJudge(known map[string]DeviceCount, groups []GroupConfig, repeatLimit int64) *judge {
	j := &judge{
		known:     known,
		devices:   map[string]*deviceSeen{},
		replays:   map[string]*replaySeen{},
		positions: map[position]*bitmap{},
	}
	j.v.RepeatLimit = repeatLimit
	lines := map[string][][]byte{}
	for _, g := range groups {
		if g.Replay != "" {
			lines[g.Replay] = g.lines
		}
	}
	for _, d := range known {
		j.v.Sent += d.Sent
		j.v.Acked += d.Acked
		if d.Replay != "" {
			j.replays[d.Topic] = &replaySeen{acked: d.Acked, lines: lines[d.Replay]}
		}
	}
	return j
}

// add looks at the next record of a partition.
func (j *judge) add(r *kgo.Record) {
	j.v.Records++
	again := j.place(r) // arrived before under the same headers
	if rep := j.replays[string(r.Key)]; rep != nil {
		j.addReplay(rep, r, again)
		return
	}
	m, ok, intact := parseMessage(r.Value)
	switch {
	case !ok:
		j.v.Other++
		if again {
			j.v.Repeated++
		}
		return
	case !intact:
		j.v.Altered++
	}
	if m.Device == "" {
		return
	}
	j.addMessage(r, m, again)
}

func (j *judge) addMessage(r *kgo.Record, m message, again bool) {
	d := j.devices[m.Device]
	if d == nil {
		d = &deviceSeen{partition: partitionName(r)}
		j.devices[m.Device] = d
	}
	if !d.split && d.partition != partitionName(r) {
		d.split = true
		j.v.Split++
	}
	if known, ok := j.known[m.Device]; j.known != nil && (!ok || m.N > known.Sent) {
		j.v.Unexpected++
	} else if ok && string(r.Key) != known.Topic {
		j.v.WrongKey++
	}
	if !d.arrived.set(uint64(m.N)) {
		j.v.Repeated++
		if !again {
			j.v.Unrecognisable++
		}
		return
	}
	j.v.Arrived++
	if again {
		j.v.SeqReused++
	}
	if m.N < d.latest {
		j.v.OutOfOrder++
	}
	d.latest = max(d.latest, m.N)
}

// place notes the position of a record in the gateway's queue, from its
// headers, and reports whether it was seen before.
func (j *judge) place(r *kgo.Record) (again bool) {
	var p position
	p.gateway = header(r, "gateway")
	p.generation = header(r, "generation")
	p.lane = header(r, "lane")
	seq, err := strconv.ParseUint(header(r, "seq"), 10, 64)
	if p.gateway == "" || p.generation == "" || p.lane == "" || err != nil {
		j.v.BadHeaders++
		return false
	}
	seen := j.positions[p]
	if seen == nil {
		seen = &bitmap{}
		j.positions[p] = seen
	}
	return !seen.set(seq)
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

func partitionName(r *kgo.Record) string { return fmt.Sprintf("%s/%d", r.Topic, r.Partition) }

// verdict concludes.
func (j *judge) verdict() *Verdict {
	for name, d := range j.devices {
		if j.known == nil {
			j.v.Lost += d.arrived.missing(1, uint64(d.latest))
		} else if k, ok := j.known[name]; ok {
			j.v.Lost += d.arrived.missing(1, uint64(k.Acked))
		}
	}
	for name, k := range j.known {
		if j.devices[name] == nil && k.Replay == "" {
			j.v.Lost += k.Acked
		}
	}
	for _, r := range j.replays {
		j.v.Lost += max(0, r.acked-r.arrived)
	}
	for p, seen := range j.positions {
		l := LaneVerdict{Gateway: p.gateway, Generation: p.generation, Lane: p.lane,
			First: seen.min, Last: seen.max, Distinct: seen.count}
		l.Holes = seen.missing(min(1, seen.min), seen.max) // seqs begin at 0 or 1
		j.v.SeqHoles += l.Holes
		j.v.Lanes = append(j.v.Lanes, l)
	}
	slices.SortFunc(j.v.Lanes, func(a, b LaneVerdict) int {
		return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.Lane, b.Lane))
	})
	j.v.conclude()
	return &j.v
}

// replaySeen compares what arrived on one topic with a recording.
type replaySeen struct {
	lines   [][]byte // nil: not compared
	next    int      // line expected
	acked   int64
	arrived int64
}

// addReplay counts a replayed line. Lines carry no number: a repeated one is
// told by its headers alone, and after a gap the next equal line is looked for
// within one pass of the recording.
func (j *judge) addReplay(rep *replaySeen, r *kgo.Record, again bool) {
	if again {
		j.v.Repeated++
		return
	}
	rep.arrived++
	j.v.Arrived++
	if len(rep.lines) == 0 {
		return
	}
	for i := range rep.lines {
		at := (rep.next + i) % len(rep.lines)
		if string(rep.lines[at]) != string(r.Value) {
			continue
		}
		if i > 0 {
			j.v.OutOfOrder++
		}
		rep.next = at + 1
		return
	}
	j.v.Altered++
	rep.next++
}

// bitmap is a set of numbers, small where they are dense.
type bitmap struct {
	words    map[uint64]uint64 // 64 numbers each, by number/64
	count    uint64
	min, max uint64
}

// set adds n and reports whether it is new.
func (b *bitmap) set(n uint64) bool {
	if b.words == nil {
		b.words, b.min, b.max = map[uint64]uint64{}, n, n
	}
	bit := uint64(1) << (n % 64)
	if b.words[n/64]&bit != 0 {
		return false
	}
	b.words[n/64] |= bit
	b.count++
	b.min, b.max = min(b.min, n), max(b.max, n)
	return true
}

// missing counts the numbers from first to last that are not in the set.
func (b *bitmap) missing(first, last uint64) int64 {
	if last < first {
		return 0
	}
	in := uint64(0)
	for w, bits := range b.words {
		for i := range uint64(64) {
			if n := w*64 + i; bits&(1<<i) != 0 && n >= first && n <= last {
				in++
			}
		}
	}
	return int64(last - first + 1 - in)
}
