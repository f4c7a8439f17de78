package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// sourceFunc is a Source made of a function.
type sourceFunc func(ctx context.Context, in *Intake) error

func (f sourceFunc) Run(ctx context.Context, in *Intake) error { return f(ctx, in) }

// nowhere is an Appender that answers at once.
func nowhere() Appender {
	return AppenderFunc(func(_ Lane, _ iter.Seq[[]byte], done func(error)) { done(nil) })
}

// logText is a log that tests read.
type logText struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logText) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.buf.Bytes(), []byte(s))
}

func (l *logText) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// fakeQueue is a Reader: one lane, chunks made by the test.
type fakeQueue struct {
	mu       sync.Mutex // guards what follows
	chunks   []buffer.Chunk
	released []buffer.Released
	next     uint64 // released below this
	readErr  error
	syncErr  error
	ready    chan struct{}
}

func newFakeQueue() *fakeQueue { return &fakeQueue{ready: make(chan struct{}, 1)} }

// add appends one chunk of records stored from seq first on.
func (q *fakeQueue) add(first uint64, stored ...[]byte) {
	q.put(buffer.Chunk{First: first, Records: stored})
}

func (q *fakeQueue) put(c buffer.Chunk) {
	q.mu.Lock()
	q.chunks = append(q.chunks, c)
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (q *fakeQueue) Read(_ int, _ buffer.Limit, ch *buffer.Chunk) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	*ch = buffer.Chunk{}
	if q.readErr != nil || len(q.chunks) == 0 {
		return q.readErr
	}
	*ch, q.chunks = q.chunks[0], q.chunks[1:]
	return nil
}

func (q *fakeQueue) Waiting(int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.chunks) > 0
}

func (q *fakeQueue) Release(_ int, next uint64, r buffer.Released) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next, q.released = next, append(q.released, r)
}

func (q *fakeQueue) Sync(context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.syncErr
}

func (q *fakeQueue) Ready() <-chan struct{} { return q.ready }

// releases returns what was released so far.
func (q *fakeQueue) releases() []buffer.Released {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([]buffer.Released(nil), q.released...)
}

// fakeSink is a Sink made of functions; nil ones do nothing.
type fakeSink struct {
	connect func(context.Context) error
	send    func(context.Context, *Batch) error
	close   func() error
}

func (s *fakeSink) Connect(ctx context.Context) error {
	if s.connect == nil {
		return nil
	}
	return s.connect(ctx)
}

func (s *fakeSink) Send(ctx context.Context, b *Batch) error {
	if s.send == nil {
		return nil
	}
	return s.send(ctx, b)
}

func (s *fakeSink) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}

// fakeKeeper is a keeper that fails while err is set.
type fakeKeeper struct {
	mu   sync.Mutex // guards what follows
	err  error
	puts int
	kept [][]byte
}

func (k *fakeKeeper) Put(entries [][]byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.puts++
	if k.err != nil {
		return k.err
	}
	for _, e := range entries {
		k.kept = append(k.kept, bytes.Clone(e))
	}
	return nil
}

func (k *fakeKeeper) set(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

func (k *fakeKeeper) letters(t *testing.T) []DeadLetter {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []DeadLetter
	for i, p := range k.kept {
		l, err := parseDeadLetter(uint64(i+1), p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// defaultShares are the default shares of n configured lanes.
func defaultShares(n int) *shares {
	s, err := newShares(nil, n, n)
	if err != nil {
		panic(err)
	}
	return s
}

// bench is a forwarder over fakes.
type forwardBench struct {
	*forwarder
	queue  *fakeQueue
	dead   *fakeKeeper
	log    *logText
	cancel context.CancelFunc
	cut    context.CancelFunc
	ended  chan struct{}
}

// startForwarder runs a forwarder to sink. stop ends it.
func startForwarder(sink Sink) *forwardBench { return startChanged(sink, func(*forwardBench) {}) }

// startChanged runs a forwarder that is changed before it starts.
func startChanged(sink Sink, change func(*forwardBench)) *forwardBench {
	b := &forwardBench{queue: newFakeQueue(), dead: &fakeKeeper{}, log: &logText{}, ended: make(chan struct{})}
	clock := NewClock(time.Now, nil)
	b.forwarder = &forwarder{name: "shore", typ: "fake", sink: sink, queue: b.queue, peek: b.queue, lanes: []buffer.LaneInfo{{Name: "alarm", Generation: "gen"}},
		shares: defaultShares(1), dead: b.dead, gateway: "gw", log: b.log.logger(), clock: clock, link: newLink(b.log.logger(), clock),
		wait: backoff{min: retryMin, max: retryMax}}
	change(b)
	ctx, cancel := context.WithCancel(context.Background())
	hard, cut := context.WithCancel(context.Background())
	b.cancel, b.cut = cancel, cut
	go func() { defer close(b.ended); b.run(ctx, hard) }()
	return b
}

func (b *forwardBench) stop() {
	b.cancel()
	b.cut()
	<-b.ended
}

// storedRecord is a record with its number in its name.
func storedRecord(n int) []byte {
	r := Record{Source: "s", Device: "d", Name: fmt.Sprint(n), Received: sampleTime}
	return AppendRecord(nil, &r)
}

var errFake = errors.New("far side is away")

// closeQueue closes a queue within ten seconds.
func closeQueue(t testing.TB, l *buffer.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}
