//go:build interop || bench

package main

import (
	"bytes"
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consume reads n committed records of the test topic from now on and sends their ages
// on arrival, in nanoseconds, when it has them all or nothing comes for 30 s.
func consume(t testing.TB, addr string, n int) <-chan []int64 {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("test.plant"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchMaxWait(50*time.Millisecond),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = cl.PollFetches(ctx) // resolves the end offsets before anything is sent
	out := make(chan []int64, 1)
	go func() {
		defer cl.Close()
		ages := make([]int64, 0, n)
		for len(ages) < n {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			fetches := cl.PollFetches(ctx)
			cancel()
			if fetches.NumRecords() == 0 {
				break
			}
			now := time.Now().UnixNano()
			fetches.EachRecord(func(r *kgo.Record) { ages = append(ages, now-sentAt(r.Value)) })
		}
		out <- ages
	}()
	return out
}

// sentAt reads the time of sending out of a telemetry payload.
func sentAt(payload []byte) int64 {
	_, rest, _ := bytes.Cut(payload, []byte(`"t":`))
	digits, _, _ := bytes.Cut(rest, []byte(","))
	ns, _ := strconv.ParseInt(string(digits), 10, 64)
	return ns
}
