package observe

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// well is the status of a gateway that is well.
func well() gateway.Status {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	oldest, amp, days := now.Add(-3*time.Hour), 2.1, 15384.6
	return gateway.Status{Gateway: "ship-042", Version: "1", PID: 7, Started: now.Add(-time.Hour), Now: now, ClockTrusted: true, Ready: true,
		Sources: []gateway.SourceStatus{{Name: "deck", Type: "mqtt", Link: gateway.Link{State: gateway.Up}, Received: 10, Queued: 9, LastRecord: &now}},
		Queue: gateway.QueueStatus{Dir: "/q", State: "ok", Generation: "g1", Bytes: 2 << 20, MaxBytes: 1 << 30, Payload: 1000, Stored: 100, Device: 2100,
			WriteAmp: &amp, Flash: &gateway.FlashStatus{PerDay: 1_300_000_000, Endurance: 20e12, Days: &days},
			CommitTimes: gateway.Histogram{Bounds: []float64{.001, .01}, Counts: []int64{4, 2, 1}, Sum: 0.5},
			Lanes: []gateway.LaneStatus{{Name: "telemetry", Generation: "g1", First: 3, Next: 10, Segments: 2, Bytes: 3 << 20, MaxBytes: 4 << 20, Oldest: &oldest},
				{Name: "telemetry", Generation: "g2", Origin: "ship-7", First: 3, Next: 10, Segments: 1, Retired: true}}},
		Sinks: []gateway.SinkStatus{{Name: "shore", Type: "kafka", Link: gateway.Link{State: gateway.Up}, Sent: 5, Waiting: 4, Balanced: true,
			Facts: []gateway.Fact{{Name: "delivery", Value: "exactly once"}}}},
		DeadLetters: gateway.LetterStatus{Kept: 0, MaxBytes: 1 << 20, Delivered: 3, Sinks: []gateway.SinkLetters{{Sink: "shore"}}},
		Books:       gateway.Books{In: 10, Queued: 9, Balanced: true}}
}

// ask sends one request to the handler of a gateway in state s.
func ask(t *testing.T, s gateway.Status, path string) (int, string) {
	t.Helper()
	v := View{Status: func() gateway.Status { return s }, Letters: fakeLetters{}}
	w := httptest.NewRecorder()
	Handler(v).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestPaths(t *testing.T) {
	bad := well()
	bad.Ready, bad.Queue.State, bad.Queue.Error = false, "full", "no space left on device"
	lettered := well()
	oldest := lettered.Now.Add(-time.Minute)
	lettered.DeadLetters.Sinks = []gateway.SinkLetters{{Sink: "shore", Kept: 7, Bytes: 70, Oldest: &oldest, Retrying: 2}}
	for _, c := range []struct {
		status gateway.Status
		path   string
		code   int
		says   string
	}{
		{well(), "/healthz", 200, "ok"},
		{bad, "/healthz", 200, "ok"},
		{well(), "/readyz", 200, "ready"},
		{bad, "/readyz", 503, "queue is full: no space left on device"},
		{well(), "/api/v1/status", 200, `"gateway": "ship-042"`},
		{well(), "/api/v1/dead-letters", 200, `"reason": "too large"`},
		{well(), "/api/v1/dead-letters?after=4&limit=5000", 200, `"seq": 1000`},
		{well(), "/api/v1/dead-letters?limit=many", 400, `limit="many" is not a number`},
		{well(), "/api/v1/dead-letters?after=99", 500, "disk is gone"},
		{well(), "/nothing", 404, "not found"},
		{well(), "/metrics", 200, `waystation_source_records_received_total{source="deck"} 10`},
		{well(), "/metrics", 200, `waystation_sink_records_waiting{sink="shore"} 4`},
		{well(), "/metrics", 200, `waystation_queue_lane_next_seq{lane="telemetry"} 10`},
		{well(), "/metrics", 200, `waystation_queue_commit_seconds_bucket{le="0.001"} 4`},
		{well(), "/metrics", 200, `waystation_queue_commit_seconds_bucket{le="0.01"} 6`},
		{well(), "/metrics", 200, `waystation_queue_commit_seconds_bucket{le="+Inf"} 7`},
		{well(), "/metrics", 200, "waystation_queue_commit_seconds_sum 0.5"},
		{well(), "/metrics", 200, `waystation_queue_lane_next_seq{lane="telemetry@g2"} 10`},
		{well(), "/metrics", 200, `waystation_queue_lane_oldest_waiting_seconds{lane="telemetry"} 10800`},
		{well(), "/metrics", 200, `waystation_queue_lane_oldest_waiting_seconds{lane="telemetry@g2"} 0`},
		{bad, "/metrics", 200, "waystation_queue_ok 0"},
		{lettered, "/metrics", 200, `waystation_dead_letters{sink="shore"} 7`},
		{lettered, "/metrics", 200, `waystation_dead_letters_retrying{sink="shore"} 2`},
		{lettered, "/metrics", 200, `waystation_dead_letters_oldest_seconds{sink="shore"} 60`},
		{lettered, "/metrics", 200, `waystation_dead_letters_delivered_total 3`},
	} {
		if code, body := ask(t, c.status, c.path); code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d, want %d, saying %q:\n%.600s", c.path, code, c.code, c.says, body)
		}
	}
}

