package gateway

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Pauses double from the shortest to the longest and are spread over half of
// themselves.
func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := backoff{min: time.Second, max: 15 * time.Second}
		for i := range rapid.IntRange(1, 100).Draw(t, "tries") {
			want := 15 * time.Second
			if i < 4 {
				want = time.Second << i
			}
			if got := b.next(); got < want/2 || got > want {
				t.Fatalf("pause %d is %s, want %s to %s", i, got, want/2, want)
			}
		}
		b.reset()
		if got := b.next(); got > time.Second {
			t.Fatalf("the pause after a reset is %s", got)
		}
	})
	seen := map[time.Duration]bool{}
	for range 100 {
		b := backoff{min: time.Second, max: time.Minute}
		seen[b.next()] = true
	}
	if len(seen) < 50 {
		t.Errorf("100 gateways pause for only %d different times", len(seen))
	}
}

func TestLinkStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logText{}
		l := newLink(log.logger(), NewClock(time.Now, nil))
		state := func(want LinkState, retries int64, errText string) {
			t.Helper()
			if s := l.status(); s.State != want || s.Retries != retries || s.Error != errText {
				t.Fatalf("got %+v, want %s, %d retries, error %q", s, want, retries, errText)
			}
		}
		state(Starting, 0, "")
		l.trying()
		state(Connecting, 0, "")
		since := l.status().Since
		wait(time.Second)
		l.down(errFake, time.Minute)
		state(Down, 1, errFake.Error())
		s := l.status()
		if s.NextTry == nil || !s.NextTry.Equal(time.Now().Add(time.Minute)) || !s.Since.After(since) {
			t.Fatalf("next try %v, since %s", s.NextTry, s.Since)
		}
		down := s.Since
		wait(time.Minute)
		l.trying()
		state(Down, 1, errFake.Error()) // still: it was not up in between
		if l.status().NextTry != nil {
			t.Fatal("a next try is announced while it is tried")
		}
		l.down(errFake, time.Minute)
		if !l.status().Since.Equal(down) || l.upFor() != 0 {
			t.Fatalf("down since %s, want %s", l.status().Since, down)
		}
		l.up()
		l.up()
		state(Up, 0, "")
		wait(time.Hour)
		if l.upFor() != time.Hour {
			t.Fatalf("up for %s", l.upFor())
		}
		l.end(Stopped, nil)
		state(Stopped, 0, "")
		l.end(Stopped, nil)
		if log.count("level=WARN") != 1 || log.count("up again") != 1 {
			t.Fatalf("logged:\n%s", log.buf.String())
		}
	})
}

// A change of state is logged, a try is not, also when its message carries
// another port or address each time.
func TestTriesAreNotLogged(t *testing.T) {
	log := &logText{}
	l := newLink(log.logger(), NewClock(time.Now, nil))
	for i := range 100 {
		l.trying()
		l.down(fmt.Errorf("read tcp 10.0.0.2:%d->10.0.0.1:1883: connection reset by peer", 40000+i), time.Second)
	}
	for range 50 { // two errors in turn
		l.down(errors.New("no route to host"), time.Second)
		l.down(errFake, time.Second)
	}
	for range 100 {
		l.down(recovered(func() error { panic("index out of range") }), time.Second)
	}
	if n := log.count("level=WARN"); n != 4 {
		t.Errorf("4 different errors made %d lines:\n%.2000s", n, log.buf.String())
	}
	for i := range 100 {
		l.down(errors.New(strings.Repeat("x", i+1)), time.Second)
	}
	if n := log.count("level=WARN"); n > maxTold+1 {
		t.Errorf("104 different errors made %d lines", n)
	}
	l.up()
	l.down(errFake, time.Second)
	if n := log.count(errFake.Error()); n != 2 {
		t.Errorf("the error after it was up is not logged: %d", n)
	}
}

// The stack of a panic is in the log and not in the status.
func TestPanicsAreCounted(t *testing.T) {
	log := &logText{}
	l := newLink(log.logger(), NewClock(time.Now, nil))
	err := recovered(func() error { panic("oh") })
	l.down(fmt.Errorf("source x: %w", err), time.Second)
	s := l.status()
	if s.Panics != 1 || s.Error != "source x: panic: oh" || log.count("link_test.go") == 0 {
		t.Errorf("status %+v, log %s", s, log.buf.String())
	}
	if err := recovered(func() error { return errFake }); err != errFake {
		t.Errorf("no panic: %v", err)
	}
}
