package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
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
	conf.Metadata.Timeout = c.RequestTimeout + c.DialTimeout
	conf.Net.MaxOpenRequests = 1
	conf.Net.DialTimeout = c.DialTimeout
	conf.Net.ReadTimeout = c.RequestTimeout + c.RequestTimeout/4 + answerSlack
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
	conf.Net.TLS.Enable = true
	conf.Net.TLS.Config = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(gateway.InDir(s.env.Dir, t.CA))
		if err != nil {
			return fmt.Errorf("read tls.ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("read tls.ca %s: no certificate in PEM form", t.CA)
		}
		conf.Net.TLS.Config.RootCAs = pool
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(gateway.InDir(s.env.Dir, t.Cert), gateway.InDir(s.env.Dir, t.Key))
		if err != nil {
			return fmt.Errorf("read tls.cert and tls.key: %w", err)
		}
		conf.Net.TLS.Config.Certificates = []tls.Certificate{pair}
	}
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
		n.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scram{hash: newSHA256} }
	case "scram-sha-512":
		n.Mechanism = sarama.SASLTypeSCRAMSHA512
		n.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scram{hash: newSHA512} }
	}
	return nil
}
