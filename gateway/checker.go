package gateway

import "context"

// Level says how a Finding is meant.
type Level string

// The levels.
const (
	OK   Level = "ok"   // as it should be
	Note Level = "warn" // works, but somebody should know or act
	Fail Level = "fail" // records will not flow
)

// Finding is one thing that a check of the far side found.
type Finding struct {
	Level  Level  `json:"level"`
	What   string `json:"what"`          // what was looked at: "broker kafka:9093", "topic fleet"
	Detail string `json:"detail"`        // what was found, in plain words
	Fix    string `json:"fix,omitempty"` // what to do, a command where there is one
}

// Checker is a SourceConfig or SinkConfig that can try its far side out. Check
// connects, looks, writes no record and takes none, and reports each finding as
// it comes; it ends soon after ctx does. It is called on a valid configuration
// and must not disturb a gateway that runs with the same one.
type Checker interface {
	Check(ctx context.Context, env Env, report func(Finding))
}
