package kafka

import (
	"errors"
	"io"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// acl is the command that lets the sink's user do something.
func (s *Sink) acl(rights string) string {
	return "kafka-acls.sh --bootstrap-server " + s.cfg.Brokers[0] + " --add --allow-principal " + s.principal() + " " + rights + s.adminConfig()
}

// allow is acl as a hint.
func (s *Sink) allow(rights string) string { return "allow it: " + s.acl(rights) }

// hint says what a person must do about err, or "".
func (s *Sink) hint(err error, topic string) string {
	text := ""
	switch {
	case errors.Is(err, sarama.ErrUnknownTopicOrPartition):
		text = "create it: kafka-topics.sh --bootstrap-server " + s.cfg.Brokers[0] + " --create --topic " + topic + " --partitions 3" +
			s.adminConfig() + ", or set unknown_topic: dead-letter"
	case errors.Is(err, sarama.ErrTopicAuthorizationFailed):
		text = s.allow("--operation Write --operation Describe --topic " + topic)
	case errors.Is(err, sarama.ErrTransactionalIDAuthorizationFailed):
		text = s.allow("--operation Write --operation Describe --transactional-id "+s.txnID) + orAtLeastOnce
	case errors.Is(err, sarama.ErrGroupAuthorizationFailed):
		text = s.allow("--operation Read --group "+s.group+" --resource-pattern-type prefixed") + orAtLeastOnce
	case errors.Is(err, sarama.ErrInvalidTransactionTimeout):
		text = "transaction_timeout is " + s.cfg.TransactionTimeout.String() + ", longer than transaction.max.timeout.ms of the brokers, 15m by default: shorten it"
	case errors.Is(err, sarama.ErrClusterAuthorizationFailed):
		text = s.allow("--operation Write --operation Describe "+s.topicPattern()) +
			"; before Kafka 2.8 also --operation IdempotentWrite --cluster"
	case errors.Is(err, sarama.ErrInvalidTopic):
		text = "correct the option topic: Kafka does not take this name"
	default:
		text = s.loginHint(err, topic == "")
	}
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// orAtLeastOnce is the other way out where a right for transactions is missing.
const orAtLeastOnce = "; or set delivery: at-least-once"

// readHint is the hint about a topic that a position is kept for or in.
func (s *Sink) readHint(err error, topic string) string {
	if !errors.Is(err, sarama.ErrTopicAuthorizationFailed) {
		return s.hint(err, topic)
	}
	return " (" + s.allow("--operation Read --topic "+topic) + orAtLeastOnce + ")"
}

// loginHint explains why there is no session. first says that the connection
// had not been of use yet.
func (s *Sink) loginHint(err error, first bool) string {
	var token *tokenError
	mechanism := s.mechanism()
	switch {
	case errors.As(err, &token):
		return "" // says it itself
	case errors.Is(err, sarama.ErrUnsupportedSASLMechanism):
		return "the broker does not offer " + mechanism + " on this port: correct sasl.mechanism, or add it to sasl.enabled.mechanisms of the broker"
	case errors.Is(err, sarama.ErrSASLAuthenticationFailed) && s.cfg.SASL.Mechanism == wordOAuth:
		return "the broker does not take the token: check sasl.oauth.scopes and audience, that the broker trusts this token server, and the clocks of both: this one says " + time.Now().UTC().Format(time.RFC3339)
	case errors.Is(err, sarama.ErrSASLAuthenticationFailed):
		return "the broker does not know user " + s.cfg.SASL.User + " with this password for " + mechanism + ": check sasl.user, sasl.password and sasl.mechanism"
	}
	if hint := s.secure.creds.Hint(err, time.Now()); hint != "" {
		return hint
	}
	if (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) && first {
		return "the server closes the connection at once: check sasl.* and tls.enabled"
	}
	return ""
}

// adminConfig is the option of Kafka's tools by which an administrator logs in.
func (s *Sink) adminConfig() string {
	if s.cfg.TLS.Enabled || s.cfg.SASL.Mechanism != "" {
		return " --command-config admin.properties"
	}
	return ""
}

// mechanism is how Kafka calls the way to log in.
func (s *Sink) mechanism() string { return strings.ToUpper(s.cfg.SASL.Mechanism) }

// topicPattern names the topics of the sink for kafka-acls.sh.
func (s *Sink) topicPattern() string {
	prefix, rest, _ := strings.Cut(s.cfg.Topic, "{")
	switch {
	case rest == "":
		return "--topic " + prefix
	case prefix == "":
		return "--topic '*'"
	}
	return "--resource-pattern-type prefixed --topic " + prefix
}

// principal is who we are to Kafka's ACLs, with its default rules.
func (s *Sink) principal() string {
	switch {
	case s.cfg.SASL.Mechanism == wordOAuth:
		return "User:" + s.cfg.SASL.OAuth.ClientID // where the token's subject is the client
	case s.cfg.SASL.User != "":
		return "User:" + s.cfg.SASL.User
	}
	if c := s.secure.creds.TLS(); c != nil && len(c.Certificates) > 0 {
		return `"User:` + c.Certificates[0].Leaf.Subject.String() + `"`
	}
	return "User:ANONYMOUS"
}
