package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// laned is an Appender that keeps the appends and answers when told.
type laned struct {
	t       *testing.T
	appends []string // "lane: names"
	lazy    []bool
	done    []func(error)
}

func (q *laned) Append(lane int, b *buffer.Batch, done func(error)) {
	s := fmt.Sprintf("%d:", lane)
	for p := range b.Records() {
		var r Record
		if err := new(RecordDecoder).Decode(&r, p); err != nil {
			q.t.Error(err)
		}
		s += " " + r.Name
	}
	q.appends, q.lazy, q.done = append(q.appends, s), append(q.lazy, b.Lazy), append(q.done, done)
}

// answer answers the appends so far in order, each with the error given for its number.
func (q *laned) answer(errs map[int]error) {
	for i, done := range q.done {
		done(errs[i])
	}
	q.done = nil
}

func newLaned(t *testing.T, s SourceSpec) (*Intake, *laned) {
	q := &laned{t: t}
	s.Name = "deck"
	return NewIntake(s, q, NewClock(func() time.Time { return sampleTime }, nil)), q
}

// route is a Transform made of a function.
type route func(r *Record, emit func(*Record))

func (f route) Apply(r *Record, emit func(*Record)) { f(r, emit) }

// One delivery goes to several lanes, in order within each, and is answered
// once, after the last of them, with the first error.
func TestDeliveryOverLanes(t *testing.T) {
	in, q := newLaned(t, SourceSpec{Lane: LaneTelemetry})
	var got []error
	done := func(err error) { got = append(got, err) }
	alarm, bulk, beyond := LaneAlarm.Choice(), LaneBulk.Choice(), Lane(9).Choice()
	for range 2 { // the second shows that the first left nothing behind
		q.appends = nil
		in.Deliver([]Record{{Name: "1"}, {Name: "2", Lane: alarm}, {Name: "3"}, {Name: "4", Lane: beyond}, {Name: "5", Lane: alarm}, {Name: "6", Lane: bulk}}, done)
		if want := []string{"0: 2 5", "1: 1 3", "2: 4 6"}; !slices.Equal(q.appends, want) {
			t.Fatalf("appended %q, want %q", q.appends, want)
		}
		for i, d := range q.done {
			if len(got) != 0 {
				t.Fatalf("answered after %d of %d lanes", i, len(q.done))
			}
			d(map[int]error{1: errFake}[i])
		}
		if q.done = nil; len(got) != 1 || !errors.Is(got[0], errFake) {
			t.Fatalf("answered %v", got)
		}
		got = nil
		in.Deliver([]Record{{Name: "7"}, {Lane: alarm}}, done)
		if q.answer(nil); len(got) != 1 || got[0] != nil {
			t.Fatalf("the delivery after it was answered %v", got)
		}
		got = nil
	}
	if s := in.Status(""); s.Received != 16 || s.Queued != 12 || s.Refused != 4 || s.InFlight != 0 || !s.Balanced {
		t.Errorf("%+v", s)
	}
	if in.open.Load() != 0 {
		t.Errorf("%d deliveries are open", in.open.Load())
	}
}

// Parts that are full are appended before those that follow them in their lane.
func TestLargeDeliveryOverLanes(t *testing.T) {
	in, q := newLaned(t, SourceSpec{Lane: LaneTelemetry})
	recs := make([]Record, 2*partRecords+3)
	for i := range recs {
		recs[i].Name = fmt.Sprint(i)
		if i%partRecords == 1 {
			recs[i].Lane = LaneBulk.Choice()
		}
	}
	calls := 0
	in.Deliver(recs, func(error) { calls++ })
	next := map[byte]int{}
	for _, a := range q.appends {
		lane := a[0]
		for _, f := range slices.Collect(fields(a[2:])) {
			for next[lane] < len(recs) && (next[lane]%partRecords == 1) != (lane == '2') {
				next[lane]++
			}
			if f != recs[next[lane]].Name {
				t.Fatalf("lane %c: %s where %d belongs", lane, f, next[lane])
			}
			next[lane]++
		}
	}
	if len(q.appends) != 3 {
		t.Errorf("%d appends", len(q.appends))
	}
	if q.answer(nil); calls != 1 || in.Status("").Queued != int64(len(recs)) {
		t.Errorf("answered %d times, %+v", calls, in.Status(""))
	}
}

