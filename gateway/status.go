package gateway

import (
	"errors"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

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
	DeadLetters  LetterStatus   `json:"dead_letters"`
	Books        Books          `json:"books"`
}

// LetterStatus is the state of the store of dead letters.
type LetterStatus struct {
	Kept    int   `json:"kept"`    // entries that wait for a person
	Evicted int64 `json:"evicted"` // deleted to keep its byte budget, since the start
}

// Link is the state of a connection and why.
type Link struct {
	State   LinkState  `json:"state"`
	Since   time.Time  `json:"since"`           // of the last change of state
	Error   string     `json:"error,omitempty"` // of the last failure, while not up
	Retries int64      `json:"retries"`         // failed tries since it was last up
	NextTry *time.Time `json:"next_try,omitempty"`
	Panics  int64      `json:"panics,omitempty"` // recovered since the start; each is a bug to report
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
	Balanced     bool       `json:"balanced"`      // queued since the sink was first configured = the four above
	LastSent     *time.Time `json:"last_sent,omitempty"`
}

// Books must balance: for each sink, what was queued since it was first
// configured = sent + dead-lettered + lost + waiting.
type Books struct {
	In       int64  `json:"in"`       // records handed in by sources since the start
	Queued   uint64 `json:"queued"`   // records ever queued
	Balanced bool   `json:"balanced"` // whether every sink's line adds up
}

// queueStatus puts the queue's figures into the status.
func queueStatus(s buffer.Stats) QueueStatus {
	q := QueueStatus{Dir: s.Dir, Generation: s.Generation, State: "ok", Bytes: s.Bytes, MaxBytes: s.MaxBytes,
		Commits: s.Commits, Quarantined: s.Quarantined}
	if s.Err != nil {
		q.Error = s.Err.Error()
		switch {
		case errors.Is(s.Err, buffer.ErrFull):
			q.State = "full"
		case errors.Is(s.Err, buffer.ErrReadOnly):
			q.State = "read-only"
		default:
			q.State = "failing"
		}
	}
	for _, ln := range s.Lanes {
		q.Lanes = append(q.Lanes, LaneStatus{Name: ln.Name, First: ln.First, Next: ln.Next, Segments: ln.Segments, Bytes: ln.Bytes})
	}
	return q
}

// status puts a sink's figures over all lanes into the status.
func (f *forwarder) status(lanes []buffer.CursorStats) SinkStatus {
	s := SinkStatus{Name: f.name, Type: f.typ, Link: f.link.status(), Balanced: true}
	for _, c := range lanes {
		s.Sent, s.DeadLettered, s.Lost, s.Waiting = s.Sent+c.Sent, s.DeadLettered+c.Dead, s.Lost+c.Lost, s.Waiting+c.Waiting
		s.Balanced = s.Balanced && c.From+c.Sent+c.Dead+c.Lost+c.Waiting == c.End
	}
	if last := f.lastSent.Load(); last != 0 {
		t := time.Unix(0, last)
		s.LastSent = &t
	}
	return s
}
