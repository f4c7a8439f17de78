package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// Sink forwards batches to Kafka. It implements gateway.Sink and is used by
// one goroutine at a time.
type Sink struct {
	cfg  Config
	env  gateway.Env
	addr string // "kafka shore", begins every message
	dial dialFunc

	topicOf  template
	keyOf    template
	enc      codec.Encoder
	raw      bool // the payload is the value, untouched
	codec    sarama.CompressionCodec
	level    int
	produce  int16         // version of the ProduceRequest
	tries    int           // without progress, before Send gives up
	pause    time.Duration // before the second try; doubles
	keepMeta time.Duration // how long the number of partitions is believed

	sess   *session // nil when not connected
	prod   producer
	probe  string // a topic that exists, to ask for; "" when none was seen yet
	topics topicCache
	job    job
	arena  arena
	facts  facts

	patience patience
}

// Sink builds the sink. It opens no connection.
func (c *Config) Sink(env gateway.Env) (gateway.Sink, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sink{cfg: *c, env: env, addr: "kafka " + env.Name, raw: c.Encoding == wordRaw,
		tries: 5, pause: 100 * time.Millisecond, keepMeta: 10 * time.Minute, produce: 7, level: c.Level}
	if s.cfg.ClientID == "" {
		s.cfg.ClientID = "waystation-" + env.GatewayID
	}
	s.dial = (&net.Dialer{Timeout: c.DialTimeout, KeepAlive: 30 * time.Second}).DialContext
	s.topicOf, _ = parseTemplate(c.Topic) // checked by Validate
	s.keyOf, _ = parseTemplate(c.Key)
	enc, err := codec.NewEncoder(c.Encoding)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.addr, err)
	}
	s.enc = enc
	if err := s.codec.UnmarshalText([]byte(c.Compression)); err != nil {
		return nil, fmt.Errorf("%s: read compression: %w", s.addr, err)
	}
	if s.level == 0 {
		s.level = sarama.CompressionLevelDefault
		if s.codec == sarama.CompressionZSTD {
			s.level = 1
		}
	}
	conf, err := s.clientConfig()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.addr, err)
	}
	if conf.Version.IsAtLeast(sarama.V2_4_0_0) {
		s.produce = 8 // carries the broker's own words on a rejected batch (KIP-467)
	}
	s.topics.clear()
	return s, nil
}

// Connect makes sure that the cluster answers and that we have a producer id.
// The id is kept over reconnects.
func (s *Sink) Connect(ctx context.Context) error {
	if s.sess != nil && !s.sess.broken {
		return nil // it has just answered, if only with a refusal
	}
	_ = s.drop()
	conf, err := s.clientConfig()
	if err != nil {
		return fmt.Errorf("%s: %w", s.addr, err)
	}
	sess, err := newSession(s.cfg.Brokers, conf, s.dial)
	if err != nil {
		return fmt.Errorf("%s: connect to %s: %w", s.addr, s.servers(), err)
	}
	s.sess = sess
	if s.prod.known {
		err = s.sess.probe(ctx, s.probe)
	} else {
		err = s.identify(ctx)
	}
	if err != nil {
		_ = s.drop()
		return fmt.Errorf("%s: connect to %s: %w%s", s.addr, s.servers(), err, s.hint(err, ""))
	}
	return nil
}

// identify obtains a producer id.
func (s *Sink) identify(ctx context.Context) error {
	answer, err := s.sess.initProducerID(ctx)
	if err != nil {
		return err
	}
	s.prod.adopt(answer.ProducerID, answer.ProducerEpoch)
	return nil
}

// Close ends the connections. What is known about unconfirmed records is
// kept: the sink may be connected again.
func (s *Sink) Close() error {
	if err := s.drop(); err != nil {
		return fmt.Errorf("%s: close: %w", s.addr, err)
	}
	return nil
}

// drop ends the session, if there is one.
func (s *Sink) drop() error {
	if s.sess == nil {
		return nil
	}
	err := s.sess.close()
	s.sess = nil
	s.topics.forgetLeaders(s.job.topics)
	return err
}

func (s *Sink) servers() string { return strings.Join(s.cfg.Brokers, ",") }

// hint says what a person must do about err, or "".
func (s *Sink) hint(err error, topic string) string {
	tool := " --bootstrap-server " + s.cfg.Brokers[0]
	user := s.cfg.SASL.User
	if user == "" {
		user = "<user>"
	}
	allow := "kafka-acls.sh" + tool + " --add --allow-principal User:" + user
	switch {
	case errors.Is(err, sarama.ErrUnknownTopicOrPartition):
		return " (create it: kafka-topics.sh" + tool + " --create --topic " + topic + " --partitions 3, or set unknown_topic: dead-letter)"
	case errors.Is(err, sarama.ErrTopicAuthorizationFailed):
		return " (allow it: " + allow + " --operation Write --operation Describe --topic " + topic + ")"
	case errors.Is(err, sarama.ErrClusterAuthorizationFailed):
		return " (allow it: " + allow + " --operation IdempotentWrite --cluster)"
	case errors.Is(err, sarama.ErrInvalidTopic):
		return " (correct the option topic: Kafka does not take this name)"
	case errors.Is(err, sarama.ErrSASLAuthenticationFailed), errors.Is(err, sarama.ErrUnsupportedSASLMechanism):
		return " (check sasl.mechanism, sasl.user and sasl.password)"
	case errors.Is(err, io.EOF) && topic == "":
		return " (the server closes the connection at once: check sasl.* and tls.enabled)"
	}
	return ""
}
