package gateway

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waystation-iot/waystation/buffer"
)

// farSide is a sink whose answers the model draws: each step of Send uses one.
type farSide struct {
	answers chan string

	mu   sync.Mutex // guards what follows
	got  []arrival
	dead map[uint64]bool // seqs it has refused
	more map[uint64]int  // how often a seq was taken without the gateway hearing of it
	open atomic.Int64    // calls of Send that were neither answered nor ended by ctx
}

// arrival is one record that the far side has taken.
type arrival struct {
	seq uint64
	n   int
}

var errUnheard = errors.New("connection reset")

func (s *farSide) Connect(context.Context) error { return nil }
func (s *farSide) Close() error                  { return nil }

// Send takes the batch, all of it or a part, and answers what was drawn.
func (s *farSide) Send(ctx context.Context, b *Batch) error {
	s.open.Add(1)
	var answer string
	select {
	case answer = <-s.answers:
	case <-ctx.Done():
		s.open.Add(-1)
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	take := func(items []Item) {
		for _, it := range items {
			n, err := strconv.Atoi(it.Record.Name)
			if err != nil {
				n = -1
			}
			s.got = append(s.got, arrival{seq: it.Seq, n: n})
		}
	}
	switch answer {
	case "ok":
		take(b.Items)
		return nil
	case "refuse":
		i := len(b.Items) / 2
		take(b.Items[:i])
		take(b.Items[i+1:])
		s.dead[b.Items[i].Seq] = true
		return &RefusedError{[]Refusal{{i, "drawn"}}}
	case "taken, answer lost": // confirmed on the far side, and nobody knows
		take(b.Items)
		for _, it := range b.Items {
			s.more[it.Seq]++
		}
		return errUnheard
	case "panic":
		panic("drawn")
	}
	return errFake
}

// model is a queue on disk, a forwarder that is stopped and started, and what
// must come out.
type model struct {
	t      *rapid.T
	dir    string
	log    *buffer.Log
	cur    *buffer.Cursor
	dead   *fakeKeeper
	far    *farSide
	f      *forwarder
	sent   int // records appended
	cancel context.CancelFunc
	cut    context.CancelFunc
	ended  chan struct{}
}

func (m *model) open() {
	var err error
	if m.log, err = buffer.Open(buffer.Options{Dir: m.dir, Lanes: buffer.NamedLanes(LaneNames()...), MaxBytes: 64 << 20, CursorDelay: time.Hour}); err != nil {
		m.t.Fatal(err)
	}
	if m.cur, err = m.log.Cursor("shore"); err != nil {
		m.t.Fatal(err)
	}
	clock := NewClock(time.Now, nil)
	f := &forwarder{name: "shore", sink: m.far, queue: m.cur, peek: m.cur, lanes: m.log.Lanes(), shares: defaultShares(len(LaneNames())), dead: m.dead, gateway: "gw",
		log: (&logText{}).logger(), clock: clock, link: newLink(nil, clock), wait: backoff{min: 1, max: 1}}
	ctx, cancel := context.WithCancel(context.Background())
	hard, cut := context.WithCancel(context.Background())
	m.f, m.cancel, m.cut, m.ended = f, cancel, cut, make(chan struct{})
	ended := m.ended
	go func() { defer close(ended); f.run(ctx, hard) }()
}

// stop ends the forwarder, in the middle of a batch if there is one, and the queue.
func (m *model) stop() {
	m.cancel()
	m.cut()
	<-m.ended
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.log.Close(ctx); err != nil {
		m.t.Fatal(err)
	}
}

// add queues n records and waits until they are durable.
func (m *model) add(n int) {
	var b buffer.Batch
	for range n {
		m.sent++
		r := Record{Source: "s", Device: "d", Name: strconv.Itoa(m.sent)}
		b.Add(AppendRecord(nil, &r))
	}
	done := make(chan error, 1)
	m.log.Append(int(LaneTelemetry), &b, func(err error) { done <- err })
	if err := <-done; err != nil {
		m.t.Fatal(err)
	}
}

// answer lets the far side answer one Send, if one is there.
func (m *model) answer(a string) bool {
	select {
	case m.far.answers <- a:
		m.far.open.Add(-1)
		return true
	case <-time.After(2 * time.Millisecond):
		return false // nothing is waiting
	}
}

// drain answers everything that is left.
func (m *model) drain() {
	deadline := time.Now().Add(10 * time.Second)
	for {
		s := m.cur.Stats()[LaneTelemetry]
		if s.Waiting == 0 {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("not drained: %+v", s)
		}
		m.answer("ok")
	}
}

// check: every record reached the far side, or the dead letters, and the books
// balance. First arrivals are in order.
func (m *model) check() {
	m.far.mu.Lock()
	defer m.far.mu.Unlock()
	first := uint64(0)
	seen := map[uint64]int{}
	for _, a := range m.far.got {
		if seen[a.seq] == 0 && !m.far.dead[a.seq] {
			if a.seq <= first {
				m.t.Fatalf("seq %d arrived first after seq %d", a.seq, first)
			}
			first = a.seq
		}
		if a.n != int(a.seq) {
			m.t.Fatalf("seq %d carries record %d", a.seq, a.n)
		}
		if seen[a.seq]++; seen[a.seq] > 1+m.far.more[a.seq] {
			m.t.Fatalf("seq %d arrived %d times, and its confirmation was lost %d times", a.seq, seen[a.seq], m.far.more[a.seq])
		}
	}
	letters := map[uint64]bool{}
	for i, p := range m.dead.kept {
		l, err := parseDeadLetter(uint64(i), p)
		if err != nil {
			m.t.Fatal(err)
		}
		letters[l.Seq] = true
	}
	for n := uint64(1); n <= uint64(m.sent); n++ {
		if seen[n] == 0 && !letters[n] {
			m.t.Fatalf("record %d of %d has not arrived and is no dead letter", n, m.sent)
		}
	}
	s := m.cur.Stats()[LaneTelemetry]
	if s.From+s.Sent+s.Dead+s.Lost+s.Waiting != s.End || s.Lost != 0 || s.Dead > uint64(len(letters)) || s.Sent+s.Dead != uint64(m.sent) {
		m.t.Fatalf("the books do not balance for %d records with %d dead letters: %+v", m.sent, len(letters), s)
	}
}

// TestForwarderModel: whatever the far side answers and whenever the gateway
// is restarted, every record arrives, in order.
func TestForwarderModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "forward-model")
		if err != nil {
			t.Fatal(err)
		}
		m := &model{t: t, dir: dir, dead: &fakeKeeper{}, far: &farSide{answers: make(chan string), dead: map[uint64]bool{}, more: map[uint64]int{}}}
		m.open()
		defer func() { m.stop(); _ = os.RemoveAll(m.dir) }()
		step := rapid.SampledFrom([]string{"add", "add", "ok", "ok", "refuse", "error", "panic", "taken, answer lost", "restart", "crash"})
		for range rapid.IntRange(5, 30).Draw(t, "steps") {
			switch a := step.Draw(t, "step"); a {
			case "add":
				m.add(rapid.IntRange(1, 60).Draw(t, "records"))
			case "restart":
				m.stop()
				before := m.released()
				m.open()
				if now := m.released(); now != before {
					t.Fatalf("released below %d before the restart and %d after it", before, now)
				}
			case "crash":
				m.crash()
			default:
				m.answer(a)
			}
		}
		m.drain()
		m.check()
	})
}

func (m *model) released() uint64 { return m.cur.Stats()[LaneTelemetry].Next }

// crash goes on with the files as they are while a batch is being sent: what
// was sent before it is released on disk.
func (m *model) crash() {
	m.add(1)
	for m.far.open.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	dir := m.dir + "x"
	err := os.CopyFS(dir, os.DirFS(m.dir))
	for range 100 { // a drained segment may just be deleted
		if !errors.Is(err, os.ErrNotExist) {
			break
		}
		_ = os.RemoveAll(dir)
		err = os.CopyFS(dir, os.DirFS(m.dir))
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.stop()
	if m.f.batch != nil { // a batch in pieces is released as a whole: what was confirmed of it comes again
		for _, it := range m.f.batch.Items[:m.f.pieces.done] {
			m.far.more[it.Seq]++
		}
	}
	if err := os.RemoveAll(m.dir); err != nil {
		m.t.Fatal(err)
	}
	m.dir = dir
	m.open()
}
