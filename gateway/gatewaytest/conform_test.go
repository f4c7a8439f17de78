package gatewaytest

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestGoodSourcesConform(t *testing.T) {
	t.Run("subscriber", func(t *testing.T) { Conform(t, harness("")) })
	t.Run("poller", func(t *testing.T) { Conform(t, polledHarness("")) })
}

// recorder is a testing.TB that keeps what a check says, so that a check that
// fails does not fail this test.
type recorder struct {
	testing.TB

	mu    sync.Mutex // guards lines
	lines []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// conductFaulty runs one check and returns what it complained about.
func conductFaulty(t *testing.T, h Harness, name string) string {
	t.Helper()
	for _, c := range checks() {
		if c.name != name {
			continue
		}
		r := &recorder{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			conduct(r, h, c.run)
		}()
		<-done
		r.mu.Lock()
		defer r.mu.Unlock()
		return strings.Join(r.lines, "\n")
	}
	t.Fatalf("no check %q", name)
	return ""
}

func TestBrokenSourcesAreCaught(t *testing.T) {
	for _, c := range []struct{ fault, check, says string }{
		{"never-up", "deliver", "to call Intake.Up"},
		{"reorder", "deliver", "not in the order"},
		{"twice", "deliver", "not in the order"},
		{"forgets-acks", "deliver", "to be acknowledged"},
		{"acks-swapped", "deliver", "acknowledged out of order"},
		{"blocking-done", "stop-while-stuck", "done"},
		{"ack-early", "ack-after-done", "before the queue had"},
		{"leak", "deliver", "goroutines are left"},
		{"open-line", "deliver", "connections are open"},
		{"deaf", "deliver", "has not returned"},
		{"deaf-dial", "stop-while-cut", "has not returned"},
		{"blind", "cut-ten-times", "Run to return after cut 1"},
		{"state", "cut-ten-times", "to be stored"},
		{"nil", "cut-ten-times", "returned nil"},
		{"panic", "cut-ten-times", "Run panicked"},
		{"permanent", "cut-ten-times", "marked permanent"},
		{"late-done-panics", "stop-while-stuck", "done panicked"},
		{"drops", "failing-queue", "to be stored"},
		{"acks-refused", "failing-queue", "before the queue had"},
		{"unbounded", "stuck-queue", "bounded to 8"},
		{"waits-for-done", "stop-while-stuck", "has not returned"},
		{"own-clock", "clocks", "stamped otherwise"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			h := harness(c.fault)
			h.Patience = 700 * time.Millisecond
			got := conductFaulty(t, h, c.check)
			if !strings.Contains(got, c.says) {
				t.Errorf("check %s of a source with fault %q said:\n%s\nwant %q", c.check, c.fault, got, c.says)
			}
		})
	}
}

func TestBrokenPollersAreCaught(t *testing.T) {
	for _, c := range []struct{ fault, check, says string }{
		{"unbounded", "stuck-queue", "to stop delivering"},
		{"backwards", "deliver", "out of order"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			h := polledHarness(c.fault)
			h.Patience = 700 * time.Millisecond
			if got := conductFaulty(t, h, c.check); !strings.Contains(got, c.says) {
				t.Errorf("check %s of a poller with fault %q said:\n%s\nwant %q", c.check, c.fault, got, c.says)
			}
		})
	}
}
