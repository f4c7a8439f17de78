package kafka

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

// Handover says how a batch is handed over to Kafka.
type Handover struct {
	Delivery           string        `yaml:"delivery" doc:"exactly-once writes the records and the position in the queue in one transaction: consumers that read committed records (isolation.level=read_committed) see each record once. at-least-once does without transactions: after a crash one batch may come twice. auto is exactly-once, or at-least-once where the cluster knows no transactions."`
	TransactionalID    string        `yaml:"transactional_id" doc:"Transactional id; waystation-<gateway id>-<sink name> when empty. No other producer may use it."`
	Group              string        `yaml:"group" doc:"Begins the name of the consumer groups that keep the position, one per lane: <group>-<gateway id>-<sink name>-<lane>. When empty: <transactional id>-<lane>, or with a transactional_id of your own the same as with a group."`
	PositionTopic      string        `yaml:"position_topic" doc:"Compacted topic that holds a copy of the position, for absences longer than Kafka keeps the offsets of a group (offsets.retention.minutes, 7 days). Used when it exists; never created. Empty for none."`
	TransactionTimeout time.Duration `yaml:"transaction_timeout" doc:"After which Kafka rolls an unfinished transaction back. Longer than a batch takes on a bad link, and at most the transaction.max.timeout.ms of the brokers (15m)."`
}

// Words of the option delivery.
const (
	wordAuto        = "auto"
	wordExactlyOnce = "exactly-once"
	wordAtLeastOnce = "at-least-once"
)

// newHandover returns the defaults.
func newHandover() Handover {
	return Handover{Delivery: wordAuto, PositionTopic: "waystation.positions", TransactionTimeout: time.Minute}
}

// exactVersion is the first Kafka version that tells a stable position from one
// of a transaction that is still open (KIP-447).
func exactVersion() sarama.KafkaVersion { return sarama.V2_5_0_0 }

func (c *Config) checkHandover(f *faults) {
	f.oneOf("delivery", c.Delivery, wordAuto, wordExactlyOnce, wordAtLeastOnce)
	if v, err := sarama.ParseKafkaVersion(c.Version); err == nil && c.Delivery == wordExactlyOnce && !v.IsAtLeast(exactVersion()) {
		f.add("delivery", "exactly-once needs Kafka 2.5.0, and version is "+c.Version, "set version to that of the oldest broker, or delivery: at-least-once")
	}
	if len(c.TransactionalID) > maxIDBytes {
		f.add("transactional_id", "is longer than 200 characters", "")
	}
	if len(c.Group) > maxIDBytes {
		f.add("group", "is longer than 200 characters", "")
	}
	if c.PositionTopic != "" && topicName([]byte(c.PositionTopic)) != c.PositionTopic {
		f.add("position_topic", "holds characters Kafka does not allow in a topic", "use letters, digits, '.', '_' and '-'")
	}
	if c.TransactionTimeout < time.Second || c.TransactionTimeout > time.Hour {
		f.add("transaction_timeout", "must be between 1s and 1h", "60s is good for most links")
	}
}

// maxIDBytes bounds names of our choice: the position travels in 32 KiB strings
// at most, and nobody reads longer names.
const maxIDBytes = 200

// deliverAs sets how the sink delivers, to a cluster of that version or newer.
func (s *Sink) deliverAs(version sarama.KafkaVersion) {
	s.version, s.instance, s.positions = version, rand.Text()[:16], make(map[string]*position)
	s.txnID = cmp.Or(s.cfg.TransactionalID, "waystation-"+s.env.GatewayID+"-"+s.env.Name)
	s.group = s.txnID
	if base := cmp.Or(s.cfg.Group, s.cfg.TransactionalID); base != "" {
		// Whatever is configured alike for two sinks or a fleet: a position that
		// is another's would make records look sent that are not.
		s.group = base + "-" + s.env.GatewayID + "-" + s.env.Name
	}
	s.exact = s.cfg.Delivery != wordAtLeastOnce && version.IsAtLeast(exactVersion())
	switch {
	case s.exact:
		s.facts.set(gateway.Fact{Name: factDeliver, Value: "exactly once"})
	case s.cfg.Delivery == wordAtLeastOnce:
		s.facts.set(gateway.Fact{Name: factDeliver, Value: "at least once, as configured"})
	default:
		s.facts.set(gateway.Fact{Name: factDeliver, Value: "at least once: version is below 2.5.0"})
	}
}

// unsupported reports whether err says that the cluster knows no transactions,
// or not those of which a position can be read safely.
func (s *Sink) unsupported(err error) bool {
	var encoding sarama.PacketEncodingError
	return errors.Is(err, sarama.ErrUnsupportedVersion) || errors.As(err, &encoding)
}

// fallBack delivers at least once from now on, where that is allowed.
func (s *Sink) fallBack(cause error) error {
	if s.cfg.Delivery == wordExactlyOnce {
		return fmt.Errorf("the cluster has no transactions as delivery: exactly-once needs them, which come with Kafka 2.5.0 (set delivery: at-least-once): %w", cause)
	}
	_ = s.reset(nil)
	s.exact = false
	s.env.Log.Warn("the cluster knows no transactions: records are delivered at least once", "reason", cause)
	s.facts.set(gateway.Fact{Name: factDeliver, Value: "at least once: the cluster knows no transactions"})
	s.facts.set(gateway.Fact{Name: factCopy})
	return nil
}
