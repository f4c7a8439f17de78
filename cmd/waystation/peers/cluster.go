package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/IBM/sarama"
)

// KafkaCluster is several nodes of Apache Kafka, each broker and controller
// (KRaft). Topics have as many replicas as there are nodes, three at most, and
// take records while two are in sync.
type KafkaCluster struct {
	Nodes []*KafkaNode
}

// KafkaNode is one of them: Kill, Pause (SIGSTOP), Resume and Start work on it
// alone. Its JVM has a heap of at most 384 MB.
type KafkaNode struct {
	ID   int32
	Addr string // host:port of the broker
	*Process
}

// Way is a further listener of every node, which clients find by a way of their
// own, for instance over an emulated link: Kafka tells those that connect by it
// the addresses that Via made.
type Way struct {
	Name string                              // upper-case letters and digits
	Via  func(target string) (string, error) // address to tell for a node's listener, target
	at   map[int32]string                    // what Via returned, by node
}

// Addrs are the addresses of the nodes by this way, once the cluster runs.
func (w *Way) Addrs() []string {
	var out []string
	for id := int32(1); int(id) <= len(w.at); id++ {
		out = append(out, w.at[id])
	}
	return out
}

// StartKafkaCluster starts n nodes with their folders in dir, and returns once
// all are in the cluster. Options are for every node.
func StartKafkaCluster(dir string, n int, ways []*Way, opts ...KafkaOption) (*KafkaCluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start Kafka cluster in %s: %w", dir, err)
	}
	p := clusterPlan{dir: dir, n: n, ways: ways, opts: opts}
	c, err := p.start()
	if err != nil {
		return nil, fmt.Errorf("start Kafka cluster in %s: %w", dir, err)
	}
	return c, nil
}

// clusterPlan is what the nodes have in common.
type clusterPlan struct {
	dir             string
	n               int
	ways            []*Way
	opts            []KafkaOption
	java, classpath string
	id              string
	ports           [][]port // of each node: broker, controller, one per way
}

func (p *clusterPlan) start() (*KafkaCluster, error) {
	var err error
	if p.java, err = program("java"); err != nil {
		return nil, err
	}
	if p.classpath, err = kafkaClasspath(); err != nil {
		return nil, err
	}
	if p.id, err = clusterID(); err != nil {
		return nil, err
	}
	for i := range p.n {
		if err := os.MkdirAll(p.folder(i), 0o755); err != nil {
			return nil, err
		}
		ports, err := holdPorts(p.folder(i), 2+len(p.ways))
		if err != nil {
			return nil, err
		}
		p.ports = append(p.ports, ports)
	}
	for _, w := range p.ways {
		w.at = map[int32]string{}
	}
	c := &KafkaCluster{}
	for i := range p.n {
		node, err := p.node(i)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, node)
	}
	if err := c.all(func(node *KafkaNode) error {
		if err := formatKafka(p.folder(int(node.ID)-1), p.java, p.classpath, p.id); err != nil {
			return err
		}
		return node.Start()
	}); err != nil {
		return nil, errors.Join(err, c.Kill())
	}
	return c, nil
}

func (p *clusterPlan) folder(i int) string { return filepath.Join(p.dir, fmt.Sprintf("node%d", i+1)) }

// node writes the configuration of a node.
func (p *clusterPlan) node(i int) (*KafkaNode, error) {
	dir, ports := p.folder(i), p.ports[i]
	node := &KafkaNode{ID: int32(i + 1), Addr: ports[0].addr()}
	settings := kafkaSettings(dir, ports[0], ports[1])
	settings["node.id"] = fmt.Sprint(node.ID)
	var voters []string
	for j, other := range p.ports {
		voters = append(voters, fmt.Sprintf("%d@%s", j+1, other[1].addr()))
	}
	settings["controller.quorum.voters"] = strings.Join(voters, ",")
	for j, w := range p.ways {
		told, err := w.Via(ports[2+j].addr())
		if err != nil {
			return nil, err
		}
		w.at[node.ID] = told
		settings["listeners"] += "," + w.Name + "://" + ports[2+j].addr()
		settings["advertised.listeners"] += "," + w.Name + "://" + told
		settings["listener.security.protocol.map"] += "," + w.Name + ":PLAINTEXT"
	}
	replicas, inSync := fmt.Sprint(min(p.n, 3)), fmt.Sprint(min(p.n, 2))
	settings["default.replication.factor"] = replicas
	settings["min.insync.replicas"] = inSync
	for _, topic := range []string{"offsets.topic", "transaction.state.log", "share.coordinator.state.topic"} {
		settings[topic+".replication.factor"] = replicas
		settings[topic+".num.partitions"] = "5"
	}
	settings["transaction.state.log.min.isr"] = inSync
	settings["share.coordinator.state.topic.min.isr"] = inSync
	if err := writeKafkaConfig(dir, settings, p.opts); err != nil {
		return nil, err
	}
	node.Process = &Process{
		name:    fmt.Sprintf("Kafka node %d on %s", node.ID, node.Addr),
		logPath: filepath.Join(dir, "kafka.log"),
		command: func() *exec.Cmd {
			return kafkaCommand(dir, p.java, "-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", p.classpath,
				"kafka.Kafka", filepath.Join(dir, "server.properties"))
		},
		ready: func(context.Context) error { return node.serves() },
		ports: ports,
	}
	return node, nil
}

// serves is nil when the broker answers and the cluster counts it in.
func (n *KafkaNode) serves() error {
	client, err := sarama.NewClient([]string{n.Addr}, kafkaClient())
	if err != nil {
		return fmt.Errorf("ask %s for metadata: %w", n.Addr, err)
	}
	defer func() { _ = client.Close() }()
	for _, b := range client.Brokers() {
		if b.ID() == n.ID {
			return nil
		}
	}
	return fmt.Errorf("wait for %s to join its cluster", n.Addr)
}

// all does the same to every node at once.
func (c *KafkaCluster) all(do func(*KafkaNode) error) error {
	errs := make(chan error, len(c.Nodes))
	for _, node := range c.Nodes {
		go func() { errs <- do(node) }()
	}
	var all error
	for range c.Nodes {
		all = errors.Join(all, <-errs)
	}
	return all
}

// Kill ends every node that runs.
func (c *KafkaCluster) Kill() error {
	return c.all(func(n *KafkaNode) error {
		if err := n.Kill(); !errors.Is(err, ErrNotRunning) {
			return err
		}
		return nil
	})
}

// Addrs are the addresses of all nodes.
func (c *KafkaCluster) Addrs() []string {
	var out []string
	for _, n := range c.Nodes {
		out = append(out, n.Addr)
	}
	return out
}

// Addr is the addresses of all nodes, with commas, as kcat takes them.
func (c *KafkaCluster) Addr() string { return strings.Join(c.Addrs(), ",") }

// Node returns a node by its id, nil when there is none.
func (c *KafkaCluster) Node(id int32) *KafkaNode {
	if id < 1 || int(id) > len(c.Nodes) {
		return nil
	}
	return c.Nodes[id-1]
}
