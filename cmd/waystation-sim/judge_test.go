package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// perfect is what a faultless gateway leaves: three devices, ten messages each.
func perfect(t *testing.T) (records []*kgo.Record, known map[string]DeviceCount) {
	t.Helper()
	known = map[string]DeviceCount{}
	g := &GroupConfig{Signals: []SignalConfig{{Name: "x", Kind: "walk", Max: 1, Unit: "bar"}}}
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for i := range 3 {
		name := fmt.Sprintf("d%d", i)
		known[name] = DeviceCount{Topic: "plant/" + name, Sent: 10, Acked: 10}
		gen := newGenerator(name, g, rand.New(rand.NewPCG(1, 2)))
		for n := range int64(10) {
			records = append(records, &kgo.Record{Topic: "demo.plant", Partition: int32(i), Key: []byte("plant/" + name),
				Value: gen.payload(n+1, at, time.Second), Timestamp: at.Add(1500 * time.Millisecond),
				Headers: positionHeaders(len(records) + 1)})
		}
	}
	return records, known
}

func judged(records []*kgo.Record, known map[string]DeviceCount) *Verdict {
	j := newJudge(known, nil, 5)
	for _, r := range records {
		j.add(r)
	}
	return j.verdict()
}

func TestJudgePasses(t *testing.T) {
	records, known := perfect(t)
	for _, k := range []map[string]DeviceCount{known, nil} {
		v := judged(records, k)
		if !v.Good || v.Arrived != 30 || len(v.Lanes) != 1 || v.Lanes[0].Last != 30 {
			t.Errorf("%+v", v)
		}
	}
	// A message handed to the client and never acknowledged may be missing.
	known["d2"] = DeviceCount{Topic: "plant/d2", Sent: 11, Acked: 10}
	if v := judged(records, known); !v.Good {
		t.Errorf("%+v", v)
	}
}

// spoiled is one way to go wrong and how the judge has to see it.
type spoiled struct {
	spoil func([]*kgo.Record) []*kgo.Record
	count func(*Verdict) int64
	want  int64
	good  bool
}

func waysToGoWrong() map[string]spoiled {
	type rs = []*kgo.Record
	return map[string]spoiled{
		"loss at the end": {func(r rs) rs { return r[:28] }, func(v *Verdict) int64 { return v.Lost }, 2, false},
		"loss of all of a device": {func(r rs) rs { return r[:20] },
			func(v *Verdict) int64 { return v.Lost }, 10, false},
		"hole": {func(r rs) rs { return append(r[:12:12], r[13:]...) },
			func(v *Verdict) int64 { return v.Lost*100 + v.SeqHoles }, 101, false},
		"first seq missing": {func(r rs) rs { return r[1:] },
			func(v *Verdict) int64 { return v.Lost*100 + v.SeqHoles }, 101, false},
		"repeated with the same headers": {func(r rs) rs { return append(r, r[3], r[4]) },
			func(v *Verdict) int64 { return v.Repeated }, 2, true},
		"repeated more than a batch": {func(r rs) rs { return append(r, r[:6]...) },
			func(v *Verdict) int64 { return v.Repeated }, 6, false},
		"repeated under a new seq": {func(r rs) rs { return append(r, with(r[3], func(k *kgo.Record) { k.Headers = positionHeaders(31) })) },
			func(v *Verdict) int64 { return v.Unrecognisable*100 + v.Repeated }, 101, false},
		"out of order": {func(r rs) rs { r[4], r[5] = r[5], r[4]; return r },
			func(v *Verdict) int64 { return v.OutOfOrder }, 1, false},
		"two partitions": {func(r rs) rs { r[9] = with(r[9], func(k *kgo.Record) { k.Partition = 7 }); return r },
			func(v *Verdict) int64 { return v.Split }, 1, false},
		"one value altered": {func(r rs) rs {
			r[9] = with(r[9], func(k *kgo.Record) { k.Value = []byte(strings.Replace(string(k.Value), "bar", "Bar", 1)) })
			return r
		}, func(v *Verdict) int64 { return v.Altered }, 1, false},
		"another key": {func(r rs) rs { r[9] = with(r[9], func(k *kgo.Record) { k.Key = []byte("d0") }); return r },
			func(v *Verdict) int64 { return v.WrongKey }, 1, false},
		"no lane": {func(r rs) rs {
			r[29] = with(r[29], func(k *kgo.Record) { k.Headers = append(k.Headers[:2:2], k.Headers[3:]...) })
			return r
		}, func(v *Verdict) int64 { return v.BadHeaders }, 1, false},
		"seq in binary": {func(r rs) rs {
			r[29] = with(r[29], func(k *kgo.Record) {
				k.Headers = append(k.Headers[:3:3], kgo.RecordHeader{Key: "seq", Value: []byte{0, 30}})
			})
			return r
		}, func(v *Verdict) int64 { return v.BadHeaders }, 1, false},
		"seq used twice": {func(r rs) rs { r[29] = with(r[29], func(k *kgo.Record) { k.Headers = positionHeaders(29) }); return r },
			func(v *Verdict) int64 { return v.SeqReused }, 1, false},
		"unknown device": {func(r rs) rs {
			r[29] = with(r[29], func(k *kgo.Record) { k.Value = []byte(strings.Replace(string(k.Value), "d2", "d7", 1)) })
			return r
		}, func(v *Verdict) int64 { return v.Unexpected }, 1, false},
		"a record of the gateway itself": {func(r rs) rs {
			return append(r, &kgo.Record{Topic: "demo.gateway", Value: []byte(`{"evicted":0}`), Headers: positionHeaders(31)})
		}, func(v *Verdict) int64 { return v.Other }, 1, true},
		"nothing": {func(rs) rs { return nil }, func(v *Verdict) int64 { return v.Lost }, 30, false},
	}
}

