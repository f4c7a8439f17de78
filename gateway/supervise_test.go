package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// superviseFor runs a source in a bubble and returns its intake.
func superviseFor(t *testing.T, q Appender, run sourceFunc) (in *Intake, log *logText) {
	t.Helper()
	log = &logText{}
	clock := NewClock(time.Now, nil)
	in = NewIntake(SourceSpec{Name: "engine", Lane: LaneTelemetry}, q, clock)
	in.link = newLink(log.logger(), clock)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); supervise(ctx, "engine", run, in) }()
	t.Cleanup(func() { cancel(); <-ended })
	return in, log
}

// A source that fails is tried again, with growing pauses, and is shown.
func TestSourceIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		in, log := superviseFor(t, nowhere(), func(ctx context.Context, in *Intake) error {
			tries = append(tries, time.Now())
			if len(tries) < 8 {
				return errFake
			}
			in.Up()
			<-ctx.Done()
			return nil
		})
		wait(5 * time.Minute)
		if len(tries) != 8 || in.Status("fake").State != Up {
			t.Fatalf("%d tries, %+v", len(tries), in.Status("fake").Link)
		}
		for i := 1; i < len(tries); i++ {
			most := min(retryMax, retryMin<<(i-1))
			if pause := tries[i].Sub(tries[i-1]); pause < most/2 || pause > most {
				t.Errorf("pause %d was %s, want %s to %s", i, pause, most/2, most)
			}
		}
		if log.count("level=WARN") != 1 || log.count("up again") != 1 || log.count("source engine: "+errFake.Error()) != 1 {
			t.Errorf("logged:\n%s", log.buf.String())
		}
	})
}

// A link that was up for a minute starts over with the shortest pause; one
// that was not goes on with the longer ones.
func TestBackoffStartsOverAfterAMinuteUp(t *testing.T) {
	for _, c := range []struct {
		up   time.Duration
		most time.Duration
	}{{steadyFor, retryMin}, {steadyFor - time.Second, retryMax}} {
		synctest.Test(t, func(t *testing.T) {
			var tries []time.Time
			var lost time.Time
			superviseFor(t, nowhere(), func(ctx context.Context, in *Intake) error {
				if tries = append(tries, time.Now()); len(tries) == 8 {
					in.Up()
					sleep(ctx, c.up)
					lost = time.Now()
				}
				return errFake
			})
			wait(10 * time.Minute)
			if pause := tries[8].Sub(lost); pause > c.most || pause < c.most/2 {
				t.Errorf("the pause after %s up was %s, want %s to %s", c.up, pause, c.most/2, c.most)
			}
		})
	}
}

func TestSourceSaysWhenToTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		superviseFor(t, nowhere(), func(context.Context, *Intake) error {
			tries = append(tries, time.Now())
			return fmt.Errorf("log in: %w", &RetryAfterError{errFake, 10 * time.Minute})
		})
		wait(25 * time.Minute)
		if len(tries) != 3 || tries[1].Sub(tries[0]) != 10*time.Minute {
			t.Fatalf("tries at %v", tries)
		}
	})
	if err := (&RetryAfterError{errFake, 0}); !errors.Is(err, errFake) || err.Error() != errFake.Error() {
		t.Errorf("%v hides its cause", err)
	}
}

func TestPermanentErrorIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		in, log := superviseFor(t, nowhere(), func(context.Context, *Intake) error {
			tries++
			return fmt.Errorf("open: %w", Permanent(errFake))
		})
		wait(time.Hour)
		if s := in.Status("fake"); tries != 1 || s.State != Failed || s.Error != "source engine: open: far side is away" || log.count("level=ERROR") != 1 {
			t.Fatalf("%d tries, %+v", tries, s.Link)
		}
	})
	if IsPermanent(errFake) || !errors.Is(Permanent(errFake), errFake) {
		t.Error("Permanent is seen where it is not, or hides its cause")
	}
}

// A source that panics, or ends for no reason, is one that failed.
func TestSourceThatPanicsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		in, log := superviseFor(t, nowhere(), func(ctx context.Context, in *Intake) error {
			switch tries++; {
			case tries <= 3:
				panic(fmt.Sprint("bug at ", time.Now()))
			case tries == 4:
				return nil
			}
			in.Up()
			<-ctx.Done()
			return ctx.Err()
		})
		wait(time.Minute)
		s := in.Status("fake")
		if tries != 5 || s.State != Up || s.Panics != 3 {
			t.Fatalf("%d tries, %+v", tries, s.Link)
		}
		if log.count("level=WARN") != 2 || log.count("supervise_test.go") == 0 || log.count("ended without an error") != 1 {
			t.Errorf("logged:\n%s", log.buf.String())
		}
	})
}

// A source is not run again while the queue has not answered what it delivered.
func TestSourceWaitsForTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		var stuck []func(error)
		q := AppenderFunc(func(_ Lane, _ iter.Seq[[]byte], done func(error)) { stuck = append(stuck, done) })
		in, _ := superviseFor(t, q, func(_ context.Context, in *Intake) error {
			tries.Add(1)
			in.Deliver([]Record{{Name: "a"}, {Name: "b"}}, nil)
			in.Deliver([]Record{{Name: "c"}}, nil)
			return errFake
		})
		wait(time.Hour)
		if tries.Load() != 1 || len(stuck) != 3 { // the third hurries the two that nobody waits for
			t.Fatalf("%d tries with %d deliveries unanswered", tries.Load(), len(stuck))
		}
		stuck[0](nil)
		stuck[1](nil)
		wait(time.Hour)
		if tries.Load() != 1 {
			t.Fatal("tried again with a delivery unanswered")
		}
		stuck[2](nil)
		wait(time.Minute)
		if tries.Load() != 2 {
			t.Fatalf("%d tries after the queue has answered", tries.Load())
		}
		if s := in.Status("fake"); s.Received != 6 || s.Queued != 3 {
			t.Fatalf("%+v", s)
		}
	}) // and ends although deliveries are unanswered
}

// A source is stopped while it runs, pauses or waits for the queue.
func TestSourceIsStopped(t *testing.T) {
	for name, run := range map[string]sourceFunc{
		"running": func(ctx context.Context, in *Intake) error { in.Up(); <-ctx.Done(); return ctx.Err() },
		"pausing": func(context.Context, *Intake) error { return &RetryAfterError{errFake, time.Hour} },
		"ignored": func(ctx context.Context, in *Intake) error { <-ctx.Done(); return errFake },
	} {
		synctest.Test(t, func(t *testing.T) {
			in := NewIntake(SourceSpec{Name: "engine", Lane: LaneTelemetry}, nowhere(), NewClock(time.Now, nil))
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); supervise(ctx, "engine", run, in) }()
			wait(10 * time.Second)
			at := time.Now()
			cancel()
			<-ended
			if in.Status("").State != Stopped || time.Since(at) != 0 {
				t.Errorf("%s: %s after %s", name, in.Status("").State, time.Since(at))
			}
		})
	}
}
