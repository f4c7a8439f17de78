// Package config reads the one configuration file of a gateway.
//
// The file is strict YAML: unknown options, wrong types, duplicate names and
// secrets that cannot be read are faults, and all faults of a file are found
// in one go, each with its line, column and a hint. The options of an adapter
// are the fields of its configuration struct; from the same structs come the
// descriptions, the documentation, the example and the JSON schema.
//
// Struct tags: yaml is the name of an option, doc one or more sentences about
// it, example a value as YAML, enum the words it may be (separated by
// commas), unit what a bare number counts, file what a file that holds the
// options holds (see files.go), or which other option may be given instead of
// a required one. Embedded structs are part of the
// struct around them. Defaults are what Adapter.NewSource and NewSink return.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// Config is a whole configuration that was found to be right.
type Config struct {
	Gateway  Gateway
	Buffer   Buffer
	HTTP     HTTP
	Log      Log
	Shutdown Shutdown
	Lanes    []Lane // of the queue, in the order of their numbers
	Sources  []Source
	Sinks    []Sink
	Dir      string // directory of the file; relative paths in it start here
}

// Gateway says who this gateway is.
type Gateway struct {
	ID   string            `yaml:"id" example:"ship-042" doc:"Identity of this gateway, unique in the fleet; it travels with every record. 1 to 64 of A-Z a-z 0-9 . _ -"`
	Tags map[string]string `yaml:"tags" example:"{vessel: aurora}" doc:"Tags put on every record of this gateway."`
}

// Buffer says where and how records wait.
type Buffer struct {
	Dir            string       `yaml:"dir" doc:"Directory of the queue. A relative path starts at the directory of this file."`
	MaxBytes       gateway.Size `yaml:"max_bytes" doc:"Most that the queue may take on disk, at least 16MiB; beyond it policy says what goes, counted and reported."`
	SegmentBytes   gateway.Size `yaml:"segment_bytes" doc:"Size of one file of the queue, 64KiB to 128MiB. Made smaller when max_bytes leaves no room for several."`
	Compression    string       `yaml:"compression" enum:"zstd,s2,none" doc:"How stored records are compressed: zstd is smallest, s2 faster."`
	Policy         string       `yaml:"policy" enum:"lowest-lane,oldest,reject,thin" doc:"What makes room at max_bytes: lowest-lane deletes the oldest records of the least urgent lane; oldest the oldest of any lane; reject deletes nothing and acknowledges nothing until there is room; thin keeps every nth of the oldest records, and then does as lowest-lane."`
	HighWater      int          `yaml:"high_water" unit:"percent" doc:"Part of max_bytes, and of the max_bytes of a lane, above which the status, the log and a record in the most urgent lane warn."`
	ThinEvery      int          `yaml:"thin_every" doc:"With policy thin: of every so many records of a device and signal one is kept, besides the first, the last, the least and the greatest."`
	Large          gateway.Size `yaml:"large" doc:"Size of a stored record from which on it waits in the last lane, whatever its source says, so that it never delays the others. 0B: off."`
	Prefill        bool         `yaml:"prefill" doc:"Write zeros ahead of small commits, so that they overwrite in place: this spares flash while few records arrive."`
	Retain         Retain       `yaml:"retain" doc:"How long delivered records are kept to be sent again. They are the first to go when room is needed."`
	Encryption     Encryption   `yaml:"encryption" doc:"Encryption of stored records and dead letters. Names of lanes, counts and times stay in plain."`
	DeadLetters    DeadLetters  `yaml:"dead_letters" doc:"Records that a sink refused for good, kept for a person."`
	FlashEndurance gateway.Size `yaml:"flash_endurance" example:"20TB" doc:"Bytes that may be written to the medium over its life (TBW), as its data sheet states: the status tells how long that lasts. 0B: not known."`
	Lanes          []laneConfig `yaml:"lanes" doc:"Lanes in the order of their priority, 1 to 16: each has its own order and numbers. Records of a lane that is no longer listed are still delivered."`
}

// DeadLetters says how much of the dead letters is kept.
type DeadLetters struct {
	MaxBytes gateway.Size `yaml:"max_bytes" doc:"Part of buffer.max_bytes for the dead letters, at least 1MiB and at most half of it; beyond it the oldest are deleted, and counted. 0B: an eighth of buffer.max_bytes, at most 64MiB."`
}

