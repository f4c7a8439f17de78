//go:build interop

package main

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
)

// brokerFaults begins what happens to the brokers in a round, all in the
// background; awaitHealed returns when it is over and all brokers serve.
func (r *chaosRig) brokerFaults(schedules []*schedule, random *rand.Rand) {
	tell := func(format string, args ...any) {
		for _, s := range schedules {
			s.log(format, args...)
		}
	}
	start := 1500*time.Millisecond + time.Duration(random.Int64N(int64(2*time.Second)))
	victim := schedules[random.IntN(len(schedules))]
	kind := random.IntN(10)
	span := time.Duration(random.Int64N(int64(4*time.Second))) + 300*time.Millisecond
	moves := random.IntN(3)
	to := make([]int32, moves)
	gaps := make([]time.Duration, moves)
	for i := range moves {
		to[i] = 1 + random.Int32N(3)
		gaps[i] = time.Duration(random.Int64N(int64(2 * time.Second)))
	}
	pick := random.IntN(3)
	r.weather.Go(func() {
		<-time.After(start)
		node := r.pick(victim, pick)
		nodes := []*peers.KafkaNode{node}
		if kind == 3 || kind == 7 { // two: the cluster stands still
			nodes = append(nodes, r.cluster.Node(node.ID%3+1))
		}
		var under sync.WaitGroup
		for _, node := range nodes {
			switch {
			case kind < 4:
				under.Go(func() { r.killBroker(node, tell) })
			case kind < 8:
				under.Go(func() { r.freezeBroker(node, span, tell) })
			}
		}
		under.Wait()
	})
	r.weather.Go(func() {
		for i := range moves {
			<-time.After(gaps[i])
			tell("leaders of %s move to broker %d", victim.topic, to[i])
			if err := r.cluster.MoveLeader(victim.topic, []int32{0, 1}, to[i]); err != nil {
				tell("they did not: %v", err) // while a broker is down that is in order
				continue
			}
			r.count("leaders moved")
		}
	})
}

// killBroker kills a broker and starts it again at once.
func (r *chaosRig) killBroker(node *peers.KafkaNode, tell func(string, ...any)) {
	r.count("broker killed")
	tell("kill -9 of broker %d", node.ID)
	r.check(node.Kill())
	r.check(node.Start())
	tell("broker %d serves again", node.ID)
}

// freezeBroker stops a broker for a while with its connections open.
func (r *chaosRig) freezeBroker(node *peers.KafkaNode, span time.Duration, tell func(string, ...any)) {
	r.count("broker frozen")
	tell("broker %d frozen for %s", node.ID, span)
	r.check(node.Pause())
	<-time.After(span)
	r.check(node.Resume())
	tell("broker %d goes on", node.ID)
}

// pick chooses a broker that matters: a leader, or a coordinator of the gateway.
func (r *chaosRig) pick(victim *schedule, how int) *peers.KafkaNode {
	var node *peers.KafkaNode
	var err error
	switch how {
	case 0:
		node, err = r.cluster.Leader(victim.topic, 0)
	case 1:
		node, err = r.cluster.TransactionCoordinator("waystation-" + victim.name + "-centre")
	default:
		node, err = r.cluster.GroupCoordinator("waystation-" + victim.name + "-centre-telemetry")
	}
	if err != nil || node == nil {
		return r.cluster.Nodes[0]
	}
	return node
}

func (r *chaosRig) check(err error) {
	if err != nil {
		r.t.Error(err)
	}
}