// TestMetricTable holds that every metric of the table is collected, and no other.
func TestMetricTable(t *testing.T) {
	s := well()
	s.Sinks[0].Facts = []gateway.Fact{{Name: "certificate", Value: "ends in 12 days", Warn: true, Ends: 1_796_000_000}}
	s.Sources[0].Facts = []gateway.Fact{{Name: "authority", Value: "ends in 200 days", Ends: 1_800_000_000}, {Name: "delivery", Value: "x"}}
	_, body := ask(t, s, "/metrics")
	for _, want := range []string{`waystation_sink_ends_timestamp_seconds{fact="certificate",sink="shore"} 1.796e+09`, `waystation_source_ends_timestamp_seconds{fact="authority",source="deck"} 1.8e+09`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	for _, m := range metricTable() {
		if !strings.Contains(body, "# HELP waystation_"+m[0]+" ") {
			t.Errorf("%s is not collected", m[0])
		}
	}
}

// TestMeasures holds that what sources tell of themselves becomes metrics, and
// that one which does not fit the others spoils nothing.
func TestMeasures(t *testing.T) {
	s := well()
	up := func(device string, v float64) gateway.Measure {
		return gateway.Measure{Name: "device_up", Help: "1 while the device answers.", Labels: []gateway.Tag{{Key: "device", Value: device}}, Value: v}
	}
	s.Sources[0].Measures = []gateway.Measure{up("pump-1", 1), up("pump \xff\"2", 0), up("pump-1", 0),
		{Name: "polls_total", Help: "Polls.", Counter: true, Value: 7}, {Name: "Wrong name", Value: 1}, {Name: "", Value: 1}}
	s.Sources = append(s.Sources, gateway.SourceStatus{Name: "hold", Measures: []gateway.Measure{
		{Name: "polls_total", Help: "Another help.", Counter: true, Value: 8},
		{Name: "device_up", Value: 3},
		{Name: "other_total", Counter: true, Labels: []gateway.Tag{{Key: "not a label", Value: ""}}},
		{Name: "device_up", Counter: true, Labels: []gateway.Tag{{Key: "device", Value: "x"}}}}})
	code, body := ask(t, s, "/metrics")
	if code != 200 {
		t.Fatalf("%d: %s", code, body)
	}
	for _, want := range []string{`waystation_source_device_up{device="pump-1",source="deck"} 1`, `waystation_source_device_up{device="pump �\"2",source="deck"} 0`,
		"# TYPE waystation_source_device_up gauge", "# TYPE waystation_source_polls_total counter", "# HELP waystation_source_polls_total Polls.",
		`waystation_source_polls_total{source="deck"} 7`, `waystation_source_polls_total{source="hold"} 8`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	if n := strings.Count(body, "waystation_source_device_up{"); n != 2 {
		t.Errorf("%d metrics of devices, want 2", n)
	}
	for _, not := range []string{"Wrong", "other_total"} {
		if strings.Contains(body, not) {
			t.Errorf("%s is in the metrics", not)
		}
	}
}

// TestMetricsPage holds docs/operating.md to the table: every metric is in it,
// and nothing else is called one. Those of adapters are below a heading of their
// own, and held by the adapters.
func TestMetricsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(page), "\n### Of sources that poll\n")
	_, after, ended := strings.Cut(rest, "\n## ")
	if !found || !ended {
		t.Fatal("docs/operating.md has no part on sources that poll")
	}
	page = []byte(before + after)
	known := map[string]bool{}
	for _, m := range metricTable() {
		name := "waystation_" + m[0]
		known[name] = true
		if !strings.Contains(string(page), "| `"+name+"`") {
			t.Errorf("docs/operating.md does not list %s: %s", name, m[1])
		}
	}
	for _, name := range regexp.MustCompile(`waystation_\w+`).FindAllString(string(page), -1) {
		if name = strings.TrimSuffix(name, "_bucket"); !known[name] && name != "waystation_" {
			t.Errorf("docs/operating.md names %s, which does not exist", name)
		}
	}
}

