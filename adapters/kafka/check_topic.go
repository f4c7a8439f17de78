package kafka

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

// Bits of the operations that a principal may do (org.apache.kafka.common.acl.AclOperation).
const (
	mayWrite    = 1 << 4
	mayDescribe = 1 << 8
	notTold     = -1 << 31
)

// topics reports on the topic of the sink and on that of the positions.
func (k *checker) topics() {
	if strings.Contains(k.cfg.Topic, "{") {
		k.ok("topic "+k.cfg.Topic, "its name depends on the record, so it was not looked at; each must exist and be allowed: %s", k.acl("--operation Write --operation Describe "+k.topicPattern()))
	}
	for _, t := range k.meta.Topics {
		if t.Name == k.cfg.PositionTopic && k.exact {
			k.positions(t)
			continue
		}
		k.topic(t)
	}
}

// topic reports on the topic that records go to.
func (k *checker) topic(t *sarama.TopicMetadata) {
	what := "topic " + t.Name
	if t.Err != sarama.ErrNoError && t.Err != sarama.ErrLeaderNotAvailable {
		if errors.Is(t.Err, sarama.ErrUnknownTopicOrPartition) && k.cfg.AutoCreate {
			k.bad(gateway.Note, what, "it does not exist; the first record makes it, where the cluster allows that (auto_create_topics)", "")
			return
		}
		detail := t.Err.Error()
		if errors.Is(t.Err, sarama.ErrUnknownTopicOrPartition) {
			detail = "it does not exist"
		}
		k.bad(gateway.Fail, what, detail, k.fix(t.Err, t.Name))
		return
	}
	if t.TopicAuthorizedOperations != notTold && t.TopicAuthorizedOperations != 0 && t.TopicAuthorizedOperations&mayWrite == 0 {
		k.bad(gateway.Fail, what, k.principal()+" may not write to it", k.fix(sarama.ErrTopicAuthorizationFailed, t.Name))
	} else {
		k.ok(what, "%s, may be written", plural(len(t.Partitions), "partition"))
	}
	got, err := k.configs(sarama.TopicResource, t.Name, "min.insync.replicas", "max.message.bytes", "message.timestamp.type",
		"message.timestamp.before.max.ms", "message.timestamp.difference.max.ms", "retention.ms", "cleanup.policy")
	if err != nil {
		k.bad(gateway.Note, what, fmt.Sprintf("its limits are unknown, as they may not be read: %v", err), k.acl("--operation DescribeConfigs --topic "+t.Name))
	}
	k.replicas(t, got)
	if err == nil {
		k.limits(what, t.Name, got)
	}
}

// replicas reports whether the partitions can be written now, and after the loss
// of a broker.
func (k *checker) replicas(t *sarama.TopicMetadata, got map[string]string) {
	what := "topic " + t.Name
	want, _ := strconv.Atoi(got["min.insync.replicas"])
	fewest := -1
	for _, p := range t.Partitions {
		switch {
		case p.Leader < 0:
			k.bad(gateway.Fail, what, fmt.Sprintf("partition %d has no leader: its brokers are down", p.ID), "start the brokers that hold it")
			return
		case want > 0 && len(p.Isr) < want:
			k.bad(gateway.Fail, what, fmt.Sprintf("partition %d has %d replicas in sync and needs %d (min.insync.replicas): nothing can be written", p.ID, len(p.Isr), want), "start the missing brokers")
			return
		}
		if fewest < 0 || len(p.Replicas) < fewest {
			fewest = len(p.Replicas)
		}
	}
	switch {
	case fewest == 1:
		k.bad(gateway.Note, what, "each record is on one broker only: its disk lost is the record lost", "make the topic with --replication-factor 3 --config min.insync.replicas=2")
	case want > 0 && fewest == want:
		k.bad(gateway.Note, what, fmt.Sprintf("%d replicas and min.insync.replicas=%d: nothing can be written while one broker is down", fewest, want),
			k.alter(t.Name, fmt.Sprintf("min.insync.replicas=%d", want-1)))
	case want > 0:
		k.ok(what, "%d replicas, %d must confirm", fewest, want)
	default:
		k.ok(what, "%d replicas", fewest)
	}
}

