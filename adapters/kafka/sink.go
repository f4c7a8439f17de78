package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

// Sink forwards batches to Kafka. It implements gateway.Sink and is used by
// one goroutine at a time.
type Sink struct {
	cfg  Config
	env  gateway.Env
	addr string // "kafka shore", begins every message
	dial dialFunc

	topicOf     template
	keyOf       template
	deadTopicOf template // of dead letters
	form        form
	codec       sarama.CompressionCodec
	level       int
	produce     int16         // version of the ProduceRequest
	tries       int           // without progress, before Send gives up
	pause       time.Duration // before the second try; doubles
	keepMeta    time.Duration // how long the number of partitions is believed

	sess   *session // nil when not connected
	prod   producer
	probe  string // a topic that exists, to ask for; "" when none was seen yet
	topics topicCache
	job    job
	arena  arena
	facts  facts
	secure secure
	claims *claims // nil = there is no store for large values

	exact           bool // records and position go in one transaction
	version         sarama.KafkaVersion
	txnID, group    string
	instance        string // of this sink, random
	txn             txn
	positions       map[string]*position // by laneKey
	copy            positionCopy
	fence           fence
	lostCoordinator bool          // the network failed: look the coordinators up again
	trip            time.Duration // of the last request to the coordinator

	patience patience

	fault func(point string) // tests only: called at each step of a transaction; it may not return
}

// at tells a test that a step of a transaction begins or has ended.
func (s *Sink) at(point string) {
	if s.fault != nil {
		s.fault(point)
	}
}

// Sink builds the sink. It opens no connection.
func (c *Config) Sink(env gateway.Env) (gateway.Sink, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sink{cfg: *c, env: env, addr: "kafka " + env.Name,
		tries: 5, pause: 100 * time.Millisecond, keepMeta: 10 * time.Minute, produce: 7, level: c.Level, fault: newFailpoint()}
	if s.cfg.ClientID == "" {
		s.cfg.ClientID = "waystation-" + env.GatewayID
	}
	s.dial = (&net.Dialer{Timeout: c.DialTimeout, KeepAlive: 30 * time.Second}).DialContext
	s.topicOf, _ = parseTemplate(c.Topic) // checked by Validate
	s.keyOf, _ = parseTemplate(c.Key)
	s.deadTopicOf, _ = parseTemplate(c.DeadLetters.Topic)
	var err error
	if s.form, err = newForm(c, env); err != nil {
		return nil, fmt.Errorf("%s: %w", s.addr, err)
	}
	if err := s.codec.UnmarshalText([]byte(c.Compression)); err != nil {
		return nil, fmt.Errorf("%s: read compression: %w", s.addr, err)
	}
	if s.level == 0 {
		s.level = sarama.CompressionLevelDefault
		if s.codec == sarama.CompressionZSTD {
			s.level = 1
		}
	}
	s.secure = newSecure(&s.cfg, env)
	conf, err := s.clientConfig()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.addr, err)
	}
	s.deliverAs(conf.Version)
	if conf.Version.IsAtLeast(sarama.V2_4_0_0) {
		s.produce = 8 // carries the broker's own words on a rejected batch (KIP-467)
	}
	s.topics.clear()
	s.claims = s.newClaims()
	return s, nil
}

// Connect makes sure that the cluster answers and that we have a producer id.
// The id is kept over reconnects.
func (s *Sink) Connect(ctx context.Context) error {
	if err := s.claims.start(); err != nil {
		s.env.Log.Warn("large values wait", "error", err)
	}
	if s.sess != nil && !s.sess.broken {
		return nil // it has just answered, if only with a refusal
	}
	_ = s.drop()
	sess, version, err := s.newSession(ctx)
	if err != nil {
		return fmt.Errorf("%s: connect to %s: %w", s.addr, s.servers(), err)
	}
	s.adopt(sess, version)
	if s.prod.known {
		err = s.sess.probe(ctx, s.probe)
	} else {
		err = s.identify(ctx)
	}
	if err == nil && s.exact {
		err = s.findCopy(ctx)
	}
	if err != nil {
		_ = s.drop()
		err = fmt.Errorf("%s: connect to %s: %w%s", s.addr, s.servers(), err, s.hint(err, ""))
	}
	return err
}

// identify obtains a producer id: with the transactional id where records go in
// transactions.
func (s *Sink) identify(ctx context.Context) error {
	if s.exact {
		s.at("init-before")
		answer, err := s.initTransactions(ctx)
		s.at("init-after")
		if err == nil {
			s.prod.adopt(answer.ProducerID, answer.ProducerEpoch)
			s.lostCoordinator = false
			return nil
		}
		if !s.unsupported(err) {
			s.lostCoordinator = s.lostCoordinator || isNetwork(err)
			return err
		}
		if err := s.fallBack(err); err != nil {
			return err
		}
	}
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
	s.leave(lastWord)
	if err := errors.Join(s.claims.close(), s.drop()); err != nil {
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
	if s.copy.topic != nil {
		s.copy.topic.forgetLeaders()
	}
	return err
}

func (s *Sink) servers() string { return strings.Join(s.cfg.Brokers, ",") }
