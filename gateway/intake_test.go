package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// taken is a queue that keeps what it is given and answers when told.
type taken struct {
	t       *testing.T
	records []Record
	sizes   []int // of the appends
	done    []func(error)
}

func (q *taken) append(_ Lane, stored iter.Seq[[]byte], done func(error)) {
	n := 0
	for p := range stored {
		var r Record
		if err := new(RecordDecoder).Decode(&r, bytes.Clone(p)); err != nil {
			q.t.Error(err)
		}
		q.records = append(q.records, r)
		n++
	}
	q.sizes, q.done = append(q.sizes, n), append(q.done, done)
}

func (q *taken) answer(err error) {
	done := q.done[0]
	q.done = q.done[1:]
	done(err)
}

func newTaken(t *testing.T, tags ...Tag) (*Intake, *taken) {
	q := &taken{t: t}
	return NewIntake(SourceSpec{Name: "deck", Lane: LaneBulk, Tags: tags}, AppenderFunc(q.append), NewClock(func() time.Time { return sampleTime }, nil)), q
}

// done is called once for each delivery, in order, with the queue's answer.
func TestDoneIsCalledOnceAndInOrder(t *testing.T) {
	in, q := newTaken(t)
	var got []string
	for i, recs := range [][]Record{{{}}, nil, {{}, {}, {}}, {{Quality: Bad}}} {
		in.Deliver(recs, func(err error) { got = append(got, fmt.Sprintf("%d:%v", i, err)) })
	}
	in.Deliver([]Record{{}}, nil) // no done is allowed
	if len(got) != 0 {
		t.Fatalf("done was called before the queue answered: %v", got)
	}
	for _, err := range []error{nil, nil, errFake, nil, nil} {
		q.answer(err)
	}
	if want := []string{"0:<nil>", "1:<nil>", "2:far side is away", "3:<nil>"}; !slices.Equal(got, want) {
		t.Errorf("done was called %v, want %v", got, want)
	}
	s := in.Status("fake")
	if s.Received != 6 || s.Queued != 3 || s.Refused != 3 || s.BadQuality != 1 || s.LastRecord == nil || !s.LastRecord.Equal(sampleTime) {
		t.Errorf("%+v", s)
	}
	if !in.settle(t.Context()) {
		t.Error("not settled although everything is answered")
	}
}

// The records belong to the caller again when Deliver returns, as they were.
func TestRecordsMayBeReused(t *testing.T) {
	in, q := newTaken(t, Tag{"vessel", "aurora"}, Tag{"site", "deck"})
	recs := []Record{{Name: "a", Payload: []byte("one")}, {Name: "b", Tags: []Tag{{"retained", "true"}, {"vessel", "forged"}}}}
	for i := range 3 {
		copy(recs[0].Payload, fmt.Sprint(100+i))
		in.Deliver(recs, nil)
		copy(recs[0].Payload, "xxx")
		if recs[0].Source != "" || !recs[0].Received.IsZero() || recs[0].Tags != nil || len(recs[1].Tags) != 2 {
			t.Fatalf("the caller's records were changed: %+v", recs)
		}
	}
	for i, r := range q.records {
		want := []Tag{{"vessel", "aurora"}, {"site", "deck"}}
		if r.Name == "b" {
			want = append(want, Tag{"retained", "true"}) // and not the forged one
		} else if string(r.Payload) != fmt.Sprint(100+i/2) {
			t.Errorf("payload %q in record %d", r.Payload, i)
		}
		if !slices.Equal(r.Tags, want) || r.Source != "deck" || !r.Received.Equal(sampleTime) || !r.ClockTrusted {
			t.Errorf("record %d is %+v", i, r)
		}
	}
}

func TestStampIsKept(t *testing.T) {
	at := time.Unix(42, 0)
	q := &taken{t: t}
	in := NewIntake(SourceSpec{Name: "deck", Lane: LaneBulk}, AppenderFunc(q.append), NewClock(func() time.Time { return at }, nil))
	var r Record
	in.Stamp(&r)
	at = sampleTime
	in.Deliver([]Record{r, {}}, nil)
	if got := q.records[0]; !got.Received.Equal(time.Unix(42, 0)) || got.ClockTrusted {
		t.Errorf("stamped %s, trusted %t", got.Received, got.ClockTrusted)
	}
	if got := q.records[1]; !got.Received.Equal(sampleTime) || !got.ClockTrusted {
		t.Errorf("stamped %s, trusted %t", got.Received, got.ClockTrusted)
	}
}

// A record that the queue cannot hold is queued without its content: it would
// be refused for ever, and with it the message it came in.
func TestOversizeRecordIsKeptWithoutContent(t *testing.T) {
	in, q := newTaken(t, Tag{"vessel", "aurora"})
	huge := strings.Repeat("ü", buffer.MaxRecordBytes/2)
	var err error = errFake
	in.Deliver([]Record{
		{Device: "camera", Name: "image", Payload: make([]byte, buffer.MaxRecordBytes), Tags: []Tag{{"k", "v"}}, Time: sampleTime},
		{Device: huge, Name: "x" + huge, Values: []Value{IntValue("v", 1)}},
		{Device: "camera", Name: "small"},
	}, func(e error) { err = e })
	for len(q.done) > 0 {
		q.answer(nil)
	}
	if err != nil || len(q.records) != 3 {
		t.Fatalf("%d records, %v", len(q.records), err)
	}
	r := q.records[0]
	if r.Device != "camera" || r.Name != "image" || r.Payload != nil || r.Quality != Bad || !strings.Contains(r.Reason, "limit of 29360128") ||
		!r.Time.Equal(sampleTime) || !r.Received.Equal(sampleTime) || !slices.Equal(r.Tags, []Tag{{"vessel", "aurora"}}) {
		t.Errorf("kept %+v", r)
	}
	if r := q.records[1]; len(r.Device) != maxCutText || len(r.Name) > maxCutText || !strings.HasPrefix(huge, r.Device) || r.Values != nil {
		t.Errorf("kept a device of %d and a name of %d bytes", len(r.Device), len(r.Name))
	}
	if r := q.records[2]; r.Quality != Good || in.Status("").BadQuality != 2 {
		t.Errorf("the record after it is %+v; %d are bad", r, in.Status("").BadQuality)
	}
	if cap(in.scratch) > 1<<20 {
		t.Errorf("%d bytes are kept", cap(in.scratch))
	}
}

