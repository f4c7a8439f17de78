package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// fussy is a sink that panics on some records and refuses another.
type fussy struct {
	poison  []string
	refused string
	got     []string
	calls   int
}

func (s *fussy) send(_ context.Context, b *Batch) error {
	s.calls++
	e := &RefusedError{}
	for i, it := range b.Items {
		if slices.Contains(s.poison, it.Record.Name) {
			panic("cannot encode " + it.Record.Name)
		}
		if it.Record.Name == s.refused {
			e.Refused = append(e.Refused, Refusal{i, "too large"})
		}
	}
	s.got = append(s.got, names(b)...)
	return e
}

// A record that makes the sink panic becomes a dead letter; all others of its
// batch arrive, in order.
func TestPoisonRecordIsCutOut(t *testing.T) {
	for _, c := range []struct {
		n       int
		poison  []string
		refused string // by the far side, as others are
	}{
		{1, []string{"1"}, ""}, {2, []string{"2"}, ""}, {100, []string{"1"}, "2"}, {100, []string{"50"}, "51"}, {100, []string{"100"}, ""}, {100, []string{"33", "34", "80"}, "7"},
		{40, nil, "3"}, {40, []string{"2", "4", "6", "8", "10", "12", "14", "16", "18", "20"}, ""},
	} {
		t.Run(fmt.Sprint(c.n, c.poison), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := &fussy{poison: c.poison, refused: c.refused}
				f := startForwarder(&fakeSink{send: sink.send})
				defer f.stop()
				var all [][]byte
				var want []string
				for i := range c.n {
					all = append(all, storedRecord(i+1))
					if name := fmt.Sprint(i + 1); !slices.Contains(c.poison, name) {
						want = append(want, name+":"+name)
					}
				}
				f.queue.add(1, all...)
				wait(time.Hour)
				if !slices.Equal(sink.got, want) {
					t.Errorf("sent %v\nwant %v", sink.got, want)
				}
				letters := map[string]string{}
				for _, l := range f.dead.letters(t) {
					letters[fmt.Sprint(l.Seq)] = l.Reason
				}
				for _, p := range c.poison {
					if letters[p] != "the sink panics on it: cannot encode "+p {
						t.Errorf("dead letter of %s: %q", p, letters[p])
					}
				}
				dead := len(c.poison)
				if c.refused != "" {
					dead++
				}
				if r := f.queue.releases(); len(r) != 1 || r[0] != (buffer.Released{Sent: uint64(c.n - dead), Dead: uint64(dead)}) || len(letters) != dead {
					t.Errorf("released %v with %d dead letters after %d calls", r, len(letters), sink.calls)
				}
				if len(c.poison) == 0 && sink.calls != 1 {
					t.Errorf("%d calls for a batch that is well", sink.calls)
				}
			})
		})
	}
}

// The very same batch is tried before it is cut, and a piece is the same batch
// until it is confirmed.
func TestBatchIsTriedWholeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		batches := map[*Batch]string{}
		f := startForwarder(&fakeSink{send: func(_ context.Context, b *Batch) error {
			text := fmt.Sprint(names(b))
			if was, ok := batches[b]; ok && was != text {
				t.Errorf("a batch has changed from %s to %s", was, text)
			}
			batches[b] = text
			seen = append(seen, fmt.Sprintf("%d@%d", len(b.Items), b.Items[0].Seq))
			switch {
			case len(seen) == 3, len(seen) == 8:
				return errFake
			case len(b.Items) == 4:
				panic("bug")
			}
			return nil
		}})
		defer f.stop()
		f.queue.add(1, storedRecord(1), storedRecord(2), storedRecord(3), storedRecord(4))
		wait(time.Hour)
		if s := strings.Join(seen, " "); s != "4@1 4@1 4@1 4@1 4@1 4@1 2@1 2@3 2@3" {
			t.Errorf("sent %s", s)
		}
		if len(batches) != 3 || f.log.count("sent in pieces") != 1 {
			t.Errorf("%d batches:\n%s", len(batches), f.log.buf.String())
		}
	})
}

// A record that was sent alone is not given up for a few panics.
func TestSingleRecordIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		f := startForwarder(&fakeSink{send: func(context.Context, *Batch) error {
			if calls++; calls < panicTries {
				panic("bug")
			}
			return nil
		}})
		defer f.stop()
		f.queue.add(1, storedRecord(1))
		wait(time.Hour)
		if r := f.queue.releases(); calls != panicTries || !slices.Equal(r, []buffer.Released{{Sent: 1}}) {
			t.Errorf("%d calls, released %v", calls, r)
		}
	})
}

// A sink that panics whatever it is sent does not turn the queue into dead
// letters; when it is mended everything else arrives.
func TestSinkThatAlwaysPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		sent := 0
		f := startForwarder(&fakeSink{send: func(_ context.Context, b *Batch) error {
			if broken.Load() {
				panic("bug")
			}
			sent += len(b.Items)
			return nil
		}})
		defer f.stop()
		for i := range 20 {
			f.queue.add(uint64(1+2*i), storedRecord(1), storedRecord(2))
		}
		wait(100 * time.Hour)
		if l := f.dead.letters(t); len(l) != maxGivenUp {
			t.Errorf("%d dead letters", len(l))
		}
		broken.Store(false)
		wait(time.Minute)
		if sent != 40-maxGivenUp || len(f.dead.letters(t)) != maxGivenUp {
			t.Errorf("%d sent, %d dead letters", sent, len(f.dead.letters(t)))
		}
	})
}
