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
	Kept      int           `json:"kept"`      // entries that wait for a person
	Evicted   int64         `json:"evicted"`   // deleted to keep its byte budget, since the start
	Bytes     int64         `json:"bytes"`     // stored
	MaxBytes  int64         `json:"max_bytes"` // budget
	Retrying  int           `json:"retrying"`  // of Kept: asked to be sent again
	Delivered int64         `json:"delivered"` // by a retry and so removed, since the start
	Dropped   int64         `json:"dropped"`   // by a person, since the start
	Sinks     []SinkLetters `json:"sinks,omitempty"`
}

// SinkLetters is the state of the dead letters of one sink.
type SinkLetters struct {
	Sink       string     `json:"sink"`           // "" = not known: the entries cannot be read
	Gone       bool       `json:"gone,omitempty"` // the sink is not configured any more
	Kept       int        `json:"kept"`
	Bytes      int64      `json:"bytes"`
	Oldest     *time.Time `json:"oldest,omitempty"`     // when the oldest was refused
	Retrying   int        `json:"retrying"`             // that wait to be sent to this sink again
	Unreported int        `json:"unreported,omitempty"` // that wait to be sent to its dead-letter topic
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
	Filtered   int64      `json:"filtered"`    // records dropped by rules
	Refused    int64      `json:"refused"`     // records the queue could not take; not acknowledged
	InFlight   int64      `json:"in_flight"`   // records handed in and not answered yet
	BadQuality int64      `json:"bad_quality"` // records queued with quality bad
	Bytes      int64      `json:"bytes"`       // stored size of the records handed in
	LastRecord *time.Time `json:"last_record,omitempty"`
	Balanced   bool       `json:"balanced"`        // received = queued + filtered + refused + in flight
	Notes      []string   `json:"notes,omitempty"` // standing warnings, e.g. a subscription at QoS 0
	Facts      []Fact     `json:"facts,omitempty"`
	Measures   []Measure  `json:"-"` // for monitoring
}

// QueueStatus is the state of the durable queue. What is counted is counted
// since the queue was opened.
type QueueStatus struct {
	Dir         string       `json:"dir"`
	Generation  string       `json:"generation"`
	State       string       `json:"state"` // ok, or why it does not take records: full, read-only, gone, no-key, failing
	Error       string       `json:"error,omitempty"`
	Bytes       int64        `json:"bytes"`
	MaxBytes    int64        `json:"max_bytes"`
	HighWater   bool         `json:"high_water"`            // above the mark of the budget that warns
	Retained    int64        `json:"retained_bytes"`        // of Bytes: delivered and kept to be sent again
	Growth      *float64     `json:"growth_bytes_per_hour"` // over the last minutes, without what is retained; null when not known yet
	FullIn      *float64     `json:"full_in_hours"`         // at that rate; null when it does not grow
	Payload     int64        `json:"payload_bytes"`         // records committed, before compression
	Stored      int64        `json:"stored_bytes"`          // the same compressed
	Device      int64        `json:"device_bytes"`          // given to block devices by this process; 0 when not known
	WriteAmp    *float64     `json:"write_amplification"`   // Device ÷ Payload; null when not known
	Flash       *FlashStatus `json:"flash"`                 // null when Device is not known
	Commits     int64        `json:"commits"`               // synced
	CommitTimes Histogram    `json:"commit_seconds"`        // how long they took
	Evictions   int64        `json:"evictions"`             // segments deleted before they were sent
	Thinned     int64        `json:"thinned"`               // records taken out by policy thin
	Quarantined int64        `json:"quarantined"`           // segments set aside because they could not be read
	Lanes       []LaneStatus `json:"lanes"`
}

// FlashStatus estimates how long the medium lasts.
type FlashStatus struct {
	PerDay    int64    `json:"bytes_per_day"`   // written, at the mean since the start
	Endurance int64    `json:"endurance_bytes"` // as configured; 0 when not known
	Days      *float64 `json:"days"`            // until a new medium has taken that; null when not known
}

// Histogram counts durations. Counts[i] are those of at most Bounds[i] seconds
// and above the bound before; the last of Counts has no bound.
type Histogram struct {
	Bounds []float64 `json:"bounds"`
	Counts []int64   `json:"counts"`
	Sum    float64   `json:"sum"` // seconds
}

// LaneStatus is the state of one lane.
type LaneStatus struct {
	Name       string     `json:"name"`
	First      uint64     `json:"first"` // oldest seq still stored
	Next       uint64     `json:"next"`  // seq of the next record
	Segments   int        `json:"segments"`
	Bytes      int64      `json:"bytes"`
	MaxBytes   int64      `json:"max_bytes"` // of the lane alone; 0 = none
	HighWater  bool       `json:"high_water"`
	Oldest     *time.Time `json:"oldest_waiting,omitempty"` // when the oldest record that a sink waits for was stored
	Generation string     `json:"generation"`               // of the queue that gave the seqs
	Origin     string     `json:"origin,omitempty"`         // who that queue belonged to, when it is not this one
	Retired    bool       `json:"retired,omitempty"`        // not configured: delivered after the others
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
	Filtered     uint64     `json:"filtered"`      // left out by the filter of the sink
	Balanced     bool       `json:"balanced"`      // queued since the sink was first configured = the five above
	LastSent     *time.Time `json:"last_sent,omitempty"`
	Facts        []Fact     `json:"facts,omitempty"`
}

// Books must balance: for each source, what it handed in since the start =
// queued + filtered + refused + in flight; for each sink, what was queued since
// it was first configured = sent + dead-lettered + lost + filtered + waiting.
type Books struct {
	In       int64  `json:"in"`       // records handed in by sources since the start
	Filtered int64  `json:"filtered"` // of these, dropped by rules
	Queued   uint64 `json:"queued"`   // records ever queued
	Balanced bool   `json:"balanced"` // whether every source's and every sink's line adds up
}

// queueState names why the queue takes no records.
func queueState(err error) string {
	for _, s := range []struct {
		err   error
		state string
	}{
		{buffer.ErrGone, "gone"},
		{buffer.ErrFull, "full"},
		{buffer.ErrReadOnly, "read-only"},
		{buffer.ErrNoKey, "no-key"},
	} {
		if errors.Is(err, s.err) {
			return s.state
		}
	}
	return "failing"
}

// queueStatus puts the queue's figures into the status.
func queueStatus(s buffer.Stats) QueueStatus {
	q := QueueStatus{Dir: s.Dir, Generation: s.Generation, State: "ok", Bytes: s.Bytes, MaxBytes: s.MaxBytes, HighWater: s.HighWater,
		Retained: s.Retained, Payload: s.Payload, Stored: s.Stored, Device: s.Device, Commits: s.Commits,
		CommitTimes: Histogram(s.CommitTimes), Evictions: s.Evictions, Thinned: s.Thinned, Quarantined: s.Quarantined}
	if s.Err != nil {
		q.Error, q.State = s.Err.Error(), queueState(s.Err)
	}
	if s.Device > 0 && s.Payload > 0 {
		amp := float64(s.Device) / float64(s.Payload)
		q.WriteAmp = &amp
	}
	for _, ln := range s.Lanes {
		l := LaneStatus{Name: ln.Name, First: ln.First, Next: ln.Next, Segments: ln.Segments, Bytes: ln.Bytes, MaxBytes: ln.MaxBytes,
			HighWater: ln.HighWater, Generation: ln.Generation, Origin: ln.Origin, Retired: ln.Retired}
		if !ln.Oldest.IsZero() {
			l.Oldest = &ln.Oldest
		}
		q.Lanes = append(q.Lanes, l)
	}
	return q
}

// status puts a sink's figures over all lanes into the status.
func (f *forwarder) status(lanes []buffer.CursorStats) SinkStatus {
	s := SinkStatus{Name: f.name, Type: f.typ, Link: f.link.status(), Balanced: true, Facts: append(factsOf(f.sink), f.parkedFacts()...)}
	for _, c := range lanes {
		s.Sent, s.DeadLettered, s.Lost, s.Waiting = s.Sent+c.Sent, s.DeadLettered+c.Dead, s.Lost+c.Lost, s.Waiting+c.Waiting
		s.Filtered += c.Filtered
		s.Balanced = s.Balanced && c.From+c.Sent+c.Dead+c.Lost+c.Filtered+c.Waiting == c.End
	}
	if last := f.lastSent.Load(); last != 0 {
		t := time.Unix(0, last)
		s.LastSent = &t
	}
	return s
}