// A message of very many records is appended in parts and answered once.
func TestLargeDeliveryIsAppendedInParts(t *testing.T) {
	for _, c := range []struct {
		answers []error
		want    error
	}{{[]error{nil, nil, nil}, nil}, {[]error{nil, errFake, nil}, errFake}, {[]error{nil, nil, errFake}, errFake}} {
		in, q := newTaken(t)
		calls := 0
		var err error
		in.Deliver(make([]Record, 2*partRecords+10), func(e error) { calls++; err = e })
		in.Deliver([]Record{{}}, nil)
		if !slices.Equal(q.sizes, []int{partRecords, partRecords, 10, 1}) {
			t.Fatalf("appended %v", q.sizes)
		}
		for i, a := range c.answers {
			if calls != 0 {
				t.Fatalf("answered after part %d", i)
			}
			if q.answer(a); i < 2 && in.open.Load() != 2 {
				t.Fatalf("%d deliveries are open after part %d of the first of two", in.open.Load(), i)
			}
		}
		if q.answer(nil); calls != 1 || !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Fatalf("done was called %d times, with %v, want %v", calls, err, c.want)
		}
	}
	in, q := newTaken(t)
	big := make([]byte, partBytes/3)
	in.Deliver([]Record{{Payload: big}, {Payload: big}, {Payload: big}, {Payload: big}, {Payload: big}}, nil)
	if !slices.Equal(q.sizes, []int{3, 2}) && !slices.Equal(q.sizes, []int{4, 1}) {
		t.Errorf("appended %v", q.sizes)
	}
}

// The real queue takes what the Intake makes of a message of any size.
func TestQueueTakesLargeDelivery(t *testing.T) {
	l := openQueue(t, t.TempDir(), buffer.MinBytes)
	in := NewIntake(SourceSpec{Name: "deck", Lane: LaneBulk}, l, NewClock(time.Now, nil))
	answer := make(chan error, 1)
	in.Deliver(make([]Record, 100_000), func(err error) { answer <- err })
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if s := in.Status(""); s.Queued != 100_000 {
		t.Errorf("%d records queued", s.Queued)
	}
}

// A done that panics must not end the committer, nor hold back others.
func TestPanicInDoneIsContained(t *testing.T) {
	in, q := newTaken(t)
	answered := false
	in.Deliver([]Record{{}}, func(error) { panic("bug") })
	in.Deliver([]Record{{}}, func(error) { answered = true })
	q.answer(nil)
	q.answer(nil)
	if !answered || in.Status("").Panics != 1 || !in.settle(t.Context()) {
		t.Errorf("answered %t, %+v", answered, in.Status("").Link)
	}
}

func TestNotesAreBounded(t *testing.T) {
	in, _ := newTaken(t)
	for range 100 {
		in.Note("granted %s only QoS %d", "deck/#", 0)
	}
	if n := in.Status("").Notes; !slices.Equal(n, []string{"granted deck/# only QoS 0"}) {
		t.Errorf("notes %q", n)
	}
	for i := range 100 {
		in.Note("note %d", i)
	}
	if n := in.Status("").Notes; len(n) != 16 {
		t.Errorf("%d notes", len(n))
	}
	if in.Note(""); in.Status("").Notes != nil {
		t.Error("the notes are not cleared")
	}
}

// The way from a record to the queue allocates nothing in the steady state.
func TestDeliverAllocatesNothing(t *testing.T) {
	var sink atomic.Int64
	in := NewIntake(SourceSpec{Name: "deck", Lane: LaneBulk, Tags: []Tag{{"vessel", "aurora"}}}, discard{&sink}, NewClock(time.Now, nil))
	recs := []Record{mqttRecord(1)}
	done := func(error) {}
	if n := testing.AllocsPerRun(200, func() { in.Deliver(recs, done) }); n > poolDrops {
		t.Errorf("delivering a record makes %v allocations", n)
	}
}

// discard is an Appender that counts.
type discard struct{ n *atomic.Int64 }

func (d discard) Append(_ int, b *buffer.Batch, done func(error)) {
	d.n.Add(int64(b.Len()))
	done(nil)
}

func BenchmarkDeliver(b *testing.B) {
	var sink atomic.Int64
	in := NewIntake(SourceSpec{Name: "deck", Lane: LaneBulk, Tags: []Tag{{"vessel", "aurora"}}}, discard{&sink}, SystemClock())
	recs := []Record{mqttRecord(1)}
	b.ReportAllocs()
	for b.Loop() {
		in.Deliver(recs, nil)
	}
}

// openQueue opens a queue that is closed when the test is over.
func openQueue(t testing.TB, dir string, maxBytes int64) *buffer.Log {
	t.Helper()
	l, err := buffer.Open(buffer.Options{Dir: dir, Lanes: buffer.NamedLanes(LaneNames()...), MaxBytes: maxBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeQueue(t, l) })
	return l
}
