package gateway

import "time"

// Record is one observation of one device at one moment: either named Values
// or an untouched Payload (both may be present when a codec keeps the
// original). One poll of a hundred registers is one record with a hundred
// values.
//
// A bad reading is a record with bad quality, never a missing record.
type Record struct {
	Source string // configured name of the source
	Device string // what was observed; the partition key. "" lets the sink use Name
	Name   string // topic, register group or node

	Values      []Value
	Payload     []byte // the payload as received, byte for byte
	ContentType string // media type of Payload, RFC 6838; "" when unknown

	Tags []Tag // fixed by configuration or given by the source, e.g. retained=true

	Quality Quality // trust in the whole record
	Reason  string  // why the quality is not good

	Time         time.Time // the device's own time; zero when it gives none
	Received     time.Time // when the gateway received it (stamped by Intake when zero)
	ClockTrusted bool      // whether the gateway's clock was believed at Received

	Lane LaneChoice // where it is to wait; zero = in the source's lane. Not stored: the queue knows
}

// Tag is a fixed key and value attached to a record.
type Tag struct{ Key, Value string }

// Lane is a priority class of the queue. Lanes are forwarded in the order of
// their numbers, lowest first; order within a lane is kept.
type Lane uint8

// The lanes of a queue that is not configured otherwise.
const (
	LaneAlarm     Lane = iota // small and urgent: alarms, events, notices of the gateway itself
	LaneTelemetry             // the normal case
	LaneBulk                  // large and patient: logs, images
)

// LaneNames are the names of those lanes in configuration, headers and on
// disk. Where lanes are configured, the queue knows their names.
func LaneNames() []string { return []string{"alarm", "telemetry", "bulk"} }

// Choice returns the choice of l.
func (l Lane) Choice() LaneChoice { return LaneChoice(l) + 1 }

// LaneChoice is a Lane or none (zero).
type LaneChoice uint8

// or returns the lane chosen, or l when none is.
func (c LaneChoice) or(l Lane) Lane {
	if c == 0 {
		return l
	}
	return Lane(c - 1)
}

// String returns the name of the lane, unless lanes are configured otherwise.
func (l Lane) String() string {
	if names := LaneNames(); int(l) < len(names) {
		return names[l]
	}
	return "lane(?)"
}

// NoticeSource is the source of records that the gateway writes about itself,
// such as a loss in the queue. No configured source may have this name.
const NoticeSource = "waystation"
