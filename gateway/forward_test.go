package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// names returns the names of the records of a batch.
func names(b *Batch) []string {
	var out []string
	for _, it := range b.Items {
		out = append(out, fmt.Sprintf("%d:%s", it.Seq, it.Record.Name))
	}
	return out
}

// A batch is released when the far side has confirmed it, not before.
func TestBatchIsReleasedAfterConfirmation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		confirm := make(chan error)
		var got []string
		f := startForwarder(&fakeSink{send: func(_ context.Context, b *Batch) error {
			got = append(got, names(b)...)
			if b.Generation != "gen" || b.Bytes != len(storedRecord(1))+len(storedRecord(2)) {
				t.Errorf("batch of generation %s with %d bytes", b.Generation, b.Bytes)
			}
			return <-confirm
		}})
		defer f.stop()
		f.queue.add(7, storedRecord(1), storedRecord(2))
		wait(time.Hour)
		if !slices.Equal(got, []string{"7:1", "8:2"}) || len(f.queue.releases()) != 0 {
			t.Fatalf("sent %v, released %v", got, f.queue.releases())
		}
		confirm <- nil
		synctest.Wait()
		if r := f.queue.releases(); !slices.Equal(r, []buffer.Released{{Sent: 2}}) || f.queue.next != 9 {
			t.Fatalf("released %v below %d", r, f.queue.next)
		}
		if s := f.status(nil); s.LastSent == nil || s.State != Up {
			t.Fatalf("%+v", s)
		}
	})
}

// After an error the very same batch is sent again, with growing pauses, and
// nothing is released.
func TestSameBatchIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		var batches []*Batch
		connects := 0
		f := startForwarder(&fakeSink{connect: func(context.Context) error { connects++; return nil }, send: func(_ context.Context, b *Batch) error {
			batches, tries = append(batches, b), append(tries, time.Now())
			switch {
			case len(batches) == 3:
				panic("bug in the sink")
			case len(batches) < 8:
				return errFake
			}
			return nil
		}})
		defer f.stop()
		f.queue.add(1, storedRecord(1))
		wait(time.Minute)
		if len(batches) != 8 || connects != 8 {
			t.Fatalf("sent %d times, connected %d times", len(batches), connects)
		}
		for i, b := range batches {
			if b != batches[0] || !slices.Equal(names(b), []string{"1:1"}) {
				t.Errorf("try %d sends another batch: %v", i, names(b))
			}
			if i > 0 {
				most := min(retryMax, retryMin<<(i-1))
				if pause := tries[i].Sub(tries[i-1]); pause < most/2 || pause > most {
					t.Errorf("pause %d was %s, want %s to %s", i, pause, most/2, most)
				}
			}
		}
		if r := f.queue.releases(); len(r) != 1 || f.status(nil).State != Up || f.status(nil).Panics != 1 {
			t.Errorf("released %v, %+v", r, f.status(nil).Link)
		}
		f.queue.add(2, storedRecord(2))
		wait(time.Second)
		if len(batches) != 9 || batches[8] == batches[0] {
			t.Error("another batch has the same address: a sink takes it for the one before")
		}
	})
}

// A far side that takes connections and no records is not "up", and is not
// logged at each try.
func TestSinkThatTakesNoRecordsIsNotUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var here atomic.Bool
		f := startForwarder(&fakeSink{send: func(context.Context, *Batch) error {
			if here.Load() {
				return nil
			}
			return errFake
		}})
		defer f.stop()
		synctest.Wait()
		if f.link.status().State != Up {
			t.Fatal("connected with nothing to send, and not up")
		}
		f.queue.add(1, storedRecord(1))
		wait(time.Hour)
		for range 100 {
			wait(time.Second)
			if s := f.link.status(); s.State != Down || s.Retries < 200 {
				t.Fatalf("%+v", s)
			}
		}
		if f.log.count("level=WARN") != 1 || f.log.count("up") != 1 {
			t.Fatalf("logged:\n%.3000s", f.log.buf.String())
		}
		here.Store(true)
		wait(time.Minute)
		if s := f.link.status(); s.State != Up || s.Error != "" || f.log.count("up again") != 1 {
			t.Fatalf("%+v", s)
		}
	})
}

