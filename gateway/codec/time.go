package codec

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// timeFormat says how a payload writes its time. For Unix times it is the
// number of nanoseconds in one unit.
type timeFormat int64

const (
	timeAuto    timeFormat = 0
	timeRFC3339 timeFormat = -1
)

func parseTimeFormat(s string) (timeFormat, bool) {
	switch s {
	case "", "auto":
		return timeAuto, true
	case "rfc3339":
		return timeRFC3339, true
	case "unix":
		return timeFormat(time.Second), true
	case "unix_ms":
		return timeFormat(time.Millisecond), true
	case "unix_us":
		return timeFormat(time.Microsecond), true
	case "unix_ns":
		return timeFormat(time.Nanosecond), true
	}
	return timeAuto, false
}

// readTime reads the time of a payload in UTC. Its errors complete the
// sentence "time PATH …".
func readTime(r gjson.Result, f timeFormat) (time.Time, error) {
	if !r.Exists() {
		return time.Time{}, errors.New("is absent from the payload")
	}
	s, num := numeral(r)
	switch {
	case num && f == timeRFC3339:
		return time.Time{}, errors.New("is a number, not an RFC 3339 time")
	case num:
		return unixTime(s, f)
	case r.Type != gjson.String:
		return time.Time{}, errors.New("is " + article(shape(r)) + ", not a time")
	case f != timeAuto && f != timeRFC3339:
		return time.Time{}, errors.New("is not a Unix time")
	}
	return rfc3339(strings.TrimSpace(r.Str))
}

// rfc3339 reads RFC 3339 §5.6; a space or a small t may separate date and time.
func rfc3339(s string) (time.Time, error) {
	if len(s) > 10 && (s[10] == ' ' || s[10] == 't') {
		s = s[:10] + "T" + s[11:]
	}
	if n := len(s); n > 0 && s[n-1] == 'z' {
		s = s[:n-1] + "Z"
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		if _, err := time.Parse("2006-01-02T15:04:05.999999999", s); err == nil {
			return time.Time{}, errors.New("has no time zone")
		}
		return time.Time{}, errors.New("is not an RFC 3339 time")
	}
	return checked(t)
}

// unixTime reads a number of units since 1970. With timeAuto its size tells
// the unit: below 1e11 seconds, 1e14 milliseconds, 1e17 microseconds.
func unixTime(s string, f timeFormat) (time.Time, error) {
	whole, frac, _ := strings.Cut(s, ".")
	if strings.ContainsAny(s, "eE") {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || math.Abs(v) >= 1<<63 {
			return time.Time{}, errors.New("is out of range")
		}
		whole, frac = strconv.FormatInt(int64(v), 10), ""
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, errors.New("is out of range")
	}
	unit := int64(f)
	if f == timeAuto {
		unit = unitOf(n)
	}
	per := int64(time.Second) / unit
	sec, rest := n/per, n%per*unit
	extra := fraction(frac, unit)
	if strings.HasPrefix(whole, "-") {
		extra = -extra
	}
	return checked(time.Unix(sec, rest+extra))
}

func unitOf(n int64) int64 {
	a := math.Abs(float64(n))
	switch {
	case a < 1e11:
		return int64(time.Second)
	case a < 1e14:
		return int64(time.Millisecond)
	case a < 1e17:
		return int64(time.Microsecond)
	}
	return int64(time.Nanosecond)
}

// fraction returns the digits after the point in nanoseconds, cut off below
// one nanosecond.
func fraction(digits string, unit int64) int64 {
	var ns int64
	for i := 0; i < len(digits) && unit >= 10; i++ {
		unit /= 10
		ns += int64(digits[i]-'0') * unit
	}
	return ns
}

// checked refuses times that RFC 3339 cannot write (years 0 to 9999).
func checked(t time.Time) (time.Time, error) {
	t = t.UTC()
	if t.Year() < 0 || !t.Before(maxTime()) || t.IsZero() {
		return time.Time{}, errors.New("is out of range")
	}
	return t, nil
}

// maxTime is the end of the years that RFC 3339 can write.
func maxTime() time.Time { return time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }
