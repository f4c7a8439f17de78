package mqtt

import (
	"context"
	"errors"
	"iter"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// store is a queue in memory which the test holds up, lets fail and looks into.
type store struct {
	mu      sync.Mutex // guards what follows
	change  chan struct{}
	hold    bool
	fail    error
	pending []stored
	open    int // records appended and not yet answered
	most    int // the largest open ever was
	commits int
	records []gateway.Record
	payload map[string]bool // payloads that are stored
	closed  bool
}

// stored is one delivery.
type stored struct {
	recs []gateway.Record
	done func(error)
}

func newStore(t testing.TB) *store {
	s := &store{change: make(chan struct{}), payload: map[string]bool{}}
	ended := make(chan struct{})
	go s.commit(ended)
	t.Cleanup(func() {
		s.set(func() { s.closed, s.hold = true, false })
		<-ended
	})
	return s
}

// set changes s and wakes those who wait.
func (s *store) set(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	close(s.change)
	s.change = make(chan struct{})
}

func (s *store) append(_ gateway.Lane, seq iter.Seq[[]byte], done func(error)) {
	d := stored{done: done}
	for p := range seq {
		var dec gateway.RecordDecoder
		var r gateway.Record
		if err := dec.Decode(&r, slices.Clone(p)); err != nil {
			panic(err)
		}
		d.recs = append(d.recs, r)
	}
	s.set(func() {
		s.pending = append(s.pending, d)
		s.open += len(d.recs)
		s.most = max(s.most, s.open)
	})
}

// commit answers everything that waits, as the committer of the queue does.
func (s *store) commit(ended chan struct{}) {
	defer close(ended)
	for {
		s.mu.Lock()
		var batch []stored
		change, closed, fail := s.change, s.closed, s.fail
		if !s.hold {
			batch, s.pending = s.pending, nil
		}
		for _, d := range batch {
			s.open -= len(d.recs)
			if fail == nil {
				s.records = append(s.records, d.recs...)
				for i := range d.recs {
					s.payload[string(d.recs[i].Payload)] = true
				}
			}
		}
		if len(batch) > 0 {
			s.commits++
		}
		s.mu.Unlock()
		for _, d := range batch {
			d.done(fail)
		}
		switch {
		case len(batch) > 0:
			s.set(func() {})
		case closed:
			return
		default:
			<-change
		}
	}
}

func (s *store) has(payload string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.payload[payload]
}

// await waits until cond holds; it is called with s locked.
func (s *store) await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		s.mu.Lock()
		ok, change := cond(), s.change
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-change:
		case <-limit.C:
			t.Fatalf("waited 20s for %s; %d records", what, len(s.records))
		}
	}
}

// idle waits until everything is answered, or ctx ends (false).
func (s *store) idle(ctx context.Context) bool {
	for {
		s.mu.Lock()
		open, change := s.open, s.change
		s.mu.Unlock()
		if open == 0 {
			return true
		}
		select {
		case <-change:
		case <-ctx.Done():
			return false
		}
	}
}

// first waits for n records and returns them.
func (s *store) first(t testing.TB, n int) []gateway.Record {
	t.Helper()
	s.await(t, strconv.Itoa(n)+" records", func() bool { return len(s.records) >= n })
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.records)
}

// numbers are the payloads as numbers, repeats left out.
func (s *store) numbers() (out []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[int]bool{}
	for i := range s.records {
		if n, err := strconv.Atoi(string(s.records[i].Payload)); err == nil && !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

// newSource builds a source for a broker at addr.
func newSource(t testing.TB, url string, change func(*Config)) *source {
	t.Helper()
	c := defaults()
	c.URL, c.Topics, c.Timeout, c.KeepAlive = url, []string{"#"}, 2*time.Second, 5*time.Second
	if change != nil {
		change(c)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	src, err := c.Source(gateway.Env{GatewayID: "gw", Name: "src", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return src.(*source)
}

// rig runs a source again and again, as the supervisor does.
type rig struct {
	t      testing.TB
	src    *source
	st     *store
	in     *gateway.Intake
	cancel context.CancelFunc
	ended  chan struct{}
	errs   chan error
}

func newRig(t testing.TB, src *source) *rig {
	st := newStore(t)
	return &rig{t: t, src: src, st: st, errs: make(chan error, 1000), ended: make(chan struct{}),
		in: gateway.NewIntake(gateway.SourceSpec{Name: "src", Lane: gateway.LaneTelemetry}, gateway.AppenderFunc(st.append), gateway.NewClock(time.Now, nil))}
}

// start calls Run until the end of the test and waits until it is up.
func start(t testing.TB, src *source) *rig {
	t.Helper()
	r := newRig(t, src)
	r.begin(1000)
	r.up()
	return r
}

// begin calls Run up to n times.
func (r *rig) begin(n int) {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.ended)
		pause := time.NewTicker(5 * time.Millisecond)
		defer pause.Stop()
		for range n {
			err := r.src.Run(ctx, r.in)
			if ctx.Err() != nil {
				return
			}
			r.t.Logf("Run returned: %v", err)
			r.errs <- err
			<-pause.C
			if !r.st.idle(ctx) { // as the supervisor does
				return
			}
		}
	}()
	r.t.Cleanup(r.stop)
}

// stop ends Run and checks that it returns soon.
func (r *rig) stop() {
	r.cancel()
	limit := time.NewTimer(2 * time.Second)
	defer limit.Stop()
	select {
	case <-r.ended:
	case <-limit.C:
		r.t.Errorf("Run has not returned 2s after its context ended")
		<-r.ended
	}
}

func (r *rig) up() {
	r.t.Helper()
	eventually(r.t, "the source to be up", func() bool { return r.in.Status("").State == gateway.Up })
}

// err waits for Run to return.
func (r *rig) err() error {
	r.t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	select {
	case err := <-r.errs:
		return err
	case <-limit.C:
		r.t.Fatal("waited 20s for Run to return")
		return nil
	}
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited 20s for %s", what)
		}
	}
}

// unchanged checks that cond stays true for d.
func unchanged(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(d)
	defer limit.Stop()
	for {
		if !cond() {
			t.Fatal(what)
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return
		}
	}
}

func plain(c net.Conn) net.Conn { return c }

// span is from, from+1 … to.
func span(from, to int) []int {
	out := make([]int, 0, to-from+1)
	for n := from; n <= to; n++ {
		out = append(out, n)
	}
	return out
}

var errFull = errors.New("no space left on device")
