//go:build interop

package main

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/config"
)

// modbusReader is a Modbus source, made by a configuration as a user writes
// it, at work: it is started again whenever it returns, as the gateway does.
type modbusReader struct {
	t    *testing.T
	log  *testLog
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex // guards what follows
	recs  []gateway.Record
	errs  []error       // what Run returned
	grown chan struct{} // closed and made anew when recs or errs grow
}

// testLog is a log for a failing test.
type testLog struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// readModbus runs a source named plc with these options, in YAML, below dir.
func readModbus(t *testing.T, dir, options string) *modbusReader {
	t.Helper()
	text := "gateway: {id: test-gateway}\nbuffer: {dir: ./queue}\nsources:\n  - name: plc\n    type: modbus\n" +
		indent(options, 4) + "sinks:\n  - {name: centre, type: kafka, brokers: [\"127.0.0.1:1\"], topic: none}\n"
	c, err := config.Parse(dir+"/waystation.yaml", []byte(text), adapters.All())
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	r := &modbusReader{t: t, log: &testLog{}, done: make(chan struct{}), grown: make(chan struct{})}
	source, err := c.Sources[0].Config.Source(gateway.Env{GatewayID: "test-gateway", Name: "plc", Dir: dir, State: dir + "/state",
		Log: slog.New(slog.NewTextHandler(r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	in := gateway.NewIntake(gateway.SourceSpec{Name: "plc", Lane: gateway.LaneTelemetry}, gateway.AppenderFunc(r.take), gateway.SystemClock())
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go r.run(ctx, source, in)
	t.Cleanup(r.end)
	return r
}

func indent(text string, by int) string {
	pad := strings.Repeat(" ", by)
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		b.WriteString(pad + line)
	}
	return b.String()
}

// run runs the source again and again until ctx ends.
func (r *modbusReader) run(ctx context.Context, source gateway.Source, in *gateway.Intake) {
	defer close(r.done)
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for ctx.Err() == nil {
		if err := source.Run(ctx, in); err != nil {
			r.mu.Lock()
			r.errs = append(r.errs, err)
			close(r.grown)
			r.grown = make(chan struct{})
			r.mu.Unlock()
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// end stops the source, which must take no longer than a promise allows.
func (r *modbusReader) end() {
	r.stop()
	select {
	case <-r.done:
	case <-time.After(5 * time.Second):
		r.t.Errorf("the source still runs 5s after it was told to end\n%s", r.log)
	}
}

// take is the queue: it keeps every record.
func (r *modbusReader) take(_ gateway.Lane, stored iter.Seq[[]byte], done func(error)) {
	r.mu.Lock()
	for p := range stored {
		var dec gateway.RecordDecoder
		var rec gateway.Record
		if err := dec.Decode(&rec, slices.Clone(p)); err != nil {
			r.t.Error(err)
		}
		r.recs = append(r.recs, rec)
	}
	close(r.grown)
	r.grown = make(chan struct{})
	r.mu.Unlock()
	if done != nil {
		done(nil)
	}
}

// records are those since the first from.
func (r *modbusReader) records(from int) []gateway.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.recs[min(from, len(r.recs)):])
}

// await waits until good holds for the records since from, at most 40 s.
func (r *modbusReader) await(what string, from int, good func([]gateway.Record) bool) []gateway.Record {
	r.t.Helper()
	limit := time.After(40 * time.Second)
	for {
		r.mu.Lock()
		grown := r.grown
		r.mu.Unlock()
		recs := r.records(from)
		if good(recs) {
			return recs
		}
		select {
		case <-grown:
		case <-limit:
			r.t.Fatalf("%s: not within 40s; %d records, the last: %s; errors: %v\nlog:\n%s", what, len(recs), lastOf(recs), r.failures(), r.log)
		}
	}
}

// awaitGroup waits for a record of this group.
func (r *modbusReader) awaitGroup(name string, from int) gateway.Record {
	r.t.Helper()
	var found gateway.Record
	r.await("a record of "+name, from, func(recs []gateway.Record) bool {
		i := slices.IndexFunc(recs, func(rec gateway.Record) bool { return rec.Name == name })
		if i >= 0 {
			found = recs[i]
		}
		return i >= 0
	})
	return found
}

// failures are the last of what Run returned.
func (r *modbusReader) failures() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.errs[max(0, len(r.errs)-3):])
}

func lastOf(recs []gateway.Record) string {
	if len(recs) == 0 {
		return "none"
	}
	rec := recs[len(recs)-1]
	return fmt.Sprintf("%s %s %s: %s", rec.Name, rec.Quality, rec.Reason, valuesText(rec.Values))
}

// valuesText shows values for messages.
func valuesText(values []gateway.Value) string {
	var b strings.Builder
	for i := range values {
		v := &values[i]
		fmt.Fprintf(&b, "%s=%s", v.Name, v)
		if v.Quality != gateway.Good {
			fmt.Fprintf(&b, " (%s: %s)", v.Quality, v.Reason)
		}
		b.WriteString(" ")
	}
	return b.String()
}

// value finds a value by its name.
func value(rec *gateway.Record, name string) (gateway.Value, bool) {
	i := slices.IndexFunc(rec.Values, func(v gateway.Value) bool { return v.Name == name })
	if i < 0 {
		return gateway.Value{}, false
	}
	return rec.Values[i], true
}
