// Package kafkatest runs a Kafka-compatible cluster in the process (kfake of
// franz-go) for tests and demonstrations, reads back what was written with a
// foreign client, and breaks connections at chosen moments.
package kafkatest

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Cluster is a fake Kafka cluster that can be stopped and started again on
// the same ports with the same data.
type Cluster struct {
	*kfake.Cluster
	opts  []kfake.Opt
	addrs []string
}

// Start starts brokers nodes with the options of kfake. dir keeps the data
// over restarts; "" keeps it in memory, then a restart loses it.
func Start(brokers int, dir string, opts ...kfake.Opt) (*Cluster, error) {
	c := &Cluster{opts: append([]kfake.Opt{kfake.NumBrokers(brokers)}, opts...)}
	if dir != "" {
		c.opts = append(c.opts, kfake.DataDir(dir))
	}
	if err := c.Up(); err != nil {
		return nil, err
	}
	c.addrs = c.ListenAddrs()
	ports := make([]int, len(c.addrs))
	for i, a := range c.addrs {
		_, port, err := net.SplitHostPort(a)
		if err != nil {
			return nil, fmt.Errorf("read address of broker %d: %w", i, err)
		}
		if ports[i], err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("read port of broker %d: %w", i, err)
		}
	}
	c.opts = append(c.opts, kfake.Ports(ports...))
	return c, nil
}

// Up starts the cluster again after Close.
func (c *Cluster) Up() error {
	k, err := kfake.NewCluster(c.opts...)
	if err != nil {
		return fmt.Errorf("start fake cluster: %w", err)
	}
	c.Cluster = k
	return nil
}

// Addrs returns host:port of every broker, also while it is stopped.
func (c *Cluster) Addrs() []string { return c.addrs }

// ReadAll returns every record of the topics that a consumer of committed
// records sees now, in the order of each partition. It is read with franz-go.
func (c *Cluster) ReadAll(ctx context.Context, topics ...string) ([]*kgo.Record, error) {
	type place struct {
		topic string
		part  int32
	}
	last := make(map[place]int64) // offset of the last record or marker to be read
	for _, t := range topics {
		for _, p := range c.PartitionInfos(t) {
			if p.LastStableOffset > p.LogStartOffset {
				last[place{t, p.Partition}] = p.LastStableOffset - 1
			}
		}
	}
	if len(last) == 0 {
		return nil, nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.addrs...), kgo.ConsumeTopics(topics...), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, fmt.Errorf("make consumer: %w", err)
	}
	defer cl.Close()
	var all []*kgo.Record
	for len(last) > 0 {
		f := cl.PollFetches(ctx)
		if err := f.Err0(); err != nil {
			return all, fmt.Errorf("read %d records, %d partitions not to their end: %w", len(all), len(last), err)
		}
		f.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
			if end, ok := last[place{r.Topic, r.Partition}]; ok && r.Offset >= end {
				delete(last, place{r.Topic, r.Partition})
			}
		})
	}
	return all, nil
}
