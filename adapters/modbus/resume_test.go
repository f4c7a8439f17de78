package modbus

import (
	"context"
	"errors"
	"testing"
)

// TestPollUnread: what is not read because something near it is refused says
// so, and not that it is refused itself.
func TestPollUnread(t *testing.T) {
	for _, code := range []byte{1, 2, 3} {
		p, _ := pollOf(t, row(125), &Limits{})
		u := &fakeUnit{limit: 125, bad: area(50, 90), code: code}
		for range 30 {
			r, err := p.run(context.Background(), u.ask)
			if err != nil {
				t.Fatal(err)
			}
			for i := range r {
				var unread *unreadError
				if r[i].err != nil && !u.bad[i] && !errors.As(r[i].err, &unread) || errors.As(r[i].err, &unread) && exception(r[i].err) != code {
					t.Fatalf("exception %d, span %d: %v", code, i, r[i].err)
				}
			}
			if r[50].err != nil && len(p.heldOff()) > 0 && p.heldOff()[0].address == 50 && reasonOf(r[50].err) != exceptionText(code) {
				t.Fatalf("exception %d, the refused one: %s", code, reasonOf(r[50].err))
			}
		}
		if n := len(p.heldOff()); n != 40 {
			t.Errorf("exception %d: %d held off, want 40", code, n)
		}
	}
	if got, want := reasonOf(&unreadError{errors.New("x")}), "not read yet: the device refuses something near it"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestPollResume: a search goes on without the plan being read again, and what
// it finds is what runs would have found.
func TestPollResume(t *testing.T) {
	for name, u := range map[string]*fakeUnit{
		"an area of 40":               {limit: 125, bad: area(50, 90)},
		"an area by exception 1":      {limit: 125, bad: area(0, 40), code: 1},
		"every second":                {limit: 125, bad: map[int]bool{1: true, 3: true, 5: true, 7: true, 9: true, 11: true}},
		"a limit":                     {limit: 16},
		"a function it does not know": {code: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := pollOf(t, row(125), &Limits{})
			if _, err := p.run(context.Background(), u.ask); err != nil {
				t.Fatal(err)
			}
			runs := 0
			for ; p.unfinished(); runs++ {
				u.asked = nil
				if err := p.resume(context.Background(), u.ask); err != nil || len(u.asked) > extraRequests || len(u.asked) == 0 || runs > 40 {
					t.Fatalf("run %d: %v, asked %d", runs, err, len(u.asked))
				}
			}
			if missing := checkRun(t, p, u); missing > 0 || u.refuse > 0 {
				t.Errorf("after %d runs %d spans are not read, %d requests refused", runs, missing, u.refuse)
			}
			if p.unfinished() {
				t.Error("still unfinished")
			}
		})
	}
}
