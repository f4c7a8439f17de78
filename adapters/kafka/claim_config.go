package kafka

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// Large says what becomes of records that are too large for the topic.
type Large struct {
	Above   gateway.Size `yaml:"above" doc:"Values of more than this go to the store, and a reference goes to Kafka. 0B: what does not fit in max_message_bytes."`
	Store   Store        `yaml:"store" doc:"Where large values go. Without a store a record that is too large goes to the dead letters."`
	Spool   gateway.Size `yaml:"spool_bytes" doc:"Most that may wait on this disk for its upload; at least 40MiB. The records stay in the queue besides."`
	Rate    gateway.Size `yaml:"bytes_per_second" doc:"Most that uploads take of the link. 0B: no limit."`
	Refused string       `yaml:"refused" doc:"What becomes of a record whose value the store refuses for good (no permission, no such bucket): wait (its lane waits, the others go on) or dead-letter."`
}

// Store says where large values are kept.
type Store struct {
	Type string `yaml:"type" doc:"s3 (Amazon S3 and what speaks its protocol), directory (a mounted disk or share); none when empty."`
	Key  string `yaml:"key" doc:"Name of an object. May hold {gateway} {generation} {lane} {seq} {source} {device} {name} {sha256} and the first n digits of the hash as {sha256:n}; '/' makes folders. It must tell records apart."`

	Endpoint  string         `yaml:"endpoint" doc:"s3: address of the service." example:"https://s3.eu-central-1.amazonaws.com"`
	Region    string         `yaml:"region" doc:"s3: region that requests are signed for."`
	Bucket    string         `yaml:"bucket" doc:"s3: bucket; it must exist."`
	PathStyle bool           `yaml:"path_style" doc:"s3: the bucket stands in the path (https://host/bucket/...) and not in the name of the host."`
	AccessKey gateway.Secret `yaml:"access_key" doc:"s3: access key, as env:NAME, file:PATH, credential:NAME or the text itself. Empty: requests are not signed."`
	SecretKey gateway.Secret `yaml:"secret_key" doc:"s3: secret key of the access key."`
	TLS       gateway.TLS    `yaml:"tls" doc:"s3: encryption of an https endpoint."`

	Path     string       `yaml:"path" doc:"directory: where objects go. It is never made: while it is missing, uploads wait." example:"/mnt/depot"`
	MaxBytes gateway.Size `yaml:"max_bytes" doc:"directory: most that all files below path may take; beyond it uploads wait until somebody makes room. 0B: no limit."`
	Mounted  bool         `yaml:"mounted" doc:"directory: write only while path is on another file system than the queue, so that a disk that is not plugged in does not fill this one."`
}

// Words and bounds of the options.
const (
	wordS3        = "s3"
	wordDirectory = "directory"
	// minSpool holds the largest record of the queue, encoded as text.
	minSpool = 40 << 20
	// minClaimMessage leaves room for a reference with its headers.
	minClaimMessage = 8 << 10
	defaultKey      = "{gateway}/{generation}/{lane}/{seq}-{sha256:12}"
)

// newLarge returns the defaults.
func newLarge() Large {
	return Large{Spool: 256 << 20, Refused: wordWait,
		Store: Store{Key: defaultKey, Region: "us-east-1", PathStyle: true}}
}

// validate adds the faults of the options, which are below "large" of a sink
// that takes messages of max bytes.
func (l *Large) validate(f *faults, maxMessage gateway.Size) {
	f.oneOf("large.refused", l.Refused, wordWait, wordDeadLetter)
	s := &l.Store
	if s.Type == "" {
		if l.Above != 0 || s.Endpoint != "" || s.Bucket != "" || s.Path != "" {
			f.add("large.store.type", "is required with the other options of large", "s3 or directory")
		}
		return
	}
	f.oneOf("large.store.type", s.Type, wordS3, wordDirectory)
	if maxMessage < minClaimMessage {
		f.add("max_message_bytes", fmt.Sprintf("%d leaves no room for a reference to a large value", int64(maxMessage)), fmt.Sprintf("at least %d with large.store", minClaimMessage))
	}
	if l.Above > maxMessage {
		f.add("large.above", fmt.Sprintf("%s is more than max_message_bytes (%d)", l.Above, int64(maxMessage)), "leave it out: what does not fit in a message goes to the store")
	} else if l.Above != 0 && l.Above < 1<<10 {
		f.add("large.above", "must be 0B or at least 1KiB", "")
	}
	if l.Spool < minSpool {
		f.add("large.spool_bytes", fmt.Sprintf("%s is too small for the largest record", l.Spool), "at least 40MiB")
	}
	if l.Rate != 0 && l.Rate < 1<<10 {
		f.add("large.bytes_per_second", "must be 0B or at least 1KiB", "")
	}
	if err := checkKey(s.Key); err != nil {
		f.add("large.store.key", err.Error(), "for instance "+defaultKey)
	}
	if s.Type == wordS3 {
		s.validateS3(f)
	} else if s.Type == wordDirectory {
		s.validateDirectory(f)
	}
}

func (s *Store) validateS3(f *faults) {
	u, err := url.Parse(s.Endpoint)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		f.add("large.store.endpoint", fmt.Sprintf("%q is not the address of a service", s.Endpoint), "for instance https://s3.eu-central-1.amazonaws.com, without the bucket")
	}
	if len(s.Bucket) < 3 || len(s.Bucket) > 63 || strings.Trim(s.Bucket, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
		f.add("large.store.bucket", fmt.Sprintf("%q is not the name of a bucket", s.Bucket), "3 to 63 of a-z 0-9 . -")
	}
	if s.Region == "" {
		f.add("large.store.region", "must not be empty", "us-east-1 suits services that have none")
	}
	if (s.AccessKey == "") != (s.SecretKey == "") {
		f.add("large.store.access_key", "access_key and secret_key are needed together", "")
	}
	if (s.TLS.Cert == "") != (s.TLS.Key == "") {
		f.add("large.store.tls.cert", "cert and key are needed together", "")
	}
	if s.Path != "" {
		f.add("large.store.path", "is an option of type directory", "")
	}
}

func (s *Store) validateDirectory(f *faults) {
	if !filepath.IsAbs(s.Path) {
		f.add("large.store.path", fmt.Sprintf("%q is not an absolute path", s.Path), "for instance /mnt/depot")
	}
	if s.Endpoint != "" || s.Bucket != "" || s.AccessKey != "" {
		f.add("large.store.endpoint", "endpoint, bucket and keys are options of type s3", "")
	}
}
