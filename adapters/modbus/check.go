package modbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// checker tries out a line and its devices with functions that only read.
type checker struct {
	*Config
	ctx    context.Context
	tell   func(gateway.Finding)
	creds  *gateway.Credentials
	line   line
	looked bool // whether other units answer is known
	units  map[int]bool
}

func (k *checker) ok(what, format string, args ...any) {
	k.tell(gateway.Finding{Level: gateway.OK, What: what, Detail: fmt.Sprintf(format, args...)})
}

func (k *checker) bad(level gateway.Level, what, detail, fix string) {
	k.tell(gateway.Finding{Level: level, What: what, Detail: detail, Fix: fix})
}

// Check implements gateway.Checker. Each device gets a few requests, one after
// the other: the first of its plan, one for its identification, and a few more
// where something is wrong. A gateway that runs notices nothing but a device
// that is busy for as long; a serial port, and a device that serves one master,
// can only be checked while it does not run.
func (c *Config) Check(ctx context.Context, env gateway.Env, report func(gateway.Finding)) {
	k := &checker{Config: c, ctx: ctx, tell: report, units: map[int]bool{}}
	f, _ := c.family()
	if f.secured {
		o := c.TLS
		if o == nil {
			o = &gateway.TLS{}
		}
		k.creds = gateway.NewCredentials(env.Dir, o)
		if err := k.creds.Load(); err != nil {
			k.bad(gateway.Fail, "options", err.Error(), "")
			return
		}
	}
	began := time.Now()
	if err := k.open(); err != nil {
		fix := ""
		if errors.Is(err, errInUse) {
			fix = "if a gateway that runs has the port, all is well: check it while the gateway is stopped"
		}
		k.bad(gateway.Fail, "line "+c.URL, err.Error(), fix)
		return
	}
	defer k.close()
	k.ok("line "+c.URL, "opened in %s", time.Since(began).Round(100*time.Microsecond))
	if k.creds != nil {
		k.certificates()
	}
	devices := c.devices(env.Name)
	for i := range devices {
		k.units[devices[i].Unit] = true
	}
	for i := range devices {
		if ctx.Err() != nil {
			return
		}
		k.device(&devices[i])
	}
}

// certificates tells when they end.
func (k *checker) certificates() {
	for _, f := range k.creds.Facts(time.Now()) {
		level := gateway.OK
		if f.Warn {
			level = gateway.Note
		}
		k.bad(level, f.Name, f.Value, "")
	}
}

func (k *checker) open() (err error) {
	var tc *tls.Config
	if k.creds != nil {
		tc = k.creds.TLS()
	}
	if k.line, err = open(k.ctx, k.Config, tc); err != nil {
		return err
	}
	if err = pause(k.ctx, k.Settle); err != nil {
		k.close()
	}
	return err
}

func (k *checker) close() {
	if k.line != nil {
		_ = k.line.Close()
		k.line = nil
	}
}

// ask makes one request, on a new line when the one before is lost.
func (k *checker) ask(q *request) ([]byte, error) {
	if k.line == nil {
		if err := k.open(); err != nil {
			return nil, err
		}
	}
	if err := pause(k.ctx, k.Pause); err != nil {
		return nil, err
	}
	data, err := k.line.Ask(k.ctx, q)
	if err != nil && exception(err) == 0 && !isSilence(err) {
		k.close()
	}
	return data, err
}

// device checks one device.
func (k *checker) device(d *Device) {
	what := fmt.Sprintf("device %s, unit %d", d.Name, d.Unit)
	q, group, err := firstRequest(d.Profile)
	if err != nil {
		k.bad(gateway.Fail, what, err.Error(), "")
		return
	}
	q.unit, q.timeout = byte(d.Unit), d.Timeout
	began := time.Now()
	_, err = k.ask(q)
	for n := 0; isSilence(err) && n < *d.Retries && k.ctx.Err() == nil; n++ {
		began = time.Now()
		_, err = k.ask(q)
	}
	took := time.Since(began).Round(100 * time.Microsecond)
	code := exception(err)
	switch {
	case err == nil:
		k.ok(what, "%s (%s) read in %s", q, group, took)
	case code != 0:
		k.refused(what, q, group, code)
	case isSilence(err):
		k.silent(what, q, err)
	default:
		fix := ""
		if wrong := (*lengthError)(nil); errors.As(err, &wrong) {
			fix = "it has not all of these registers, or gives fewer at once: correct the profile, limits.words (limits.bits) or limits.gap: 0"
		}
		k.bad(gateway.Fail, what, fmt.Sprintf("read %s (%s): %v", q, group, err), fix)
	}
	if err == nil || code != 0 && code != 10 && code != 11 {
		k.identification(what, d)
	}
}

// firstRequest is the first request of a profile that writes nothing.
func firstRequest(p *Profile) (*request, string, error) {
	for i := range p.Groups {
		g := &p.Groups[i]
		if g.Select != nil {
			continue // function 23 writes
		}
		d, err := compile(p, g)
		if err != nil {
			return nil, "", err
		}
		plan, err := newPoll(d.spans(), &p.Limits, nil)
		if err != nil {
			return nil, "", err
		}
		for _, b := range plan.blocks() {
			return &request{function: b.function, address: uint16(b.address), count: uint16(b.length)}, "group " + g.Name, nil
		}
	}
	if p.SunSpec != nil {
		return &request{function: readHolding, address: uint16(p.SunSpec.sunspecBases()[0]), count: sunspecHead}, "SunSpec map", nil
	}
	return nil, "", errors.New("nothing can be tried: every group writes before it reads (select)")
}

