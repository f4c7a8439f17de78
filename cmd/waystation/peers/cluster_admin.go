package peers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

// CreateTopic makes a topic with all replicas, and returns once every partition
// has a leader and all its replicas in sync.
func (c *KafkaCluster) CreateTopic(name string, partitions int, configs map[string]string) error {
	entries := map[string]*string{}
	for key, value := range configs {
		entries[key] = &value
	}
	detail := &sarama.TopicDetail{NumPartitions: int32(partitions), ReplicationFactor: int16(min(len(c.Nodes), 3)), ConfigEntries: entries}
	err := c.admin(func(admin sarama.ClusterAdmin) error { return admin.CreateTopic(name, detail, false) })
	if err != nil {
		return fmt.Errorf("create topic %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	if err := poll(ctx, nil, func() error { return c.InSync(name) }); err != nil {
		return fmt.Errorf("create topic %s: %w", name, err)
	}
	return nil
}

// InSync is nil when every partition of the topics has a leader and all of its
// replicas in sync.
func (c *KafkaCluster) InSync(topics ...string) error {
	return c.admin(func(admin sarama.ClusterAdmin) error {
		found, err := admin.DescribeTopics(topics)
		if err != nil {
			return err
		}
		for _, t := range found {
			if t.Err != sarama.ErrNoError {
				return fmt.Errorf("describe %s: %w", t.Name, t.Err)
			}
			for _, p := range t.Partitions {
				if p.Err != sarama.ErrNoError || len(p.Isr) < len(p.Replicas) {
					return fmt.Errorf("wait for %s/%d: leader %d, in sync %v of %v: %w", t.Name, p.ID, p.Leader, p.Isr, p.Replicas, p.Err)
				}
			}
		}
		return nil
	})
}

// Leader is the node that leads a partition.
func (c *KafkaCluster) Leader(topic string, partition int32) (*KafkaNode, error) {
	var leader int32
	err := c.admin(func(admin sarama.ClusterAdmin) error {
		found, err := admin.DescribeTopics([]string{topic})
		if err != nil {
			return err
		}
		for _, p := range found[0].Partitions {
			if p.ID == partition {
				leader = p.Leader
			}
		}
		return nil
	})
	if err == nil && c.Node(leader) == nil {
		err = errors.New("it has no leader")
	}
	if err != nil {
		return nil, fmt.Errorf("find leader of %s/%d: %w", topic, partition, err)
	}
	return c.Node(leader), nil
}

// TransactionCoordinator is the node that keeps the state of a transactional id.
func (c *KafkaCluster) TransactionCoordinator(id string) (*KafkaNode, error) {
	return c.coordinator(id, sarama.Client.RefreshTransactionCoordinator, sarama.Client.TransactionCoordinator)
}

// GroupCoordinator is the node that keeps the offsets of a consumer group.
func (c *KafkaCluster) GroupCoordinator(group string) (*KafkaNode, error) {
	return c.coordinator(group, sarama.Client.RefreshCoordinator, sarama.Client.Coordinator)
}

func (c *KafkaCluster) coordinator(key string, refresh func(sarama.Client, string) error,
	get func(sarama.Client, string) (*sarama.Broker, error)) (*KafkaNode, error) {
	client, err := sarama.NewClient(c.Addrs(), chaosClient())
	if err != nil {
		return nil, fmt.Errorf("find coordinator of %s: %w", key, err)
	}
	defer func() { _ = client.Close() }()
	if err := refresh(client, key); err != nil {
		return nil, fmt.Errorf("find coordinator of %s: %w", key, err)
	}
	broker, err := get(client, key)
	if err != nil {
		return nil, fmt.Errorf("find coordinator of %s: %w", key, err)
	}
	return c.Node(broker.ID()), nil
}

// MoveLeader makes another node lead a partition: it puts the node first in the
// list of replicas and asks for the preferred leader.
func (c *KafkaCluster) MoveLeader(topic string, partitions []int32, to int32) error {
	err := c.admin(func(admin sarama.ClusterAdmin) error {
		replicas := []int32{to}
		for _, n := range c.Nodes {
			if n.ID != to {
				replicas = append(replicas, n.ID)
			}
		}
		assignment := make([][]int32, len(partitions))
		for i := range assignment {
			assignment[i] = replicas
		}
		if err := admin.AlterPartitionReassignments(topic, assignment); err != nil {
			return err
		}
		_, err := admin.ElectLeaders(sarama.PreferredElection, map[string][]int32{topic: partitions})
		return err
	})
	if err != nil {
		return fmt.Errorf("move leader of %s to node %d: %w", topic, to, err)
	}
	return nil
}

// admin asks the cluster something over a new connection.
func (c *KafkaCluster) admin(do func(sarama.ClusterAdmin) error) error {
	admin, err := sarama.NewClusterAdmin(c.Addrs(), chaosClient())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", c.Addr(), err)
	}
	return errors.Join(do(admin), admin.Close())
}

// chaosClient gives up soon: the node asked may be frozen.
func chaosClient() *sarama.Config {
	config := kafkaClient()
	config.Net.DialTimeout = time.Second
	config.Net.ReadTimeout = 3 * time.Second
	config.Admin.Timeout = 3 * time.Second
	config.Admin.Retry.Max = 1
	config.Metadata.Retry.Max = 1
	return config
}