// TestTextOfQueue holds what a person reads of the queue.
func TestTextOfQueue(t *testing.T) {
	s := well()
	full, grows := 30.0, 12.0*(1<<20)
	s.Queue.Retained, s.Queue.FullIn, s.Queue.Growth, s.Sources[0].Filtered = 1<<20, &full, &grows, 7
	var out bytes.Buffer
	if err := Text(&out, &s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"queue    /q              ok        2MiB of 1GiB (0%), 3 segments, 1MiB kept to be sent again\n",
		"lane     telemetry                 3MiB of 4MiB (75%), next seq 10",
		"oldest waits 3h0m0s",
		"lane     telemetry@g2    from ship-7  ",
		"nothing waits",
		"12MiB an hour: full in 30 hours",
		"1.3 GB a day (2.10 × the payload), 20 TB endurance: 42 years",
		"9 stored, 7 filtered, 0 bad",
	} {
		if !strings.Contains(squeeze(out.String()), squeeze(want)) {
			t.Errorf("no word of %q in:\n%s", want, out.String())
		}
	}
}

// squeeze joins runs of spaces.
func squeeze(s string) string { return regexp.MustCompile(` +`).ReplaceAllString(s, " ") }

// Each trouble of the queue is said with what to do.
func TestTroublesOfQueue(t *testing.T) {
	days, soon := 200.0, 5.0
	for _, c := range []struct {
		set  func(q *gateway.QueueStatus)
		want string
	}{
		{func(q *gateway.QueueStatus) { q.State, q.Error = "full", "E" }, "the queue takes no records (full): E; make space on the disk"},
		{func(q *gateway.QueueStatus) { q.State, q.Error = "read-only", "E" }, "(read-only): E; the medium may be dying"},
		{func(q *gateway.QueueStatus) { q.State, q.Error = "gone", "E" }, "(gone): E; put the medium"},
		{func(q *gateway.QueueStatus) { q.State, q.Error = "no-key", "E" }, "(no-key): E; give the key it was written with in buffer.encryption.old_keys"},
		{func(q *gateway.QueueStatus) { q.State, q.Error = "failing", "E" }, "(failing): E; the log says more"},
		{func(q *gateway.QueueStatus) { q.HighWater, q.Bytes = true, 9<<27 }, "the queue is 112% full: bring the sinks back, or raise buffer.max_bytes"},
		{func(q *gateway.QueueStatus) { q.HighWater, q.Bytes, q.FullIn = true, 7<<27, &soon }, "the queue is 87% full and will be in 5 hours: bring"},
		{func(q *gateway.QueueStatus) { q.Lanes[0].HighWater = true }, "lane telemetry is 75% full"},
		{func(q *gateway.QueueStatus) { q.Evictions = 3 }, "3 segments were deleted before they were sent"},
		{func(q *gateway.QueueStatus) { q.Thinned = 44 }, "44 records were thinned out"},
		{func(q *gateway.QueueStatus) { q.Flash.Days = &days }, "a new medium would last 200 days at 1.3 GB a day: raise max_delay"},
	} {
		s := well()
		c.set(&s.Queue)
		if got := Troubles(&s); len(got) != 1 || !strings.Contains(got[0], c.want) {
			t.Errorf("want %q, got %q", c.want, got)
		}
	}
}

