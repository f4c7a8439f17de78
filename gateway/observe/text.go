package observe

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/waystation-iot/waystation/gateway"
)

// Text writes the status for a person: what is wrong first.
func Text(w io.Writer, s *gateway.Status) error {
	for _, t := range Troubles(s) {
		if _, err := fmt.Fprintln(w, "! "+t); err != nil {
			return err
		}
	}
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(tw, format+"\n", args...) } // tw keeps the error for Flush
	p("gateway\t%s\tversion %s, pid %d, up %s", s.Gateway, s.Version, s.PID, ago(s.Now.Sub(s.Started)))
	for i := range s.Sources {
		src := &s.Sources[i]
		last := "no record yet"
		if src.LastRecord != nil {
			last = "last " + ago(s.Now.Sub(*src.LastRecord)) + " ago"
		}
		filtered := ""
		if src.Filtered > 0 {
			filtered = fmt.Sprintf(", %d filtered", src.Filtered)
		}
		p("source\t%s\t%s\t%d received, %d stored%s, %d bad\t%s", src.Name, src.State, src.Received, src.Queued, filtered, src.BadQuality, last)
		factsText(src.Facts, p)
	}
	queueText(s, p)
	for i := range s.Sinks {
		k := &s.Sinks[i]
		filtered := ""
		if k.Filtered > 0 {
			filtered = fmt.Sprintf(", %d filtered", k.Filtered)
		}
		p("sink\t%s\t%s\t%d sent, %d waiting, %d dead letters, %d lost%s", k.Name, k.State, k.Sent, k.Waiting, k.DeadLettered, k.Lost, filtered)
		factsText(k.Facts, p)
	}
	return tw.Flush()
}

// factsText writes what a source or sink tells of itself.
func factsText(facts []gateway.Fact, p func(string, ...any)) {
	for _, x := range facts {
		p("\t\t\t%s: %s", x.Name, x.Value)
	}
}

// factTroubles adds the facts that need a person.
func factTroubles(of string, facts []gateway.Fact, add func(string, ...any)) {
	for _, x := range facts {
		if x.Warn {
			add("%s: %s: %s", of, x.Name, x.Value)
		}
	}
}

// Troubles lists what needs a person, most urgent first.
func Troubles(s *gateway.Status) (out []string) {
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	queueTroubles(s, add)
	if !s.Books.Balanced {
		add("the books do not balance: please report this with the output of `waystation status --json`")
	}
	for i := range s.Sources {
		src := &s.Sources[i]
		if src.State != gateway.Up {
			add("source %s is %s%s", src.Name, src.State, because(src.Error))
		}
		for _, n := range src.Notes {
			add("source %s: %s", src.Name, n)
		}
		factTroubles("source "+src.Name, src.Facts, add)
	}
	for i := range s.Sinks {
		k := &s.Sinks[i]
		if k.State != gateway.Up {
			add("sink %s is %s%s", k.Name, k.State, because(k.Error))
		}
		factTroubles("sink "+k.Name, k.Facts, add)
		if k.Lost > 0 {
			add("sink %s lost %d records to the byte budget or damage; raise buffer.max_bytes", k.Name, k.Lost)
		}
	}
	letterTroubles(s, add)
	if s.Queue.Quarantined > 0 {
		add("%d segments of the queue could not be read and were set aside (*.seg.bad)", s.Queue.Quarantined)
	}
	if !s.ClockTrusted {
		add("the clock of this machine is not synchronised: records are marked so")
	}
	return out
}

// letterTroubles adds what a person must do about dead letters.
func letterTroubles(s *gateway.Status, add func(string, ...any)) {
	for i := range s.DeadLetters.Sinks {
		k := &s.DeadLetters.Sinks[i]
		switch {
		case k.Sink == "" && k.Kept > 0:
			add("%d dead letters cannot be read: see `waystation dead-letters list`", k.Kept)
		case k.Gone && k.Kept > 0:
			add("%d dead letters are of sink %s, which is not configured any more: `waystation dead-letters retry --sink %s --to SINK`, or drop them", k.Kept, k.Sink, k.Sink)
		case k.Kept > 0:
			add("sink %s refused %d records, kept as dead letters (%d to be sent again): see `waystation dead-letters list --sink %s`, mend the cause, then `waystation dead-letters retry --sink %s`",
				k.Sink, k.Kept, k.Retrying, k.Sink, k.Sink)
		case k.Gone && k.Retrying > 0:
			add("%d dead letters wait for sink %s, which is not configured: `waystation dead-letters retry --all --to SINK`", k.Retrying, k.Sink)
		}
	}
	if n := s.DeadLetters.Evicted; n > 0 {
		add("%d dead letters were deleted to keep their budget since the start: raise buffer.dead_letters.max_bytes, and retry or drop what is there", n)
	}
}

func because(err string) string {
	if err == "" {
		return ""
	}
	if first, _, more := strings.Cut(err, "\n"); more {
		err = first
	}
	return ": " + err
}
