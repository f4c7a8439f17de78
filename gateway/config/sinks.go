package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// filterConfig is the filter of a sink as it is written.
type filterConfig struct {
	Include []conditionConfig `yaml:"include" doc:"Only records that one of these conditions matches. Left out: all of them."`
	Exclude []conditionConfig `yaml:"exclude" doc:"But none that one of these matches. The gateway's own notices are sent in any case, unless a condition here says source: waystation."`
}

// conditionConfig is one condition: what is given must hold.
type conditionConfig struct {
	Source string            `yaml:"source" doc:"Pattern of the name of the source; waystation is the gateway itself."`
	Lane   string            `yaml:"lane" example:"alarm" doc:"Lane the records wait in, one of buffer.lanes."`
	Tags   map[string]string `yaml:"tags" doc:"Tags of the records with the values they must have; values may be patterns, such as * for any."`
	Match  matchConfig       `yaml:",inline"`
}

// batchConfig bounds what is sent at once.
type batchConfig struct {
	MaxRecords int           `yaml:"max_records" doc:"Records sent at once, at most; 0: the gateway decides, up to 2,048, over a link with long round trips 8,192."`
	MaxBytes   gateway.Size  `yaml:"max_bytes" doc:"Stored size of the records sent at once, at most; 0: the gateway decides by how long each sending takes, 8 KiB to 1 MiB, over a link with long round trips 4 MiB."`
	MaxWait    time.Duration `yaml:"max_wait" doc:"How long records are gathered after a sending that was not full: fewer and larger requests on a metered link. Records of the first lane (alarms) do not wait. 0: up to 40ms under flow."`
}

// Bounds of batchConfig; package gateway checks the same.
const (
	maxBatchRecords = 8192
	minBatchBytes   = 8 << 10
	maxBatchBytes   = 4 << 20
	maxBatchWait    = time.Hour
)

// filter makes the filter of a sink.
func (f *filler) filter(item *node, path string, c *filterConfig) *gateway.Filter {
	if len(c.Include)+len(c.Exclude) == 0 || f.faulty(join(path, "filter")) {
		return nil
	}
	of := func(key string, list []conditionConfig) []gateway.Condition {
		out := make([]gateway.Condition, len(list))
		for i, c := range list {
			at := fmt.Sprintf("filter.%s[%d]", key, i)
			if c.Lane != "" {
				f.lane(item, path, at+".lane", c.Lane)
			}
			out[i] = gateway.Condition{Source: c.Source, Lane: c.Lane, Device: c.Match.Device, Name: c.Match.Name, Quality: qualityOf(c.Match.Quality),
				Value: c.Match.Value, Above: c.Match.Above, Below: c.Match.Below, Equals: c.Match.Equals, Tags: f.tags(f.root, join(path, at), c.Tags)}
		}
		return out
	}
	out, faults := gateway.NewFilter(of("include", c.Include), of("exclude", c.Exclude))
	for _, e := range slices.Backward(faults) { // a fault hides those above it
		e.Key = "filter." + e.Key
		f.check(item, path, e)
	}
	return out
}

// batch checks the limits of the batches to a sink.
func (f *filler) batch(item *node, path string, c batchConfig) gateway.BatchLimits {
	bad := func(key, format string, args ...any) {
		f.check(item, path, &gateway.FieldError{Key: "batch." + key, Msg: fmt.Sprintf(format, args...), Hint: "leave it out to let the gateway decide"})
	}
	if c.MaxRecords < 0 || c.MaxRecords > maxBatchRecords {
		bad("max_records", "%d is out of range: 1 to %d", c.MaxRecords, maxBatchRecords)
	}
	if c.MaxBytes != 0 && (c.MaxBytes < minBatchBytes || c.MaxBytes > maxBatchBytes) {
		bad("max_bytes", "%s is out of range: 8KiB to 4MiB", c.MaxBytes)
	}
	if c.MaxWait < 0 || c.MaxWait > maxBatchWait {
		bad("max_wait", "%s is out of range: 0s to 1h", c.MaxWait)
	}
	return gateway.BatchLimits{Records: c.MaxRecords, Bytes: int(c.MaxBytes), Wait: c.MaxWait}
}

// qualityOf returns the quality of that name, nil for none.
func qualityOf(name string) *gateway.Quality {
	for q := gateway.Good; q <= gateway.Bad; q++ {
		if q.String() == name {
			return &q
		}
	}
	return nil
}
