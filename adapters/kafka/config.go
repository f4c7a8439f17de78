package kafka

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/IBM/sarama"

	"github.com/waystation-iot/waystation/gateway"
)

// Config is the configuration of a Kafka sink.
type Config struct {
	Brokers     []string     `yaml:"brokers" doc:"Kafka servers to ask first, each host:port." example:"[\"kafka.example:9092\"]"`
	Topic       string       `yaml:"topic" doc:"Topic to write to. May hold {gateway} {source} {device} {name} {lane} {tag.KEY}; characters Kafka does not allow in a topic become '_'." example:"fleet.{source}"`
	Key         string       `yaml:"key" doc:"Key of the Kafka record, which chooses the partition: records of one key stay in order. The same placeholders as topic; {device} is the name when a record has no device."`
	Encoding    string       `yaml:"encoding" doc:"Value of the Kafka record: raw (the payload byte for byte; JSON for a record that has none) or json."`
	Compression string       `yaml:"compression" doc:"none, gzip, snappy, lz4 or zstd."`
	Level       int          `yaml:"compression_level" doc:"Level of gzip (1-9) or zstd (1-22); 0 is gzip's own default and 1 for zstd. zstd 1 is the fastest but takes about 9 MiB of memory per broker written to at once, zstd 3 about 2 MiB."`
	MaxMessage  gateway.Size `yaml:"max_message_bytes" doc:"Largest batch the topic takes (max.message.bytes of the topic). A larger record is refused and goes to the dead letters."`
	Version     string       `yaml:"version" doc:"Oldest Kafka version of the cluster, such as 2.8.0."`

	RequestTimeout time.Duration `yaml:"request_timeout" doc:"How long the replicas may take to confirm a batch; also bounds how long it may take to be written. On a slow link it must be longer than the largest batch takes."`
	DialTimeout    time.Duration `yaml:"dial_timeout" doc:"How long a connection may take to be set up."`

	Handover `yaml:",inline"`

	TLS  TLS  `yaml:"tls" doc:"Encryption."`
	SASL SASL `yaml:"sasl" doc:"Log-in."`

	ClientID     string `yaml:"client_id" doc:"Name shown in the logs and quotas of Kafka; waystation-<gateway id> when empty."`
	UnknownTopic string `yaml:"unknown_topic" doc:"What to do with records whose topic does not exist or may not be written: wait (keep them and try again) or dead-letter. Notices of the gateway itself (source waystation) go to the dead letters in either case."`
	AutoCreate   bool   `yaml:"auto_create_topics" doc:"Ask Kafka to create a missing topic, where the cluster allows it."`
	Headers      bool   `yaml:"headers" doc:"Whether records carry headers (gateway, generation, lane, seq, source, content-type, received ...). Without them a consumer cannot see repeats and gaps."`
}

// TLS says how the connection is encrypted.
type TLS struct {
	Enabled     bool `yaml:"enabled" doc:"Whether to encrypt."`
	gateway.TLS `yaml:",inline"`
}

// SASL says how to log in.
type SASL struct {
	Mechanism string         `yaml:"mechanism" doc:"plain, scram-sha-256 or scram-sha-512; no log-in when empty."`
	User      string         `yaml:"user" doc:"User."`
	Password  gateway.Secret `yaml:"password" doc:"Password, as env:NAME, file:PATH, credential:NAME or the text itself."`
}

// Limits of the options, and their words.
const (
	wordWait       = "wait"
	wordDeadLetter = "dead-letter"
	wordRaw        = "raw"
	wordJSON       = "json"
	// minMessage leaves room for the batch header and a small record.
	minMessage = 512
	// maxMessage is a tenth of Kafka's largest request (socket.request.max.bytes, 100 MiB).
	maxMessage = 10 << 20
)

// Adapter describes the Kafka sink to the gateway.
func Adapter() gateway.Adapter {
	return gateway.Adapter{
		Type:    "kafka",
		Doc:     "Forwards records to Apache Kafka, exactly once where the cluster can do it, confirmed by all in-sync replicas.",
		NewSink: func() gateway.SinkConfig { return NewConfig() },
	}
}

// NewConfig returns the defaults.
func NewConfig() *Config {
	return &Config{
		Key: "{device}", Encoding: wordRaw, Compression: "zstd", MaxMessage: 1000000,
		Version: "2.8.0", RequestTimeout: 10 * time.Second, DialTimeout: 10 * time.Second,
		UnknownTopic: wordWait, Headers: true, Handover: newHandover(),
	}
}

// Validate returns every fault, joined; each is a *gateway.FieldError.
func (c *Config) Validate() error {
	var f faults
	c.checkBrokers(&f)
	c.checkTemplates(&f)
	f.oneOf("encoding", c.Encoding, wordRaw, wordJSON)
	f.oneOf("unknown_topic", c.UnknownTopic, wordWait, wordDeadLetter)
	c.checkCompression(&f)
	if c.MaxMessage < minMessage || c.MaxMessage > maxMessage {
		f.add("max_message_bytes", fmt.Sprintf("%d is outside %d to %d", int64(c.MaxMessage), minMessage, maxMessage),
			"use the max.message.bytes of the topic")
	}
	if v, err := sarama.ParseKafkaVersion(c.Version); err != nil || !v.IsAtLeast(sarama.V2_1_0_0) {
		f.add("version", fmt.Sprintf("%q is not a Kafka version from 2.1.0 on", c.Version), "write it like 2.8.0")
	}
	if c.RequestTimeout < 100*time.Millisecond || c.RequestTimeout > 5*time.Minute {
		f.add("request_timeout", "must be between 100ms and 5m", "")
	}
	if c.DialTimeout < 100*time.Millisecond || c.DialTimeout > 5*time.Minute {
		f.add("dial_timeout", "must be between 100ms and 5m", "")
	}
	c.checkHandover(&f)
	c.checkSecurity(&f)
	return errors.Join(f...)
}

func (c *Config) checkBrokers(f *faults) {
	if len(c.Brokers) == 0 {
		f.add("brokers", "is required", `for instance brokers: ["kafka.example:9093"]`)
	}
	for i, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		n, perr := strconv.Atoi(port)
		if err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
			f.add(fmt.Sprintf("brokers[%d]", i), fmt.Sprintf("%q is not host:port", b), "for instance kafka.example:9093")
		}
	}
}

func (c *Config) checkTemplates(f *faults) {
	if c.Topic == "" {
		f.add("topic", "is required", `for instance topic: "fleet.{source}"`)
	} else if t, err := parseTemplate(c.Topic); err != nil {
		f.add("topic", err.Error(), placeholderHint)
	} else if bad := t.badTopicText(); bad != "" {
		f.add("topic", fmt.Sprintf("%q holds characters Kafka does not allow in a topic", bad), "use letters, digits, '.', '_' and '-'")
	}
	if _, err := parseTemplate(c.Key); err != nil {
		f.add("key", err.Error(), placeholderHint)
	}
}

func (c *Config) checkCompression(f *faults) {
	f.oneOf("compression", c.Compression, "none", "gzip", "snappy", "lz4", "zstd")
	highest := map[string]int{"gzip": 9, "zstd": 22}[c.Compression]
	if c.Level < 0 || c.Level > highest {
		f.add("compression_level", fmt.Sprintf("%d is outside 0 to %d for %s", c.Level, highest, c.Compression), "")
	}
}

func (c *Config) checkSecurity(f *faults) {
	t, s := &c.TLS, &c.SASL
	if !t.Enabled && (t.CA != "" || t.Cert != "" || t.Key != "" || t.ServerName != "") {
		f.add("tls.enabled", "is false although other tls options are set", "write tls: {enabled: true, ...}")
	}
	if (t.Cert == "") != (t.Key == "") {
		f.add("tls.cert", "cert and key are needed together", "")
	}
	if s.Mechanism == "" {
		if s.User != "" || s.Password != "" {
			f.add("sasl.mechanism", "is required with a user or password", "plain, scram-sha-256 or scram-sha-512")
		}
		return
	}
	f.oneOf("sasl.mechanism", s.Mechanism, "plain", "scram-sha-256", "scram-sha-512")
	if s.User == "" {
		f.add("sasl.user", "is required", "")
	}
	if s.Password == "" {
		f.add("sasl.password", "is required", "for instance password: env:KAFKA_PASSWORD")
	}
}

// faults collects what is wrong with a configuration.
type faults []error

func (f *faults) add(key, msg, hint string) {
	*f = append(*f, &gateway.FieldError{Key: key, Msg: msg, Hint: hint})
}

func (f *faults) oneOf(key, got string, allowed ...string) {
	list := ""
	for _, a := range allowed {
		if a == got {
			return
		}
		if list != "" {
			list += ", "
		}
		list += a
	}
	f.add(key, fmt.Sprintf("%q is not one of %s", got, list), "")
}
