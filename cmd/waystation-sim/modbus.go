package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// ModbusCount is what happened on one line.
type ModbusCount struct {
	modbustest.Counters
	Fault string           `json:"fault,omitempty"` // of the simulation itself
	Units map[string]int64 `json:"units,omitempty"` // requests to each unit
}

// modbusLine is one running line.
type modbusLine struct {
	cfg    *ModbusLine
	server *modbustest.Server
	url    string
	pty    *modbustest.PTY // nil: over the network
	begin  time.Time
	cancel context.CancelFunc
	ending sync.WaitGroup
	fault  atomic.Pointer[string] // why the line did not come back after a cut
}

// startModbus opens a line; its units change their values from now on.
func startModbus(cfg *ModbusLine, seed uint64, begin time.Time) (*modbusLine, error) {
	l := &modbusLine{cfg: cfg, server: modbustest.New(), begin: begin}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.server.MaxConns(cfg.Conns)
	if cfg.Gateway > 0 {
		l.server.Gateway(cfg.Gateway)
	}
	l.server.FaultFunc(schedule(cfg.Faults, begin))
	for i := range cfg.Units {
		for n := range cfg.Units[i].Count {
			u := l.unit(&cfg.Units[i], n, seed)
			u.set()
			l.ending.Go(func() { u.run(ctx) })
		}
	}
	if err := l.open(); err != nil {
		l.close()
		return nil, fmt.Errorf("open modbus line %s: %w", cfg.Name, err)
	}
	l.ending.Go(func() { l.cuts(ctx) })
	return l, nil
}

// open listens.
func (l *modbusLine) open() (err error) {
	if l.cfg.PTY == "" {
		l.url, err = l.server.ListenAt(l.cfg.Mode, l.cfg.Listen)
		l.url = l.cfg.Mode + "://" + l.url
		return err
	}
	l.pty, err = l.server.ListenPTY(modbustest.PTYOptions{Mode: l.cfg.Mode, Baud: l.cfg.Baud, Link: l.cfg.PTY, Echo: l.cfg.Echo})
	l.url = l.cfg.Mode + "://" + l.cfg.PTY
	return err
}

func (l *modbusLine) close() {
	l.cancel()
	l.ending.Wait()
	l.server.Close()
}

// cuts cuts the line on schedule.
func (l *modbusLine) cuts(ctx context.Context) {
	for _, c := range l.cfg.Cut {
		if !waitUntil(ctx, l.begin.Add(c.At)) {
			return
		}
		l.server.Cut()
		if !waitUntil(ctx, l.begin.Add(c.At+c.For)) {
			return
		}
		if err := l.server.Restore(); err != nil { // somebody else may have taken the port
			text := fmt.Sprintf("modbus line %s did not come back: %v", l.cfg.Name, err)
			l.fault.Store(&text)
			return
		}
	}
}