// limits compares the topic's with ours.
func (k *checker) limits(what, name string, got map[string]string) {
	if n, err := strconv.ParseInt(got["max.message.bytes"], 10, 64); err == nil && n < int64(k.cfg.MaxMessage) {
		k.bad(gateway.Note, what, fmt.Sprintf("it takes %d bytes (max.message.bytes) and max_message_bytes is %d: larger records are refused", n, int64(k.cfg.MaxMessage)),
			fmt.Sprintf("set max_message_bytes: %d, or %s", n, k.alter(name, fmt.Sprintf("max.message.bytes=%d", int64(k.cfg.MaxMessage)))))
	}
	oldest := got["message.timestamp.before.max.ms"]
	if oldest == "" {
		oldest = got["message.timestamp.difference.max.ms"]
	}
	if n, err := strconv.ParseInt(oldest, 10, 64); err == nil && got["message.timestamp.type"] == "CreateTime" && n < (60*24*time.Hour).Milliseconds() {
		k.bad(gateway.Note, what, "it refuses records older than "+span(oldest, time.Millisecond)+" (message.timestamp.before.max.ms): what waited longer goes to the dead letters",
			k.alter(name, "message.timestamp.before.max.ms=9223372036854775807"))
	}
	if got["cleanup.policy"] == "compact" {
		k.bad(gateway.Note, what, "it is compacted: of each key only the newest record stays", k.alter(name, "cleanup.policy=delete"))
	}
	if got["message.timestamp.type"] == "LogAppendTime" {
		k.bad(gateway.Note, what, "it stamps records with the time of their arrival; the time of the measurement is in the header received only", k.alter(name, "message.timestamp.type=CreateTime"))
	}
	k.ok(what, "takes %s bytes, keeps records %s", got["max.message.bytes"], span(got["retention.ms"], time.Millisecond))
}

// positions reports on the topic of exactly-once delivery.
func (k *checker) positions(t *sarama.TopicMetadata) {
	what := "topic " + t.Name
	switch {
	case errors.Is(t.Err, sarama.ErrUnknownTopicOrPartition):
		k.bad(gateway.Note, what, "not there: after an absence longer than the brokers keep offsets (7 days) one batch may come twice", k.createCopy())
		return
	case t.Err != sarama.ErrNoError:
		k.bad(gateway.Note, what, "not allowed or not there: after an absence longer than the brokers keep offsets (7 days) one batch may come twice",
			k.acl("--operation Read --operation Write --operation Describe --topic "+t.Name))
		return
	}
	got, err := k.configs(sarama.TopicResource, t.Name, "cleanup.policy")
	switch {
	case err != nil:
		k.ok(what, "there; whether it is compacted is unknown, as that may not be read")
	case !strings.Contains(got["cleanup.policy"], "compact"):
		k.bad(gateway.Note, what, "it is not compacted: positions are deleted after its retention", k.alter(t.Name, "cleanup.policy=compact"))
	default:
		k.ok(what, "there, compacted")
	}
}

// configs reads settings of a topic or broker.
func (k *checker) configs(kind sarama.ConfigResourceType, name string, keys ...string) (map[string]string, error) {
	at := k.admin
	if kind == sarama.BrokerResource && at.ID() < 0 && fmt.Sprint(k.meta.Brokers[0].ID()) == name {
		at = k.meta.Brokers[0] // a broker tells of itself only
		if err := k.open(at); err != nil {
			return nil, err
		}
	}
	answer, err := at.DescribeConfigs(&sarama.DescribeConfigsRequest{Version: 1, Resources: []*sarama.ConfigResource{{Type: kind, Name: name, ConfigNames: keys}}})
	if err != nil {
		return nil, err
	}
	got := map[string]string{}
	for _, r := range answer.Resources {
		if r.ErrorCode != 0 {
			return nil, sarama.KError(r.ErrorCode)
		}
		for _, e := range r.Configs {
			got[e.Name] = e.Value
		}
	}
	return got, nil
}

// alter is the command that changes a topic.
func (k *checker) alter(topic, setting string) string {
	return "kafka-configs.sh --bootstrap-server " + k.cfg.Brokers[0] + " --alter --entity-type topics --entity-name " + topic + " --add-config " + setting + k.adminConfig()
}

// span writes a number of units as a person reads it.
func span(text string, unit time.Duration) string {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return "an unknown time"
	case n < 0 || n > int64(100*365*24*time.Hour/unit):
		return "for ever"
	}
	if d := time.Duration(n) * unit; d < 48*time.Hour {
		return d.String()
	}
	return fmt.Sprintf("%d days", int64(time.Duration(n)*unit/(24*time.Hour)))
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
