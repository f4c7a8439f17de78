package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goburrow/modbus"

	"github.com/waystation-iot/waystation/gateway"
)

// rig is a source on a line that is not there, in the time of synctest: what
// takes time takes exactly that.
type rig struct {
	t    *testing.T
	s    *source
	in   *gateway.Intake
	stop context.CancelFunc
	runs chan error // what Run returned

	mu       sync.Mutex // guards what follows
	units    map[byte]*rigUnit
	asked    []asked
	records  []gateway.Record
	opens    []time.Duration
	refuse   error // the line cannot be opened
	broken   error // every request loses the line
	cutEvery int   // every so many requests lose the line
	stuck    bool  // the queue does not answer
	pending  []func(error)
	sunspec  map[byte]bool // units with a SunSpec map at 40000
	active   int           // requests under way
	most     int           // the largest active ever was
	log      strings.Builder
}

// rigUnit is how a unit behaves.
type rigUnit struct {
	dead  bool
	takes time.Duration
	code  byte             // exception it answers with
	quiet map[uint16]bool  // addresses it does not answer
	lose  bool             // asking it loses the line
	codes map[uint16]byte  // exceptions by address
	lacks func(int) bool   // addresses it refuses, nil: none
	short bool             // it refuses by an answer that is too short
	once  func(q *request) // called with each request
	value uint16           // of every register; 0: the number of the unit in each byte
}

// asked is one exchange.
type asked struct {
	unit    byte
	address uint16
	at      time.Duration // since the start of the source
	took    time.Duration
	timeout time.Duration
	err     error
}

// rigLine is a line of the rig.
type rigLine struct {
	r      *rig
	closed bool
}

var errCut = errors.New("closed by the device")

func (l *rigLine) Ask(ctx context.Context, q *request) ([]byte, error) {
	r := l.r
	r.mu.Lock()
	n := len(r.asked)
	u, at := r.units[q.unit], r.s.now()
	var err error
	wait := u.takes
	if u.once != nil {
		u.once(q)
	}
	code := u.code
	if u.codes[q.address] != 0 {
		code = u.codes[q.address]
	}
	for a := range int(q.count) {
		if u.lacks != nil && u.lacks(int(q.address)+a) {
			code = 2
		}
	}
	switch {
	case r.broken != nil:
		err, wait = r.broken, 0
	case u.lose, r.cutEvery > 0 && n%r.cutEvery == r.cutEvery-1:
		err, wait = errCut, time.Millisecond
	case u.dead, u.quiet[q.address], wait > q.timeout:
		err, wait = &silence{after: q.timeout}, q.timeout
	case code != 0 && u.short:
		err = &lengthError{q.String(), 0, 2 * int(q.count)}
	case code != 0:
		err = &modbus.ModbusError{FunctionCode: q.function | exceptionBit, ExceptionCode: code}
	}
	r.asked = append(r.asked, asked{q.unit, q.address, at, wait, q.timeout, err})
	r.active++
	r.most = max(r.most, r.active)
	r.mu.Unlock()
	ok := settled(ctx, wait)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active--
	if !ok {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	if q.function == encapsulated {
		return []byte("\x01\x01\x00\x00\x01\x00\x04ACME"), nil
	}
	return r.registers(q), nil
}

// registers is what a unit answers. r.mu is held.
func (r *rig) registers(q *request) []byte {
	u := r.units[q.unit]
	data := make([]byte, 2*q.count)
	for i := range data {
		data[i] = q.unit
	}
	for i := 0; u.value != 0 && i < len(data); i += 2 {
		binary.BigEndian.PutUint16(data[i:], u.value)
	}
	if r.sunspec[q.unit] { // model 101 with 20 registers, and the end
		for i := range q.count {
			if word, ok := map[uint16]uint16{0: 0x5375, 1: 0x6E53, 2: 101, 3: 20, 24: 0xFFFF, 25: 0}[q.address+i-40000]; ok {
				binary.BigEndian.PutUint16(data[2*i:], word)
			}
		}
	}
	return data
}

func (l *rigLine) Close() error { l.closed = true; return nil }

// points are n registers from an address on.
func points(address, n int) []Point {
	return []Point{{Name: fmt.Sprintf("r%d", address), Address: address, Count: n}}
}

// devices makes n devices with one group of 10 registers each.
func devices(n int) (all []Device) {
	for i := range n {
		all = append(all, Device{Name: fmt.Sprintf("dev-%02d", i+1), DeviceOptions: DeviceOptions{Unit: i + 1,
			Profile: &Profile{Groups: []Group{{Name: "main", Points: points(100, 10)}}}}})
	}
	return all
}

// newRig makes a source; change may be nil.
func newRig(t *testing.T, c *Config) *rig {
	t.Helper()
	if c.URL == "" {
		c.URL = "rtu:///dev/ttyTEST"
	}
	r := &rig{t: t, units: map[byte]*rigUnit{}, runs: make(chan error, 1)}
	env := gateway.Env{Name: "line", Log: slog.New(slog.NewTextHandler(&r.log, nil))}
	s, err := newSource(c, env)
	if err != nil {
		t.Fatal(err)
	}
	r.s = s
	for _, u := range s.units {
		r.units[u.number] = &rigUnit{takes: 5 * time.Millisecond}
	}
	s.open = func(context.Context) (line, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.opens = append(r.opens, s.now())
		if r.refuse != nil {
			return nil, r.refuse
		}
		return &rigLine{r: r}, nil
	}
	r.in = gateway.NewIntake(gateway.SourceSpec{Name: "line"}, gateway.AppenderFunc(r.append), gateway.NewClock(time.Now, func() bool { return true }))
	return r
}

// append is the queue.
func (r *rig) append(_ gateway.Lane, stored iter.Seq[[]byte], done func(error)) {
	r.mu.Lock()
	for p := range stored {
		var dec gateway.RecordDecoder
		var rec gateway.Record
		if err := dec.Decode(&rec, p); err != nil {
			r.t.Error(err)
		}
		rec.Values = slices.Clone(rec.Values)
		r.records = append(r.records, rec)
	}
	stuck := r.stuck
	if stuck {
		r.pending = append(r.pending, done)
	}
	r.mu.Unlock()
	if !stuck {
		done(nil)
	}
}

// start calls Run.
func (r *rig) start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.runs <- r.s.Run(ctx, r.in) }()
}