// What the far side refuses for good is kept, with the very bytes stored, and
// its batch goes on.
func TestRefusedRecordsBecomeDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		f := startForwarder(&fakeSink{send: func(_ context.Context, b *Batch) error {
			if sent++; sent > 1 {
				return nil
			}
			b.Items[1].Record.Name = "changed by the sink"
			return fmt.Errorf("send: %w", &RefusedError{[]Refusal{{1, "too large"}, {2, "no such topic"}, {1, "again"}}})
		}})
		defer f.stop()
		f.queue.add(5, storedRecord(1), storedRecord(2), storedRecord(3), storedRecord(4))
		f.queue.add(9, storedRecord(5))
		wait(time.Minute)
		letters := f.dead.letters(t)
		if len(letters) != 2 || sent != 2 {
			t.Fatalf("%d dead letters, %d batches sent", len(letters), sent)
		}
		for i, l := range letters {
			want := DeadLetter{ID: uint64(i + 1), Sink: "shore", Generation: "gen", Lane: 0, Seq: uint64(6 + i),
				Reason: []string{"too large", "no such topic"}[i], Stored: storedRecord(2 + i), At: l.At}
			if l.Seq != want.Seq || l.Reason != want.Reason || !bytes.Equal(l.Stored, want.Stored) || l.Sink != "shore" || l.Generation != "gen" || l.At.IsZero() {
				t.Errorf("dead letter %+v, want %+v", l, want)
			}
		}
		if r := f.queue.releases(); !slices.Equal(r, []buffer.Released{{Sent: 2, Dead: 2}, {Sent: 1}}) {
			t.Errorf("released %v", r)
		}
	})
}

// When the dead letters cannot be stored, the batch is not released, and what
// the far side has confirmed is not sent again.
func TestDeadLettersAreDurableBeforeRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		f := startForwarder(&fakeSink{send: func(context.Context, *Batch) error {
			sent++
			return &RefusedError{[]Refusal{{0, "too large"}}}
		}})
		defer f.stop()
		f.dead.set(buffer.ErrFull)
		f.queue.add(1, storedRecord(1), []byte("no record"), storedRecord(2))
		wait(time.Hour)
		if r := f.queue.releases(); len(r) != 0 || sent != 1 || f.dead.puts < 100 {
			t.Fatalf("released %v after %d tries to keep a dead letter; sent %d times", r, f.dead.puts, sent)
		}
		if s := f.link.status(); s.State != Down || s.Error == "" {
			t.Fatalf("%+v", s)
		}
		f.dead.set(nil)
		wait(time.Minute)
		if l := f.dead.letters(t); len(l) != 2 || l[0].Seq != 2 || l[1].Seq != 1 || sent != 1 {
			t.Fatalf("kept %+v; sent %d times", l, sent)
		}
		if r := f.queue.releases(); !slices.Equal(r, []buffer.Released{{Sent: 1, Dead: 2}}) {
			t.Fatalf("released %v", r)
		}
	})
}

// A stored record that cannot be read is kept as it is, and holds nothing up.
func TestUndecodableRecordsBecomeDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		f := startForwarder(&fakeSink{send: func(_ context.Context, b *Batch) error { got = append(got, names(b)...); return nil }})
		defer f.stop()
		f.queue.add(1, []byte("junk"), storedRecord(2), []byte{99, 1}, storedRecord(4))
		f.queue.add(5, []byte{}) // a batch of nothing else
		f.queue.add(6, storedRecord(6))
		wait(time.Minute)
		if !slices.Equal(got, []string{"2:2", "4:4", "6:6"}) {
			t.Errorf("sent %v", got)
		}
		letters := f.dead.letters(t)
		if len(letters) != 3 || string(letters[0].Stored) != "junk" || letters[1].Seq != 3 || letters[2].Seq != 5 {
			t.Errorf("kept %+v", letters)
		}
		if r := f.queue.releases(); !slices.Equal(r, []buffer.Released{{Sent: 2, Dead: 2}, {Dead: 1}, {Sent: 1}}) {
			t.Errorf("released %v", r)
		}
	})
}