// The first part's error is told also when it is answered before the next part
// is begun.
func TestPartAnsweredAtOnce(t *testing.T) {
	errs := []error{errFake, nil}
	in := NewIntake(SourceSpec{Name: "deck"}, AppenderFunc(func(_ Lane, _ iter.Seq[[]byte], done func(error)) {
		err := errs[0]
		errs = errs[1:]
		done(err)
	}), NewClock(time.Now, nil))
	var got []error
	in.Deliver(make([]Record, partRecords+1), func(err error) { got = append(got, err) })
	if len(got) != 1 || !errors.Is(got[0], errFake) {
		t.Errorf("answered %v", got)
	}
}

// fields yields the words of s.
func fields(s string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for from := 0; from < len(s); {
			for from < len(s) && s[from] == ' ' {
				from++
			}
			to := from
			for to < len(s) && s[to] != ' ' {
				to++
			}
			if to > from && !yield(s[from:to]) {
				return
			}
			from = to
		}
	}
}

// Nobody waits for what is delivered lazily or without done; all parts say so.
func TestLazyDelivery(t *testing.T) {
	in, q := newLaned(t, SourceSpec{Lane: LaneTelemetry})
	in.Deliver([]Record{{}}, func(error) {})
	in.Deliver([]Record{{}}, nil)
	in.DeliverLazy([]Record{{}, {Lane: LaneAlarm.Choice()}}, func(error) {})
	in.Deliver([]Record{{}, {Lane: LaneAlarm.Choice()}}, func(error) {})
	if want := []bool{false, true, true, true, false, false}; !slices.Equal(q.lazy, want) {
		t.Errorf("lazy %v, want %v", q.lazy, want)
	}
}

// Before a source is run again, what was delivered lazily is hurried.
func TestSettleHurries(t *testing.T) {
	in, q := newLaned(t, SourceSpec{})
	in.DeliverLazy([]Record{{Name: "1"}}, func(error) {})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	at := sampleTime.Add(time.Hour)
	in.clock = NewClock(func() time.Time { return at }, nil)
	if in.settle(ended) || len(q.lazy) != 2 || q.lazy[1] {
		t.Fatalf("appended lazily: %v", q.lazy)
	}
	if last := in.Status("").LastRecord; !last.Equal(sampleTime) {
		t.Errorf("the last record is of %s", last)
	}
	if q.answer(nil); !in.settle(t.Context()) || len(q.lazy) != 2 {
		t.Errorf("not settled, or hurried for nothing: %v", q.lazy)
	}
}

// A transform drops and multiplies; the books balance at every moment, and
// what is dropped is acknowledged in its turn.
func TestTransform(t *testing.T) {
	in, q := newLaned(t, SourceSpec{Lane: LaneTelemetry, Tags: []Tag{{"vessel", "aurora"}}, Transform: route(func(r *Record, emit func(*Record)) {
		if r.Source != "deck" || !r.Received.Equal(sampleTime) || !slices.Equal(r.Tags, []Tag{{"vessel", "aurora"}}) {
			t.Errorf("not stamped: %+v", r)
		}
		switch r.Name {
		case "drop":
			return
		case "two":
			r.Name, r.Lane = "two-a", LaneAlarm.Choice()
			emit(r)
			r.Name, r.Lane = "two-b", 0
		case "panic":
			r.Name = "changed"
			panic("a bug")
		}
		emit(r)
	})})
	var got []string
	deliver := func(names ...string) {
		recs := make([]Record, len(names))
		for i, n := range names {
			recs[i].Name = n
		}
		in.Deliver(recs, func(err error) { got = append(got, fmt.Sprint(names)) })
		if recs[0].Name != names[0] || recs[0].Source != "" {
			t.Errorf("the caller's record was changed: %+v", recs[0])
		}
		if s := in.Status(""); !s.Balanced || s.Received != s.Queued+s.Filtered+s.Refused+s.InFlight {
			t.Errorf("%+v", s)
		}
	}
	deliver("a", "two", "drop")
	deliver("drop", "drop")
	deliver("panic")
	if want := []string{"1: a two-b", "0: two-a", "1:", "1: panic"}; !slices.Equal(q.appends, want) {
		t.Errorf("appended %q, want %q", q.appends, want)
	}
	if s := in.Status(""); s.Received != 7 || s.Filtered != 3 || s.InFlight != 4 || s.Panics != 1 {
		t.Errorf("%+v", s)
	}
	if len(got) != 0 {
		t.Fatalf("%v was answered before its turn", got)
	}
	q.answer(nil)
	if want := []string{"[a two drop]", "[drop drop]", "[panic]"}; !slices.Equal(got, want) {
		t.Errorf("answered %v, want %v", got, want)
	}
	if s := in.Status(""); s.Received != 7 || s.Queued != 4 || s.Filtered != 3 || s.InFlight != 0 || !s.Balanced {
		t.Errorf("%+v", s)
	}
}

