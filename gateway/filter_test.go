package gateway

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// What each condition of a filter matches; include and exclude together.
func TestFilterWants(t *testing.T) {
	hot := Record{Source: "deck", Device: "pump/7", Name: "pump/7/state", Tags: []Tag{{"site", "north"}}, Values: []Value{FloatValue("temp", 95)}}
	notice := Record{Source: NoticeSource, Device: "gw", Name: "queue-loss", Quality: Bad}
	type list = []Condition
	for _, c := range []struct {
		name             string
		include, exclude list
		rec              Record
		want             bool
	}{
		{"nothing given", nil, nil, hot, true},
		{"lane", list{{Lane: "alarm"}}, nil, hot, true},
		{"another lane", list{{Lane: "bulk"}}, nil, hot, false},
		{"source", list{{Source: "d*"}}, nil, hot, true},
		{"another source", list{{Source: "engine"}}, nil, hot, false},
		{"device and name", list{{Device: "pump/+", Name: "#"}}, nil, hot, true},
		{"all must hold", list{{Device: "pump/+", Lane: "bulk"}}, nil, hot, false},
		{"one of two is enough", list{{Lane: "bulk"}, {Device: "pump/#"}}, nil, hot, true},
		{"tag", list{{Tags: []Tag{{"site", "north"}}}}, nil, hot, true},
		{"tag, any value", list{{Tags: []Tag{{"site", "*"}}}}, nil, hot, true},
		{"tag, another value", list{{Tags: []Tag{{"site", "south"}}}}, nil, hot, false},
		{"tag that is not there", list{{Tags: []Tag{{"vessel", "*"}}}}, nil, hot, false},
		{"value", list{{Value: "temp", Above: ref(90.0)}}, nil, hot, true},
		{"value too low", list{{Value: "temp", Above: ref(99.0)}}, nil, hot, false},
		{"equals", list{{Value: "temp", Equals: ref("95")}}, nil, hot, true},
		{"quality", list{{Quality: ref(Bad)}}, nil, hot, false},
		{"excluded", nil, list{{Device: "pump/7"}}, hot, false},
		{"exclude goes before include", list{{Lane: "alarm"}}, list{{Device: "pump/7"}}, hot, false},
		{"a notice is included always", list{{Device: "pump/7"}}, nil, notice, true},
		{"a notice is not excluded by the way", nil, list{{Quality: ref(Bad)}, {Lane: "alarm"}, {Source: "*"}}, notice, true},
		{"a notice is excluded by its source", nil, list{{Source: "waystation"}}, notice, false},
		{"another notice is not", nil, list{{Source: "waystation", Name: "high-water"}}, notice, true},
	} {
		f, faults := NewFilter(c.include, c.exclude)
		if len(faults) > 0 {
			t.Errorf("%s: %v", c.name, faults[0])
		} else if got := f.wants("alarm", &c.rec); got != c.want {
			t.Errorf("%s: wanted %t", c.name, got)
		}
	}
	f, _ := NewFilter(list{{Source: "x"}, {Tags: []Tag{{"site", "n*h"}}, Device: "pump/*", Value: "te*", Below: ref(100.0)}}, list{{Lane: "bulk"}})
	if n := testing.AllocsPerRun(100, func() { f.wants("alarm", &hot) }); n != 0 {
		t.Errorf("%v allocations per record", n)
	}
}

func TestFilterFaults(t *testing.T) {
	for want, c := range map[string][2][]Condition{
		"include[1]: matches every record":                         {{{Lane: "a"}, {}}, nil},
		"exclude[0].device: \"a/#/b\" has # before":                {nil, {{Device: "a/#/b"}}},
		"include[0].source: \"#/b\" has # before":                  {{{Source: "#/b"}}, nil},
		"include[0].tags: \"#/b\" has # before":                    {{{Tags: []Tag{{"k", "#/b"}}}}, nil},
		"include[0]: above, below and equals need value":           {{{Above: ref(1.0)}}, nil},
		"exclude[0]: no number is above 2 and below 1":             {nil, {{Value: "x", Above: ref(2.0), Below: ref(1.0)}}},
		fmt.Sprintf("include: %d conditions: at most", 1+maxRules): {make([]Condition, maxRules+1), nil},
	} {
		_, faults := NewFilter(c[0], c[1])
		if len(faults) == 0 || len(faults[0].Error()) < len(want) || faults[0].Error()[:len(want)] != want {
			t.Errorf("%v instead of %q", faults, want)
		}
	}
}

