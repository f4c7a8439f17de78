//go:build interop

package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
)

// chaosArrivals makes what a reader finds when seqs 1, 2, ... of two devices arrive
// in turn, three messages each.
func chaosArrivals(seqs ...int) []peers.Message {
	var out []peers.Message
	for i, seq := range seqs {
		key := chaosKey("c", (seq-1)%2)
		out = append(out, peers.Message{Offset: int64(i), Key: key, Value: fmt.Appendf(nil, `{"n":%d,}`, (seq+1)/2),
			Headers: map[string]string{"generation": "g", "lane": "telemetry", "seq": fmt.Sprint(seq), "source": "plant"}})
	}
	return out
}

// TestChaosInteropJudge shows that the judge sees each kind of fault.
func TestChaosInteropJudge(t *testing.T) {
	for name, c := range map[string]struct {
		seqs []int
		want verdict
	}{
		"good":         {[]int{1, 2, 3, 4, 5, 6}, verdict{arrived: 6}},
		"other key":    {[]int{2, 1, 3, 5, 4, 6}, verdict{arrived: 6}},
		"lost inside":  {[]int{1, 2, 4, 5, 6}, verdict{arrived: 5, lost: 2}}, // the message, and a hole
		"lost at end":  {[]int{1, 2, 3, 4, 5}, verdict{arrived: 5, lost: 1}},
		"duplicated":   {[]int{1, 2, 3, 4, 3, 4, 5, 6}, verdict{arrived: 8, duplicated: 2}},
		"out of order": {[]int{1, 2, 5, 3, 4, 6}, verdict{arrived: 6, disorder: 1}},
		"nothing":      {nil, verdict{lost: 6}},
	} {
		got := judgeChaos("c", chaosArrivals(c.seqs...), 2, 3)
		if got.first = ""; got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
		if got.good() != (c.want == verdict{arrived: 6}) {
			t.Errorf("%s: good is %v", name, got.good())
		}
	}
	again := chaosArrivals(1, 2, 3, 4, 5, 6, 6)
	again[6].Headers["seq"] = "7"
	if got := judgeChaos("c", again, 2, 3); got.again != 1 || !got.good() {
		t.Errorf("a message redelivered by the MQTT broker: %s", got)
	}
	one := sequences(chaosArrivals(1, 2, 3))
	if d := differences(one, sequences(chaosArrivals(1, 2, 3))); len(d) != 0 {
		t.Error(d)
	}
	for _, other := range [][]int{{1, 2}, {1, 3, 2}, {1, 2, 3, 4}, {}} {
		if d := differences(one, sequences(chaosArrivals(other...))); len(d) != 1 {
			t.Errorf("%v: %v", other, d)
		}
	}
	if !slices.Contains(differences(map[string][]string{}, one), "c partition 0: read by one only") {
		t.Error("a partition that only the second reader has is not seen")
	}
}