func TestDecimalAndSpan(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1 kB", 1_340_000_000: "1.3 GB", 20e12: "20 TB", 999_960: "1 MB", 5e15: "5000 TB"} {
		if got := decimal(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for days, want := range map[float64]string{0.5: "12 hours", 3: "3 days", 729: "729 days", 15384: "42 years", 4e6: "more than 1000 years"} {
		if got := span(days); got != want {
			t.Errorf("%v: %q, want %q", days, got, want)
		}
	}
}

func TestTroubles(t *testing.T) {
	s := well()
	if got := Troubles(&s); len(got) != 0 {
		t.Errorf("a gateway that is well has troubles: %v", got)
	}
	s.Queue.State, s.Queue.Error, s.Queue.Quarantined = "read-only", "remounted", 2
	s.Sources[0].State, s.Sources[0].Error, s.Sources[0].Notes = gateway.Down, "panic: x\nstack", []string{"QoS 0"}
	s.Sinks[0].State, s.Sinks[0].DeadLettered, s.Sinks[0].Lost = gateway.Down, 3, 4
	s.Sinks[0].Facts = append(s.Sinks[0].Facts, gateway.Fact{Name: "certificate", Value: "ends in 12 days", Warn: true})
	s.DeadLetters.Evicted = 9
	s.DeadLetters.Sinks = []gateway.SinkLetters{{Sink: "", Kept: 1}, {Sink: "old", Gone: true, Kept: 5}, {Sink: "shore", Kept: 3, Retrying: 1}, {Sink: "gone", Gone: true, Retrying: 6}}
	s.Books.Balanced, s.ClockTrusted = false, false
	got := strings.Join(Troubles(&s), "\n")
	for _, want := range []string{"read-only", "do not balance", "source deck is down: panic: x", "QoS 0", "sink shore is down",
		"sink shore refused 3 records, kept as dead letters (1 to be sent again)", "`waystation dead-letters retry --sink shore`", "lost 4",
		"1 dead letters cannot be read", "`waystation dead-letters retry --sink old --to SINK`", "6 dead letters wait for sink gone", "raise buffer.dead_letters.max_bytes", "shore: certificate: ends", "2 segments", "not synchronised"} {
		if !strings.Contains(got, want) {
			t.Errorf("no word of %q in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "stack") {
		t.Errorf("a stack is not for a person:\n%s", got)
	}
	var out bytes.Buffer
	if err := Text(&out, &s); err != nil || !strings.HasPrefix(out.String(), "! the queue") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if err := Text(brokenWriter{}, &s); err == nil {
		t.Error("an error of the writer is not told")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{1500 * time.Millisecond: "1.5s", 75 * time.Second: "1m15s", 26 * time.Hour: "26h0m0s", 72 * time.Hour: "3 days"} {
		if got := ago(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// TestServeEnds holds that the server listens, answers and ends with its context.
func TestServeEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := well()
	v := View{Status: func() gateway.Status { return s }}
	log := slog.New(slog.DiscardHandler)
	if err := Serve(t.Context(), Listener{Addr: ln.Addr().String()}, v, log); err == nil || !strings.Contains(err.Error(), "http.listen") {
		t.Errorf("a taken port: %v", err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	logged := make(chan struct{}, 1)
	go func() {
		ended <- Serve(ctx, Listener{Addr: addr}, v, slog.New(slog.NewTextHandler(signalOn(logged), nil)))
	}()
	select {
	case <-logged:
	case err := <-ended:
		t.Fatal(err)
	}
	res, err := http.Get("http://" + addr + "/api/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	var got gateway.Status
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil || got.Gateway != s.Gateway {
		t.Errorf("%v %+v", err, got)
	}
	_ = res.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// signalOn is a writer that signals every write.
type signalOn chan<- struct{}

func (c signalOn) Write(p []byte) (int, error) {
	select {
	case c <- struct{}{}:
	default:
	}
	return len(p), nil
}
