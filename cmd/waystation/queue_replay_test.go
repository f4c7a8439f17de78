package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/observe"
)

// callReplay runs the command and returns its exit code and what it says.
func callReplay(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = queueReplay(args, &o, &e)
	return code, o.String(), e.String()
}

// replayAPI is the part of a gateway that the command asks.
type replayAPI struct {
	asked gateway.ReplayRequest
	ended string
	shown int
	all   []gateway.Replay
}

// list shows the second replay as done when it is asked again.
func (a *replayAPI) list() []gateway.Replay {
	if a.shown++; a.shown > 1 && len(a.all) > 1 {
		a.all[1].State, a.all[1].Sent, a.all[1].Lanes[0].Next = gateway.ReplayDone, 10, 21
	}
	return a.all
}

func (a *replayAPI) start(q gateway.ReplayRequest) (gateway.Replay, error) {
	if a.asked = q; q.Sink == "nobody" {
		return gateway.Replay{}, fmt.Errorf("%w: there is no sink nobody", gateway.ErrReplayRequest)
	}
	r := gateway.Replay{ID: "2", ReplayRequest: q, State: gateway.ReplayRunning, Sent: 5, Gone: 2,
		Lanes: []gateway.ReplayLane{{Lane: "telemetry", First: 11, Next: 16, End: 21}}}
	a.all = append(a.all[:1], r)
	return r, nil
}

func (a *replayAPI) end(id string) error {
	if a.ended = id; id != "2" {
		return fmt.Errorf("%w: %q", gateway.ErrNoReplay, id)
	}
	return nil
}

// TestQueueReplayAsksTheGateway holds the command against the API of a gateway.
func TestQueueReplayAsksTheGateway(t *testing.T) {
	api := &replayAPI{all: []gateway.Replay{{ID: "1", State: gateway.ReplayCancelled, ReplayRequest: gateway.ReplayRequest{Sink: "shore", Rate: 5}, Sent: 3}}}
	v := observe.View{Status: func() gateway.Status { return gateway.Status{} }, Replays: api.list, StartReplay: api.start, EndReplay: api.end}
	srv := httptest.NewServer(observe.Handler(v))
	defer srv.Close()
	for _, c := range []struct {
		args string
		code int
		says []string
	}{
		{"--list", exitGood, []string{"replay 1  cancelled  to shore", "3 sent"}},
		{"--from 2h --to 30m --device a/* --source deck --rate 50", exitGood, []string{"replay 2  running  50 %  to the only sink", "source deck  device a/*  50/s  5 sent, 2 no longer stored"}},
		{"--from 2026-11-22T10:00:00Z --sink shore --watch", exitGood, []string{"replay 2  done  100 %  to shore  2026-11-22T10:00:00Z", "10 sent"}},
		{"--list --json", exitGood, []string{`"id": "2"`, `"state": "done"`}},
		{"--cancel 2", exitGood, []string{"replay 2 is cancelled"}},
		{"--cancel ../../x", exitFound, []string{"no replay has this id"}},
		{"--from 1d --sink nobody", exitFound, []string{"there is no sink nobody"}},
		{"--from yesterday", exitUsage, []string{`--from "yesterday": write a time such as`}},
		{"--from 1h --to -5m", exitUsage, []string{`--to "-5m"`}},
		{"--from 1h --list", exitUsage, []string{"exclude each other"}},
		{"--list DIR", exitUsage, []string{"leave DIR out"}},
		{"--from 1h DIR more", exitUsage, []string{`unexpected argument "more"`}},
		{"", exitUsage, []string{"usage: waystation queue replay", "--from is missing"}},
		{"--nonsense", exitUsage, []string{"flag provided but not defined"}},
	} {
		api.shown = 0
		code, out, errOut := callReplay(append([]string{"--url", srv.URL}, strings.Fields(c.args)...)...)
		for _, says := range c.says {
			if code != c.code || !strings.Contains(out+errOut, says) {
				t.Errorf("%s: %d, want %d saying %q:\n%s%s", c.args, code, c.code, says, out, errOut)
			}
		}
		if strings.HasPrefix(c.args, "--from 2h") {
			if asked := api.asked; asked.To.Sub(asked.From).Round(time.Second) != 90*time.Minute || asked.Device != "a/*" || asked.Source != "deck" || asked.Rate != 50 {
				t.Errorf("asked for %+v", asked)
			}
		}
	}
	if api.ended != "../../x" {
		t.Errorf("asked to cancel %q", api.ended)
	}
	srv.Close()
	if code, _, errOut := callReplay("--from", "1h", "--url", srv.URL); code != exitFound || !strings.Contains(errOut, "no gateway answers at") {
		t.Errorf("no gateway: %d %s", code, errOut)
	}
}

// TestQueueReplayLeavesItInADirectory holds that a stopped queue takes a
// replay, and one that is in use does not.
func TestQueueReplayLeavesItInADirectory(t *testing.T) {
	dir := t.TempDir()
	if code, _, errOut := callReplay("--from", "1h", dir); code != exitFound || !strings.Contains(errOut, "not the directory of a queue") {
		t.Errorf("no queue: %d %s", code, errOut)
	}
	l, err := buffer.Open(buffer.Options{Dir: dir, Lanes: buffer.NamedLanes(gateway.LaneNames()...), MaxBytes: buffer.MinBytes})
	if err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := callReplay("--from", "1h", dir); code != exitFound || !strings.Contains(errOut, fmt.Sprintf("pid %d): ask it, with --url", os.Getpid())) {
		t.Errorf("a queue in use: %d %s", code, errOut)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := callReplay("--from", "1h", "--rate", "99999", dir); code != exitFound || !strings.Contains(errOut, "rate 99999") {
		t.Errorf("a bad rate: %d %s", code, errOut)
	}
	code, out, errOut := callReplay("--from", "3d", "--to", "12h", "--sink", "shore", dir)
	text, err := os.ReadFile(filepath.Join(dir, "replays.json"))
	if code != exitGood || !strings.Contains(out, "replay 1  waiting  to shore") || err != nil || !strings.Contains(string(text), `"sink": "shore"`) {
		t.Errorf("%d %s%s, %v: %s", code, out, errOut, err, text)
	}
}
