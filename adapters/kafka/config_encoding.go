package kafka

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// SchemaRegistry says where the schema of avro and protobuf is registered. It
// speaks the API of Confluent's registry, which Apicurio and Karapace have too.
type SchemaRegistry struct {
	URLs     []string       `yaml:"urls" doc:"Addresses of one registry, tried in turn; no registry when empty. The first one is its name: ids found out are kept under it." example:"[\"https://registry.example:8081\"]"`
	Register string         `yaml:"register" doc:"register (make the schema known where it is not) or lookup (somebody else has registered it; wait until then)."`
	Subject  string         `yaml:"subject" doc:"Subject of the schema: topic (<topic>-value), record (io.waystation.v1.Record) or topic-record (<topic>-io.waystation.v1.Record)."`
	User     string         `yaml:"user" doc:"User."`
	Password gateway.Secret `yaml:"password" doc:"Password of user, as env:NAME, file:PATH, credential:NAME or the text itself."`
	Token    gateway.Secret `yaml:"token" doc:"Bearer token, instead of user and password."`
	TLS      gateway.TLS    `yaml:"tls" doc:"Encryption, for addresses that begin with https."`
	Timeout  time.Duration  `yaml:"timeout" doc:"How long one address may take to answer."`
}

// Words of the options.
const (
	wordAvro        = codec.NameAvro
	wordProtobuf    = codec.NameProtobuf
	wordOff         = "off"
	wordOn          = "on"
	wordBinary      = "binary"
	wordStructured  = "structured"
	wordRegister    = "register"
	wordLookup      = "lookup"
	wordTopic       = "topic"
	wordRecord      = "record"
	wordTopicRecord = "topic-record"
)

// hasRegistry reports whether a schema registry is configured.
func (c *Config) hasRegistry() bool { return len(c.SchemaRegistry.URLs) > 0 }

// checkEncoding checks what becomes of a record: its value and the headers
// that other systems know.
func (c *Config) checkEncoding(f *faults) {
	f.oneOf("encoding", c.Encoding, wordRaw, wordJSON, wordAvro, wordProtobuf)
	f.oneOf("cloudevents", c.CloudEvents, wordOff, wordBinary, wordStructured)
	f.oneOf("trace", c.Trace, wordOff, wordOn)
	if t, err := parseTemplate(c.EventSource); err != nil {
		f.add("cloudevents_source", err.Error(), placeholderHint)
	} else if !t.isURI() {
		f.add("cloudevents_source", fmt.Sprintf("%q is not a URI reference (RFC 3986)", c.EventSource), "for instance /gateways/{gateway}/{source}")
	}
	if c.EventType == "" || strings.ContainsFunc(c.EventType, unfitForEvents) {
		f.add("cloudevents_type", fmt.Sprintf("%q is no type of an event", c.EventType), "write it like io.waystation.record")
	}
	c.checkRegistry(f)
}

func (c *Config) checkRegistry(f *faults) {
	r := &c.SchemaRegistry
	if !c.hasRegistry() {
		if r.User != "" || r.Password != "" || r.Token != "" || r.TLS != (gateway.TLS{}) {
			f.add("schema_registry.urls", "is required with other options of schema_registry", `for instance urls: ["https://registry.example:8081"]`)
		}
		return
	}
	if c.Encoding == wordRaw || c.Encoding == wordJSON {
		f.add("schema_registry", "has no effect with encoding "+c.Encoding, "set encoding: avro or encoding: protobuf")
	}
	if c.CloudEvents == wordStructured {
		f.add("schema_registry", "does not go with cloudevents: structured, which hides the schema's id from consumers", "set cloudevents: binary")
	}
	secure := true
	for i, text := range r.URLs {
		u, err := url.Parse(text)
		key := fmt.Sprintf("schema_registry.urls[%d]", i)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "":
			f.add(key, "is not an address of a registry", "for instance https://registry.example:8081")
		case u.User != nil:
			f.add(key, "holds a user or password", "write them as schema_registry.user and schema_registry.password")
		default:
			secure = secure && u.Scheme == "https"
		}
	}
	if r.TLS != (gateway.TLS{}) && !secure {
		f.add("schema_registry.tls", "is set although an address begins with http:", "write https:")
	}
	if (r.TLS.Cert == "") != (r.TLS.Key == "") {
		f.add("schema_registry.tls.cert", "cert and key are needed together", "")
	}
	switch {
	case r.Token != "" && (r.User != "" || r.Password != ""):
		f.add("schema_registry.token", "is given beside user or password", "the registry takes one of them")
	case (r.User == "") != (r.Password == ""):
		f.add("schema_registry.user", "user and password are needed together", "")
	}
	f.oneOf("schema_registry.register", r.Register, wordRegister, wordLookup)
	f.oneOf("schema_registry.subject", r.Subject, wordTopic, wordRecord, wordTopicRecord)
	if r.Timeout < 100*time.Millisecond || r.Timeout > 5*time.Minute {
		f.add("schema_registry.timeout", "must be between 100ms and 5m", "")
	}
}
