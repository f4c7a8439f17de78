package observe

import (
	"math"
	"strconv"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// LetterJSON is a dead letter as the API and an export show it;
// docs/dead-letters.md describes it.
type LetterJSON struct {
	ID          uint64      `json:"id"`
	State       string      `json:"state"` // kept, retry or unreadable
	Sink        string      `json:"sink"`
	Gateway     string      `json:"gateway,omitempty"` // whose queue gave the seq; left out for this gateway's
	Generation  string      `json:"generation"`
	Lane        string      `json:"lane"`
	Seq         uint64      `json:"seq"`
	At          time.Time   `json:"at"`     // when it was refused last
	Reason      string      `json:"reason"` // of that
	FirstAt     *time.Time  `json:"first_at,omitempty"`
	FirstReason string      `json:"first_reason,omitempty"`
	Retries     int         `json:"retries,omitempty"` // that were refused
	RetryTo     string      `json:"retry_to,omitempty"`
	Asked       *time.Time  `json:"asked,omitempty"`
	Reported    bool        `json:"reported,omitempty"`
	ReportError string      `json:"report_error,omitempty"`
	Source      string      `json:"source,omitempty"`
	Device      string      `json:"device,omitempty"`
	Name        string      `json:"name,omitempty"`
	Bytes       int         `json:"bytes"`             // of the stored record
	Payload     []byte      `json:"payload,omitempty"` // base64
	Record      *RecordJSON `json:"record,omitempty"`  // only of one letter, and in an export
	Stored      []byte      `json:"stored,omitempty"`  // likewise: the record as the gateway stores it, base64
}

// RecordJSON is the rest of the record of a dead letter.
type RecordJSON struct {
	Received     time.Time         `json:"received"`
	ClockTrusted bool              `json:"clock_trusted"`
	Time         *time.Time        `json:"time,omitempty"`
	Quality      string            `json:"quality"`
	Reason       string            `json:"reason,omitempty"`
	ContentType  string            `json:"content_type,omitempty"`
	Tags         map[string]string `json:"tags,omitempty"`
	Values       []ValueJSON       `json:"values,omitempty"`
}

// ValueJSON is one value of a record.
type ValueJSON struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Value   any    `json:"value"` // bytes are base64; integers beyond 2^53 and numbers JSON has not are text
	Unit    string `json:"unit,omitempty"`
	Quality string `json:"quality,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// NewLetterJSON makes the JSON form of a letter, with the whole record or
// without its values, tags and stored form.
func NewLetterJSON(l *gateway.DeadLetter, whole bool) LetterJSON {
	j := LetterJSON{ID: l.ID, State: "kept", Sink: l.Sink, Gateway: l.Gateway, Generation: l.Generation, Lane: l.LaneName, Seq: l.Seq, At: l.At.UTC(),
		Reason: l.Reason, FirstAt: optional(l.FirstAt), FirstReason: l.FirstReason, Retries: l.Retries, RetryTo: l.RetryTo, Asked: optional(l.Asked),
		Reported: l.Reported, ReportError: l.ReportError, Bytes: len(l.Stored)}
	switch {
	case l.Unreadable:
		j.State = "unreadable"
	case l.RetryTo != "":
		j.State = "retry"
	}
	var rec gateway.Record
	var dec gateway.RecordDecoder
	if !l.Unreadable && dec.Decode(&rec, l.Stored) == nil {
		j.Source, j.Device, j.Name, j.Payload = rec.Source, rec.Device, rec.Name, rec.Payload
		if whole {
			j.Record = newRecordJSON(&rec)
		}
	}
	if whole {
		j.Stored = l.Stored
	}
	return j
}

func newRecordJSON(r *gateway.Record) *RecordJSON {
	j := &RecordJSON{Received: r.Received.UTC(), ClockTrusted: r.ClockTrusted, Time: optional(r.Time), Quality: r.Quality.String(), Reason: r.Reason,
		ContentType: r.ContentType}
	for _, t := range r.Tags {
		if j.Tags == nil {
			j.Tags = map[string]string{}
		}
		j.Tags[t.Key] = t.Value
	}
	for i := range r.Values {
		v := &r.Values[i]
		x := ValueJSON{Name: v.Name, Kind: v.Kind().String(), Unit: v.Unit, Reason: v.Reason, Value: plain(v)}
		if v.Quality != gateway.Good {
			x.Quality = v.Quality.String()
		}
		j.Values = append(j.Values, x)
	}
	return j
}

// plain is a value as JSON has it.
func plain(v *gateway.Value) any {
	const exact = 1 << 53
	switch v.Kind() {
	case gateway.KindBool:
		return v.Bool()
	case gateway.KindInt:
		if n := v.Int(); n > exact || n < -exact {
			return strconv.FormatInt(n, 10)
		}
		return v.Int()
	case gateway.KindUint:
		if n := v.Uint(); n > exact {
			return strconv.FormatUint(n, 10)
		}
		return v.Uint()
	case gateway.KindFloat:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return strconv.FormatFloat(f, 'g', -1, 64)
		}
		return v.Float()
	case gateway.KindString:
		return v.Text()
	case gateway.KindBytes:
		return []byte(v.Text())
	}
	return nil
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
