package kafka

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// clientConfig makes sarama's configuration. Files and secrets are read anew
// for each connection, so that renewed ones are taken up.
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
	if err := s.setTLS(conf); err != nil {
		return nil, err
	}
	if err := s.setSASL(conf); err != nil {
		return nil, err
	}
	return conf, conf.Validate()
}

func (s *Sink) setTLS(conf *sarama.Config) error {
	t := &s.cfg.TLS
	if !t.Enabled {
		return nil
	}
	cfg, err := t.Config(s.env.Dir)
	if err != nil {
		return err
	}
	conf.Net.TLS.Enable, conf.Net.TLS.Config = true, cfg
	return nil
}

func (s *Sink) setSASL(conf *sarama.Config) error {
	c := &s.cfg.SASL
	if c.Mechanism == "" {
		return nil
	}
	password, err := c.Password.Reveal(s.env.Dir)
	if err != nil {
		return fmt.Errorf("read sasl.password: %w", err)
	}
	if password == "" {
		return errors.New("read sasl.password: it is empty")
	}
	n := &conf.Net.SASL
	n.Enable, n.User, n.Password = true, c.User, password
	switch c.Mechanism {
	case "plain":
		n.Mechanism = sarama.SASLTypePlaintext
	case "scram-sha-256":
		n.Mechanism = sarama.SASLTypeSCRAMSHA256
		n.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA256} }
	case "scram-sha-512":
		n.Mechanism = sarama.SASLTypeSCRAMSHA512
		n.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA512} }
	}
	return nil
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