// Every way to go wrong is found by its own count.
func TestJudgeFinds(t *testing.T) {
	for name, c := range waysToGoWrong() {
		t.Run(name, func(t *testing.T) {
			records, known := perfect(t)
			v := judged(c.spoil(records), known)
			if got := c.count(v); got != c.want || v.Good != c.good {
				t.Errorf("count %d (want %d), good %v (want %v): %+v", got, c.want, v.Good, c.good, v)
			}
			var text strings.Builder
			v.write(&text)
			if strings.Contains(text.String(), "PASS") != c.good || strings.Contains(text.String(), "FAIL") == c.good {
				t.Errorf("printed\n%s", text.String())
			}
		})
	}
}

func with(r *kgo.Record, change func(*kgo.Record)) *kgo.Record {
	c := *r
	change(&c)
	return &c
}

func TestJudgeReplays(t *testing.T) {
	lines := [][]byte{[]byte("a"), []byte("b"), []byte("c")}
	groups := []GroupConfig{{Replay: "f", lines: lines}}
	known := map[string]DeviceCount{"r": {Topic: "plant/r", Sent: 4, Acked: 4, Replay: "f"}}
	for _, c := range []struct {
		values  string
		count   func(*Verdict) int64
		want    int64
		good    bool
		seqStep int
	}{
		{"abca", func(v *Verdict) int64 { return v.Arrived }, 4, true, 1},
		{"abc", func(v *Verdict) int64 { return v.Lost }, 1, false, 1},
		{"abxa", func(v *Verdict) int64 { return v.Altered }, 1, false, 1},
		{"acba", func(v *Verdict) int64 { return v.OutOfOrder }, 3, false, 1},
		{"aaaa", func(v *Verdict) int64 { return v.Repeated }, 3, false, 0},
	} {
		j := newJudge(known, groups, 5)
		for i, b := range []byte(c.values) {
			j.add(&kgo.Record{Key: []byte("plant/r"), Value: []byte{b}, Headers: positionHeaders(1 + i*c.seqStep)})
		}
		v := j.verdict()
		if got := c.count(v); got != c.want || v.Good != c.good {
			t.Errorf("%s: count %d (want %d), good %v: %+v", c.values, got, c.want, v.Good, v)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -999: "-999"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
