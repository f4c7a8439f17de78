//go:build interop || bench

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
)

// verdict is what a reader found of one schedule.
type verdict struct {
	arrived    int
	lost       int // messages published that never arrived, and holes in the queue's numbers
	duplicated int // records that came again under the same generation, lane and seq
	disorder   int // records of a key whose number went back
	again      int // messages that the MQTT broker sent again and the queue stored again, under a new seq
	first      string
}

func (v verdict) String() string {
	return fmt.Sprintf("arrived %d, lost %d, duplicated %d, out of order %d, redelivered by the MQTT broker %d%s",
		v.arrived, v.lost, v.duplicated, v.disorder, v.again, v.first)
}

// good says whether the promise was kept.
func (v verdict) good() bool { return v.lost == 0 && v.disorder == 0 && v.duplicated == 0 }

func (v *verdict) note(format string, m peers.Message, more ...any) {
	if v.first == "" {
		v.first = fmt.Sprintf("; first: "+format+" (partition %d offset %d key %s headers %v value %.60s)",
			append(more, m.Partition, m.Offset, m.Key, m.Headers, m.Value)...)
	}
}

// judgeChaos compares what arrived under keys name/device with the n messages
// that each device published, numbered from 1.
func judgeChaos(name string, messages []peers.Message, devices, n int) verdict {
	var v verdict
	seen := map[string]bool{}            // identity of the record
	highest := map[string]uint64{}       // by key
	numbers := map[string]map[int]bool{} // by key
	seqs := map[string]map[uint64]bool{} // by generation and lane
	for _, m := range messages {
		if !strings.HasPrefix(m.Key, name+"/") {
			continue // a notice of the gateway
		}
		v.arrived++
		queue := m.Headers["generation"] + "/" + m.Headers["lane"]
		seq, err := strconv.ParseUint(m.Headers["seq"], 10, 64)
		if err != nil {
			v.lost++
			v.note("no seq", m)
			continue
		}
		id := fmt.Sprint(queue, "/", seq)
		if seen[id] {
			v.duplicated++
			v.note("duplicate", m)
			continue
		}
		seen[id] = true
		if seq <= highest[m.Key] {
			v.disorder++
			v.note("after seq %d", m, highest[m.Key])
		}
		highest[m.Key] = max(highest[m.Key], seq)
		if numbers[m.Key] == nil {
			numbers[m.Key] = map[int]bool{}
		}
		number := chaosNumber(m.Value)
		if numbers[m.Key][number] {
			v.again++
		}
		numbers[m.Key][number] = true
		if seqs[queue] == nil {
			seqs[queue] = map[uint64]bool{}
		}
		seqs[queue][seq] = true
	}
	for d := range devices {
		for i := 1; i <= n; i++ {
			if !numbers[chaosKey(name, d)][i] {
				v.lost++
				v.note("lost: message %d of device %d", peers.Message{}, i, d)
			}
		}
	}
	v.holes(seqs)
	return v
}

// holes counts numbers of the queue that never arrived: 1 to the highest must
// all be there, as the schedule has its queue and its lane for itself.
func (v *verdict) holes(seqs map[string]map[uint64]bool) {
	for queue, got := range seqs {
		high := uint64(0)
		for seq := range got {
			high = max(high, seq)
		}
		if missing := int(high) - len(got); missing != 0 {
			v.lost += missing
			v.note("%d holes in %s", peers.Message{}, missing, queue)
		}
	}
}

func chaosKey(name string, device int) string { return fmt.Sprintf("%s/d%d", name, device) }

// chaosNumber reads the number out of a payload.
func chaosNumber(payload []byte) int {
	_, rest, _ := strings.Cut(string(payload), `"n":`)
	digits, _, _ := strings.Cut(rest, ",")
	n, _ := strconv.Atoi(digits)
	return n
}

// sequences writes what a reader read as one text per schedule and partition,
// in the order of reading, so that readers can be compared.
func sequences(messages []peers.Message) map[string][]string {
	out := map[string][]string{}
	for _, m := range messages {
		name, _, found := strings.Cut(m.Key, "/")
		if !found || m.Headers["source"] != "plant" {
			continue
		}
		at := fmt.Sprintf("%s partition %d", name, m.Partition)
		out[at] = append(out[at], fmt.Sprintf("%d %s %s/%s/%s %s", m.Offset, m.Key, m.Headers["generation"], m.Headers["lane"], m.Headers["seq"], m.Value))
	}
	return out
}

// differences tells where two readers disagree.
func differences(one, other map[string][]string) []string {
	var out []string
	for at := range one {
		a, b := one[at], other[at]
		if slices.Equal(a, b) {
			continue
		}
		i := 0
		for i < min(len(a), len(b)) && a[i] == b[i] {
			i++
		}
		out = append(out, fmt.Sprintf("%s: %d and %d records, the first difference at %d: %.120q and %.120q", at, len(a), len(b), i, at2(a, i), at2(b, i)))
	}
	for at := range other {
		if one[at] == nil {
			out = append(out, fmt.Sprintf("%s: read by one only", at))
		}
	}
	return out
}

func at2(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "nothing"
}