// A sink that refuses what is not there has a fault; nothing may be taken for
// confirmed then.
func TestRefusalOfNothing(t *testing.T) {
	for _, index := range []int{-1, 2} {
		synctest.Test(t, func(t *testing.T) {
			sent := 0
			f := startForwarder(&fakeSink{send: func(context.Context, *Batch) error {
				if sent++; sent < 3 {
					return &RefusedError{[]Refusal{{0, "x"}, {index, "y"}}}
				}
				return &RefusedError{}
			}})
			defer f.stop()
			f.queue.add(1, storedRecord(1), storedRecord(2))
			wait(time.Minute)
			if r := f.queue.releases(); !slices.Equal(r, []buffer.Released{{Sent: 2}}) || sent != 3 || len(f.dead.letters(t)) != 0 || f.link.status().Panics != 0 {
				t.Errorf("released %v after %d tries, kept %d", r, sent, len(f.dead.letters(t)))
			}
		})
	}
	if s := (&RefusedError{}).Error(); s != "refused no record" {
		t.Error(s)
	}
	if s := (&RefusedError{[]Refusal{{0, "too large"}, {1, "x"}}}).Error(); s != "refused 2 records for good, first: too large" {
		t.Error(s)
	}
}

// What the queue lost is told to the far side as a record, and counted as lost
// also when the far side refuses to hear of it.
func TestLossIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []Record
		f := startForwarder(&fakeSink{send: func(_ context.Context, b *Batch) error {
			for _, it := range b.Items {
				got = append(got, it.Record)
			}
			if b.Items[0].Seq == 20 {
				return &RefusedError{[]Refusal{{0, "no"}}}
			}
			return nil
		}})
		defer f.stop()
		f.queue.put(buffer.Chunk{First: 3, Loss: &buffer.Loss{First: 3, Last: 12, From: sampleTime, To: sampleTime, Reason: buffer.ReasonEvicted, Exact: true}})
		f.queue.add(13, storedRecord(13))
		f.queue.put(buffer.Chunk{First: 20, Loss: &buffer.Loss{First: 20, Last: 20, Reason: buffer.ReasonDamaged}})
		wait(time.Minute)
		if len(got) != 3 || got[0].Source != NoticeSource || got[0].Device != "gw" || got[0].Name != "queue-loss" || got[0].Reason != "evicted" {
			t.Fatalf("sent %+v", got)
		}
		values := map[string]string{}
		for _, v := range got[0].Values {
			values[v.Name] = v.String()
		}
		if values["first_seq"] != "3" || values["last_seq"] != "12" || values["count"] != "10" || values["exact"] != "true" || values["from"] != "2026-11-22T14:13:45.123456789Z" {
			t.Errorf("the loss says %v", values)
		}
		if r := f.queue.releases(); !slices.Equal(r, []buffer.Released{{Lost: 10}, {Sent: 1}, {Lost: 1}}) {
			t.Errorf("released %v", r)
		}
		if l := f.dead.letters(t); len(l) != 1 || l[0].Seq != 20 {
			t.Errorf("kept %+v", l)
		}
	})
}

// Under flow batches wait a little for more; a trickle is not delayed.
func TestLinger(t *testing.T) {
	for n, want := range map[int]time.Duration{flowBatch - 1: 0, flowBatch: linger, denseBatch - 1: linger, denseBatch: denseLinger,
		fullBatch - 1: denseLinger, fullBatch: 0} {
		synctest.Test(t, func(t *testing.T) {
			var at []time.Time
			f := startForwarder(&fakeSink{send: func(context.Context, *Batch) error { at = append(at, time.Now()); return nil }})
			defer f.stop()
			f.queue.add(1, slices.Repeat([][]byte{storedRecord(1)}, n)...)
			f.queue.add(uint64(1+n), storedRecord(2))
			wait(time.Minute)
			if len(at) != 2 || at[1].Sub(at[0]) != want {
				t.Errorf("after a batch of %d the next was sent after %s, want %s", n, at[1].Sub(at[0]), want)
			}
		})
	}
}

// An error of the queue is shown, and reading goes on when it is over.
func TestQueueThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		f := startForwarder(&fakeSink{send: func(context.Context, *Batch) error { sent++; return nil }})
		defer f.stop()
		f.queue.mu.Lock()
		f.queue.readErr, f.queue.syncErr = errFake, errors.New("disk is read-only")
		f.queue.mu.Unlock()
		f.queue.add(1, storedRecord(1))
		wait(time.Minute)
		if s := f.link.status(); s.State != Down || sent != 0 || f.log.count("level=WARN") != 1 {
			t.Fatalf("%+v, sent %d", s, sent)
		}
		f.queue.mu.Lock()
		f.queue.readErr = nil
		f.queue.mu.Unlock()
		wait(time.Minute)
		if f.link.status().State != Up || sent != 1 || len(f.queue.releases()) != 1 {
			t.Fatalf("%+v, sent %d", f.link.status(), sent)
		}
	})
}
