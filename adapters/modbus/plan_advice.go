package modbus

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// How busy a line may be. What is above mostBusy leaves no room for retries,
// units that do not answer and requests that are not polls.
const (
	mostBusy = 0.7
	full     = 1.0
)

// judge says whether the plan can be kept, and what would help.
func (l *linePlan) judge() {
	if len(l.groups) == 0 {
		return
	}
	l.judgeAnswers()
	busy := l.busy(l.c)
	what, detail := "line "+l.c.URL, fmt.Sprintf("busy %s of the time", percent(busy))
	if over := l.tooLong(); over != "" {
		detail += "; " + over
	}
	switch {
	case l.k.network && busy > full:
		l.judgeNetwork(what, detail)
	case busy > full:
		l.note(gateway.Fail, what, detail+": polls will be skipped", l.remedy(busy))
	case busy > mostBusy:
		l.note(gateway.Note, what, detail+": little is left for retries and for units that do not answer", l.remedy(busy))
	default:
		l.note(gateway.OK, what, detail, "")
	}
	l.judgeSilence()
}

// judgeNetwork judges a line whose speed is only assumed: what is surely too
// much is what pauses or a stated baud rate alone make too much.
func (l *linePlan) judgeNetwork(what, detail string) {
	level, about := gateway.Note, ": polls will be skipped, if a request takes as long as is assumed here"
	pauses := 0.0
	for i := range l.groups {
		pauses += float64(len(l.groups[i].polls)) * l.c.Pause.Seconds() / l.groups[i].every.Seconds()
	}
	if pauses > full || l.k.serial && l.c.Serial != defaults().Serial {
		level, about = gateway.Fail, ": polls will be skipped"
	}
	l.note(level, what, detail+about, l.remedy(l.busy(l.c)))
}

// tooLong names a group of which one poll takes longer than the time to the next.
func (l *linePlan) tooLong() string {
	for i := range l.groups {
		if g := &l.groups[i]; g.time > g.every {
			return fmt.Sprintf("one poll of %s takes %s, and every is %s", l.name(g), short(g.time), period(g.every))
		}
	}
	return ""
}

// name names a group for a person.
func (l *linePlan) name(g *plannedGroup) string {
	if len(l.devices) == 1 {
		return g.name
	}
	return g.device.Name + " " + g.name
}

// remedy says what would make the line less busy, each computed.
func (l *linePlan) remedy(busy float64) string {
	ways := []string{l.slower(busy)}
	if l.k.serial {
		if w := l.faster(); w != "" {
			ways = append(ways, w)
		}
	}
	if l.c.Pause > 0 {
		c := *l.c
		if c.Pause = 0; l.busy(&c) < busy {
			ways = append(ways, fmt.Sprintf("no pause: %s busy", percent(l.busy(&c))))
		}
	}
	if n := l.lines(); n > 1 {
		ways = append(ways, fmt.Sprintf("%d lines with the devices shared out", n))
	}
	return strings.Join(ways, "; or ")
}

// slower says which periods would do. Groups that take next to nothing of the
// line stay as they are, if that is enough.
func (l *linePlan) slower(busy float64) string {
	least, most := busy/20, 0.0
	for i := range l.groups {
		if b := l.groups[i].busy(); b >= least {
			most += b
		}
	}
	factor := most / (mostBusy - (busy - most))
	if busy-most > mostBusy/7 {
		least, factor = 0, busy/mostBusy
	}
	var each []string
	periods, scaled := map[time.Duration]bool{}, 0
	for i := range l.groups {
		if g := &l.groups[i]; g.busy() >= least {
			e := roundUp(time.Duration(factor * float64(g.every)))
			periods[e] = true
			scaled++
			each = append(each, period(e)+" for "+g.name)
		}
	}
	if len(periods) == 1 && scaled == len(l.groups) {
		each[0], _, _ = strings.Cut(each[0], " ")
		each = each[:1]
	}
	slices.Sort(each)
	return "every: " + strings.Join(slices.Compact(each), ", ")
}

// roundUp makes a period one that a person would write.
func roundUp(d time.Duration) time.Duration {
	step := 10 * time.Millisecond
	switch {
	case d > time.Minute:
		step = 10 * time.Second
	case d > 10*time.Second:
		step = time.Second
	case d > time.Second:
		step = 100 * time.Millisecond
	}
	return (d + step - 1) / step * step
}

// faster says which baud rate would do, "" if none that is usual would.
func (l *linePlan) faster() string {
	c := *l.c
	for _, c.Serial.Baud = range []int{9600, 19200, 38400, 57600, 115200} {
		if busy := l.busy(&c); c.Serial.Baud > l.c.Serial.Baud && busy <= mostBusy {
			return fmt.Sprintf("serial.baud: %d, set on every device too (%s busy)", c.Serial.Baud, percent(busy))
		}
	}
	return ""
}

// lines says on how many lines the devices would fit, 0 if they would not.
func (l *linePlan) lines() int {
	part := map[string]float64{}
	for i := range l.groups {
		part[l.groups[i].device.Name] += l.groups[i].busy()
	}
	parts := make([]float64, 0, len(part))
	for _, p := range part {
		parts = append(parts, p)
	}
	slices.Sort(parts)
	slices.Reverse(parts) // the largest first, each to the first line that has room
	var lines []float64
	for _, p := range parts {
		if p > mostBusy {
			return 0
		}
		i := slices.IndexFunc(lines, func(used float64) bool { return used+p <= mostBusy })
		if i < 0 {
			i, lines = len(lines), append(lines, 0)
		}
		lines[i] += p
	}
	return len(lines)
}

// judgeAnswers looks for answers that take longer than they may.
func (l *linePlan) judgeAnswers() {
	for i := range l.groups {
		g := &l.groups[i]
		for j := range g.polls {
			q := &g.polls[j].q
			if need := l.c.answerTime(q); need > g.device.Timeout {
				l.note(gateway.Fail, "device "+g.device.Name+" group "+g.name,
					fmt.Sprintf("the answer to %s takes %s at %d baud, and timeout is %s: it cannot arrive in time", q, short(need), l.c.Serial.Baud, period(g.device.Timeout)),
					fmt.Sprintf("timeout: %s, or fewer registers in one request (limits of the profile)", period(roundUp(2*need))))
				break
			}
		}
	}
}

// judgeSilence looks at what one unit that does not answer does to the others.
func (l *linePlan) judgeSilence() {
	if !l.k.serial || len(l.devices) < 2 {
		return
	}
	fastest := slices.MinFunc(l.groups, func(a, b plannedGroup) int { return cmp.Compare(a.every, b.every) })
	slowest := slices.MaxFunc(l.devices, func(a, b Device) int { return cmp.Compare(a.Timeout, b.Timeout) })
	if slowest.Timeout <= fastest.every {
		return
	}
	longest := time.Duration(0)
	for i := range l.groups {
		for j := range l.groups[i].polls {
			longest = max(longest, l.c.answerTime(&l.groups[i].polls[j].q))
		}
	}
	fix := "a line of its own for what is read so often"
	if enough := roundUp(2*longest + 50*time.Millisecond); enough < fastest.every {
		fix = fmt.Sprintf("timeout: %s (the longest answer takes %s on the line), or %s", period(enough), short(longest), fix)
	}
	l.note(gateway.Note, "line "+l.c.URL, fmt.Sprintf("each time a unit does not answer, the line waits %s (timeout of %s), and %s is read every %s: its polls will be late",
		period(slowest.Timeout), slowest.Name, l.name(&fastest), period(fastest.every)), fix)
}
