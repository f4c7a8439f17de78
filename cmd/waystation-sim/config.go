package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Config is the whole plant, as read from one YAML file.
type Config struct {
	Seed     uint64        `yaml:"seed"`     // of all random signals; the same seed gives the same values
	Duration time.Duration `yaml:"duration"` // of `run`; 0 means until it is stopped
	MQTT     *MQTTConfig   `yaml:"mqtt"`     // nil: no MQTT broker and no devices
	Devices  []GroupConfig `yaml:"devices"`
	Kafka    *KafkaConfig  `yaml:"kafka"`  // nil: no Kafka
	Modbus   []ModbusLine  `yaml:"modbus"` // lines with Modbus units

	dir string // of the file, for relative paths
}

// MQTTConfig is the MQTT broker of the plant.
type MQTTConfig struct {
	Listen            string        `yaml:"listen"`              // loopback address; port 0 takes a free one
	WaitForSubscriber time.Duration `yaml:"wait_for_subscriber"` // devices stay silent until somebody subscribed, at most this long
}

// GroupConfig is a group of like devices.
type GroupConfig struct {
	Name        string         `yaml:"name"`
	Count       int            `yaml:"count"`       // devices in the group, default 1
	Topic       string         `yaml:"topic"`       // {device} and {group} are replaced
	Every       time.Duration  `yaml:"every"`       // between two messages of one device
	Rate        float64        `yaml:"rate"`        // messages per second and device, instead of every
	Connections int            `yaml:"connections"` // MQTT connections shared by the devices, default 1
	Messages    int64          `yaml:"messages"`    // per device, then it falls silent; 0 means no end
	PadTo       int            `yaml:"pad_to"`      // bytes of payload at least
	Signals     []SignalConfig `yaml:"signals"`
	Replay      string         `yaml:"replay"` // file to publish line by line instead of signals
	Loop        bool           `yaml:"loop"`   // begin the file again at its end
	Lines       int            `yaml:"lines"`  // of the file at most; 0 means all

	lines [][]byte // of Replay
}

// KafkaConfig is the Kafka-compatible broker of the plant.
type KafkaConfig struct {
	Listen     string        `yaml:"listen"`     // loopback address; port 0 takes a free one
	Dir        string        `yaml:"dir"`        // for the log on disk, relative to this file; "" means a temporary one
	Topics     []string      `yaml:"topics"`     // created at start; others when they are first used
	Partitions int           `yaml:"partitions"` // per topic, default 3
	Cut        []CutSchedule `yaml:"cut"`
}

// CutSchedule is one outage of the link to Kafka.
type CutSchedule struct {
	At   time.Duration `yaml:"at"`   // after the start
	For  time.Duration `yaml:"for"`  // length of the outage
	Mode CutMode       `yaml:"mode"` // refuse or hole, default refuse
}

const (
	maxFile        = 1 << 20  // bytes of configuration
	maxReplayFile  = 64 << 20 // bytes of a recording
	maxReplayLine  = 1 << 20
	maxDevices     = 100_000
	maxConnections = 1000
	maxPartitions  = 1000
)

// loadConfig reads and checks a plant. Faults name file, line and column.
func loadConfig(path string) (*Config, error) {
	data, err := readLimited(path, maxFile)
	if err != nil {
		return nil, err
	}
	return parseConfig(path, data)
}

// parseConfig decodes data strictly; name is used in errors and to resolve
// relative paths.
func parseConfig(name string, data []byte) (*Config, error) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, describeYAML(name, nil, err)
	}
	c := &Config{dir: filepath.Dir(name)}
	if err := yaml.UnmarshalWithOptions(data, c, yaml.Strict()); err != nil {
		return nil, describeYAML(name, file, err)
	}
	c.setDefaults()
	ck := &checker{name: name, file: file}
	ck.config(c)
	if len(ck.faults) > 0 {
		return nil, errors.Join(ck.faults...)
	}
	return c, nil
}

func (c *Config) setDefaults() {
	if c.MQTT != nil && c.MQTT.Listen == "" {
		c.MQTT.Listen = "127.0.0.1:1883"
	}
	for i := range c.Devices {
		g := &c.Devices[i]
		g.Count = max(g.Count, 1)
		if g.Connections == 0 {
			g.Connections = 1
		}
		if g.Rate > 0 && g.Every == 0 {
			g.Every = time.Duration(float64(time.Second) / g.Rate)
		}
	}
	for i := range c.Modbus {
		c.Modbus[i].setDefaults(c.dir)
	}
	if k := c.Kafka; k != nil {
		if k.Listen == "" {
			k.Listen = "127.0.0.1:9092"
		}
		if k.Dir != "" && !filepath.IsAbs(k.Dir) {
			k.Dir = filepath.Join(c.dir, k.Dir)
		}
		if k.Partitions == 0 {
			k.Partitions = 3
		}
		for i := range k.Cut {
			if k.Cut[i].Mode == "" {
				k.Cut[i].Mode = CutRefuse
			}
		}
	}
}

