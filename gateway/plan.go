package gateway

import (
	"context"
	"io"
)

// Plan is what a source will read and how, as a person reads it.
type Plan struct {
	Tables   []PlanTable `json:"tables"`
	Findings []Finding   `json:"findings,omitempty"` // a Fail is a plan that cannot be kept
}

// PlanTable is a part of a Plan: requests, or how busy a line is.
type PlanTable struct {
	Title string     `json:"title"`
	Head  []string   `json:"head"`
	Rows  [][]string `json:"rows"`
}

// Planner is a SourceConfig that can tell what it will read without opening a
// connection. It is called on a valid configuration.
type Planner interface{ Plan(env Env) Plan }

// Exclusive is a SourceConfig that needs something for itself, such as a
// serial port or the one connection a device takes. Two sources with the same
// Occupies are a fault of the configuration; "" is nothing.
type Exclusive interface {
	// Occupies names the thing, and Alternative says what to do when two
	// sources want it.
	Occupies() string
	Alternative() string
}

// Browse asks an adapter what there is at an address.
type Browse struct {
	URL      string                             // begins with one of Adapter.Schemes
	Options  map[string]string                  // of the adapter, from --set name=value
	Out      io.Writer                          // takes a configuration to start from
	Progress func(done, total int, what string) // may be called often; total 0 = not known
	Note     func(format string, args ...any)   // tells a person what was found or went wrong
}

// Browser is the part of an adapter that looks around, politely and without
// changing anything: it may take minutes and ends soon after ctx does.
type Browser func(ctx context.Context, b *Browse) error