// A sink gets what its filter wants; the rest is released without Send and in
// the books, and the report of a loss comes whatever the filter says.
func TestFilteredSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		f := startChanged(&fakeSink{send: func(_ context.Context, b *Batch) error {
			got = append(got, names(b)...)
			return nil
		}}, func(f *forwardBench) {
			f.filter, _ = NewFilter([]Condition{{Name: "*2"}, {Name: "queue-loss"}}, nil)
		})
		defer f.stop()
		f.queue.add(1, storedRecord(1), storedRecord(2), storedRecord(3), []byte("junk"))
		wait(time.Second)
		sent := f.status(nil).LastSent
		f.queue.add(5, storedRecord(5), storedRecord(6))
		wait(time.Second)
		if s := f.status(nil); !s.LastSent.Equal(*sent) || s.State != Up {
			t.Errorf("what was filtered counts as sent: %+v", s)
		}
		f.queue.put(buffer.Chunk{First: 7, Loss: &buffer.Loss{First: 7, Last: 9, Reason: "evicted"}})
		f.queue.add(10, storedRecord(12))
		wait(time.Second)
		if want := []string{"2:2", "7:queue-loss", "10:12"}; !slices.Equal(got, want) {
			t.Errorf("sent %v instead of %v", got, want)
		}
		if r := f.queue.releases(); !slices.Equal(r, []buffer.Released{{Sent: 1, Dead: 1, Filtered: 2}, {Filtered: 2}, {Lost: 3}, {Sent: 1}}) {
			t.Errorf("released %v", r)
		}
	})
}

// What is filtered as a whole waits for no commit of the cursor; a loss that is
// excluded is counted and not sent.
func TestFilteredBatchNeedsNoSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var syncs *countedSyncs
		f := startChanged(&fakeSink{send: func(context.Context, *Batch) error { t.Error("sent"); return nil }}, func(f *forwardBench) {
			f.filter, _ = NewFilter([]Condition{{Name: "x"}}, []Condition{{Source: NoticeSource}})
			syncs = &countedSyncs{Reader: f.queue}
			f.forwarder.queue = syncs
		})
		defer f.stop()
		f.queue.add(1, storedRecord(1))
		wait(time.Second)
		f.queue.put(buffer.Chunk{First: 2, Loss: &buffer.Loss{First: 2, Last: 9, Reason: "evicted"}})
		wait(time.Second)
		if r := f.queue.releases(); !slices.Equal(r, []buffer.Released{{Filtered: 1}, {Lost: 8}}) || syncs.n.Load() != 0 {
			t.Errorf("released %v after %d commits", r, syncs.n.Load())
		}
	})
}

// countedSyncs is a Reader that counts the calls of Sync.
type countedSyncs struct {
	Reader
	n atomic.Int64
}

func (c *countedSyncs) Sync(ctx context.Context) error {
	c.n.Add(1)
	return c.Reader.Sync(ctx)
}

// Two sinks, one with a filter: each has what is its, the books of both
// balance, also after a restart.
func TestTwoSinksOneFiltered(t *testing.T) {
	dir := t.TempDir()
	all, some := newCollect(), newCollect()
	filter, _ := NewFilter([]Condition{{Name: "*7"}}, nil)
	o := Options{Sources: []SourceSpec{{Name: "deck", Lane: LaneTelemetry, Source: emit(100)}},
		Sinks: []SinkSpec{{Name: "shore", Type: "fake", Sink: all, Batch: BatchLimits{Records: 3}}, {Name: "alarms", Type: "fake", Sink: some, Filter: filter}}}
	g := start(t, dir, o)
	for i, name := range all.await(t, 100) { // in batches of three, cut from larger blocks
		if name != fmt.Sprintf("deck/%d", i+1) {
			t.Fatalf("record %d is %s", i, name)
		}
	}
	some.await(t, 10)
	for end := time.Now().Add(10 * time.Second); g.Status().Sinks[1].Waiting > 0 && time.Now().Before(end); {
		<-time.After(5 * time.Millisecond)
	}
	if err := g.stop(t); err != nil {
		t.Fatal(err)
	}
	o.Sources = nil
	g = start(t, dir, o)
	s := g.Status()
	if k := s.Sinks[1]; k.Sent != 10 || k.Filtered != 90 || k.Waiting != 0 || !k.Balanced || !s.Books.Balanced || s.Sinks[0].Filtered != 0 || s.Sinks[0].Sent != 100 {
		t.Errorf("%+v", s.Sinks)
	}
	if err := g.stop(t); err != nil {
		t.Fatal(err)
	}
}
