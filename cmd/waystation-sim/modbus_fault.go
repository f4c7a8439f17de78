package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// modbusFaults are the kinds of ModbusFault.
func modbusFaults() map[string]modbustest.Fault {
	return map[string]modbustest.Fault{
		"dead":           {Dead: true},
		"slow":           {}, // see fault
		"late":           {},
		"dribble":        {},
		"exception":      {},
		"garbled":        {Garble: 5},
		"wrong-unit":     {WrongUnit: true},
		"wrong-id":       {WrongID: true},
		"wrong-function": {WrongFunction: true},
		"short":          {Short: 1},
		"long":           {Long: 1},
		"half":           {StopAfter: 4},
		"cut":            {Cut: true},
		"noise":          {Noise: []byte{0x00, 0xff, 0xf8}},
		"echo":           {Echo: true},
		"stale":          {Stale: true},
		"twice":          {Twice: true},
	}
}

// fault is what goes wrong in this time.
func (f *ModbusFault) fault() modbustest.Fault {
	switch f.Kind {
	case "slow":
		return modbustest.Fault{Delay: f.Time}
	case "late":
		return modbustest.Fault{Late: f.Time}
	case "dribble":
		return modbustest.Fault{Dribble: f.Time}
	case "exception":
		return modbustest.Fault{Exception: byte(f.Code)}
	}
	return modbusFaults()[f.Kind]
}

func (ck *checker) modbusFaults(p string, faults []ModbusFault) {
	kinds := slices.Sorted(maps.Keys(modbusFaults()))
	for i, f := range faults {
		fp := fmt.Sprintf("%s.faults[%d]", p, i)
		timed := f.Kind == "slow" || f.Kind == "late" || f.Kind == "dribble"
		switch {
		case !slices.Contains(kinds, f.Kind):
			ck.fault(fp+".kind", "%q is none of %s", f.Kind, strings.Join(kinds, ", "))
		case timed != (f.Time > 0):
			ck.fault(fp+".time", "time: (more than 0) is for slow, late and dribble, which need it")
		case (f.Kind == "exception") != (f.Code != 0) || f.Code < 0 || f.Code > 255:
			ck.fault(fp+".code", "code: (1 to 255) is for exception, which needs it")
		}
		if f.At < 0 || f.For < 0 || f.OneIn < 0 {
			ck.fault(fp, "at, for and one_in must not be negative")
		}
	}
}

// schedule chooses the fault of each request by the time since begin.
func schedule(faults []ModbusFault, begin time.Time) func(modbustest.Request) modbustest.Fault {
	if len(faults) == 0 {
		return nil
	}
	ready := make([]modbustest.Fault, len(faults))
	for i := range faults {
		ready[i] = faults[i].fault()
	}
	seen := make([]atomic.Int64, len(faults)) // requests in the time of each
	return func(q modbustest.Request) modbustest.Fault {
		t := q.At.Sub(begin)
		for i := range faults {
			f := &faults[i]
			if t < f.At || f.For > 0 && t >= f.At+f.For {
				continue
			}
			if n := seen[i].Add(1); f.OneIn > 1 && n%int64(f.OneIn) != 0 {
				return modbustest.Fault{}
			}
			return ready[i]
		}
		return modbustest.Fault{}
	}
}
