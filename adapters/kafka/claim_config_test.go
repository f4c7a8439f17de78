package kafka

import (
	"errors"
	"testing"

	"github.com/waystation-iot/waystation/gateway"
)

// Every option of large that cannot be right is named, alone.
func TestLargeOptions(t *testing.T) {
	s3 := func(change func(*Large)) func(*Config) {
		return func(c *Config) {
			c.Large.Store.Type, c.Large.Store.Endpoint, c.Large.Store.Bucket = wordS3, "https://s3.example", "images"
			change(&c.Large)
		}
	}
	dir := func(change func(*Large)) func(*Config) {
		return directory("/mnt/depot", func(c *Config) { change(&c.Large) })
	}
	for _, tc := range []struct {
		key    string // "" = no fault
		change func(*Config)
	}{
		{"", s3(func(*Large) {})},
		{"", dir(func(*Large) {})},
		{"large.store.type", func(c *Config) { c.Large.Store.Bucket = "images" }},
		{"large.store.type", s3(func(l *Large) { l.Store.Type = "ftp" })},
		{"large.store.endpoint", s3(func(l *Large) { l.Store.Endpoint = "https://s3.example/images" })},
		{"large.store.endpoint", s3(func(l *Large) { l.Store.Endpoint = "s3.example" })},
		{"large.store.bucket", s3(func(l *Large) { l.Store.Bucket = "Images" })},
		{"large.store.region", s3(func(l *Large) { l.Store.Region = "" })},
		{"large.store.access_key", s3(func(l *Large) { l.Store.AccessKey = "env:X" })},
		{"large.store.tls.cert", s3(func(l *Large) { l.Store.TLS.Key = "x" })},
		{"large.store.path", s3(func(l *Large) { l.Store.Path = "/mnt" })},
		{"large.store.path", dir(func(l *Large) { l.Store.Path = "depot" })},
		{"large.store.endpoint", dir(func(l *Large) { l.Store.Bucket = "images" })},
		{"large.store.key", dir(func(l *Large) { l.Store.Key = "{device}" })},
		{"large.above", dir(func(l *Large) { l.Above = 5 << 20 })},
		{"large.above", dir(func(l *Large) { l.Above = 100 })},
		{"large.spool_bytes", dir(func(l *Large) { l.Spool = 1 << 20 })},
		{"large.bytes_per_second", dir(func(l *Large) { l.Rate = 10 })},
		{"large.refused", dir(func(l *Large) { l.Refused = "drop" })},
		{"max_message_bytes", func(c *Config) { dir(func(*Large) {})(c); c.MaxMessage = 4 << 10 }},
	} {
		c := good()
		tc.change(c)
		err := c.Validate()
		var f *gateway.FieldError
		if tc.key == "" {
			if err != nil {
				t.Error(err)
			}
		} else if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 1 || !errors.As(err, &f) || f.Key != tc.key {
			t.Errorf("%s: %v", tc.key, err)
		}
	}
}