// The real queue keeps lanes apart and answers after both are synced.
func TestQueueTakesDeliveryOverLanes(t *testing.T) {
	l := openQueue(t, t.TempDir(), buffer.MinBytes)
	in := NewIntake(SourceSpec{Name: "deck", Lane: LaneBulk}, l, NewClock(time.Now, nil))
	answer := make(chan error, 1)
	in.Deliver([]Record{{}, {Lane: LaneAlarm.Choice()}, {}}, func(err error) { answer <- err })
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	s := l.Stats()
	if s.Lanes[LaneAlarm].Next != 2 || s.Lanes[LaneTelemetry].Next != 1 || s.Lanes[LaneBulk].Next != 3 {
		t.Errorf("%+v", s.Lanes)
	}
}

// Rules and lanes allocate nothing per record.
func TestRulesAllocateNothing(t *testing.T) {
	var sink atomic.Int64
	bad := Bad
	tr, faults := NewRules([]Rule{{Device: "no/such/+", Drop: true}, {Quality: &bad, Lane: LaneAlarm.Choice()},
		{Name: "#", Lane: LaneBulk.Choice(), Tags: []Tag{{"class", "b"}}}})
	if faults != nil {
		t.Fatal(faults)
	}
	in := NewIntake(SourceSpec{Name: "deck", Lane: LaneTelemetry, Transform: tr}, discard{&sink}, NewClock(time.Now, nil))
	recs := []Record{mqttRecord(1), {Quality: Bad}, mqttRecord(2)}
	done := func(error) {}
	if n := testing.AllocsPerRun(200, func() { in.Deliver(recs, done) }); n > 4*poolDrops {
		t.Errorf("delivering three records over two lanes makes %v allocations", n)
	}
}

func BenchmarkDeliverRules(b *testing.B) {
	var sink atomic.Int64
	tr, _ := NewRules([]Rule{{Device: "no/such/+", Drop: true}, {Name: "other/*-x/#", Lane: LaneAlarm.Choice()}, {Name: "#", Lane: LaneBulk.Choice()}})
	in := NewIntake(SourceSpec{Name: "deck", Tags: []Tag{{"vessel", "aurora"}}, Transform: tr}, discard{&sink}, SystemClock())
	recs := []Record{mqttRecord(1)}
	b.ReportAllocs()
	for b.Loop() {
		in.Deliver(recs, nil)
	}
}

// A gateway has the lanes of its queue: a choice beyond them is the last one
// that is configured, not a retired one.
// What rules drop is in the books, and the queue is watched while it runs.
func TestGatewayWithTwoLanes(t *testing.T) {
	dir := t.TempDir()
	before := openQueue(t, dir, buffer.MinBytes)
	old := make(chan error, 1)
	NewIntake(SourceSpec{Lane: LaneBulk}, before, SystemClock()).Deliver([]Record{{}}, func(err error) { old <- err })
	if err := <-old; err != nil {
		t.Fatal(err)
	}
	closeQueue(t, before)
	l, err := buffer.Open(buffer.Options{Dir: dir, Lanes: buffer.NamedLanes("urgent", "rest"), MaxBytes: buffer.MinBytes})
	if err != nil {
		t.Fatal(err)
	}
	dead, err := buffer.OpenShelf(buffer.ShelfOptions{Dir: t.TempDir(), MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	rules, _ := NewRules([]Rule{{Name: "noise", Drop: true}})
	stored := make(chan error, 1)
	g, err := New(Options{ID: "g", Queue: l, Dead: dead, Sources: []SourceSpec{{Name: "deck", Transform: rules, Source: sourceFunc(func(ctx context.Context, in *Intake) error {
		in.Deliver([]Record{{}, {Lane: Lane(7).Choice()}, {Name: "noise"}}, func(err error) { stored <- err })
		<-ctx.Done()
		return nil
	})}}})
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{}, 1)
	g.watch.stats = func() buffer.Stats {
		select {
		case looked <- struct{}{}:
		default:
		}
		return l.Stats()
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	<-looked
	if err := <-stored; err != nil {
		t.Error(err)
	}
	s := g.Status()
	if ln := s.Queue.Lanes; len(ln) != 3 || ln[0].Next != 2 || ln[1].Next != 2 || !ln[2].Retired || s.Books != (Books{In: 3, Filtered: 1, Queued: 3, Balanced: true}) {
		t.Errorf("lanes %+v, books %+v", s.Queue.Lanes, s.Books)
	}
	g.intakes[0].count.tally.flight++ // as if one were forgotten
	if g.Status().Books.Balanced {
		t.Error("books of a source that do not add up are called balanced")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
