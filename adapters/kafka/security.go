package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"

	"github.com/waystation-iot/waystation/gateway"
)

// secure is what the sink's connections are secured with.
type secure struct {
	creds   *gateway.Credentials
	tokens  *tokens // nil without OAUTHBEARER
	version int     // of creds, in the session
	next    time.Time
}

func newSecure(c *Config, env gateway.Env) secure {
	var s secure
	var t *gateway.TLS
	if c.TLS.Enabled {
		t = &c.TLS.TLS
	}
	switch c.SASL.Mechanism {
	case "":
		s.creds = gateway.NewCredentials(env.Dir, t)
	case wordOAuth:
		s.creds, s.tokens = gateway.NewCredentials(env.Dir, t), newTokens(c, env)
	default:
		s.creds = gateway.NewCredentials(env.Dir, t, gateway.NamedSecret{Option: "sasl.password", Secret: c.SASL.Password})
	}
	return s
}

// ready makes sure that there is a token to log in with.
func (s *secure) ready(ctx context.Context) error {
	if s.tokens == nil {
		return nil
	}
	_, err := s.tokens.get(ctx)
	return err
}

// facts tells of certificates, new files and tokens.
func (s *secure) facts(now time.Time) []gateway.Fact {
	all := s.creds.Facts(now)
	if s.tokens != nil {
		all = append(all, s.tokens.facts(now)...)
	}
	return all
}

// renewAfter is how long new credentials that the cluster does not take are left
// alone.
const renewAfter = 30 * time.Second

// newCredentials is the name of the fact about credentials not taken.
const newCredentials = "credentials"

// renewSession connects anew when certificates or secrets have changed. It is
// called between two exchanges, when no request is under way: what is known
// about records in doubt is kept, as over every reconnect. The old session goes
// only when the cluster has answered in the new one.
func (s *Sink) renewSession(ctx context.Context) {
	now := time.Now()
	s.secure.creds.LogWarnings(s.env.Log, now)
	if s.sess == nil || s.sess.broken || s.secure.creds.Look(now) == s.secure.version || now.Before(s.secure.next) {
		return
	}
	sess, version, err := s.newSession(ctx)
	if err == nil {
		if err = sess.probe(ctx, s.probe); err != nil {
			_ = sess.close()
		}
	}
	if err != nil {
		if s.secure.next.IsZero() {
			s.env.Log.Warn("new certificates or secrets are not taken by the cluster; the connection of before goes on", "error", err)
		}
		s.secure.next = now.Add(renewAfter)
		s.facts.set(gateway.Fact{Name: newCredentials, Warn: true,
			Value: fmt.Sprintf("the new ones are not taken, the connection of before goes on: %v%s", err, s.hint(err, ""))})
		return
	}
	_ = s.drop()
	s.adopt(sess, version)
	s.env.Log.Info("connected anew with changed certificates or secrets")
}

// newSession makes a session with the credentials of now. It returns their version.
func (s *Sink) newSession(ctx context.Context) (*session, int, error) {
	conf, err := s.clientConfig()
	if err != nil {
		return nil, 0, err
	}
	version := s.secure.creds.Version()
	if err := s.secure.ready(ctx); err != nil {
		return nil, 0, err
	}
	sess, err := newSession(s.cfg.Brokers, conf, s.dial)
	return sess, version, err
}

// adopt makes sess the session.
func (s *Sink) adopt(sess *session, version int) {
	s.sess, s.secure.version, s.secure.next = sess, version, time.Time{}
	s.facts.set(gateway.Fact{Name: newCredentials})
}

// clientConfig makes sarama's configuration. Files and secrets are read anew
// for each session when they have changed.
func (s *Sink) clientConfig() (*sarama.Config, error) {
	c, conf := &s.cfg, sarama.NewConfig()
	version, err := sarama.ParseKafkaVersion(c.Version)
	if err != nil {
		return nil, fmt.Errorf("read version %q: %w", c.Version, err)
	}
	conf.Version = version
	conf.ClientID = c.ClientID
	conf.ChannelBufferSize = 1
	conf.MetricRegistry = noMetrics{}
	conf.Metadata.Full = false
	conf.Metadata.AllowAutoTopicCreation = c.AutoCreate
	conf.Metadata.RefreshFrequency = 0 // no traffic while idle; see topic.stale
	conf.Metadata.Retry.Max = 0        // it would sleep without a context; Send tries again
	patience := s.patience.of(c.RequestTimeout)
	conf.Metadata.Timeout = patience + c.DialTimeout
	conf.Net.MaxOpenRequests = 1
	conf.Net.DialTimeout = c.DialTimeout
	conf.Net.ReadTimeout = patience + patience/4 + answerSlack
	conf.Net.WriteTimeout = conf.Net.ReadTimeout
	if err := s.secure.creds.Load(); err != nil {
		return nil, err
	}
	if t := s.secure.creds.TLS(); t != nil {
		conf.Net.TLS.Enable, conf.Net.TLS.Config = true, t
	}
	s.setSASL(conf)
	return conf, conf.Validate()
}

// setSASL sets how to log in. sarama logs in again on the same connection when
// most of the time that the broker gave the session is over (KIP-368); version 1
// of the handshake, its default, is needed for that.
func (s *Sink) setSASL(conf *sarama.Config) {
	c := &s.cfg.SASL
	if c.Mechanism == "" {
		return
	}
	n := &conf.Net.SASL
	n.Enable, n.User, n.Password = true, c.User, s.secure.creds.Secret(0)
	switch c.Mechanism {
	case "plain":
		n.Mechanism = sarama.SASLTypePlaintext
	case "scram-sha-256":
		n.Mechanism = sarama.SASLTypeSCRAMSHA256
		n.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA256} }
	case "scram-sha-512":
		n.Mechanism = sarama.SASLTypeSCRAMSHA512
		n.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA512} }
	case wordOAuth:
		n.Mechanism, n.TokenProvider = sarama.SASLTypeOAuth, s.secure.tokens
	}
}

// scramClient lets sarama log in with SCRAM (RFC 5802).
type scramClient struct {
	hash scram.HashGeneratorFcn
	conv *scram.ClientConversation
}

// Begin implements sarama.SCRAMClient.
func (c *scramClient) Begin(user, password, authzID string) error {
	client, err := c.hash.NewClient(user, password, authzID)
	if err != nil {
		return fmt.Errorf("log in with SCRAM: %w", err)
	}
	c.conv = client.NewConversation()
	return nil
}

// Step implements sarama.SCRAMClient.
func (c *scramClient) Step(challenge string) (string, error) { return c.conv.Step(challenge) }

// Done implements sarama.SCRAMClient.
func (c *scramClient) Done() bool { return c.conv.Done() }
