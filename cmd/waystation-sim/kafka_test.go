package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func kafkaClient(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("t"), kgo.AllowAutoTopicCreation(),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond })}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func produce(ctx context.Context, cl *kgo.Client, value string) error {
	return cl.ProduceSync(ctx, &kgo.Record{Value: []byte(value)}).FirstErr()
}

func TestKafkaBehindACutLink(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	p := plantOf(t, fmt.Sprintf("kafka: {listen: \"127.0.0.1:0\", dir: %q}\n", dir))
	for i, mode := range []CutMode{CutRefuse, CutHole} {
		cl := kafkaClient(t, p.kafka.addr)
		if err := produce(ctx, cl, "before"); err != nil {
			t.Fatal(err)
		}
		if err := p.kafka.link.Cut(mode); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		if err := produce(short, kafkaClient(t, p.kafka.addr), "during"); err == nil {
			t.Errorf("%s: a record came through the cut link", mode)
		}
		cancel()
		p.kafka.link.Restore()
		if err := produce(ctx, cl, "after"); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		var got []string
		if _, err := consumeAll(ctx, []string{p.kafka.addr}, []string{"t"}, func(r *kgo.Record) { got = append(got, string(r.Value)) }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 2*(i+1) {
			t.Errorf("%s: Kafka holds %q", mode, got)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) == 0 {
		t.Errorf("no log on disk: %v, %v", files, err)
	}
}

func TestConsumeReadsOnlyWhatIsCommitted(t *testing.T) {
	ctx := testContext(t)
	p := plantOf(t, "kafka: {listen: \"127.0.0.1:0\", partitions: 1}\n")
	send := func(id, value string, end *kgo.TransactionEndTry) {
		cl := kafkaClient(t, p.kafka.addr, kgo.TransactionalID(id))
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := produce(ctx, cl, value); err != nil {
			t.Fatal(err)
		}
		if end == nil {
			return
		}
		if err := cl.EndTransaction(ctx, *end); err != nil {
			t.Fatal(err)
		}
	}
	commit, abort := kgo.TryCommit, kgo.TryAbort
	read := func() (got []string, open int64) {
		open, err := consumeAll(ctx, []string{p.kafka.addr}, nil, func(r *kgo.Record) {
			got = append(got, string(r.Value))
		})
		if err != nil {
			t.Fatal(err)
		}
		return got, open
	}
	if got, _ := read(); got != nil {
		t.Errorf("got %q from an empty Kafka", got)
	}
	send("a", "one", &commit)
	send("a", "two", &abort)
	if got, open := read(); fmt.Sprint(got) != "[one]" || open != 0 {
		t.Errorf("got %q, %d open", got, open)
	}
	send("b", "three", nil)
	send("a", "four", &commit)
	if got, open := read(); fmt.Sprint(got) != "[one]" || open == 0 {
		t.Errorf("behind an open transaction: got %q, %d open", got, open)
	}
}

func TestConsumeIsBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := consumeAll(ctx, []string{"127.0.0.1:1"}, nil, func(*kgo.Record) {}); err == nil {
		t.Error("no error without a broker")
	}
}

// run, with commands on stdin, then judge on the log it left behind.
func TestRunAndJudge(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "plant.yaml")
	yaml := fmt.Sprintf(tenDevices, 5) + "kafka: {listen: \"127.0.0.1:0\", dir: log, cut: [{at: 0s, for: 1h}]}\n"
	if err := os.WriteFile(file, []byte(strings.Replace(yaml, "mqtt: {", "mqtt: {wait_for_subscriber: 20s, ", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	in, commands := io.Pipe()
	out, outW := io.Pipe()
	var errs bytes.Buffer
	defer commands.Close()
	code := make(chan int, 1)
	go func() {
		code <- dispatch(ctx, []string{"run", "-c", file}, stdio{in, outW, &errs})
		outW.Close()
	}()
	dec := json.NewDecoder(out)
	var a Addresses
	if err := dec.Decode(&a); err != nil || a.MQTT == "" || a.Kafka == "" {
		t.Fatalf("addresses %+v: %v", a, err)
	}
	s := subscribe(t, a.MQTT, "gateway", true)
	seen := order{}
	cl := kafkaClient(t, a.Kafka, kgo.DefaultProduceTopic("demo.plant"))
	fmt.Fprintln(commands, "restore") // after the scheduled cut, or before: both end up
	fmt.Fprintln(commands, "nonsense")
	for i := range 50 {
		m := s.next(ctx, t)
		seen.check(t, m)
		fmt.Fprintln(commands, "restore")
		err := cl.ProduceSync(ctx, &kgo.Record{Key: []byte(m.Topic()), Value: m.Payload(), Headers: positionHeaders(i + 1)}).FirstErr()
		if err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(commands, "stop")
	fmt.Fprintln(commands, "quit")
	var report PlantReport
	if err := dec.Decode(&report); err != nil || report.Acked != 50 || report.Link.Cuts != 1 {
		t.Errorf("report %+v: %v", report, err)
	}
	if _, err := out.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("more on stdout: %v", err)
	}
	if c := <-code; c != exitGood || !strings.Contains(errs.String(), `obey "nonsense"`) {
		t.Errorf("code %d, stderr %s", c, errs.String())
	}
	checkJudgeCommand(t, dir, file, report)
}

func checkJudgeCommand(t *testing.T, dir, file string, report PlantReport) {
	t.Helper()
	for i, want := range []int{exitGood, exitWrong} {
		line, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "report.json")
		if err := os.WriteFile(path, append([]byte("{\"mqtt\":\"x\"}\n"), line...), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		code := dispatch(testContext(t), []string{"judge", "-c", file, "-plant", path, "-json", "-topics", "demo.*"}, stdio{nil, &out, &errs})
		var v Verdict
		if err := json.Unmarshal(out.Bytes(), &v); err != nil {
			t.Fatalf("%v: %q, stderr %q", err, out.String(), errs.String())
		}
		if code != want || v.Arrived != 50 || v.Lost != int64(i) {
			t.Errorf("code %d (want %d), verdict %+v", code, want, v)
		}
		d := report.Devices["d-01"] // next round: one message more was sent
		d.Sent, d.Acked = d.Sent+1, d.Acked+1
		report.Devices["d-01"] = d
	}
}
