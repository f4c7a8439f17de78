package peers

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// Kafka is a real Apache Kafka: one node that is broker and controller (KRaft),
// plain text, no users. Its JVM has a heap of 256 to 512 MB.
type Kafka struct {
	Addr string // host:port of the broker
	*Process
}

// KafkaOption changes the broker's configuration.
type KafkaOption func(settings map[string]string)

// KafkaSet sets any key of server.properties, for instance
// ("log.message.timestamp.type", "LogAppendTime").
func KafkaSet(key, value string) KafkaOption {
	return func(settings map[string]string) { settings[key] = value }
}

// AutoCreateTopics says whether a producer's request makes a missing topic; true
// without this option, as in Kafka.
func AutoCreateTopics(on bool) KafkaOption {
	return KafkaSet("auto.create.topics.enable", fmt.Sprint(on))
}

// MessageMaxBytes limits a record batch, in bytes after compression; Kafka's own
// default is 1048588. A topic's max.message.bytes goes before it.
func MessageMaxBytes(n int) KafkaOption {
	return KafkaSet("message.max.bytes", fmt.Sprint(n))
}

// StartKafka starts a broker with its configuration, log and data in dir, and
// returns once it leads all its partitions. A new dir is formatted first. Called
// again on the folder of an ended broker it takes the same port and data;
// options are not kept from one call to the next.
func StartKafka(dir string, opts ...KafkaOption) (*Kafka, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start Kafka in %s: %w", dir, err)
	}
	java, err := program("java")
	if err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	classpath, err := kafkaClasspath()
	if err != nil {
		return nil, fmt.Errorf("start Kafka: %w", err)
	}
	ports, err := holdPorts(dir, 2)
	if err != nil {
		return nil, fmt.Errorf("start Kafka in %s: %w", dir, err)
	}
	if err := writeKafkaConfig(dir, kafkaSettings(dir, ports[0], ports[1]), opts); err != nil {
		return nil, fmt.Errorf("start Kafka in %s: %w", dir, err)
	}
	id, err := clusterID()
	if err != nil {
		return nil, fmt.Errorf("start Kafka in %s: %w", dir, err)
	}
	if err := formatKafka(dir, java, classpath, id); err != nil {
		return nil, fmt.Errorf("start Kafka in %s: %w", dir, err)
	}
	k := &Kafka{Addr: ports[0].addr()}
	k.Process = &Process{
		name:    "Kafka on " + k.Addr,
		logPath: filepath.Join(dir, "kafka.log"),
		command: func() *exec.Cmd {
			return kafkaCommand(dir, java, "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", classpath,
				"kafka.Kafka", filepath.Join(dir, "server.properties"))
		},
		ready: func(context.Context) error { return leadsAll(k.Addr) },
		ports: ports,
	}
	if err := k.Start(); err != nil {
		return nil, err
	}
	return k, nil
}

// CreateTopic makes a topic and returns once the broker leads its partitions.
// configs are the topic's own settings, such as "cleanup.policy"; nil for none.
func (k *Kafka) CreateTopic(name string, partitions int, configs map[string]string) error {
	admin, err := sarama.NewClusterAdmin([]string{k.Addr}, kafkaClient())
	if err != nil {
		return fmt.Errorf("create topic %s: connect to %s: %w", name, k.Addr, err)
	}
	entries := map[string]*string{}
	for key, value := range configs {
		entries[key] = &value
	}
	detail := &sarama.TopicDetail{NumPartitions: int32(partitions), ReplicationFactor: 1, ConfigEntries: entries}
	err = errors.Join(admin.CreateTopic(name, detail, false), admin.Close())
	if err != nil {
		return fmt.Errorf("create topic %s on %s: %w", name, k.Addr, err)
	}
	r, err := k.current()
	if err != nil {
		return fmt.Errorf("create topic %s on %s: %w", name, k.Addr, err)
	}
	if err := k.awaitReady(r); err != nil {
		return fmt.Errorf("create topic %s on %s: %w", name, k.Addr, err)
	}
	return nil
}

// kafkaCommand runs Java in dir with the log settings of writeKafkaConfig.
func kafkaCommand(dir, java string, args ...string) *exec.Cmd {
	logging := "-Dlog4j2.configurationFile=" + filepath.Join(dir, "log4j2.properties")
	cmd := exec.Command(java, append([]string{logging, "-Djava.net.preferIPv4Stack=true"}, args...)...)
	cmd.Dir = dir
	return cmd
}

// clusterID makes a random one.
func clusterID() (string, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("make cluster id: %w", err)
	}
	id[0] &= 0x7f // else the text may begin with '-' and pass for an option
	return base64.RawURLEncoding.EncodeToString(id[:]), nil
}

