package kafka

import (
	"errors"
	"io"

	"github.com/IBM/sarama"
)

// allow begins the command that lets the sink's user do something.
func (s *Sink) allow() string {
	user := s.cfg.SASL.User
	if user == "" {
		user = "<user>"
	}
	return "kafka-acls.sh --bootstrap-server " + s.cfg.Brokers[0] + " --add --allow-principal User:" + user
}

// hint says what a person must do about err, or "".
func (s *Sink) hint(err error, topic string) string {
	tool := " --bootstrap-server " + s.cfg.Brokers[0]
	switch {
	case errors.Is(err, sarama.ErrUnknownTopicOrPartition):
		return " (create it: kafka-topics.sh" + tool + " --create --topic " + topic + " --partitions 3, or set unknown_topic: dead-letter)"
	case errors.Is(err, sarama.ErrTopicAuthorizationFailed):
		return " (allow it: " + s.allow() + " --operation Write --operation Describe --topic " + topic + ")"
	case errors.Is(err, sarama.ErrTransactionalIDAuthorizationFailed):
		return " (allow it: " + s.allow() + " --operation Write --operation Describe --transactional-id " + s.txnID + ", or set delivery: at-least-once)"
	case errors.Is(err, sarama.ErrGroupAuthorizationFailed):
		return s.groupHint(err, s.group)
	case errors.Is(err, sarama.ErrInvalidTransactionTimeout):
		return " (transaction_timeout is " + s.cfg.TransactionTimeout.String() + ", longer than transaction.max.timeout.ms of the brokers, 15m by default: shorten it)"
	case errors.Is(err, sarama.ErrClusterAuthorizationFailed):
		return " (allow it: " + s.allow() + " --operation IdempotentWrite --cluster)"
	case errors.Is(err, sarama.ErrInvalidTopic):
		return " (correct the option topic: Kafka does not take this name)"
	case errors.Is(err, sarama.ErrSASLAuthenticationFailed), errors.Is(err, sarama.ErrUnsupportedSASLMechanism):
		return " (check sasl.mechanism, sasl.user and sasl.password)"
	case errors.Is(err, io.EOF) && topic == "":
		return " (the server closes the connection at once: check sasl.* and tls.enabled)"
	}
	return ""
}

// groupHint is the hint about a group of ours.
func (s *Sink) groupHint(err error, group string) string {
	if !errors.Is(err, sarama.ErrGroupAuthorizationFailed) {
		return s.hint(err, group)
	}
	return " (allow it: " + s.allow() + " --operation Read --group " + s.group + " --resource-pattern-type prefixed, or set delivery: at-least-once)"
}

// readHint is the hint about a topic that a position is kept for or in.
func (s *Sink) readHint(err error, topic string) string {
	if !errors.Is(err, sarama.ErrTopicAuthorizationFailed) {
		return s.hint(err, topic)
	}
	return " (allow it: " + s.allow() + " --operation Read --topic " + topic + ", or set delivery: at-least-once)"
}
