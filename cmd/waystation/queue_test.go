package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
)

// queueOf makes a queue of records pump-0 to pump-6 in lane telemetry and one
// alarm, of which a sink has sent some. It is closed at the end of the test,
// or by the returned function.
func queueOf(t *testing.T, n int, release uint64) (dir string, stop func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "queue")
	l, err := buffer.Open(buffer.Options{Dir: dir, Lanes: buffer.NamedLanes(gateway.LaneNames()...), MaxBytes: 64 << 20, SegmentBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	put := func(lane int, recs ...gateway.Record) {
		b := &buffer.Batch{}
		for i := range recs {
			p := gateway.AppendRecord(nil, &recs[i])
			b.Add(p)
		}
		done := make(chan error, 1)
		l.Append(lane, b, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < n; i += 50 {
		var recs []gateway.Record
		for j := range 50 {
			k := i + j
			recs = append(recs, gateway.Record{Source: "deck", Device: fmt.Sprintf("pump-%d", k%7), Name: fmt.Sprintf("deck/pump/%d", k%7),
				Payload: fmt.Appendf(nil, `{"n":%d,"noise":"%x"}`, k+1, k*k*7919), ContentType: "application/json", Received: time.Unix(1800000000+int64(k), 0), ClockTrusted: true})
		}
		put(1, recs...)
	}
	put(0, gateway.Record{Source: "engine", Name: "oil", Values: []gateway.Value{gateway.FloatValue("pressure", 0.5)}, Received: time.Unix(1800000000, 0)})
	c, err := l.Cursor("shore")
	if err != nil {
		t.Fatal(err)
	}
	c.Release(1, release+1, buffer.Released{Sent: release})
	if err := c.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return dir, stop
}

// tool runs waystation queue and checks its exit code.
func tool(t *testing.T, code int, args ...string) (out, errOut string) {
	t.Helper()
	var o, e strings.Builder
	if got := dispatch(append([]string{"queue"}, args...), &o, &e); got != code {
		t.Fatalf("queue %v: exit %d, want %d\n%s%s", args, got, code, o.String(), e.String())
	}
	return o.String(), e.String()
}

// TestQueueUsage: what is called wrongly, and what is no queue.
func TestQueueUsage(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for _, tc := range []struct {
		args []string
		code int
		err  string
	}{
		{nil, 2, "usage: waystation queue COMMAND DIR"},
		{[]string{"mend"}, 2, `unknown command "mend"`},
		{[]string{"status"}, 2, "usage: waystation queue status"},
		{[]string{"status", "a", "b"}, 2, "usage: waystation queue status"},
		{[]string{"verify", "--fast", "a"}, 2, "-fast"},
		{[]string{"inspect", "--segments", "--blocks", none}, 2, "--segments or --blocks"},
		{[]string{"inspect", "--from", "yesterday", none}, 2, "give a seq, a time"},
		{[]string{"inspect", "--to", "0", none}, 2, "seqs begin with 1"},
		{[]string{"export", none}, 2, "--ndjson FILE or --archive FILE"},
		{[]string{"export", "--archive", "x", none}, 2, "--gateway ID or --config FILE"},
		{[]string{"export", "--archive", "x", "--gateway", "g", "--lane", "alarm", none}, 2, "go with --ndjson"},
		{[]string{"export", "--ndjson", "x", "--release", none}, 2, "go with --archive"},
		{[]string{"import", none}, 2, "give the archives"},
		{[]string{"verify", "--key", "env:WAYSTATION_NO_SUCH", none}, 2, "WAYSTATION_NO_SUCH"},
		{[]string{"status", none}, 1, "there is no such directory"},
		{[]string{"verify", none}, 1, "no queue"},
		{[]string{"repair", none}, 1, "no queue"},
		{[]string{"inspect", none}, 1, "no queue"},
		{[]string{"export", "--ndjson", "-", none}, 1, "no queue"},
		{[]string{"export", "--archive", "x", "--gateway", "g", none}, 1, "no queue"},
		{[]string{"import", none, "x"}, 1, "no queue"},
		{[]string{"status", t.TempDir()}, 1, "no queue"},
	} {
		if _, errOut := tool(t, tc.code, tc.args...); !strings.Contains(errOut, tc.err) {
			t.Errorf("%v: %s", tc.args, errOut)
		}
	}
	for _, c := range queueCommands() {
		if _, errOut := tool(t, 0, c.name, "-h"); !strings.Contains(errOut, "usage: waystation queue "+c.name) || !strings.Contains(errOut, "/var/lib/waystation") {
			t.Errorf("%s -h: %s", c.name, errOut)
		}
	}
	if out, _ := tool(t, 0, "help"); !strings.Contains(out, "repair") {
		t.Error(out)
	}
}

// TestQueueReads: every tool that reads, beside the running queue and after it,
// with options before and behind the directory.
func TestQueueReads(t *testing.T) {
	dir, stop := queueOf(t, 1000, 300)
	for _, running := range []bool{true, false} {
		if !running {
			stop()
		}
		out, _ := tool(t, 0, "status", dir)
		for _, w := range []string{"telemetry", "1..1000", "700", map[bool]string{true: "open in process", false: "no process has it open"}[running]} {
			if !strings.Contains(out, w) {
				t.Errorf("status: no %q in\n%s", w, out)
			}
		}
		var v queueView
		out, _ = tool(t, 0, "status", dir, "--json")
		if err := json.Unmarshal([]byte(out), &v); err != nil || v.InUse != running || len(v.Lanes) != 2 || v.Lanes[1].Cursors[0].Waiting != 700 {
			t.Errorf("status: %v %s", err, out)
		}
		if out, _ = tool(t, 0, "verify", dir); !strings.Contains(out, "all is well") || !strings.Contains(out, "1000 records") {
			t.Errorf("verify: %s", out)
		}
		if out, _ = tool(t, 0, "verify", "--json", dir); !json.Valid([]byte(out)) || !strings.Contains(out, `"good": true`) {
			t.Errorf("verify: %s", out)
		}
		out, _ = tool(t, 0, "inspect", dir, "--lane", "telemetry", "--from", "500", "--device", "pump-3", "--limit", "2")
		if strings.Count(out, "\n") != 2 || !strings.Contains(out, "telemetry/501") || !strings.Contains(out, `{"n":501,`) {
			t.Errorf("inspect: %s", out)
		}
		if out, _ = tool(t, 0, "inspect", "--source", "engine", dir); !strings.Contains(out, "alarm/1 ") || !strings.Contains(out, "pressure=0.5") {
			t.Errorf("inspect: %s", out)
		}
		if out, _ = tool(t, 0, "inspect", "--from", "1h", "--limit", "0", dir); strings.Count(out, "\n") != 1001 {
			t.Errorf("inspect of an hour: %d lines", strings.Count(out, "\n"))
		}
		if out, _ = tool(t, 0, "inspect", "--to", "2001-01-01", dir); out != "" {
			t.Errorf("inspect of long ago: %s", out)
		}
		if out, _ = tool(t, 0, "inspect", "--blocks", "--limit", "1", "--lane", "telemetry", dir); !strings.Contains(out, "telemetry/1..50") || !strings.Contains(out, "zstd") {
			t.Errorf("inspect --blocks: %s", out)
		}
		for _, what := range []string{"--segments", "--blocks", "--limit=3"} {
			out, _ := tool(t, 0, "inspect", "--json", what, dir)
			for line := range strings.Lines(out) {
				if !json.Valid([]byte(line)) {
					t.Errorf("inspect %s: %s", what, line)
				}
			}
		}
		if _, errOut := tool(t, 1, "inspect", "--lane", "none", dir); !strings.Contains(errOut, `no lane "none"`) {
			t.Error(errOut)
		}
	}
}

// TestQueueLines exports JSON lines: RecordJSON and the place in the queue.
func TestQueueLines(t *testing.T) {
	dir, _ := queueOf(t, 200, 50)
	file := filepath.Join(t.TempDir(), "x.ndjson")
	tool(t, 0, "export", "--ndjson", file, "--gateway", "g\"1", "--lane", "telemetry", "--from", "11", "--to", "20", dir)
	text, err := os.ReadFile(file)
	if err != nil || bytes.Count(text, []byte("\n")) != 10 {
		t.Fatalf("%v\n%s", err, text)
	}
	seq := uint64(11)
	for line := range bytes.Lines(text) {
		var v struct {
			Schema  int
			Source  string
			Payload []byte
			Queue   struct {
				Gateway, Generation, Lane string
				Seq                       uint64
			}
		}
		if err := json.Unmarshal(line, &v); err != nil || v.Schema != 1 || v.Queue.Seq != seq || v.Queue.Gateway != "g\"1" || v.Queue.Lane != "telemetry" ||
			len(v.Queue.Generation) != 16 || !strings.HasPrefix(string(v.Payload), fmt.Sprintf(`{"n":%d,`, seq)) {
			t.Fatalf("%v: %s", err, line)
		}
		seq++
	}
	if out, errOut := tool(t, 0, "export", "--ndjson", "-", dir); strings.Count(out, "\n") != 201 || !strings.Contains(errOut, "201 records") {
		t.Fatalf("%d lines, %s", strings.Count(out, "\n"), errOut)
	}
	if _, errOut := tool(t, 1, "export", "--ndjson", file, dir); !strings.Contains(errOut, "exists") {
		t.Fatal(errOut)
	}
}

// TestQueueCarry carries a backlog from ship to shore.
func TestQueueCarry(t *testing.T) {
	from, stop := queueOf(t, 500, 100)
	file := filepath.Join(t.TempDir(), "aurora.tar")
	if _, errOut := tool(t, 1, "export", "--archive", file, "--gateway", "aurora", "--release", from); !strings.Contains(errOut, "in use") {
		t.Fatal(errOut)
	}
	if out, _ := tool(t, 0, "export", "--archive", file, "--gateway", "aurora", from); !strings.Contains(out, "not released") || !strings.Contains(out, "seqs 101..500, 400 records") {
		t.Fatal(out)
	}
	stop()
	out, _ := tool(t, 0, "export", "--archive", file+"2", "--gateway", "aurora", "--release", "--json", from)
	var m buffer.Manifest
	if err := json.Unmarshal([]byte(out), &m); err != nil || m.Gateway != "aurora" || len(m.Lanes) != 2 {
		t.Fatalf("%v %s", err, out)
	}
	if out, _ := tool(t, 0, "export", "--archive", file+"3", "--gateway", "aurora", from); !strings.Contains(out, "nothing waits") {
		t.Fatal(out)
	}
	if _, errOut := tool(t, 1, "import", from, file); !strings.Contains(errOut, "of this queue itself") {
		t.Fatal(errOut)
	}
	to, stopTo := queueOf(t, 50, 0)
	if _, errOut := tool(t, 1, "import", to, file); !strings.Contains(errOut, "in use") {
		t.Fatal(errOut)
	}
	stopTo()
	if _, errOut := tool(t, 1, "import", "--max-bytes", "1KiB", to, file); !strings.Contains(errOut, "--max-bytes") {
		t.Fatal(errOut)
	}
	if out, _ := tool(t, 0, "import", "--dry-run", to, file); !strings.Contains(out, "would be taken over: seqs 101..500") {
		t.Fatal(out)
	}
	if out, _ := tool(t, 0, "import", to, file, file+"2"); !strings.Contains(out, "taken over: seqs 101..500") || !strings.Contains(out, "was here before") {
		t.Fatal(out)
	}
	if out, _ := tool(t, 0, "import", "--json", to, file); !json.Valid([]byte(out)) {
		t.Fatal(out)
	}
	out, _ = tool(t, 0, "inspect", "--json", "--lane", "telemetry@"+m.Generation, "--limit", "1", to)
	if !strings.Contains(out, `"gateway":"aurora","generation":"`+m.Generation+`","lane":"telemetry","seq":101`) {
		t.Fatal(out)
	}
	if out, _ := tool(t, 0, "status", to); !strings.Contains(out, "aurora") {
		t.Fatal(out)
	}
}

// TestQueueMend: verify finds damage, repair mends what it can, and verify
// says what is left.
func TestQueueMend(t *testing.T) {
	dir, stop := queueOf(t, 3000, 0)
	if _, errOut := tool(t, 1, "repair", dir); !strings.Contains(errOut, "in use") {
		t.Fatal(errOut)
	}
	stop()
	if out, _ := tool(t, 0, "repair", dir); !strings.Contains(out, "nothing to repair") {
		t.Fatal(out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "telemetry", "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	p, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	head := []byte{'w', 'B', 1, 2, 0, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0, 201} // of the block of seqs 201 to 250
	for at := range p[:len(p)-len(head)-40] {
		if bytes.HasPrefix(p[at:], head) {
			p[at+38] ^= 1
		}
	}
	if err := os.WriteFile(files[0], p, 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := tool(t, 1, "verify", dir)
	if !strings.Contains(out, "damaged: telemetry 201..250 ") || !strings.Contains(out, "what to do") || !strings.Contains(out, files[0]) {
		t.Fatal(out)
	}
	if out, _ = tool(t, 1, "inspect", "--limit", "0", dir); !strings.Contains(out, "not there: damaged") {
		t.Fatal("no hole shown")
	}
	if out, _ = tool(t, 0, "repair", "--dry-run", dir); !strings.Contains(out, "would be rebuilt") || !strings.Contains(out, "lost: seqs") {
		t.Fatal(out)
	}
	if out, _ = tool(t, 0, "repair", dir, "--json"); !json.Valid([]byte(out)) || !strings.Contains(out, `"done": "rebuilt"`) {
		t.Fatal(out)
	}
	if out, _ = tool(t, 1, "verify", dir); !strings.Contains(out, "no block holds them") || strings.Contains(out, "checksum") || !strings.Contains(out, "note: ") {
		t.Fatal(out)
	}
	tool(t, 0, "status", dir)
}

// TestProgress draws a bar on a terminal and writes lines elsewhere.
func TestProgress(t *testing.T) {
	for _, tty := range []bool{false, true} {
		var b strings.Builder
		now := time.Unix(0, 0)
		p := &progress{w: &b, what: "verified", tty: tty, now: func() time.Time { return now }}
		for i := range int64(11) {
			p.step(i<<20, 10<<20)
			now = now.Add(time.Second)
		}
		p.end()
		got := b.String()
		if tty != strings.Contains(got, "[####") || !strings.Contains(got, "verified 5MiB of 10MiB, 1MiB/s, 5s left") {
			t.Errorf("%v: %q", tty, got)
		}
		if lines := strings.Count(got, "\n"); !tty && lines != 2 {
			t.Errorf("%d lines in ten seconds", lines)
		}
	}
	(*progress)(nil).step(1, 2)
	(*progress)(nil).end()
}
