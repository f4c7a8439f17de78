package modbus

import (
	"fmt"
	"strconv"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// plannedGroup is a group of a device as it will be read.
type plannedGroup struct {
	device *Device
	name   string
	every  time.Duration
	polls  []entry       // its requests
	time   time.Duration // on the line
	bytes  int
}

// busy is the part of the line's time that the group takes.
func (g *plannedGroup) busy() float64 { return float64(g.time) / float64(g.every) }

// linePlan is what will be read on a line.
type linePlan struct {
	c       *Config
	k       carrier
	devices []Device
	groups  []plannedGroup
	found   []gateway.Finding
}

// Plan implements gateway.Planner.
func (c *Config) Plan(env gateway.Env) gateway.Plan {
	l := &linePlan{c: c, k: c.carrier(), devices: c.devices(env.Name)}
	for i := range l.devices {
		l.add(&l.devices[i])
	}
	l.judge()
	plan := gateway.Plan{Tables: []gateway.PlanTable{}, Findings: l.found}
	if len(l.groups) > 0 {
		plan.Tables = append(plan.Tables, l.requestTable(), l.groupTable(), l.lineTable())
	}
	return plan
}

// note keeps a finding.
func (l *linePlan) note(level gateway.Level, what, detail, fix string) {
	l.found = append(l.found, gateway.Finding{Level: level, What: what, Detail: detail, Fix: fix})
}

// add plans the groups of a device.
func (l *linePlan) add(d *Device) {
	if d.Profile == nil { // a valid configuration has one
		return
	}
	if d.Profile.SunSpec != nil {
		l.note(gateway.Note, "device "+d.Name, "its SunSpec models are found on the device itself: they are not in this plan", "")
	}
	for i := range d.Profile.Groups {
		g := &d.Profile.Groups[i]
		p, err := planGroup(d.Profile, g)
		if err != nil {
			l.note(gateway.Fail, "device "+d.Name+" group "+g.Name, err.Error(), "change the points of the group, or limits of the profile")
			continue
		}
		out := plannedGroup{device: d, name: g.Name, every: g.Every, polls: p.plan}
		if out.every <= 0 {
			out.every = d.Every
		}
		for j := range out.polls {
			out.time += l.c.cost(&out.polls[j].q)
			out.bytes += l.k.bytes(&out.polls[j].q)
		}
		l.groups = append(l.groups, out)
	}
}

// planGroup makes the poll of a group.
func planGroup(p *Profile, g *Group) (*poll, error) {
	d, err := compile(p, g)
	if err != nil {
		return nil, err
	}
	return newPoll(d.spans(), &p.Limits, g.Select)
}

// vain returns how many registers or bits of a request nobody asked for.
func (e *entry) vain() int {
	end := int(e.q.address)
	vain := int(e.q.count)
	for _, i := range e.items {
		x := &e.t.items[i]
		vain -= max(0, x.end()-max(end, x.address))
		end = max(end, x.end())
	}
	return vain
}

// requestTable lists the requests of every group.
func (l *linePlan) requestTable() gateway.PlanTable {
	t := gateway.PlanTable{Title: "requests", Head: []string{"device", "group", "function", "request", "in vain", "bytes", "time"}, Rows: [][]string{}}
	for i := range l.groups {
		g := &l.groups[i]
		for j := range g.polls {
			e := &g.polls[j]
			vain := "0"
			if e.t.function != readFIFO {
				vain = strconv.Itoa(e.vain())
			}
			t.Rows = append(t.Rows, []string{g.device.Name, g.name, strconv.Itoa(int(e.q.function)), e.q.String(), vain, strconv.Itoa(l.k.bytes(&e.q)), short(l.c.cost(&e.q))})
		}
	}
	return t
}

// groupTable lists what one poll of each group takes.
func (l *linePlan) groupTable() gateway.PlanTable {
	t := gateway.PlanTable{Title: "polls", Head: []string{"device", "unit", "group", "every", "requests", "bytes", "time", "of the line"}, Rows: [][]string{}}
	for i := range l.groups {
		g := &l.groups[i]
		t.Rows = append(t.Rows, []string{g.device.Name, strconv.Itoa(g.device.Unit), g.name, period(g.every), strconv.Itoa(len(g.polls)), strconv.Itoa(g.bytes), short(g.time), percent(g.busy())})
	}
	return t
}

// lineTable sums up.
func (l *linePlan) lineTable() gateway.PlanTable {
	t := gateway.PlanTable{Title: "line " + l.c.URL, Head: []string{"what", "value"}}
	row := func(what, value string) { t.Rows = append(t.Rows, []string{what, value}) }
	requests, packets, bytes := 0.0, 0.0, 0.0
	for i := range l.groups {
		g := &l.groups[i]
		rate := 1 / g.every.Seconds()
		for j := range g.polls {
			n, size := l.k.metered(&g.polls[j].q)
			requests, packets, bytes = requests+rate, packets+rate*float64(n), bytes+rate*float64(size)
		}
	}
	if l.k.serial {
		row("speed", l.speed())
	}
	row("requests", fmt.Sprintf("%.3g/s", requests))
	row("busy", percent(l.busy(l.c)))
	if l.k.network {
		const day = 24 * 60 * 60
		row("packets", rounded(packets*day)+" a day")
		row("traffic", gateway.Size(bytes*day).String()+" a day, with headers of IPv4")
		row("assumed", "a request and its answer take "+short(assumedTrip)+" on the network")
	}
	if l.k.serial {
		row("assumed", "a device takes "+short(assumedTurn)+" to answer")
	}
	return t
}

// speed names how the serial line is set.
func (l *linePlan) speed() string {
	s := &l.c.Serial
	parity, stop := map[string]string{"none": "N", "even": "E", "odd": "O"}[s.Parity], s.StopBits
	if stop == 0 {
		stop = 1
		if s.Parity == "none" {
			stop = 2
		}
	}
	return fmt.Sprintf("%d baud, %d%s%d", s.Baud, s.DataBits, parity, stop)
}

// busy is the part of its time that the line is in use, were it set like c.
func (l *linePlan) busy(c *Config) (sum float64) {
	for i := range l.groups {
		for j := range l.groups[i].polls {
			sum += float64(c.cost(&l.groups[i].polls[j].q)) / float64(l.groups[i].every)
		}
	}
	return sum
}

// short writes a time on the line.
func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// period writes a period as a configuration does: 1m, not 1m0s.
func period(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	case d >= time.Minute && d%time.Minute == 0:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	}
	return d.String()
}

// percent writes a part of a whole.
func percent(f float64) string {
	if f < 0.1 {
		return fmt.Sprintf("%.2g %%", 100*f)
	}
	return fmt.Sprintf("%.0f %%", 100*f)
}

// rounded writes a large number with two or three figures that count.
func rounded(f float64) string {
	switch {
	case f >= 1e6:
		return fmt.Sprintf("%.3g million", f/1e6)
	case f >= 1e4:
		return fmt.Sprintf("%.0f 000", f/1e3)
	}
	return fmt.Sprintf("%.0f", f)
}
