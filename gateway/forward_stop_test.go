package gateway

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A forwarder stops at once where nothing is on its way, and lets a batch that
// is being sent end until the hard limit.
func TestForwarderStops(t *testing.T) {
	full := make([][]byte, flowBatch)
	for i := range full {
		full[i] = storedRecord(i)
	}
	never := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, c := range map[string]struct {
		sink *fakeSink
		take time.Duration // from the end of ctx, with the hard limit a minute later
		sent int
	}{
		"idle":         {&fakeSink{}, 0, 1},
		"connecting":   {&fakeSink{connect: never}, 0, 0},
		"backing off":  {&fakeSink{connect: func(context.Context) error { return &RetryAfterError{errFake, time.Hour} }}, 0, 0},
		"failed":       {&fakeSink{connect: func(context.Context) error { return Permanent(errFake) }}, 0, 0},
		"sending":      {&fakeSink{send: func(context.Context, *Batch) error { <-time.After(40 * time.Second); return nil }}, 30 * time.Second, 1},
		"stuck":        {&fakeSink{send: func(ctx context.Context, _ *Batch) error { return never(ctx) }}, time.Minute, 0},
		"close panics": {&fakeSink{close: func() error { panic("bug") }}, 0, 1},
		"close fails":  {&fakeSink{close: func() error { return errFake }}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed := 0
				closing := c.sink.close
				c.sink.close = func() error {
					if closed++; closing != nil {
						return closing()
					}
					return nil
				}
				f := startForwarder(c.sink)
				f.queue.add(1, full...)
				wait(10 * time.Second)
				if s := f.link.status(); name == "failed" && s.State != Failed {
					t.Errorf("%+v", s)
				}
				at := time.Now()
				f.cancel()
				time.AfterFunc(time.Minute, f.cut)
				<-f.ended
				if took := time.Since(at); took != c.take {
					t.Errorf("stopped after %s, want %s", took, c.take)
				}
				if r := f.queue.releases(); len(r) != c.sent || closed != 1 || f.link.status().State != Stopped {
					t.Errorf("released %v, closed %d times, %s", r, closed, f.link.status().State)
				}
				f.cut()
			})
		})
	}
}

// A stop while it lingers does not wait for the end of the linger.
func TestForwarderStopsWhileItLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startForwarder(&fakeSink{})
		full := make([][]byte, flowBatch)
		for i := range full {
			full[i] = storedRecord(i)
		}
		f.queue.add(1, full...)
		wait(linger / 2)
		at := time.Now()
		f.stop()
		if time.Since(at) != 0 || len(f.queue.releases()) != 1 {
			t.Errorf("stopped after %s", time.Since(at))
		}
	})
}

// A panic between the read of a chunk and its batch must not skip the chunk.
func TestPanicBetweenReadAndSendLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := false
		var got []string
		f := startForwarder(&fakeSink{send: func(_ context.Context, b *Batch) error { got = append(got, names(b)...); return nil }})
		defer f.stop()
		wait(time.Second)
		f.clock = NewClock(func() time.Time {
			if bad {
				bad = false
				panic("bug")
			}
			return time.Now()
		}, nil)
		bad = true
		f.queue.add(1, storedRecord(1), []byte("junk")) // its dead letter asks for the time
		f.queue.add(3, storedRecord(3))
		wait(time.Minute)
		if fmt.Sprint(got) != "[1:1 3:3]" || f.link.status().Panics != 1 || len(f.dead.letters(t)) != 1 {
			t.Errorf("sent %v, kept %d, %+v", got, len(f.dead.letters(t)), f.link.status())
		}
	})
}
