package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

const lanes = 2

// oursAt are the options of our queue in a power cut: small segments, so that
// many are begun and deleted.
func oursAt(design, dir string) buffer.Options {
	return buffer.Options{Dir: dir, Lanes: buffer.NamedLanes("alarm", "telemetry"), MaxBytes: 64 << 20, SegmentBytes: 64 << 10,
		Compression: buffer.S2, CursorDelay: time.Hour, Prefill: strings.Contains(design, "prefill")}
}

// ourLoad is the load on our queue: two lanes, two cursors, segments that are
// begun, drained and deleted, pages used again while a lane is short, cursors
// saved by themselves and with appends, and restarts.
type ourLoad struct {
	o       buffer.Options
	tell    *reporter
	r       *rand.Rand
	log     *buffer.Log
	cursors map[string]*buffer.Cursor
	next    [lanes]uint64
}

func loadOurs(design, dir string, tell *reporter, r *rand.Rand) error {
	w := &ourLoad{o: oursAt(design, dir), tell: tell, r: r, next: [lanes]uint64{1, 1}}
	if err := w.open(); err != nil {
		return err
	}
	for i := range 300 {
		short := i/25%2 == 1 // phases: a backlog grows; everything is released
		if err := w.append(r.IntN(4) / 3); err != nil {
			return err
		}
		for name := range w.cursors {
			for lane := range lanes {
				if short || r.IntN(12) == 0 {
					if err := w.release(name, lane, short); err != nil {
						return err
					}
				}
			}
		}
		if i%80 == 79 {
			if err := errors.Join(w.log.Close(context.Background()), w.open()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *ourLoad) open() (err error) {
	if w.log, err = buffer.Open(w.o); err != nil {
		return err
	}
	w.cursors = map[string]*buffer.Cursor{}
	for _, name := range []string{"fast", "slow"} {
		if w.cursors[name], err = w.log.Cursor(name); err != nil {
			return err
		}
	}
	return nil
}

func (w *ourLoad) append(lane int) error {
	b := &buffer.Batch{}
	for range 1 + w.r.IntN(60) {
		b.Add(provable(w.next[lane]*lanes + uint64(lane)))
		w.next[lane]++
	}
	if err := w.tell.say("handed", "-", lane, w.next[lane]); err != nil {
		return err
	}
	done := make(chan error, 1)
	w.log.Append(lane, b, func(err error) { // said before the committer goes on
		if err == nil {
			err = w.tell.say("acked", "-", lane, w.next[lane])
		}
		done <- err
	})
	return <-done
}

// release reads what a cursor has not released of a lane, and releases a part
// of it or all.
func (w *ourLoad) release(name string, lane int, all bool) error {
	c := w.cursors[name]
	s := c.Stats()[lane]
	if s.Next == s.End {
		return nil
	}
	to := s.End
	if !all {
		to = s.Next + w.r.Uint64N(s.End-s.Next+1)
	}
	if err := w.tell.say("released", name, lane, to); err != nil {
		return err
	}
	c.Release(lane, to, buffer.Released{Sent: to - s.Next})
	if w.r.IntN(4) == 0 {
		return c.Sync(context.Background())
	}
	return nil
}

// judgeOurs opens a state of our queue.
func (d *platter) judgeOurs(design, dir string) (t trouble) {
	t.err = guard(func() error {
		l, err := buffer.Open(oursAt(design, dir))
		if err != nil {
			return err
		}
		defer l.Close(context.Background())
		for _, name := range []string{"fast", "slow"} {
			c, err := l.Cursor(name)
			if err != nil {
				return err
			}
			for lane := range lanes {
				if err := d.judgeLane(c, name, lane, &t); err != nil {
					return err
				}
			}
		}
		for lane, s := range l.Stats().Lanes {
			if s.Next < d.acked[lane] {
				t.repeated++
			}
			b := &buffer.Batch{}
			b.Add([]byte("after the cut"))
			done := make(chan error, 1)
			l.Append(lane, b, func(err error) { done <- err })
			if err := <-done; err != nil {
				return err
			}
		}
		if n := l.Stats().Quarantined; n > 0 {
			return fmt.Errorf("%d segments set aside", n)
		}
		return nil
	})
	return t
}

// judgeLane reads a lane from where a cursor stands: nothing acknowledged is
// missing, nothing is altered or from another place.
func (d *platter) judgeLane(c *buffer.Cursor, name string, lane int, t *trouble) error {
	at := c.Stats()[lane].Next
	if at > max(d.released[name][lane], 1) {
		t.ahead++
	}
	var ch buffer.Chunk
	for {
		if err := c.Read(lane, buffer.Limit{Records: 500, Bytes: 1 << 20}, &ch); err != nil {
			return err
		}
		if len(ch.Records) == 0 && ch.Loss == nil {
			break
		}
		if ch.First != at {
			return fmt.Errorf("lane %d: read %d at %d", lane, ch.First, at)
		}
		if ch.Loss != nil { // nothing was damaged and nothing evicted
			t.lost += int(ch.Loss.Count())
		}
		for i, p := range ch.Records {
			seq := ch.Seq(i)
			if n, ok := proven(p); !ok || n != seq*lanes+uint64(lane) || seq >= d.handed[lane] {
				t.altered++
			}
		}
		at = ch.Next()
	}
	if at < d.acked[lane] {
		t.lost += int(d.acked[lane] - at)
	}
	return nil
}
