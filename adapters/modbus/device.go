package modbus

import (
	"fmt"
	"strings"
	"time"
)

// over returns the options of a device laid over those of its line d, and
// both over the built-in defaults.
func (o *DeviceOptions) over(d DeviceOptions) DeviceOptions {
	out := *o
	fill(&out.Unit, d.Unit, defaultUnit)
	fill(&out.Every, d.Every, defaultEvery)
	fill(&out.Timeout, d.Timeout, defaultTimeout)
	fill(&out.Report, d.Report, defaultReport)
	fill(&out.Heartbeat, d.Heartbeat, defaultHeartbeat)
	retries := defaultRetries
	fill(&out.Retries, d.Retries, &retries)
	if out.Profile == nil {
		out.Profile = d.Profile
	}
	out.Identify = out.Identify || d.Identify
	return out
}

// fill sets what was left out to the first of the others that was not.
func fill[T comparable](into *T, others ...T) {
	var none T
	for _, v := range others {
		if *into == none {
			*into = v
		}
	}
}

// devices returns the devices of the line with everything filled in. A line
// without a list has one, with the name of the source.
func (c *Config) devices(sourceName string) []Device {
	if len(c.Devices) == 0 {
		return []Device{{Name: sourceName, DeviceOptions: c.DeviceOptions.over(DeviceOptions{})}}
	}
	out := make([]Device, len(c.Devices))
	for i := range c.Devices {
		out[i] = c.Devices[i]
		out[i].DeviceOptions = c.Devices[i].over(c.DeviceOptions)
	}
	return out
}

// checkDevices checks the devices, each with what it takes from the line.
// The errors are those of profiles, each of which is looked at once.
func (c *Config) checkDevices(note bad) []error {
	var errs []error
	seen := map[*Profile]bool{}
	profile := func(key string, p *Profile) {
		if p != nil && !seen[p] {
			seen[p] = true
			errs = append(errs, p.validate(key)...)
		}
	}
	c.checkOptions("", &c.DeviceOptions, note)
	profile("profile", c.Profile)
	c.checkNames(note)
	units := map[int]int{}
	for i, d := range c.devices("") {
		own, at := &c.DeviceOptions, ""
		if len(c.Devices) > 0 {
			own, at = &c.Devices[i].DeviceOptions, fmt.Sprintf("devices[%d].", i)
			c.checkOptions(at, own, note)
			profile(at+"profile", own.Profile)
		}
		if d.Profile == nil {
			note(at+"profile", "give a file or builtin:NAME; `waystation describe modbus` lists those that come with the gateway", "must not be empty: it says what is read")
		}
		if own.Heartbeat != 0 && d.Report == "poll" {
			note(at+"heartbeat", "leave it out, or set report", "has no effect with report poll: every poll is a record")
		}
		if first, taken := units[d.Unit]; taken && d.Unit != 0 {
			note(at+"unit", "one device reads a unit: put what both read into one profile", "unit %d is taken by device %q", d.Unit, c.Devices[first].Name)
		}
		units[d.Unit] = i
	}
	return errs
}

// checkNames checks the names and tags of the devices of a list.
func (c *Config) checkNames(note bad) {
	const hint = "1 to 64 of a-z 0-9 _ - ."
	names := map[string]int{}
	for i, d := range c.Devices {
		at := fmt.Sprintf("devices[%d].", i)
		first, taken := names[d.Name]
		switch {
		case d.Name == "":
			note(at+"name", hint, "must not be empty: it is the key of the device's records")
		case len(d.Name) > 64 || strings.Trim(d.Name, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "":
			note(at+"name", hint, "%q is not the name of a device", d.Name)
		case taken:
			note(at+"name", "names are unique on a line", "name %q is taken by device %d of the list", d.Name, first+1)
		default:
			names[d.Name] = i
		}
		for k := range d.Tags {
			if k == "" || len(k) > 128 || strings.ContainsFunc(k, func(r rune) bool { return r < 0x20 }) {
				note(at+"tags", "", "a tag needs a name of 1 to 128 characters")
			}
		}
	}
}

// checkOptions checks the options of a device, or those of the line that are
// defaults of its devices. 0 is what was left out.
func (c *Config) checkOptions(at string, o *DeviceOptions, note bad) {
	f, known := c.family()
	switch {
	case known && f.framed && (o.Unit < 0 || o.Unit > maxUnitSerial):
		note(at+"unit", "", "%d is not a unit of a serial line: 1 to %d", o.Unit, maxUnitSerial)
	case o.Unit < 0 || o.Unit > maxUnitTCP:
		note(at+"unit", "", "%d is not a unit: 1 to %d, or 255 for the device itself", o.Unit, maxUnitSerial)
	}
	within(at+"every", o.Every, [2]time.Duration{minEvery, maxEvery}, note)
	within(at+"timeout", o.Timeout, [2]time.Duration{minTimeout, maxTimeout}, note)
	within(at+"heartbeat", o.Heartbeat, [2]time.Duration{time.Second, maxEvery}, note)
	if o.Retries != nil && (*o.Retries < 0 || *o.Retries > maxRetries) {
		note(at+"retries", "1 suits most", "%d is out of range: 0 to %d", *o.Retries, maxRetries)
	}
	switch o.Report {
	case "", "poll", "change", "changed":
	default:
		note(at+"report", "", "%q is not possible: poll, change or changed", o.Report)
	}
}

// within checks a time that may be left out.
func within(key string, d time.Duration, bounds [2]time.Duration, note bad) {
	if d != 0 && (d < bounds[0] || d > bounds[1]) {
		note(key, "", "%s is out of range: %s to %s", d, bounds[0], strings.TrimSuffix(bounds[1].String(), "0m0s"))
	}
}
