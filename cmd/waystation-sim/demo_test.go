package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runDemo runs the demonstration with this test binary as the gateway.
func runDemo(t *testing.T, how string, args ...string) (code int, out, errs string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(fakeGatewayEnv, how)
	t.Setenv("TMPDIR", t.TempDir())
	var o, e bytes.Buffer
	code = dispatch(t.Context(), append([]string{"demo", "--gateway", self}, args...), stdio{nil, &o, &e})
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 != strings.Contains(strings.Join(args, " "), "--keep") {
		t.Errorf("left in the temporary directory: %v", left)
	}
	return code, o.String(), e.String()
}

func TestDemoPasses(t *testing.T) {
	code, out, errs := runDemo(t, fakeGood, "--duration", "6s", "--cut", "2s")
	if code != exitGood || errs != "" {
		t.Fatalf("code %d, stderr %q\n%s", code, errs, out)
	}
	_, after, _ := strings.Cut(out, "worst delay")
	if d, err := time.ParseDuration(strings.Fields(after + " ?")[0]); err != nil || d < 1900*time.Millisecond {
		t.Errorf("worst delay %s (%v) in an outage of 2 s:\n%s", d, err, out)
	}
	for _, want := range []string{
		"starting the gateway", "all well", "link cut: records pile up", "gateway killed (SIGKILL)",
		"started again, link still cut", "link back: the queue drains", "devices stopped: draining",
		"gateway stops (SIGTERM)", "PASS: all ", "demo-gateway 00c0ffee telemetry: seq 1 to ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

func TestDemoFindsTheLossOfAGatewayThatAcknowledgesTooEarly(t *testing.T) {
	code, out, errs := runDemo(t, fakeLossy, "--duration", "4s", "--json", "--mode", "hole", "--keep")
	var v Verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v in %q, stderr %q", err, out, errs)
	}
	if code != exitWrong || v.Good || v.Lost == 0 || len(v.Findings) == 0 {
		t.Errorf("code %d, verdict %+v", code, v)
	}
	if v.Sent != v.Acked || v.Sent == 0 || v.BadHeaders != 0 || v.Altered != 0 {
		t.Errorf("verdict %+v", v)
	}
	if !strings.Contains(errs, "files kept in ") {
		t.Errorf("stderr %q", errs)
	}
	for _, name := range []string{"waystation.yaml", "gateway.log", "kafka"} {
		if m, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "waystation-demo-*", name)); len(m) != 1 || err != nil {
			t.Errorf("%s was not kept", name)
		}
	}
}

func TestDemoSaysWhyTheGatewayDied(t *testing.T) {
	code, _, errs := runDemo(t, fakeDead)
	if code != exitWrong || !strings.Contains(errs, "it ended at once: exit status 1") || !strings.Contains(errs, "cannot go on") {
		t.Errorf("code %d, stderr %q", code, errs)
	}
}

func TestTimeline(t *testing.T) {
	tl, err := newTimeline(time.Minute, 20*time.Second)
	want := timeline{cut: 8 * time.Second, kill: 18 * time.Second, restart: 20 * time.Second,
		restore: 28 * time.Second, stop: 45 * time.Second, end: time.Minute}
	if err != nil || tl != want {
		t.Errorf("%+v, %v", tl, err)
	}
	for _, c := range []struct{ d, cut time.Duration }{{time.Minute, 40 * time.Second}, {0, time.Second}, {time.Minute, 0}, {25 * time.Hour, time.Second}} {
		if _, err := newTimeline(c.d, c.cut); err == nil {
			t.Errorf("duration %s with cut %s was taken", c.d, c.cut)
		}
	}
}

func TestViewOnATerminalRedrawsInPlace(t *testing.T) {
	var b bytes.Buffer
	v := &view{w: &b, terminal: true}
	s := snapshot{phase: "link cut: records pile up in the queue", total: time.Minute, elapsed: 30 * time.Second}
	s.plant.Link.Cut, s.plant.Sent = CutRefuse, 12345
	v.draw(s)
	first := b.String()
	if strings.Contains(first, "\x1b[6A") || !strings.Contains(first, "12,345") || !strings.Contains(first, "CUT (refuse)") || !strings.Contains(first, "[####################....") {
		t.Errorf("first block %q", first)
	}
	b.Reset()
	v.draw(s)
	if !strings.HasPrefix(b.String(), "\x1b[6A\r\x1b[K") || strings.Count(b.String(), "\n") != 6 {
		t.Errorf("second block %q", b.String())
	}
}
