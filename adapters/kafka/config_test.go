package kafka

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waystation-iot/waystation/gateway"
)

func good() *Config {
	c := NewConfig()
	c.Brokers, c.Topic = []string{"kafka.example:9093"}, "fleet.{source}"
	return c
}

// registered gives c a schema registry.
func registered(c *Config, more ...string) {
	c.Encoding, c.SchemaRegistry.URLs = "avro", append([]string{"http://registry.example:8081"}, more...)
}

func TestStructuredEventsHideTheID(t *testing.T) {
	c := good()
	registered(c)
	c.CloudEvents = "structured"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "set cloudevents: binary") {
		t.Error(err)
	}
}

func TestDefaultsWithTheRequiredOptionsAreValid(t *testing.T) {
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := Adapter().NewSink().Sink(gateway.Env{})
	if err == nil || s != nil {
		t.Fatal("a sink without brokers was built")
	}
}

func TestYAML(t *testing.T) {
	c := NewConfig()
	text := `
brokers: ["kafka.example:9093"]
topic: fleet.{source}
max_message_bytes: 2MB
request_timeout: 30s
tls: {enabled: true, ca: ca.pem}
sasl: {mechanism: plain, user: gw, password: "env:KAFKA_PASSWORD"}
unknown_topic: dead-letter
`
	if err := yaml.UnmarshalWithOptions([]byte(text), c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	if c.MaxMessage != 2_000_000 || c.RequestTimeout != 30*time.Second || c.SASL.Password != "env:KAFKA_PASSWORD" || !c.Headers {
		t.Errorf("%+v", c)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestEveryFaultIsNamed(t *testing.T) {
	eachFault(t, map[string]func(*Config){
		"brokers":           func(c *Config) { c.Brokers = nil },
		"brokers[1]":        func(c *Config) { c.Brokers = []string{"a:1", "b"} },
		"topic":             func(c *Config) { c.Topic = "a b" },
		"key":               func(c *Config) { c.Key = "{x}" },
		"encoding":          func(c *Config) { c.Encoding = "xml" },
		"compression":       func(c *Config) { c.Compression = "rar" },
		"compression_level": func(c *Config) { c.Level = 23 },
		"max_message_bytes": func(c *Config) { c.MaxMessage = 100 },
		"version":           func(c *Config) { c.Version = "0.11.0.0" },
		"request_timeout":   func(c *Config) { c.RequestTimeout = 0 },
		"dial_timeout":      func(c *Config) { c.DialTimeout = 0 },
		"tls.enabled":       func(c *Config) { c.TLS.CA = "x" },
		"tls.cert":          func(c *Config) { c.TLS = TLS{Enabled: true, TLS: gateway.TLS{Key: "x"}} },
		"sasl.mechanism":    func(c *Config) { c.SASL.User = "x" },
		"sasl.user":         func(c *Config) { c.SASL = SASL{Mechanism: "plain", Password: "x"} },
		"sasl.password":     func(c *Config) { c.SASL = SASL{Mechanism: "plain", User: "x"} },
		"unknown_topic":     func(c *Config) { c.UnknownTopic = "drop" },
	})
}

func TestEveryFaultOfTheEncodingIsNamed(t *testing.T) {
	eachFault(t, map[string]func(*Config){
		"cloudevents":             func(c *Config) { c.CloudEvents = "on" },
		"cloudevents_source":      func(c *Config) { c.EventSource = "a b" },
		"cloudevents_type":        func(c *Config) { c.EventType = "" },
		"trace":                   func(c *Config) { c.Trace = "yes" },
		"schema_registry":         func(c *Config) { registered(c); c.Encoding = "json" },
		"schema_registry.urls":    func(c *Config) { c.SchemaRegistry.User = "u" },
		"schema_registry.urls[1]": func(c *Config) { registered(c, "ftp://x") },
		"schema_registry.urls[2]": func(c *Config) { registered(c, "http://x", "http://u:p@x") },
		"schema_registry.tls":     func(c *Config) { registered(c); c.SchemaRegistry.TLS.CA = "x" },
		"schema_registry.tls.cert": func(c *Config) {
			c.Encoding = "avro"
			c.SchemaRegistry.URLs = []string{"https://x"}
			c.SchemaRegistry.TLS.Key = "x"
		},
		"schema_registry.token": func(c *Config) {
			registered(c)
			c.SchemaRegistry.User, c.SchemaRegistry.Password, c.SchemaRegistry.Token = "u", "p", "t"
		},
		"schema_registry.user":     func(c *Config) { registered(c); c.SchemaRegistry.Password = "p" },
		"schema_registry.register": func(c *Config) { registered(c); c.SchemaRegistry.Register = "x" },
		"schema_registry.subject":  func(c *Config) { registered(c); c.SchemaRegistry.Subject = "x" },
		"schema_registry.timeout":  func(c *Config) { registered(c); c.SchemaRegistry.Timeout = 0 },
	})
}

// eachFault makes every change to a good configuration and wants one fault
// under its key.
func eachFault(t *testing.T, changes map[string]func(*Config)) {
	t.Helper()
	for key, change := range changes {
		c := good()
		change(c)
		joined, ok := c.Validate().(interface{ Unwrap() []error })
		if !ok {
			t.Errorf("%s: no fault", key)
			continue
		}
		var keys []string
		for _, err := range joined.Unwrap() {
			var f *gateway.FieldError
			if !errors.As(err, &f) {
				t.Errorf("%s: %T is not a FieldError", key, err)
				continue
			}
			keys = append(keys, f.Key)
		}
		if !slices.Equal(keys, []string{key}) {
			t.Errorf("faults %v, want %s", keys, key)
		}
	}
}

func TestSinkReadsFilesAndSecrets(t *testing.T) {
	dir := t.TempDir()
	env := gateway.Env{Dir: dir, Name: "shore"}
	for want, change := range map[string]func(*Config){
		"read tls.ca":               func(c *Config) { c.TLS = TLS{Enabled: true, TLS: gateway.TLS{CA: "none.pem"}} },
		"no PEM certificate":        func(c *Config) { c.TLS = TLS{Enabled: true, TLS: gateway.TLS{CA: "bad.pem"}} },
		"read tls.cert and tls.key": func(c *Config) { c.TLS = TLS{Enabled: true, TLS: gateway.TLS{Cert: "bad.pem", Key: "bad.pem"}} },
		"read sasl.password":        func(c *Config) { c.SASL = SASL{Mechanism: "plain", User: "u", Password: "file:none"} },
	} {
		if err := os.WriteFile(filepath.Join(dir, "bad.pem"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := good()
		change(c)
		if _, err := c.Sink(env); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "kafka shore: ") {
			t.Errorf("want %s: %v", want, err)
		}
	}
}

// The golden values are those of the Java client's UtilsTest.testMurmur2.
func TestMurmur2(t *testing.T) {
	for in, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(in))); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
	other := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	for i := range 10000 {
		key := []byte(strings.Repeat("ä", i%7) + fmt.Sprint(i))
		for _, n := range []int{1, 3, 4, 12} {
			if got, want := partitionOf(key, n), other.Partition(&kgo.Record{Key: key}, n); got != want {
				t.Fatalf("key %q of %d: %d, franz-go %d", key, n, got, want)
			}
		}
	}
}

func TestRecordSizeIsExact(t *testing.T) {
	for v, want := range map[int64]int{0: 1, -1: 1, 63: 1, 64: 2, -64: 1, -65: 2, 8191: 2, 8192: 3, 1 << 61: 9, 1 << 62: 10, -1 << 63: 10} {
		if got := varint(v); got != want {
			t.Errorf("varint(%d) = %d, want %d", v, got, want)
		}
	}
	r := newRig(t, 1, nil)
	b := r.batch(100, 1)
	r.connect()
	r.sink.take(b)
	r.sink.route(r.ctx(), &round{})
	r.sink.arena.begin("gw1", b)
	sum := batchOverhead
	for i := range b.Items {
		n, err := r.sink.record(&b.Items[i], i, millis(&b.Items[0].Record))
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	r.deliver(b)
	var stored int64
	for _, p := range r.c.PartitionInfos("data") {
		stored += p.NumBytes
	}
	if stored != int64(sum) {
		t.Errorf("estimated %d bytes, stored %d", sum, stored)
	}
}
