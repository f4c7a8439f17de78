//go:build interop

package peers

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/cmd/waystation/peers/link"
)

// TestPeersKafkaCluster writes to a cluster over an emulated link while the
// leader moves, is killed, and is frozen.
func TestPeersKafkaCluster(t *testing.T) {
	line := link.New(link.Profile{Delay: 5 * time.Millisecond}, 1)
	t.Cleanup(line.Close)
	way := &Way{Name: "LINK", Via: line.Forward}
	began := time.Now()
	c, err := StartKafkaCluster(t.TempDir(), 3, []*Way{way},
		KafkaSet("broker.session.timeout.ms", "3000"), KafkaSet("broker.heartbeat.interval.ms", "500"), KafkaSet("replica.lag.time.max.ms", "3000"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Kill() })
	t.Logf("the cluster answers after %s", time.Since(began).Round(time.Millisecond))
	if err := c.CreateTopic("t", 1, nil); err != nil {
		t.Fatal(err)
	}
	config := producerConfig()
	config.Producer.Retry.Max = 100
	config.Net.ReadTimeout, config.Net.DialTimeout = 3*time.Second, 3*time.Second
	producer, err := sarama.NewSyncProducer(way.Addrs(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = producer.Close() })
	n := 0
	clusterTroubles(t, c, func(what string) {
		t.Helper()
		began := time.Now()
		if _, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: "t", Value: sarama.StringEncoder("x")}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		n++
		t.Logf("%s: written after %s", what, time.Since(began).Round(time.Millisecond))
	})
	for _, id := range []string{"a", "b"} {
		if _, err := c.TransactionCoordinator(id); err != nil {
			t.Error(err)
		}
		if _, err := c.GroupCoordinator(id); err != nil {
			t.Error(err)
		}
	}
	got, err := Kcat(t.Context(), c.Addr(), "t")
	if err != nil || len(got) != n {
		t.Errorf("kcat read %d records, %v, want %d", len(got), err, n)
	}
	if line.Sent() == 0 || line.Received() == 0 {
		t.Error("the link carried nothing")
	}
}

// clusterTroubles moves, kills and freezes the leader, and has a record sent
// after each.
func clusterTroubles(t *testing.T, c *KafkaCluster, send func(what string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	send("at first")
	leader, err := c.Leader("t", 0)
	must(err)
	other := c.Node(leader.ID%3 + 1)
	must(c.MoveLeader("t", []int32{0}, other.ID))
	must(poll(ctx, nil, func() error {
		if now, err := c.Leader("t", 0); err != nil || now.ID != other.ID {
			return errors.New("not moved")
		}
		return nil
	}))
	send("after a move")
	must(other.Kill())
	send("after a kill of the leader")
	must(other.Start())
	must(poll(ctx, nil, func() error { return c.InSync("t") }))
	leader, err = c.Leader("t", 0)
	must(err)
	must(leader.Pause())
	send("after a freeze of the leader")
	must(leader.Resume())
}