// settle puts what the test did before what the source does next.
func (r *rig) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
}

// after lets time go by and then looks.
func (r *rig) after(d time.Duration) {
	r.settle()
	time.Sleep(d)
	synctest.Wait()
}

// end stops Run, which must return nil at once.
func (r *rig) end() {
	r.t.Helper()
	r.settle()
	r.stop()
	from := time.Now()
	if err := <-r.runs; err != nil {
		r.t.Errorf("Run returned %v", err)
	}
	if took := time.Since(from); took > time.Second {
		r.t.Errorf("Run took %s to return", took)
	}
}

// rigged runs fn in the time of synctest with a source that is running.
func rigged(t *testing.T, c *Config, fn func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, c)
		r.start()
		fn(r)
		r.end()
	})
}

// set changes how a unit behaves.
func (r *rig) set(unit byte, fn func(*rigUnit)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(r.units[unit])
}

// change changes how the line and the queue behave.
func (r *rig) change(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

// seen returns the exchanges of a unit since a time; unit 0 is all.
func (r *rig) seen(unit byte, since time.Duration) (out []asked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.asked {
		if a.at >= since && (unit == 0 || a.unit == unit) {
			out = append(out, a)
		}
	}
	return out
}

// recorded returns the records of a device since there were so many.
func (r *rig) recorded(device string, from int) (out []gateway.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.records[from:] {
		if device == "" || rec.Device == device {
			out = append(out, rec)
		}
	}
	return out
}

// gap is the longest time between two answers of a unit since a time.
func (r *rig) gap(unit byte, since time.Duration) (longest time.Duration) {
	last := time.Duration(-1)
	for _, a := range r.seen(unit, since) {
		if a.err != nil {
			continue
		}
		if last >= 0 {
			longest = max(longest, a.at-last)
		}
		last = a.at
	}
	return longest
}

// answers is how many answers of a unit there were since a time.
func (r *rig) answers(unit byte, since time.Duration) (n int) {
	for _, a := range r.seen(unit, since) {
		if a.err == nil {
			n++
		}
	}
	return n
}

// silence is how long nobody answered since a time.
func (r *rig) silence(since time.Duration) (sum time.Duration) {
	for _, a := range r.seen(0, since) {
		if isSilence(a.err) {
			sum += a.took
		}
	}
	return sum
}
