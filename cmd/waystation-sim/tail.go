package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// tail is a consumer that follows topics as they grow and measures how old the
// messages of devices are when it first sees them. Timestamps in Kafka do not
// tell: they are the producer's. It sits behind the link, as the gateway does,
// and loses nothing by that: while the link is cut nothing arrives.
type tail struct {
	client *kgo.Client
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex // guards latest, worst and device
	latest map[string]int64
	worst  time.Duration
	device string // whose message was the oldest
}

// startTail follows the topics at a broker until stop.
func startTail(broker string, topics []string) (*tail, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(broker),
		kgo.ConsumeTopics(topics...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(250*time.Millisecond),
		kgo.MetadataMinAge(100*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
	)
	if err != nil {
		return nil, fmt.Errorf("follow kafka %s: %w", broker, err)
	}
	t := &tail{client: client, latest: map[string]int64{}}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	t.done.Go(func() {
		for ctx.Err() == nil {
			fetches := client.PollFetches(ctx) // errors are outages, which are the point
			now := time.Now()
			fetches.EachRecord(func(r *kgo.Record) { t.see(r, now) })
		}
	})
	return t, nil
}

func (t *tail) see(r *kgo.Record, now time.Time) {
	m, ok, _ := parseMessage(r.Value)
	if !ok || m.Device == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.N <= t.latest[m.Device] {
		return // repeated
	}
	t.latest[m.Device] = m.N
	if d := now.Sub(m.TS); d > t.worst {
		t.worst, t.device = d, m.Device
	}
}

// result is the greatest delay seen so far and the device it befell.
func (t *tail) result() (time.Duration, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.worst, t.device
}

func (t *tail) stop() {
	t.cancel()
	t.done.Wait()
	t.client.Close()
}
