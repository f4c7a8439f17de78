package observe

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// queueText writes the state of the queue, its lanes and its medium.
func queueText(s *gateway.Status, p func(format string, args ...any)) {
	q := &s.Queue
	n := 0
	for i := range q.Lanes {
		n += q.Lanes[i].Segments
	}
	p("queue\t%s\t%s\t%s, %d segments%s", q.Dir, q.State, of(q.Bytes, q.MaxBytes), n, kept(q))
	for i := range q.Lanes {
		l := &q.Lanes[i]
		state := ""
		switch {
		case l.Origin != "":
			state = "from " + l.Origin
		case l.Retired:
			state = "retired"
		}
		size := gateway.Size(l.Bytes).String()
		if l.MaxBytes > 0 {
			size = of(l.Bytes, l.MaxBytes)
		}
		oldest := "nothing waits"
		if l.Oldest != nil {
			oldest = "oldest waits " + ago(s.Now.Sub(*l.Oldest))
		}
		p("lane\t%s\t%s\t%s, next seq %d\t%s", laneLabel(q, l), state, size, l.Next, oldest)
	}
	if q.FullIn != nil {
		p("growth\t\t\t%s an hour: full in %s", gateway.Size(*q.Growth), span(*q.FullIn/24))
	}
	if q.Flash != nil {
		p("flash\t\t\t%s", flash(q))
	}
}

// of says how much of a budget is taken.
func of(bytes, limit int64) string {
	return fmt.Sprintf("%s of %s (%d%%)", gateway.Size(bytes), gateway.Size(limit), percent(bytes, limit))
}

func percent(bytes, limit int64) int { return int(float64(bytes) / float64(max(1, limit)) * 100) }

func kept(q *gateway.QueueStatus) string {
	if q.Retained == 0 {
		return ""
	}
	return ", " + gateway.Size(q.Retained).String() + " kept to be sent again"
}

// flash says how much is written to the medium and how long it lasts.
func flash(q *gateway.QueueStatus) string {
	text := decimal(q.Flash.PerDay) + " a day"
	if q.WriteAmp != nil {
		text += fmt.Sprintf(" (%.2f × the payload)", *q.WriteAmp)
	}
	if q.Flash.Days != nil {
		text += ", " + decimal(q.Flash.Endurance) + " endurance: " + span(*q.Flash.Days)
	}
	return text
}

// decimal writes a number of bytes as data sheets do, in powers of 1000.
func decimal(n int64) string {
	units := [...]string{"B", "kB", "MB", "GB", "TB"}
	f, i := float64(n), 0
	for f >= 999.95 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	digits := 1
	if f >= 10 {
		digits = 0
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', digits, 64), ".0") + " " + units[i]
}

// span writes a long time as a person says it.
func span(days float64) string {
	switch {
	case days < 2:
		return fmt.Sprintf("%.0f hours", days*24)
	case days < 2*365:
		return fmt.Sprintf("%.0f days", days)
	case days < 1000*365:
		return fmt.Sprintf("%.0f years", days/365)
	}
	return "more than 1000 years"
}

// shortLife is the life of a medium below which a person should know.
const shortLife = 365 // days

// queueTroubles lists what is wrong with the queue.
func queueTroubles(s *gateway.Status, add func(format string, args ...any)) {
	q := &s.Queue
	if q.State != "ok" {
		add("the queue takes no records (%s): %s%s", q.State, q.Error, remedy(q.State))
	}
	if q.HighWater {
		add("the queue is %d%% full%s: bring the sinks back, or raise buffer.max_bytes", percent(q.Bytes, q.MaxBytes), fullIn(q))
	}
	for i := range q.Lanes {
		if l := &q.Lanes[i]; l.HighWater {
			add("lane %s is %d%% full: bring the sinks back, or raise its max_bytes", laneLabel(q, l), percent(l.Bytes, l.MaxBytes))
		}
	}
	if q.Evictions > 0 {
		add("a byte budget was reached: %d segments were deleted before they were sent, since the start; raise buffer.max_bytes, or bring the sinks back", q.Evictions)
	}
	if q.Thinned > 0 {
		add("a byte budget was reached: %d records were thinned out, since the start; raise buffer.max_bytes, or bring the sinks back", q.Thinned)
	}
	if f := q.Flash; f != nil && f.Days != nil && *f.Days < shortLife {
		add("a new medium would last %s at %s a day: raise max_delay of the lanes, or use one of more endurance", span(*f.Days), decimal(f.PerDay))
	}
}

func fullIn(q *gateway.QueueStatus) string {
	if q.FullIn == nil {
		return ""
	}
	return " and will be in " + span(*q.FullIn/24)
}

// remedy says what a person can do about a state of the queue.
func remedy(state string) string {
	switch state {
	case "full":
		return "; make space on the disk or raise buffer.max_bytes (what is stored can still be sent)"
	case "read-only":
		return "; the medium may be dying: copy the directory away and replace it"
	case "gone":
		return "; put the medium with the directory back: it goes on by itself"
	case "no-key":
		return "; give the key it was written with in buffer.encryption.old_keys and restart"
	}
	return "; the log says more"
}

// ago writes a duration as a person says it.
func ago(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
