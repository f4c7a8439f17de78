package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// fakeTLS stands for the nested options of a real adapter.
type fakeTLS struct {
	CA       string `yaml:"ca" doc:"File with the certificates trusted."`
	Insecure bool   `yaml:"insecure" doc:"Do not check the certificate."`
}

type fakeUser struct {
	Username string         `yaml:"username" doc:"User name."`
	Password gateway.Secret `yaml:"password" doc:"Password."`
}

// fakeMQTT has one field of every supported kind.
type fakeMQTT struct {
	fakeUser
	URL       string            `yaml:"url" example:"tcp://127.0.0.1:1883" doc:"Address of the broker."`
	Topics    []string          `yaml:"topics" example:"deck/#" doc:"Topic filters."`
	ClientID  string            `yaml:"client_id" doc:"Client identifier."`
	QoS       uint8             `yaml:"qos" enum:"0,1,2" doc:"Quality of service."`
	KeepAlive time.Duration     `yaml:"keep_alive" doc:"Keep-alive."`
	MaxBytes  gateway.Size      `yaml:"max_payload" doc:"Largest payload."`
	Clean     bool              `yaml:"clean" doc:"Begin a new session."`
	Scale     float64           `yaml:"scale" doc:"A factor."`
	Offset    int               `yaml:"offset" unit:"mm" doc:"An offset."`
	Props     map[string]string `yaml:"props" doc:"User properties."`
	TLS       *fakeTLS          `yaml:"tls" doc:"TLS options."`
	Codec     fakeCodec         `yaml:"codec" doc:"How payloads are read."`
	Will      []fakeWill        `yaml:"wills" doc:"Messages left behind."`
	hidden    int
}

type fakeCodec struct {
	Kind string `yaml:"kind" enum:"raw,json" doc:"Name of the codec."`
}

type fakeWill struct {
	Topic  string `yaml:"topic" doc:"Topic."`
	Retain *bool  `yaml:"retain" doc:"Retained."`
}

func (c *fakeMQTT) Validate() error {
	c.hidden++
	var errs []error
	if c.URL == "" {
		errs = append(errs, &gateway.FieldError{Key: "url", Msg: "must not be empty", Hint: "such as tcp://127.0.0.1:1883"})
	}
	if len(c.Topics) == 0 {
		errs = append(errs, &gateway.FieldError{Key: "topics", Msg: "must not be empty", Hint: "list at least one topic filter"})
	}
	for i, t := range c.Topics {
		if strings.HasSuffix(t, "##") {
			errs = append(errs, &gateway.FieldError{Key: fmt.Sprintf("topics[%d]", i), Msg: "is not a topic filter"})
		}
	}
	if c.TLS != nil && c.TLS.CA == "" {
		errs = append(errs, fmt.Errorf("tls: %w", &gateway.FieldError{Key: "tls.ca", Msg: "must not be empty"}))
	}
	if c.ClientID == "panic" {
		panic("a bug")
	}
	return errors.Join(errs...)
}

func (c *fakeMQTT) Source(gateway.Env) (gateway.Source, error) { return nil, nil }

type fakeKafka struct {
	Brokers []string `yaml:"brokers" example:"[\"kafka.example:9093\"]" doc:"Bootstrap brokers."`
	Topic   string   `yaml:"topic" example:"fleet.{source}" doc:"Topic | template."`
}

func (c *fakeKafka) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, &gateway.FieldError{Key: "brokers", Msg: "must not be empty"})
	}
	if c.Topic == "" {
		errs = append(errs, &gateway.FieldError{Key: "topic", Msg: "must not be empty"})
	}
	return errors.Join(errs...)
}

func (c *fakeKafka) Sink(gateway.Env) (gateway.Sink, error) { return nil, nil }

func fakes() []gateway.Adapter {
	return []gateway.Adapter{
		{Type: "mqtt", Doc: "An MQTT broker.", NewSource: func() gateway.SourceConfig {
			return &fakeMQTT{QoS: 1, KeepAlive: 30 * time.Second, Scale: 1, Codec: fakeCodec{Kind: "raw"}}
		}},
		{Type: "kafka", Doc: "A Kafka cluster.", NewSink: func() gateway.SinkConfig { return &fakeKafka{} }},
	}
}

// The parts of a file that is right; tests replace one of them.
const (
	okGateway = "gateway: {id: ship-042}\n"
	okSources = "sources:\n  - {name: deck, type: mqtt, url: \"tcp://h:1883\", topics: [\"deck/#\"]}\n"
	okSinks   = "sinks:\n  - {name: shore, type: kafka, brokers: [\"b:9092\"], topic: t}\n"
	okAll     = okGateway + okSources + okSinks
)

// source returns a whole file with one source that has the given options.
func source(options string) string {
	return okGateway + "sources:\n  - {name: deck, type: mqtt, url: \"tcp://h:1883\", " + options + "}\n" + okSinks
}

// src is source with topics given.
func src(options string) string { return source(`topics: ["a"], ` + options) }

// parse returns the configuration; it fails the test on any fault.
func parse(t *testing.T, text string) *Config {
	t.Helper()
	cfg, err := Parse("/etc/w/waystation.yaml", []byte(text), fakes())
	if err != nil {
		t.Fatalf("parse:\n%s\n%v", text, err)
	}
	return cfg
}

// faults returns the faults of text; it fails the test when there are none.
func faults(t *testing.T, text string) Faults {
	t.Helper()
	_, err := Parse("w.yaml", []byte(text), fakes())
	fs, ok := errors.AsType[Faults](err)
	if !ok || len(fs) == 0 {
		t.Fatalf("no faults but %v in\n%s", err, text)
	}
	return fs
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
