package main

import (
	"fmt"
	"net"
	"os"

	"github.com/twmb/franz-go/pkg/kfake"
)

// kafkaBroker is a Kafka-compatible broker (kfake) that keeps its log on disk,
// synced, and can only be reached through a link that can be cut.
type kafkaBroker struct {
	cluster *kfake.Cluster
	link    *Link
	addr    string
	tempDir string // removed by close; "" when the directory was given
}

// startKafka starts a broker on cfg.Listen.
func startKafka(cfg *KafkaConfig) (*kafkaBroker, error) {
	k := &kafkaBroker{link: newLink()}
	dir := cfg.Dir
	if dir == "" {
		tmp, err := os.MkdirTemp("", "waystation-sim-kafka-")
		if err != nil {
			return nil, fmt.Errorf("make directory of kafka: %w", err)
		}
		dir, k.tempDir = tmp, tmp
	}
	listen := func(network, _ string) (net.Listener, error) {
		ln, err := net.Listen(network, cfg.Listen)
		if err != nil {
			return nil, err
		}
		return k.link.Wrap(ln), nil
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ListenFn(listen),
		kfake.DataDir(dir),
		kfake.SyncWrites(),
		kfake.AllowAutoTopicCreation(),
		kfake.DefaultNumPartitions(cfg.Partitions),
	}
	if len(cfg.Topics) > 0 {
		opts = append(opts, kfake.SeedTopics(int32(cfg.Partitions), cfg.Topics...))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		if k.tempDir != "" {
			err = joinRemove(err, k.tempDir)
		}
		return nil, fmt.Errorf("start kafka on %s: %w", cfg.Listen, err)
	}
	k.cluster = cluster
	k.addr = cluster.ListenAddrs()[0]
	return k, nil
}

func (k *kafkaBroker) close() error {
	k.cluster.Close()
	if k.tempDir == "" {
		return nil
	}
	return joinRemove(nil, k.tempDir)
}
