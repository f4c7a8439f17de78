package modbus

import (
	"math"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// The words of the option report.
const (
	reportPoll    = "poll"
	reportChange  = "change"
	reportChanged = "changed"
)

// deadband is how much a number must change to count as changed: by at least
// the greater of both. Zero is any change.
type deadband struct {
	absolute float64
	percent  float64 // of the value last reported
}

// reporter decides which values of a poll become a record. It compares with
// what was reported last, not with the poll before: a value that creeps is
// reported when it has crept far enough. It is used by one goroutine.
type reporter struct {
	mode      string
	heartbeat time.Duration // 0: none
	bands     []deadband    // one for each value
	last      []gateway.Value
	whole     time.Time // of the last whole record
	forced    bool
	out       []gateway.Value
}

// newReporter returns a reporter for the values of d. mode is poll, change or
// changed; heartbeat is the time after which a record is whole although
// nothing has changed.
func newReporter(mode string, heartbeat time.Duration, d *decoder) *reporter {
	r := &reporter{mode: mode, heartbeat: heartbeat, forced: true}
	if mode != reportChange && mode != reportChanged {
		return r
	}
	for i := range d.fields {
		f := &d.fields[i]
		for range max(1, len(f.bits)) {
			r.bands = append(r.bands, f.band)
		}
	}
	return r
}

// force makes the next report whole: after an outage, or when a record could
// not be delivered.
func (r *reporter) force() { r.forced = true }

// take returns what is to be reported of the values of a poll, nil when that is
// nothing. It is either values itself or valid until the next take.
func (r *reporter) take(values []gateway.Value, now time.Time) []gateway.Value {
	if r.mode != reportChange && r.mode != reportChanged {
		return values
	}
	due := r.heartbeat > 0 && (now.Sub(r.whole) >= r.heartbeat || now.Before(r.whole))
	if r.forced || due || len(values) != len(r.last) {
		return r.all(values, now)
	}
	r.out = r.out[:0]
	for i := range values {
		if !r.differs(i, &values[i]) {
			continue
		}
		if r.mode == reportChange {
			return r.all(values, now)
		}
		r.last[i] = values[i]
		r.out = append(r.out, values[i])
	}
	if len(r.out) == 0 {
		return nil
	}
	return r.out
}

// all reports everything.
func (r *reporter) all(values []gateway.Value, now time.Time) []gateway.Value {
	r.last = append(r.last[:0], values...)
	r.whole, r.forced = now, false
	return values
}

// differs reports whether value i is not what was reported last. The reason
// alone does not count: a unit that does not answer has several by turns.
func (r *reporter) differs(i int, v *gateway.Value) bool {
	was := &r.last[i]
	if v.Kind() != was.Kind() || v.Quality != was.Quality {
		return true
	}
	var band deadband
	if i < len(r.bands) {
		band = r.bands[i]
	}
	switch v.Kind() {
	case gateway.KindBool:
		return v.Bool() != was.Bool()
	case gateway.KindString, gateway.KindBytes:
		return v.Text() != was.Text()
	case gateway.KindInt:
		a, b := v.Int(), was.Int()
		return band.left(float64(distance(a < b, uint64(a), uint64(b))), float64(b))
	case gateway.KindUint:
		a, b := v.Uint(), was.Uint()
		return band.left(float64(distance(a < b, a, b)), float64(b))
	case gateway.KindFloat:
		return band.leftBy(v.Float(), was.Float())
	}
	return false
}

// distance is how far two whole numbers are apart, also where a float64 could
// not tell them apart.
func distance(less bool, a, b uint64) uint64 {
	if less {
		return b - a
	}
	return a - b
}

// leftBy reports whether a number that was b has left the deadband at a.
func (d deadband) leftBy(a, b float64) bool {
	if a == b || math.IsNaN(a) && math.IsNaN(b) {
		return false
	}
	return d.left(math.Abs(a-b), b)
}

// left reports whether a change by delta of what was b leaves the deadband. Of
// what is not a number, every change does.
func (d deadband) left(delta, b float64) bool {
	if delta == 0 {
		return false
	}
	within := delta < max(d.absolute, d.percent/100*math.Abs(b))
	return !within
}