// refused explains an exception.
func (k *checker) refused(what string, q *request, group string, code byte) {
	detail := fmt.Sprintf("read %s (%s): exception %d", q, group, code)
	switch code {
	case 1:
		k.bad(gateway.Fail, what, detail+": the device does not know the function", k.otherTable(q, "is it the right table? Manuals mix up holding registers (function 3) and input registers (function 4)"))
	case 2:
		last := int(q.address) + int(q.count) - 1
		k.bad(gateway.Note, what, fmt.Sprintf("%s: not all of the addresses %d to %d are there", detail, q.address, last), k.otherTable(q,
			"the gateway finds out which and reads the others; correct the profile: addresses count from 0 on the line, in many manuals from 1 or 40001; limits.gap: 0 where it is a gap between points"))
	case 3:
		k.bad(gateway.Note, what, fmt.Sprintf("%s: %d at once are too many, or cut a value in two", detail, q.count), "set limits.words (limits.bits) of the profile to what the manual allows")
	case 4:
		k.bad(gateway.Fail, what, detail+": the device says that it has failed", "look at the device; some say so of registers they lack")
	case 5, 6:
		k.bad(gateway.Note, what, detail+": the device is busy", "check again; if it stays so set a longer every, or pause")
	case 10:
		k.bad(gateway.Fail, what, detail+": the gateway between has no way to the unit", fmt.Sprintf("look at its routing: which port has unit %d, and is that port switched on?", q.unit))
	case 11:
		k.bad(gateway.Fail, what, fmt.Sprintf("%s: the gateway between does not reach unit %d", detail, q.unit),
			"is the unit on and wired (A and B not swapped), its address right, baud rate and parity of the gateway the same as its own?")
	default:
		k.bad(gateway.Fail, what, detail, "see the device's manual: it is none of the standard's")
	}
}

// otherTable looks whether the same addresses are in the table that manuals mix
// up with this one, and returns what to do.
func (k *checker) otherTable(q *request, fix string) string {
	pairs := map[byte]byte{readHolding: readInput, readInput: readHolding, readCoils: readDiscrete, readDiscrete: readCoils}
	other := *q
	if other.function = pairs[q.function]; other.function == 0 {
		return fix
	}
	if _, err := k.ask(&other); err == nil {
		return fmt.Sprintf("the same addresses can be read with function %d: set table: %s", other.function, tableOf(other.function))
	}
	return fix
}

// silent tells of a unit that does not answer, and whether others do.
func (k *checker) silent(what string, q *request, err error) {
	f, _ := k.family()
	fix := "is the device on, and the unit right? Others on the line than this gateway?"
	if f.framed {
		fix = "is the device on and wired (A and B not swapped, ends terminated), unit, baud rate, parity and stop bits as set in the device? Only one master may be on the line"
	}
	if !k.looked {
		k.looked = true
		if other, ok := k.another(q, f); ok {
			fix = fmt.Sprintf("unit %d answers, which no device here has: set unit: %[1]d if it is this one", other)
		}
	}
	k.bad(gateway.Fail, what, fmt.Sprintf("read %s: %v", q, err), fix)
}

// another looks for a unit that answers and that no device has.
func (k *checker) another(q *request, f family) (int, bool) {
	usual := []int{1, 255, 2, 247}
	if f.framed {
		usual = []int{1, 2, 3, 247}
	}
	for _, u := range usual {
		if k.units[u] {
			continue
		}
		try := *q
		try.unit, try.timeout = byte(u), min(q.timeout, 500*time.Millisecond)
		_, err := k.ask(&try)
		if code := exception(err); err == nil || code != 0 && code != 10 && code != 11 {
			return u, true
		}
		if !isSilence(err) && exception(err) == 0 {
			return 0, false
		}
	}
	return 0, false
}

// identification tells who the device says it is.
func (k *checker) identification(what string, d *Device) {
	tags, err := identify(k.ctx, askedBy(func(_ context.Context, q *request) ([]byte, error) { return k.ask(q) }), byte(d.Unit), d.Timeout)
	var told []string
	for _, t := range tags {
		told = append(told, t.Key+" "+t.Value)
	}
	switch {
	case len(told) > 0:
		k.ok(what, "identification: %s", strings.Join(told, ", "))
	case err == nil && !d.Identify:
		k.ok(what, "it has no identification (function 43/14), as many")
	case err == nil:
		k.bad(gateway.Note, what, "it has no identification (function 43/14)", "leave out identify")
	case isSilence(err) && !d.Identify:
		k.ok(what, "it does not answer when asked who it is (function 43/14), as many")
	case isSilence(err):
		k.bad(gateway.Note, what, "it does not answer when asked who it is (function 43/14)", "leave out identify: every start waits for nothing")
	default:
		k.bad(gateway.Note, what, "when asked who it is (function 43/14): "+err.Error(), "leave out identify")
	}
}
