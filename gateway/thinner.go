package gateway

import (
	"hash/maphash"
	"math"

	"github.com/waystation-iot/waystation/buffer"
)

// Bounds of a thinner's memory: about 6 MiB, and a byte per record.
const (
	thinSignals = 32      // of a series
	thinSeries  = 1 << 15 // of a segment
	thinSlots   = 1 << 16 // signals of all series together
)

// NewThinner returns what picks the records of one segment that stay when the
// queue is thinned: about one of every, over the whole span of time.
//
// The records of one series (source, device and name) are cut into intervals.
// An interval is every * (2 + 2s) consecutive records, s being how many signals
// the series has had up to the first record of the interval, at most 32; the
// last interval of a segment may be shorter. Of each interval stay:
//
//   - the first and the last record;
//   - for each signal the first record with its lowest value and the first with
//     its highest;
//   - each record whose quality, or that of one of its values, is not that of
//     the record of the series before it.
//
// So at most one record of every stays, besides changes of quality and a short
// last interval: a record with one signal stays for first, last, min or max of
// 4*every, one of ten signals of 22*every. What has many signals keeps as few
// records and shows extremes of longer intervals.
//
// A signal is a number or a truth value among the Values of a record, by its
// name. Where a record has none, it is the payload when that is a number, or
// its members that are numbers or truth values when it is a JSON object.
// NaN is no value. Of a series the first 32 signals count; a series without
// signals keeps first and last of 2*every.
//
// Notices of the gateway (NoticeSource) and records that cannot be read all
// stay. Where a segment has more than 32768 series, of the records of those
// that come later every nth stays, whatever is in it; where it has more than
// 65536 signals, the extremes of those that come later are not looked for.
// With every below 2 all records stay.
func NewThinner(every int) buffer.Thinner {
	return &thinner{every: min(every, 1<<20), seed: maphash.MakeSeed(), series: map[uint64]int32{}}
}

// thinner implements buffer.Thinner. After the first records of its series it
// allocates nothing but the slice it returns.
type thinner struct {
	every  int
	seed   maphash.Seed
	keep   []bool
	series map[uint64]int32 // places in states by the hash of the name
	states []thinState
	slots  []thinSlot
	others int // records of series beyond thinSeries

	now skimmed // the record that is observed
}

// thinState is the interval of one series.
type thinState struct {
	left    int32  // records until its end; 0 = none has begun
	last    int32  // the latest record
	head    int32  // its first slot; -1 = none
	tail    int32  // its last slot
	signals int32  // how many slots
	quality uint64 // of the latest record
}

// thinSlot is what is known of one signal in the interval.
type thinSlot struct {
	key          uint64
	low, high    float64
	lowAt, topAt int32 // records; -1 = none in this interval
	next         int32 // slot of the series; -1 = none
}

// Observe implements buffer.Thinner.
func (t *thinner) Observe(i int, rec []byte) {
	for len(t.keep) <= i {
		t.keep = append(t.keep, false)
	}
	if t.every < 2 || !t.now.skim(t.seed, rec) {
		t.keep[i] = true
		return
	}
	at, ok := t.series[t.now.series]
	if !ok {
		if len(t.states) >= thinSeries {
			t.keep[i] = t.others%t.every == 0
			t.others++
			return
		}
		at = int32(len(t.states))
		t.series[t.now.series] = at
		t.states = append(t.states, thinState{head: -1, tail: -1, quality: t.now.quality})
	}
	s := &t.states[at]
	t.measure(s, int32(i))
	if s.left == 0 {
		s.left = int32(min(t.every*(2+2*int(s.signals)), math.MaxInt32))
		t.keep[i] = true
	}
	if s.quality != t.now.quality {
		s.quality = t.now.quality
		t.keep[i] = true
	}
	s.last = int32(i)
	if s.left--; s.left == 0 {
		t.close(s)
	}
}

// measure notes the signals of the record in the slots of its series. They
// mostly come in the order of the slots.
func (t *thinner) measure(s *thinState, i int32) {
	hint := s.head
	for k := range t.now.n {
		r := &t.now.signals[k]
		at := t.find(s, hint, r.key)
		if at < 0 {
			continue
		}
		slot := &t.slots[at]
		if slot.lowAt < 0 || r.value < slot.low {
			slot.low, slot.lowAt = r.value, i
		}
		if slot.topAt < 0 || r.value > slot.high {
			slot.high, slot.topAt = r.value, i
		}
		if hint = slot.next; hint < 0 {
			hint = s.head
		}
	}
}

// find returns the slot of a signal, a new one if there is none, or -1 when
// there are too many. It looks from slot hint on.
func (t *thinner) find(s *thinState, hint int32, key uint64) int32 {
	for at, n := hint, s.signals; n > 0; n-- {
		if t.slots[at].key == key {
			return at
		}
		if at = t.slots[at].next; at < 0 {
			at = s.head
		}
	}
	if s.signals >= thinSignals || len(t.slots) >= thinSlots {
		return -1
	}
	at := int32(len(t.slots))
	t.slots = append(t.slots, thinSlot{key: key, lowAt: -1, topAt: -1, next: -1})
	if s.head < 0 {
		s.head = at
	} else {
		t.slots[s.tail].next = at
	}
	s.tail = at
	s.signals++
	return at
}

// close ends the interval of a series.
func (t *thinner) close(s *thinState) {
	t.keep[s.last] = true
	for at := s.head; at >= 0; at = t.slots[at].next {
		slot := &t.slots[at]
		if slot.lowAt >= 0 {
			t.keep[slot.lowAt], t.keep[slot.topAt] = true, true
		}
		slot.lowAt, slot.topAt = -1, -1
	}
	s.left = 0
}

// Keep implements buffer.Thinner.
func (t *thinner) Keep() []bool {
	for i := range t.states {
		if t.states[i].left > 0 {
			t.close(&t.states[i])
		}
	}
	return t.keep
}