// waitUntil waits for a moment; false when ctx ended first.
func waitUntil(ctx context.Context, at time.Time) bool {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// plug takes a line out or puts it back.
func (p *plant) plug(name string, in bool) error {
	for _, l := range p.modbus {
		if l.cfg.Name != name {
			continue
		}
		if in {
			return l.server.Restore()
		}
		l.server.Cut()
		return nil
	}
	return fmt.Errorf("there is no modbus line %q", name)
}

// counts returns what happened; of every unit when full.
func (l *modbusLine) counts(full bool) ModbusCount {
	c := ModbusCount{Counters: l.server.Counters()}
	if f := l.fault.Load(); f != nil {
		c.Fault = *f
	}
	if !full {
		return c
	}
	c.Units = map[string]int64{}
	for _, u := range l.cfg.Units {
		for id := u.Unit; id < u.Unit+u.Count; id++ {
			c.Units[strconv.Itoa(id)] = l.server.Unit(byte(id)).Polls()
		}
	}
	return c
}

func (l *modbusLine) progress(c ModbusCount) string {
	s := fmt.Sprintf("%s: %d requests, %d answers", l.cfg.Name, c.Requests, c.Answers)
	if c.Broken+c.Collisions > 0 {
		s += fmt.Sprintf(", %d broken, %d collisions", c.Broken, c.Collisions)
	}
	return s
}

// modbusUnit is one running unit.
type modbusUnit struct {
	cfg      *ModbusUnit
	unit     *modbustest.Unit
	readings []*reading
	begin    time.Time
}

// unit makes the n-th unit of a row.
func (l *modbusLine) unit(cfg *ModbusUnit, n int, seed uint64) *modbusUnit {
	id := cfg.Unit + n
	u := &modbusUnit{cfg: cfg, unit: l.server.Unit(byte(id)), begin: l.begin}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d", l.cfg.Name, id)
	rnd := rand.New(rand.NewPCG(seed, h.Sum64()))
	u.unit.Limit(cfg.Words, 0)
	if len(cfg.Identity) == 3 {
		u.unit.SetIdentity(map[byte]string{0: cfg.Identity[0], 1: cfg.Identity[1], 2: cfg.Identity[2]})
	}
	u.unit.FaultFunc(schedule(cfg.Faults, l.begin))
	if cfg.Strict {
		for _, table := range []string{modbustest.Coil, modbustest.Discrete, modbustest.Holding, modbustest.Input} {
			u.unit.Allow(table, -1, -1) // nothing but what follows
		}
	}
	for i := range cfg.Signals {
		s := &cfg.Signals[i]
		u.readings = append(u.readings, newReading(s.SignalConfig, rnd))
		if cfg.Strict {
			u.unit.Allow(s.Table, s.Address, s.Address+registers(s.Type)-1)
		}
	}
	return u
}

// run gives every signal a new value every now and then.
func (u *modbusUnit) run(ctx context.Context) {
	tick := time.NewTicker(u.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			u.set()
		}
	}
}

// set gives every signal a value; those of one signal change at once.
func (u *modbusUnit) set() {
	t := time.Since(u.begin)
	for i, r := range u.readings {
		s := &u.cfg.Signals[i]
		v := r.next(t)
		switch s.Table {
		case modbustest.Coil:
			u.unit.SetCoil(s.Address, v != 0)
		case modbustest.Discrete:
			u.unit.SetDiscrete(s.Address, v != 0)
		case modbustest.Input:
			u.unit.SetInput(s.Address, s.encode(v)...)
		default:
			u.unit.SetHolding(s.Address, s.encode(v)...)
		}
	}
}

func registerTypes() []string {
	return []string{"bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"}
}

// registers is how many a type takes, 0 when there is no such type.
func registers(kind string) int {
	switch kind {
	case "bool", "int16", "uint16":
		return 1
	case "int32", "uint32", "float32":
		return 2
	case "int64", "uint64", "float64":
		return 4
	}
	return 0
}

// encode is the value as registers hold it. What does not fit becomes the
// greatest or least number that does.
func (s *ModbusSignal) encode(v float64) []uint16 {
	n := registers(s.Type)
	out := make([]uint16, n)
	bits := s.bitsOf(v / s.Scale)
	for i := range out {
		w := uint16(bits >> (16 * (n - 1 - i)))
		if s.Order == "BADC" || s.Order == "DCBA" {
			w = w<<8 | w>>8
		}
		at := i
		if s.Order == "CDAB" || s.Order == "DCBA" {
			at = n - 1 - i
		}
		out[at] = w
	}
	return out
}

func (s *ModbusSignal) bitsOf(v float64) uint64 {
	whole := func(low, high float64) float64 { return min(max(math.Round(v), low), high) }
	switch s.Type {
	case "bool":
		if v != 0 {
			return 1
		}
		return 0
	case "int16":
		return uint64(uint16(int16(whole(math.MinInt16, math.MaxInt16))))
	case "uint16":
		return uint64(whole(0, math.MaxUint16))
	case "int32":
		return uint64(uint32(int32(whole(math.MinInt32, math.MaxInt32))))
	case "uint32":
		return uint64(whole(0, math.MaxUint32))
	case "int64":
		return uint64(int64(whole(math.MinInt64, 1<<63-1024))) // the greatest float64 that fits
	case "uint64":
		return uint64(whole(0, 1<<64-2048))
	case "float32":
		return uint64(math.Float32bits(float32(v)))
	}
	return math.Float64bits(v)
}
