//go:build interop

package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/cmd/waystation/peers/link"
)

const (
	// chaosSchedules run in make interop; make chaos runs more.
	chaosSchedules = 9
	// chaosLanes schedules run at a time, each on a link of its own.
	chaosLanes = 3
	// chaosDelivery are the options of the sink under test.
	chaosDelivery = ", delivery: exactly-once"
	// positionTopic is where the sink copies its position to, when it exists.
	positionTopic = "waystation.positions"
)

// chaosRig is what all schedules share: a cluster, a broker and links.
type chaosRig struct {
	t         *testing.T
	dir       string
	binary    string
	seed      uint64
	cluster   *peers.KafkaCluster
	mosquitto *peers.Mosquitto
	lines     []*link.Link
	ways      map[*link.Link]*peers.Way
	weather   sync.WaitGroup // what is done to brokers, until they serve again

	mu    sync.Mutex // guards tally
	tally map[string]int
}

// TestChaosInterop runs random schedules of kills, outages and moves against a
// cluster of three, and has three foreign consumers judge what arrived.
// WAYSTATION_SCHEDULES is how many, WAYSTATION_SEED repeats a run.
func TestChaosInterop(t *testing.T) {
	t.Parallel()
	schedules := int(envNumber(t, "WAYSTATION_SCHEDULES", chaosSchedules))
	seed := envNumber(t, "WAYSTATION_SEED", uint64(time.Now().UnixNano()))
	t.Logf("WAYSTATION_SEED=%d, %d schedules", seed, schedules)
	rig := newChaosRig(t, seed)
	var all []peers.Message
	var total verdict
	repeats := 0
	for first := 0; first < schedules; first += chaosLanes {
		for _, o := range rig.round(first, min(chaosLanes, schedules-first)) {
			if o.err != nil || !o.verdict.good() {
				t.Errorf("schedule %s of seed %d: %v; %s\nwhat happened:\n%s\nlog:\n%s", o.name, seed, o.err, o.verdict, o.history, o.log)
			} else {
				t.Logf("schedule %s: %s; %d lives, %s", o.name, o.verdict, o.lives, o.took.Round(100*time.Millisecond))
			}
			total.arrived += o.verdict.arrived
			total.lost += o.verdict.lost
			total.duplicated += o.verdict.duplicated
			total.disorder += o.verdict.disorder
			total.again += o.verdict.again
			repeats++
			all = append(all, o.messages...)
		}
	}
	t.Logf("%d schedules: %s", repeats, total)
	for _, what := range slices.Sorted(maps.Keys(rig.tally)) {
		t.Logf("%5d × %s", rig.tally[what], what)
	}
	rig.compare(all)
}

// compare has the Java client read everything again, and kafkajs a few topics at
// a time.
func (r *chaosRig) compare(kcat []peers.Message) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	want := sequences(kcat)
	java, err := peers.KafkaConsole(ctx, r.t.TempDir(), r.cluster.Addr(), `chaos\..*`)
	if err != nil {
		r.t.Error(err)
	}
	r.agree("the Java client", want, java)
	records := map[string]int{} // by topic
	for _, m := range kcat {
		if name, _, found := strings.Cut(m.Key, "/"); found && m.Headers["source"] == "plant" {
			records["chaos."+name]++
		}
	}
	var js []peers.Message
	for topics := range slices.Chunk(slices.Sorted(maps.Keys(records)), 15) {
		n := 0
		for _, topic := range topics {
			n += records[topic]
		}
		got, err := peers.KafkaJS(ctx, r.t.TempDir(), r.cluster.Addr(), strings.Join(topics, "|"), n)
		if err != nil {
			r.t.Error(err)
		}
		js = append(js, got...)
	}
	r.agree("kafkajs", want, js)
}

// agree compares what a reader read with what kcat did.
func (r *chaosRig) agree(name string, want map[string][]string, got []peers.Message) {
	r.t.Helper()
	differ := differences(want, sequences(got))
	for _, d := range differ[:min(10, len(differ))] {
		r.t.Errorf("kcat and %s disagree: %s", name, d)
	}
	r.t.Logf("%s read %d records in %d partitions: %d differences from kcat", name, len(got), len(want), len(differ))
}