// Log says what is logged and how.
type Log struct {
	Level  string `yaml:"level" enum:"debug,info,warn,error" doc:"Least important level that is logged."`
	Format string `yaml:"format" enum:"text,json" doc:"Form of a log line."`
}

// SlogLevel returns the level as slog knows it.
func (l Log) SlogLevel() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return slog.LevelInfo
	}
	return level
}

// Shutdown says how the gateway stops.
type Shutdown struct {
	Timeout time.Duration `yaml:"timeout" doc:"Time for the whole orderly shutdown; what is not sent by then stays in the queue."`
}

// Source is one configured source.
type Source struct {
	Name   string
	Type   string
	Lane   gateway.Lane
	Tags   []gateway.Tag     // sorted by key
	Rules  gateway.Transform // nil = none
	Config gateway.SourceConfig
}

// Sink is one configured sink.
type Sink struct {
	Name   string
	Type   string
	Filter *gateway.Filter     // nil = every record
	Batch  gateway.BatchLimits // zero = the gateway decides
	Config gateway.SinkConfig
}

// defaults returns what holds where the file says nothing.
func defaults() *Config {
	return &Config{
		Buffer: Buffer{Dir: "/var/lib/waystation", MaxBytes: 1 << 30, SegmentBytes: 16 << 20, Compression: "zstd",
			Policy: "lowest-lane", HighWater: 80, ThinEvery: 10, Large: 1 << 20, Prefill: true, Lanes: defaultLanes()},
		HTTP:     HTTP{Listen: "127.0.0.1:8100"},
		Log:      Log{Level: "info", Format: "text"},
		Shutdown: Shutdown{Timeout: 10 * time.Second},
	}
}

// section is one of the mappings at the top of the file.
type section struct {
	name string
	doc  string
	into any // pointer to the struct
}

func (c *Config) sections() []section {
	return []section{
		{"gateway", "Who this gateway is.", &c.Gateway},
		{"buffer", "Where and how records wait until they are delivered.", &c.Buffer},
		{"http", "Where the status page and the API listen, and whom they answer.", &c.HTTP},
		{"log", "What is logged and how.", &c.Log},
		{"shutdown", "How the gateway stops.", &c.Shutdown},
	}
}

// Load reads the file at path. The error is a Faults, also when the file
// cannot be read. No connection is opened; files and environment variables
// that secrets refer to are read.
func Load(path string, adapters []gateway.Adapter) (*Config, error) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() && info.Size() > maxFileBytes {
		err = fmt.Errorf("is larger than %d MiB: not a configuration", maxFileBytes>>20)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		if pe, ok := errors.AsType[*os.PathError](err); ok {
			err = pe.Err // the path is said by the fault
		}
		return nil, Faults{{File: path, Msg: "cannot be read: " + err.Error()}}
	}
	return Parse(path, data, adapters)
}

// Parse reads a configuration from memory. name is its path, used in messages
// and as the start of relative paths. The error is a Faults.
func Parse(name string, data []byte, adapters []gateway.Adapter) (*Config, error) {
	rep := newReporter(name, normal(data))
	cfg := defaults()
	cfg.Dir = rep.dir
	named := &files{read: map[fileKey]*include{}, used: map[string]*include{}}
	if root := parseTree(rep); root != nil && len(rep.faults) < maxFaults {
		f := &filler{decoder: decoder{rep: rep, known: map[string]bool{}, files: named}, cfg: cfg, adapters: adapters}
		f.file(root)
	}
	if err := named.result(rep); err != nil {
		return nil, err
	}
	if abs, err := filepath.Abs(cfg.Dir); err == nil {
		cfg.Dir = abs
	}
	cfg.Buffer.Dir = gateway.InDir(cfg.Dir, cfg.Buffer.Dir) // whole, so that nobody puts Dir before it once more
	return cfg, nil
}

// normal returns the text of a file with \n line breaks and without byte order mark.
func normal(data []byte) string {
	src := strings.TrimPrefix(string(data), "\ufeff")
	src = strings.ReplaceAll(src, "\r\n", "\n")
	return strings.ReplaceAll(src, "\r", "\n")
}
