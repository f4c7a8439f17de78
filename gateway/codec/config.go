package codec

import (
	"errors"
	"fmt"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// Names of the codecs and of the encodings, as written in configuration.
const (
	NameRaw      = "raw"
	NameJSON     = "json"
	NameAvro     = "avro"     // encoding only
	NameProtobuf = "protobuf" // encoding only
)

// DefaultContentType is the media type of a payload nothing is known about.
const DefaultContentType = "application/octet-stream"

// Config says how payloads become records. An adapter embeds it (its options
// then stand beside those of the adapter) or nests it. The zero value is the
// raw codec with its defaults.
type Config struct {
	Codec       string     `yaml:"codec" enum:"raw,json" doc:"How a payload becomes a record: raw keeps it byte for byte, json takes named values out of it."`
	Device      string     `yaml:"device" example:"{2}" doc:"What was observed, the key in Kafka, as a template: {topic} is the whole topic, {1}, {2} … its levels; with the json codec {json:PATH} is a text or number of the payload. If a part is missing the whole topic is used."`
	ContentType string     `yaml:"content_type" doc:"Media type given to raw payloads."`
	JSON        JSONConfig `yaml:"json" doc:"Options of the json codec."`
}

// JSONConfig says what the json codec takes out of a payload.
type JSONConfig struct {
	Device      string      `yaml:"device" example:"{json:meta.id}" doc:"Overrides device above for the json codec."`
	Name        string      `yaml:"name" example:"{topic}" doc:"Name of the record, a template like device. Empty: the whole topic."`
	Each        bool        `yaml:"each" doc:"When the payload is an array, make one record of each element."`
	Values      []JSONValue `yaml:"values" doc:"What to take out. Empty: every text, number and boolean of the payload, names of nested objects joined by dots."`
	Time        JSONTime    `yaml:"time" doc:"Where the device's own time stands."`
	KeepPayload bool        `yaml:"keep_payload" doc:"Keep the payload in the record beside its values."`
}

// JSONValue takes one value out of a payload.
type JSONValue struct {
	Name string `yaml:"name" example:"temperature" doc:"Name of the value. Empty: the path."`
	Path string `yaml:"path" example:"sensors.0.temp" doc:"Where it stands, in gjson syntax: a.b, list.0, list.#(id==\"x\").v; a dot in a key is written \\. ."`
	Unit string `yaml:"unit" example:"°C" doc:"Unit of measure."`
	Type string `yaml:"type" enum:"bool,int,float,string" doc:"What it must be. Numbers in quotes are read as numbers. Empty: as it stands in the payload."`
}

// JSONTime says where and how a payload carries its time.
type JSONTime struct {
	Path   string `yaml:"path" example:"ts" doc:"Where the time stands, in gjson syntax. Empty: the payload carries none."`
	Format string `yaml:"format" enum:"auto,rfc3339,unix,unix_ms,unix_us,unix_ns" doc:"How it is written. auto: RFC 3339, or a Unix time whose size tells seconds, milli-, micro- or nanoseconds."`
}

// DefaultConfig returns the defaults: raw, the topic as device.
func DefaultConfig() Config {
	return Config{
		Codec: NameRaw, Device: "{topic}", ContentType: DefaultContentType,
		JSON: JSONConfig{Time: JSONTime{Format: "auto"}},
	}
}

// withDefaults fills in what is empty.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	c.Codec = or(c.Codec, d.Codec)
	c.Device = or(c.Device, d.Device)
	c.ContentType = or(c.ContentType, d.ContentType)
	c.JSON.Device = or(c.JSON.Device, c.Device)
	c.JSON.Name = or(c.JSON.Name, "{topic}")
	c.JSON.Time.Format = or(c.JSON.Time.Format, d.JSON.Time.Format)
	return c
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// Validate returns every fault, joined; each is a *gateway.FieldError whose
// key is relative to the Config ("json.values[2].path").
func (c *Config) Validate() error {
	f := c.withDefaults()
	var errs []error
	if f.Codec != NameRaw && f.Codec != NameJSON {
		errs = append(errs, &gateway.FieldError{Key: "codec", Msg: fmt.Sprintf("unknown codec %q, must be raw or json", f.Codec)})
	}
	if _, err := compileTemplate(f.Device, f.Codec == NameJSON); err != nil {
		errs = append(errs, &gateway.FieldError{Key: "device", Msg: err.Error()})
	}
	if !validMediaType(f.ContentType) {
		errs = append(errs, &gateway.FieldError{Key: "content_type", Msg: "must be a media type such as application/json"})
	}
	if f.Codec == NameJSON {
		errs = append(errs, prefixed("json.", f.JSON.faults(c.JSON.Device != ""))...)
	} else if f.Codec == NameRaw && (len(c.JSON.Values) > 0 || c.JSON.Time.Path != "" || c.JSON.Each || c.JSON.KeepPayload) {
		errs = append(errs, &gateway.FieldError{Key: "json", Msg: "has no effect with the raw codec", Hint: "set codec: json"})
	}
	return errors.Join(errs...)
}

// validMediaType reports whether s looks like type/subtype (RFC 6838 §4.2)
// with optional parameters.
func validMediaType(s string) bool {
	essence, _, _ := strings.Cut(s, ";")
	typ, sub, ok := strings.Cut(strings.TrimSpace(essence), "/")
	return ok && typ != "" && sub != "" && !strings.ContainsAny(s, "\r\n\x00") && !strings.ContainsAny(essence, " \t")
}

func prefixed(prefix string, errs []error) []error {
	for _, err := range errs {
		if fe, ok := errors.AsType[*gateway.FieldError](err); ok {
			fe.Key = prefix + fe.Key
		}
	}
	return errs
}

// faults checks the options of the json codec; own says whether it has a
// device of its own.
func (c JSONConfig) faults(own bool) []error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, &gateway.FieldError{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	if _, err := compileTemplate(c.Device, true); err != nil && own {
		bad("device", "%s", err)
	}
	if _, err := compileTemplate(c.Name, true); err != nil {
		bad("name", "%s", err)
	}
	if len(c.Values) > maxValues {
		bad("values", "must be at most %d values", maxValues)
	}
	seen := map[string]int{}
	for i, v := range c.Values {
		key := fmt.Sprintf("values[%d]", i)
		if v.Path == "" {
			bad(key+".path", "must not be empty: say where the value stands, such as sensors.0.temp")
			continue
		}
		name := or(v.Name, v.Path)
		if first, dup := seen[name]; dup {
			bad(key+".name", "%q is already the name of values[%d]", name, first)
		}
		seen[name] = i
		if _, ok := parseWant(v.Type); !ok {
			bad(key+".type", "unknown type %q, must be bool, int, float or string", v.Type)
		}
	}
	if _, ok := parseTimeFormat(c.Time.Format); !ok {
		bad("time.format", "unknown format %q, must be auto, rfc3339, unix, unix_ms, unix_us or unix_ns", c.Time.Format)
	}
	return errs
}

// New builds the decoder that cfg describes.
func New(cfg Config) (Decoder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("build codec: %w", err)
	}
	f := cfg.withDefaults()
	if f.Codec == NameJSON {
		return newJSON(f.JSON)
	}
	device, err := compileTemplate(f.Device, false)
	if err != nil {
		return nil, fmt.Errorf("build codec: device: %w", err)
	}
	return &Raw{device: device, contentType: f.ContentType}, nil
}