func envNumber(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func newChaosRig(t *testing.T, seed uint64) *chaosRig {
	t.Helper()
	r := &chaosRig{t: t, dir: t.TempDir(), binary: built(t, "waystation", "failpoint"), seed: seed, ways: map[*link.Link]*peers.Way{}, tally: map[string]int{}}
	var ways []*peers.Way
	for i := range chaosLanes {
		line := link.New(link.Profile{Delay: 2 * time.Millisecond}, seed+uint64(i))
		t.Cleanup(line.Close)
		way := &peers.Way{Name: fmt.Sprintf("LINK%d", i), Via: line.Forward}
		r.lines, ways = append(r.lines, line), append(ways, way)
		r.ways[line] = way
	}
	var err error
	if r.mosquitto, err = peers.StartMosquitto(mkdir(t, r.dir, "mosquitto"), peers.MaxInflight(100)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.mosquitto.Kill() })
	// Brokers that die are noticed after 3 s instead of 9, those that freeze
	// leave the replicas in sync after 3 s instead of 30.
	r.cluster, err = peers.StartKafkaCluster(mkdir(t, r.dir, "kafka"), 3, ways, peers.KafkaSet("broker.session.timeout.ms", "3000"),
		peers.KafkaSet("broker.heartbeat.interval.ms", "500"), peers.KafkaSet("replica.lag.time.max.ms", "3000"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cluster.Kill() })
	if err := r.cluster.CreateTopic(positionTopic, 3, map[string]string{"cleanup.policy": "compact"}); err != nil {
		t.Fatal(err)
	}
	return r
}

// addrs are the addresses of the brokers over a link.
func (r *chaosRig) addrs(line *link.Link) []string { return r.ways[line].Addrs() }

// count notes that something was done, for the summary.
func (r *chaosRig) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally[what]++
}

// awaitHealed returns when nothing is done to brokers and all run.
func (r *chaosRig) awaitHealed() { r.weather.Wait() }

// outcome is what became of a schedule.
type outcome struct {
	name, history, log string
	err                error
	verdict            verdict
	messages           []peers.Message
	lives              int
	took               time.Duration
}

// round runs n schedules at once while brokers fail.
func (r *chaosRig) round(first, n int) []outcome {
	var schedules []*schedule
	for i := range n {
		name := fmt.Sprintf("c%04d", first+i)
		s := &schedule{rig: r, t: r.t, name: name, topic: "chaos." + name, line: r.lines[i], began: time.Now(),
			random: rand.New(rand.NewPCG(r.seed, uint64(first+i)))}
		if err := r.cluster.CreateTopic(s.topic, 2, nil); err != nil {
			r.t.Fatal(err)
		}
		schedules = append(schedules, s)
	}
	r.brokerFaults(schedules, rand.New(rand.NewPCG(r.seed, uint64(first)|1<<32)))
	out := make([]outcome, n)
	var running sync.WaitGroup
	for i, s := range schedules {
		running.Go(func() { out[i] = s.judged() })
	}
	running.Wait()
	return out
}

// judged runs the schedule and reads its topic. What the MQTT broker has still
// under way when the queue is empty arrives a little later: while messages are
// missing the topic is read again.
func (s *schedule) judged() outcome {
	o := outcome{name: s.name, err: s.run()}
	for range 10 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		messages, err := peers.Kcat(ctx, s.rig.cluster.Addr(), s.topic)
		cancel()
		if err != nil && o.err == nil {
			o.err = err
		}
		o.messages = messages
		o.verdict = judgeChaos(s.name, messages, chaosDevices, chaosEach)
		if o.verdict.lost == 0 || o.err != nil {
			break
		}
		s.log("still missing: %s", o.verdict)
		<-time.After(time.Second)
	}
	if s.gate != nil {
		s.gate.stop()
		o.lives, o.log = s.gate.lives, s.gate.output()
		for _, point := range s.gate.hits {
			step, _, _ := strings.Cut(point, ":")
			s.rig.count("gateway killed itself at " + step)
		}
	}
	o.history, o.took = s.history(), time.Since(s.began)
	_ = os.RemoveAll(filepath.Join(s.rig.dir, s.name))
	return o
}
