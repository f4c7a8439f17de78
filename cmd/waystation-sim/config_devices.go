package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// SignalConfig is one simulated reading of a device.
type SignalConfig struct {
	Name   string        `yaml:"name"`
	Kind   string        `yaml:"kind"` // sine, walk, counter, states or bool
	Unit   string        `yaml:"unit"`
	Min    float64       `yaml:"min"`    // of sine and walk
	Max    float64       `yaml:"max"`    // of sine and walk
	Period time.Duration `yaml:"period"` // of sine, default 60s
	Noise  float64       `yaml:"noise"`  // of sine: greatest deviation, in the unit
	Step   float64       `yaml:"step"`   // of walk: greatest step, default 1 % of the range; of counter: default 1
	States []string      `yaml:"states"` // of states
	Hold   int           `yaml:"hold"`   // of states and bool: messages between two changes on average, default 20
}

func (ck *checker) group(p string, g *GroupConfig) {
	if g.Name == "" || strings.ContainsAny(g.Name, " /+#{}\"\\") {
		ck.fault(p+".name", "a group needs a name of letters, digits, '-', '_' or '.'")
	}
	if g.Rate < 0 || g.Every < 0 {
		ck.fault(p, "rate and every must be more than 0")
	} else if g.Every <= 0 {
		ck.fault(p, "give every: (time between two messages) or rate: (messages per second)")
	}
	if g.Rate > 0 && g.Every != time.Duration(float64(time.Second)/g.Rate) {
		ck.fault(p+".rate", "give every: or rate:, not both")
	}
	if g.Connections < 1 || g.Connections > maxConnections {
		ck.fault(p+".connections", "must be 1 to %d", maxConnections)
	}
	if g.Messages < 0 || g.Lines < 0 || g.PadTo < 0 || g.PadTo > maxReplayLine {
		ck.fault(p, "messages and lines must not be negative, pad_to is 0 to %d", maxReplayLine)
	}
	if g.Topic == "" || strings.ContainsAny(g.Topic, "+#") {
		ck.fault(p+".topic", "give a topic without wildcards, for instance plant/{device}/telemetry")
	} else if g.Count > 1 && !strings.Contains(g.Topic, "{device}") {
		ck.fault(p+".topic", "%d devices need {device} in their topic", g.Count)
	}
	if (g.Replay == "") == (len(g.Signals) == 0) {
		ck.fault(p, "give signals: or replay:, one of the two")
	}
	seen := map[string]bool{}
	for i, s := range g.Signals {
		sp := fmt.Sprintf("%s.signals[%d]", p, i)
		ck.signal(sp, s)
		if seen[s.Name] {
			ck.fault(sp+".name", "two signals are named %q", s.Name)
		}
		seen[s.Name] = true
	}
}

func (ck *checker) signal(p string, s SignalConfig) {
	if s.Name == "" {
		ck.fault(p, "a signal needs a name")
	}
	switch s.Kind {
	case "sine", "walk":
		if s.Max <= s.Min {
			ck.fault(p+".max", "max must be more than min")
		}
		if s.Period < 0 || s.Noise < 0 || s.Step < 0 {
			ck.fault(p, "period, noise and step must not be negative")
		}
	case "states":
		if len(s.States) == 0 {
			ck.fault(p, "give states: [idle, run, …]")
		}
	case "counter", "bool":
	default:
		ck.fault(p+".kind", "%q is none of sine, walk, counter, states, bool", s.Kind)
	}
	if s.Hold < 0 {
		ck.fault(p+".hold", "must not be negative")
	}
}

// replay reads the recording of a group. A line is published without its line
// feed, everything else in it byte for byte.
func (ck *checker) replay(p string, g *GroupConfig, dir string) {
	if g.Replay == "" {
		return
	}
	path := g.Replay
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	data, err := readLimited(path, maxReplayFile)
	if err != nil {
		ck.fault(p+".replay", "%v", err)
		return
	}
	lines := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	if g.Lines > 0 && len(lines) > g.Lines {
		lines = lines[:g.Lines]
	}
	for i, l := range lines {
		if len(l) > maxReplayLine {
			ck.fault(p+".replay", "line %d of %s is %d bytes, at most %d", i+1, path, len(l), maxReplayLine)
			return
		}
	}
	if len(data) == 0 {
		ck.fault(p+".replay", "%s is empty", path)
	}
	g.lines = lines
	if !g.Loop && (g.Messages == 0 || g.Messages > int64(len(lines))) {
		g.Messages = int64(len(lines))
	}
}
