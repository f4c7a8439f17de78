package gateway

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The list survives damage, a full disk and another version, and is bounded.
func TestReplayList(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, replayFile)
	log := &logText{}
	for _, junk := range []string{"junk", `{"version":1,"replays":[null]}`, `{"version":1,"replays":[{"id":"x"}]}`, `{"version":1,"replays":[{"id":"1"},{"id":"1"}]}`} {
		if err := os.WriteFile(path, []byte(junk), 0o600); err != nil {
			t.Fatal(err)
		}
		s := openReplays(dir, log.logger(), SystemClock())
		if kept, err := os.ReadFile(path + ".bad"); string(kept) != junk || err != nil || len(s.list()) != 0 || s.err != nil {
			t.Errorf("%s: %q, %v", junk, kept, err)
		}
	}
	newer := `{"version":2}`
	if err := os.WriteFile(path, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openReplays(dir, log.logger(), SystemClock()).add(&Replay{}); !errors.Is(err, errNewerReplays) {
		t.Errorf("a list of a newer version: %v", err)
	}
	if kept, _ := os.ReadFile(path); string(kept) != newer {
		t.Errorf("a list of a newer version was touched: %s", kept)
	}
	_ = os.Remove(path)
	if err := os.Mkdir(path, 0o700); err != nil { // what cannot be opened is not set aside
		t.Fatal(err)
	}
	if _, err := openReplays(dir, log.logger(), SystemClock()).add(&Replay{}); err == nil || !strings.Contains(err.Error(), "there are no replays") {
		t.Errorf("a list that cannot be opened: %v", err)
	}
	_ = os.Remove(path)

}

// The list keeps those that are under way and the latest of the others.
func TestReplayListIsBounded(t *testing.T) {
	dir := t.TempDir()
	log := &logText{}
	s := openReplays(dir, log.logger(), SystemClock())
	for i := range keepReplays + 10 {
		id, err := s.add(&Replay{State: ReplayWaiting})
		if err != nil {
			t.Fatal(err)
		}
		if i > 3 {
			if err := s.end(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	list := openReplays(dir, log.logger(), SystemClock()).list()
	if len(list) != keepReplays || list[3].ID != "4" || !list[3].open() || list[4].ID != "15" {
		t.Errorf("%d in the list: %+v", len(list), list[:6])
	}
	for i := 4; i < maxOpenReplays; i++ {
		if _, err := s.add(&Replay{State: ReplayWaiting}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.add(&Replay{State: ReplayWaiting}); !errors.Is(err, ErrReplayRequest) {
		t.Errorf("%d under way and one more: %v", maxOpenReplays, err)
	}
	s = openReplays(t.TempDir(), log.logger(), SystemClock())
	s.path = filepath.Join(dir, "no such directory", replayFile)
	if _, err := s.add(&Replay{State: ReplayWaiting}); err == nil || len(s.list()) != 0 || s.next != 1 {
		t.Errorf("a disk that takes nothing: %v, %d in the list", err, len(s.list()))
	}
}

func TestReplayRequestIsChecked(t *testing.T) {
	at := sampleTime
	for want, q := range map[string]ReplayRequest{
		"must be given":      {To: at},
		"must be before":     {From: at, To: at},
		"between the years":  {From: at.AddDate(-1000, 0, 0), To: at},
		"rate -1":            {From: at, To: at.Add(1), Rate: -1},
		"rate 10001":         {From: at, To: at.Add(1), Rate: 10_001},
		"at most 512 bytes":  {From: at, To: at.Add(1), Device: strings.Repeat("x", 513)},
		"at most 512 bytes,": {From: at, To: at.Add(1), Source: strings.Repeat("x", 513)},
	} {
		if _, err := q.check(); !errors.Is(err, ErrReplayRequest) || !strings.Contains(err.Error(), strings.TrimSuffix(want, ",")) {
			t.Errorf("%v, want it to say %q", err, want)
		}
	}
	if q, err := (ReplayRequest{From: at, To: at.Add(1)}).check(); err != nil || q.Rate != DefaultReplayRate {
		t.Errorf("%+v, %v", q, err)
	}
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{{"a/b", "a/b", true}, {"a/b", "a/bc", false}, {"a/*", "a/b/c", true}, {"*", "", true}, {"*a*a", "banana", true}, {"*a*b", "banana", false},
		{"?", "", false}, {"d?/*", "d1/", true}, {"", "", true}, {"a", "", false}, {"**x", "x", true}} {
		if like(c.pattern, c.s) != c.want {
			t.Errorf("%q like %q is not %v", c.s, c.pattern, c.want)
		}
	}
}
