package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// triedSink is a sink whose far side can be tried out.
type triedSink struct {
	knobSink `yaml:",inline"`
	How      string `yaml:"how" doc:"What the check finds."`
}

// Check implements gateway.Checker.
func (c *triedSink) Check(ctx context.Context, env gateway.Env, report func(gateway.Finding)) {
	report(gateway.Finding{Level: gateway.OK, What: "broker b:1", Detail: "connected as " + env.GatewayID + "/" + env.Name})
	switch c.How {
	case "warn":
		report(gateway.Finding{Level: gateway.Note, What: "clock", Detail: "is wrong", Fix: "timedatectl <set>"})
	case "fail":
		report(gateway.Finding{Level: gateway.Fail, What: "topic t", Detail: "does not exist", Fix: "kafka-topics.sh --create"})
	case "panic":
		panic("oh")
	case "hang":
		<-ctx.Done()
	case "interrupt":
		_ = syscall.Kill(os.Getpid(), syscall.SIGINT)
		<-ctx.Done()
	case "deaf": // and says something when nobody listens any more
		<-ctx.Done()
		<-time.After(endGrace + 100*time.Millisecond)
		report(gateway.Finding{Level: gateway.OK, What: "late"})
	}
}

func TestCheckConnect(t *testing.T) {
	all := append(knobs(), gateway.Adapter{Type: "tried", Doc: "It can be tried.", NewSink: func() gateway.SinkConfig { return &triedSink{} }})
	for _, tc := range []struct {
		how  string
		args []string
		code int
		want []string
	}{
		{"ok", nil, 0, []string{"source a (in):\n  ✓ connection: type in has nothing to try\n", "sink s (tried):\n  ✓ broker b:1: connected as g/s\n"}},
		{"warn", nil, 0, []string{"  ! clock: is wrong\n      → timedatectl <set>\n"}},
		{"fail", nil, 1, []string{"  ✗ topic t: does not exist\n      → kafka-topics.sh --create\n"}},
		{"panic", nil, 1, []string{"✗ check: it panicked: oh"}},
		{"hang", []string{"--timeout", "50ms"}, 1, []string{"✗ check: it was not finished: 50ms are over", "--timeout"}},
		{"deaf", []string{"--timeout", "50ms"}, 1, []string{"✗ check: it was not finished"}},
		{"interrupt", nil, 1, []string{"✗ check: it was not finished: interrupt"}},
	} {
		t.Run(tc.how, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "w.yaml")
			text := "gateway: {id: g}\nsources: [{name: a, type: in, url: x}]\nsinks: [{name: s, type: tried, how: " + tc.how + "}, {name: s2, type: tried}]\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, errOut strings.Builder
			if code := check(append(append([]string{"--connect"}, tc.args...), file), &out, &errOut, all); code != tc.code {
				t.Errorf("exit %d, want %d: %s", code, tc.code, errOut.String())
			}
			expect(t, "out", out.String(), append(tc.want, "sink s2 (tried)"))
			if tc.how == "ok" || tc.how == "warn" { // the others panic or take time again
				out.Reset()
				code := check([]string{"--connect", "--json", file}, &out, &errOut, all)
				var got []struct {
					File, Kind, Name, Type string
					Findings               []gateway.Finding
				}
				if err := json.Unmarshal([]byte(out.String()), &got); err != nil || code != 0 || len(got) != 3 || got[1].Name != "s" || got[1].Findings[0].Level != gateway.OK {
					t.Errorf("exit %d, %v: %s", code, err, out.String())
				}
			}
			out.Reset()
			if code := check([]string{file}, &out, &errOut, all); code != 0 || strings.Contains(out.String(), "broker") {
				t.Errorf("without --connect: exit %d, %s", code, out.String())
			}
		})
	}
	var out, errOut strings.Builder
	if code := check([]string{"--json", "x"}, &out, &errOut, all); code != exitUsage {
		t.Errorf("--json alone: exit %d", code)
	}
	if code := check([]string{"--connect", "none.yaml"}, &out, &errOut, all); code != exitFound {
		t.Errorf("a file that is not there: exit %d", code)
	}
}