// formatKafka writes the cluster id into a new data folder, as Kafka refuses to
// start on one without.
func formatKafka(dir, java, classpath, id string) error {
	_, err := os.Stat(filepath.Join(dir, "data", "meta.properties"))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cmd := kafkaCommand(dir, java, "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classpath,
		"kafka.tools.StorageTool", "format", "--cluster-id", id,
		"--config", filepath.Join(dir, "server.properties"))
	logPath := filepath.Join(dir, "format.log")
	r, err := spawn(cmd, logPath)
	if err != nil {
		return fmt.Errorf("format data folder: %w", err)
	}
	select {
	case <-r.ended:
		err = r.err
	case <-time.After(readyLimit):
		err = errors.Join(fmt.Errorf("still running after %s", readyLimit), r.kill())
	}
	if err != nil {
		return fmt.Errorf("format data folder: %w; end of %s:\n%s", err, logPath, logTail(logPath))
	}
	return nil
}

// kafkaSettings are those of a single node.
func kafkaSettings(dir string, broker, controller port) map[string]string {
	return map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        "1",
		"controller.quorum.voters":       "1@" + controller.addr(),
		"controller.listener.names":      "CONTROLLER",
		"listeners":                      "PLAINTEXT://" + broker.addr() + ",CONTROLLER://" + controller.addr(),
		"advertised.listeners":           "PLAINTEXT://" + broker.addr(),
		"inter.broker.listener.name":     "PLAINTEXT",
		"listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
		"log.dirs":                       filepath.Join(dir, "data"),
		"auto.create.topics.enable":      "true",
		// A single node cannot hold the three copies that Kafka's defaults ask for;
		// with them the first consumer group or transaction waits for ever.
		"offsets.topic.replication.factor":                 "1",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",
		"offsets.topic.num.partitions":                     "4", // 50 by default, all made at the first use
		"transaction.state.log.num.partitions":             "4",
		"share.coordinator.state.topic.num.partitions":     "4",
		"group.initial.rebalance.delay.ms":                 "0",        // 3 s by default
		"log.cleaner.dedupe.buffer.size":                   "16777216", // 128 MB by default, of a heap of 512
		"num.network.threads":                              "2",
		"num.io.threads":                                   "4",
	}
}

// writeKafkaConfig writes server.properties and the settings of the log.
func writeKafkaConfig(dir string, settings map[string]string, opts []KafkaOption) error {
	for _, opt := range opts {
		opt(settings)
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s=%s\n", key, strings.ReplaceAll(settings[key], `\`, `\\`))
	}
	if err := os.WriteFile(filepath.Join(dir, "server.properties"), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log4j2.properties"), []byte(kafkaLogging), 0o644); err != nil {
		return fmt.Errorf("write log settings: %w", err)
	}
	return nil
}

const kafkaLogging = `status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
`

// kafkaClient is the configuration of our own questions to the broker. The
// version decides which requests sarama sends; Kafka 4 has dropped the oldest.
func kafkaClient() *sarama.Config {
	config := sarama.NewConfig()
	config.ClientID = "peers"
	config.Version = sarama.V3_6_0_0
	config.Net.DialTimeout = 5 * time.Second
	config.Net.ReadTimeout = 15 * time.Second
	config.Net.WriteTimeout = 5 * time.Second
	return config
}

// leadsAll is nil when the broker answers ApiVersions and Metadata, is in the
// cluster, and leads every partition of every topic. Its port is open seconds
// before that is so.
func leadsAll(addr string) (err error) {
	config := kafkaClient()
	broker := sarama.NewBroker(addr)
	if err := broker.Open(config); err != nil {
		return fmt.Errorf("open %s: %w", addr, err)
	}
	if up, err := broker.Connected(); !up {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	versions, err := broker.ApiVersions(&sarama.ApiVersionsRequest{})
	if err != nil {
		return fmt.Errorf("ask %s for ApiVersions: %w", addr, err)
	}
	if versions.ErrorCode != 0 {
		return fmt.Errorf("ask %s for ApiVersions: %w", addr, sarama.KError(versions.ErrorCode))
	}
	metadata, err := broker.GetMetadata(sarama.NewMetadataRequest(config.Version, nil))
	if err != nil {
		return fmt.Errorf("ask %s for Metadata: %w", addr, err)
	}
	if len(metadata.Brokers) != 1 {
		return fmt.Errorf("wait for %s to join its cluster: it has %d brokers", addr, len(metadata.Brokers))
	}
	for _, topic := range metadata.Topics {
		for _, partition := range topic.Partitions {
			if partition.Err != sarama.ErrNoError {
				return fmt.Errorf("wait for leader of %s/%d: %w", topic.Name, partition.ID, partition.Err)
			}
		}
	}
	return nil
}
