package gateway

import "time"

// LinkState says how a source or a sink is doing. "up" means that data was
// seen to flow or was confirmed, not that a socket is open.
type LinkState string

// The link states.
const (
	Starting   LinkState = "starting"   // not tried yet
	Connecting LinkState = "connecting" // trying
	Up         LinkState = "up"         // connected
	Down       LinkState = "down"       // lost or refused; tried again after a pause
	Failed     LinkState = "failed"     // will not be tried again until the configuration changes
	Stopped    LinkState = "stopped"    // shut down
)

// Status is the whole state of a gateway, as served at /api/v1/status.
type Status struct {
	Gateway      string         `json:"gateway"`
	Version      string         `json:"version"`
	PID          int            `json:"pid"`
	Started      time.Time      `json:"started"`
	Now          time.Time      `json:"now"`
	ClockTrusted bool           `json:"clock_trusted"`
	Ready        bool           `json:"ready"`
	Sources      []SourceStatus `json:"sources"`
	Queue        QueueStatus    `json:"queue"`
	Sinks        []SinkStatus   `json:"sinks"`
	Books        Books          `json:"books"`
}

// Link is the state of a connection and why.
type Link struct {
	State   LinkState  `json:"state"`
	Since   time.Time  `json:"since"`           // of the last change of state
	Error   string     `json:"error,omitempty"` // of the last failure, while not up
	Retries int64      `json:"retries"`         // failed tries since it was last up
	NextTry *time.Time `json:"next_try,omitempty"`
}

// SourceStatus counts since the start of the process.
type SourceStatus struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Link       `json:"link"`
	Received   int64      `json:"received"`    // records handed in
	Queued     int64      `json:"queued"`      // records in a synced commit
	Refused    int64      `json:"refused"`     // records the queue could not take; not acknowledged
	BadQuality int64      `json:"bad_quality"` // records queued with quality bad
	Bytes      int64      `json:"bytes"`       // stored size of the records handed in
	LastRecord *time.Time `json:"last_record,omitempty"`
	Notes      []string   `json:"notes,omitempty"` // standing warnings, e.g. a subscription at QoS 0
}

// QueueStatus is the state of the durable queue.
type QueueStatus struct {
	Dir         string       `json:"dir"`
	Generation  string       `json:"generation"`
	State       string       `json:"state"` // ok, or why it does not take records
	Error       string       `json:"error,omitempty"`
	Bytes       int64        `json:"bytes"`
	MaxBytes    int64        `json:"max_bytes"`
	Commits     int64        `json:"commits"`
	Quarantined int64        `json:"quarantined"` // segments set aside because they could not be read
	Lanes       []LaneStatus `json:"lanes"`
}

// LaneStatus is the state of one lane.
type LaneStatus struct {
	Name     string `json:"name"`
	First    uint64 `json:"first"` // oldest seq still stored
	Next     uint64 `json:"next"`  // seq of the next record
	Segments int    `json:"segments"`
	Bytes    int64  `json:"bytes"`
}

// SinkStatus counts over the life of the queue, across restarts.
type SinkStatus struct {
	Name         string `json:"name"`
	Type         string `json:"type"`
	Link         `json:"link"`
	Sent         uint64     `json:"sent"`          // confirmed by the far side
	DeadLettered uint64     `json:"dead_lettered"` // refused for good, kept in the dead letters
	Lost         uint64     `json:"lost"`          // evicted by the byte budget or unreadable; reported upstream
	Waiting      uint64     `json:"waiting"`       // stored and not yet confirmed
	LastSent     *time.Time `json:"last_sent,omitempty"`
}

// Books must balance: for each sink, queued = sent + dead-lettered + lost + waiting.
type Books struct {
	In       int64  `json:"in"`       // records handed in by sources since the start
	Queued   uint64 `json:"queued"`   // records ever queued
	Balanced bool   `json:"balanced"` // whether every sink's line adds up
}
