package main

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// reading is the state of one simulated reading of one device.
type reading struct {
	cfg   SignalConfig
	rnd   *rand.Rand
	phase float64 // of a sine, 0 to 2π
	value float64 // of a walk or counter
	state int     // of states and bool
}

func newReading(cfg SignalConfig, rnd *rand.Rand) *reading {
	s := &reading{cfg: cfg, rnd: rnd, phase: rnd.Float64() * 2 * math.Pi}
	s.value = cfg.Min + (cfg.Max-cfg.Min)*rnd.Float64()
	if cfg.Kind == "counter" {
		s.value = 0
	}
	if s.cfg.Period == 0 {
		s.cfg.Period = time.Minute
	}
	if s.cfg.Hold == 0 {
		s.cfg.Hold = 20
	}
	if s.cfg.Step == 0 {
		s.cfg.Step = 1
		if cfg.Kind == "walk" {
			s.cfg.Step = (cfg.Max - cfg.Min) / 100
		}
	}
	return s
}

// next is the next value: of states the place of the state, of bool 0 or 1. t
// is the time since the start.
func (s *reading) next(t time.Duration) float64 {
	c := s.cfg
	switch c.Kind {
	case "sine":
		mid, amp := (c.Min+c.Max)/2, (c.Max-c.Min)/2
		v := mid + amp*math.Sin(2*math.Pi*t.Seconds()/c.Period.Seconds()+s.phase) + c.Noise*(2*s.rnd.Float64()-1)
		return min(max(v, c.Min), c.Max)
	case "walk":
		s.value = min(max(s.value+c.Step*(2*s.rnd.Float64()-1), c.Min), c.Max)
		return s.value
	case "counter":
		s.value += c.Step
		return s.value
	case "states":
		if s.rnd.IntN(c.Hold) == 0 {
			s.state = s.rnd.IntN(len(c.States))
		}
	default: // bool
		if s.rnd.IntN(c.Hold) == 0 {
			s.state = 1 - s.state
		}
	}
	return float64(s.state)
}

// append adds the next value, as JSON, to b.
func (s *reading) append(b []byte, t time.Duration) []byte {
	v := s.next(t)
	switch s.cfg.Kind {
	case "states":
		return appendString(b, s.cfg.States[s.state])
	case "bool":
		return strconv.AppendBool(b, s.state == 1)
	}
	return appendNumber(b, v)
}

// appendNumber writes v with at most three decimals.
func appendNumber(b []byte, v float64) []byte {
	return strconv.AppendFloat(b, math.Round(v*1000)/1000, 'f', -1, 64)
}

func appendString(b []byte, s string) []byte {
	q, err := json.Marshal(s)
	if err != nil { // cannot happen: every string can be marshalled
		return append(b, `""`...)
	}
	return append(b, q...)
}

// generator makes the payloads of one device. Each is a JSON object
//
//	{"device":"press-01","n":1,"ts":"…","values":{…},"units":{…},"pad":"…","crc":"1a2b3c4d"}
//
// whose last member is the CRC-32C (Castagnoli) of all bytes before `,"crc"`,
// so that whoever receives it can tell that no byte was changed.
type generator struct {
	device  string
	padTo   int
	signals []*reading
	units   []byte // `,"units":{…}` or nothing
}

func newGenerator(device string, g *GroupConfig, rnd *rand.Rand) *generator {
	gen := &generator{device: device, padTo: g.PadTo}
	for _, sc := range g.Signals {
		gen.signals = append(gen.signals, newReading(sc, rnd))
		if sc.Unit == "" {
			continue
		}
		sep := `,`
		if gen.units == nil {
			sep = `,"units":{`
		}
		gen.units = appendString(append(gen.units, sep...), sc.Name)
		gen.units = appendString(append(gen.units, ':'), sc.Unit)
	}
	if gen.units != nil {
		gen.units = append(gen.units, '}')
	}
	return gen
}

// payload is message n of the device, made at now; t is the time since the
// start of the plant.
func (g *generator) payload(n int64, now time.Time, t time.Duration) []byte {
	b := make([]byte, 0, max(g.padTo, 256)+32)
	b = appendString(append(b, `{"device":`...), g.device)
	b = strconv.AppendInt(append(b, `,"n":`...), n, 10)
	b = now.UTC().AppendFormat(append(b, `,"ts":"`...), time.RFC3339Nano)
	b = append(b, `","values":{`...)
	for i, s := range g.signals {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, s.cfg.Name), ':')
		b = s.append(b, t)
	}
	b = append(append(b, '}'), g.units...)
	const rest = len(`,"crc":"00000000"}`)
	if missing := g.padTo - len(b) - rest - len(`,"pad":""`); missing > 0 {
		b = append(b, `,"pad":"`...)
		for range missing {
			b = append(b, '.')
		}
		b = append(b, '"')
	}
	return fmt.Appendf(b, `,"crc":"%08x"}`, crc32.Checksum(b, castagnoli()))
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// message is what the judge reads of a payload made by a generator.
type message struct {
	Device string    `json:"device"`
	N      int64     `json:"n"`
	TS     time.Time `json:"ts"`
}

// parseMessage reads a payload. ok is false when it is not one of ours, intact
// is false when it is but was changed on the way.
func parseMessage(b []byte) (m message, ok, intact bool) {
	const tail = len(`,"crc":"00000000"}`)
	if len(b) < tail || string(b[:min(len(b), len(`{"device":`))]) != `{"device":` {
		return m, false, false
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Device == "" || m.N < 1 {
		return message{}, true, false
	}
	body := b[:len(b)-tail]
	want := fmt.Sprintf(`,"crc":"%08x"}`, crc32.Checksum(body, castagnoli()))
	return m, true, string(b[len(body):]) == want
}