// describeYAML puts "file:line:col" before an error of the YAML library and
// keeps its picture of the line with a caret. file may be nil.
func describeYAML(name string, file *ast.File, err error) error {
	var ye yaml.Error
	if errors.As(err, &ye) && ye.GetToken() != nil && ye.GetToken().Position != nil {
		return picture(name, ye)
	}
	// The library names no place for a malformed duration, only its text.
	f := &finder{text: err.Error()}
	if file != nil {
		for _, doc := range file.Docs {
			ast.Walk(f, doc.Body)
		}
	}
	if f.found != nil {
		return picture(name, &yaml.SyntaxError{Message: err.Error(), Token: f.found})
	}
	return fmt.Errorf("read %s: %w", name, err)
}

// picture turns "[line:col] message, source" into "file:line:col: …".
func picture(name string, ye yaml.Error) error {
	text := ye.FormatError(false, true)
	if i := strings.Index(text, "] "); strings.HasPrefix(text, "[") && i > 0 {
		text = text[i+2:]
	}
	p := ye.GetToken().Position
	return fmt.Errorf("%s:%d:%d: %s", name, p.Line, p.Column, text)
}

// finder finds the first scalar whose value is quoted in text.
type finder struct {
	text  string
	found *token.Token
}

// Visit implements ast.Visitor.
func (f *finder) Visit(n ast.Node) ast.Visitor {
	if s, ok := n.(*ast.StringNode); ok && f.found == nil && strings.Contains(f.text, fmt.Sprintf("%q", s.Value)) {
		f.found = s.GetToken()
	}
	return f
}

// checker collects the faults of a decoded configuration with their places.
type checker struct {
	name   string
	file   *ast.File
	faults []error
}

// fault records a fault at a YAML path such as "$.devices[0].every". When the
// key is not in the file, the fault is placed at its nearest parent that is.
func (ck *checker) fault(path, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if tk := ck.find(path); tk != nil && tk.Position != nil {
		ck.faults = append(ck.faults, picture(ck.name, &yaml.SyntaxError{Message: msg, Token: tk}))
		return
	}
	ck.faults = append(ck.faults, fmt.Errorf("%s:1:1: %s", ck.name, msg))
}

func (ck *checker) find(path string) *token.Token {
	for path != "$" && path != "" {
		if p, err := yaml.PathString(path); err == nil {
			if node, err := p.FilterFile(ck.file); err == nil && node != nil {
				return node.GetToken()
			}
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return nil
}

func (ck *checker) config(c *Config) {
	if c.Duration < 0 {
		ck.fault("$.duration", "duration must not be negative")
	}
	if c.MQTT == nil && c.Kafka == nil && len(c.Modbus) == 0 {
		ck.fault("$", "nothing to run: give mqtt:, kafka: or modbus:")
	}
	if c.MQTT != nil {
		ck.loopback("$.mqtt.listen", c.MQTT.Listen)
		if c.MQTT.WaitForSubscriber < 0 {
			ck.fault("$.mqtt.wait_for_subscriber", "must not be negative")
		}
	} else if len(c.Devices) > 0 {
		ck.fault("$.devices", "devices need a broker: give mqtt:")
	}
	seen := map[string]bool{}
	total := 0
	for i := range c.Devices {
		g := &c.Devices[i]
		p := fmt.Sprintf("$.devices[%d]", i)
		ck.group(p, g)
		ck.replay(p, g, c.dir)
		if seen[g.Name] {
			ck.fault(p+".name", "two groups are named %q", g.Name)
		}
		seen[g.Name] = true
		total += g.Count
	}
	if total > maxDevices {
		ck.fault("$.devices", "%d devices, at most %d", total, maxDevices)
	}
	if c.Kafka != nil {
		ck.kafka(c.Kafka)
	}
	ck.modbus(c.Modbus)
}

func (ck *checker) kafka(k *KafkaConfig) {
	ck.loopback("$.kafka.listen", k.Listen)
	if k.Partitions < 1 || k.Partitions > maxPartitions {
		ck.fault("$.kafka.partitions", "must be 1 to %d", maxPartitions)
	}
	end := time.Duration(0)
	for i, cut := range k.Cut {
		p := fmt.Sprintf("$.kafka.cut[%d]", i)
		if cut.At < end {
			ck.fault(p+".at", "must not be before the end of the cut before it (%s)", end)
		}
		if cut.For <= 0 {
			ck.fault(p+".for", "must be more than 0")
		}
		if cut.Mode != CutRefuse && cut.Mode != CutHole {
			ck.fault(p+".mode", "%q is neither %q nor %q", cut.Mode, CutRefuse, CutHole)
		}
		end = cut.At + cut.For
	}
}

// loopback refuses addresses that others than this machine can reach.
func (ck *checker) loopback(path, addr string) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		ck.fault(path, "not an address of the form 127.0.0.1:1883: %q", addr)
		return
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		ck.fault(path, "must be a loopback address, %q is not", host)
	}
}

func readLimited(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, errors.Unwrap(err))
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("read %s: %d bytes, at most %d", path, info.Size(), limit)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, errors.Unwrap(err))
	}
	return data, nil
}
