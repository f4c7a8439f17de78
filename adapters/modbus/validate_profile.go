package modbus

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// The most that a group may have. A record of so many values is some 200 KiB.
const maxValues = 4096

// maxAddress is the last address of each table.
const maxAddress = 65535

const nameHint = "1 to 64 of letters, digits, _ - ."

var sane = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// profileFaults collects what is wrong with a profile, under the key of what is
// looked at.
type profileFaults struct {
	at   string
	errs *[]error
}

func newProfileFaults(key string) *profileFaults { return &profileFaults{key, new([]error)} }

// below returns where the faults of a part go.
func (f *profileFaults) below(key string, i int) *profileFaults {
	return &profileFaults{f.key(fmt.Sprintf("%s[%d]", key, i)), f.errs}
}

func (f *profileFaults) key(key string) string {
	switch {
	case f.at == "":
		return key
	case key == "":
		return f.at
	}
	return f.at + "." + key
}

func (f *profileFaults) add(key, msg, hint string) {
	*f.errs = append(*f.errs, &gateway.FieldError{Key: f.key(key), Msg: msg, Hint: hint})
}

// oneOf wants one of some words, or none.
func (f *profileFaults) oneOf(key, word string, allowed ...string) bool {
	if word == "" || slices.Contains(allowed, word) {
		return true
	}
	f.add(key, fmt.Sprintf("%q is not one of %s", word, strings.Join(allowed, ", ")), "")
	return false
}

// between wants a number in a range.
func (f *profileFaults) between(key string, n, least, most int) bool {
	if n >= least && n <= most {
		return true
	}
	f.add(key, fmt.Sprintf("%d is outside %d to %d", n, least, most), "")
	return false
}

// name wants the name of a value or group.
func (f *profileFaults) name(name string) {
	switch {
	case name == "":
		f.add("name", "must not be empty", nameHint)
	case !sane.MatchString(name):
		hint := nameHint
		if s := saneName(name); s != "" {
			hint = "write " + s + ": " + nameHint
		}
		f.add("name", fmt.Sprintf("%q is not a name", name), hint)
	}
}

// validate returns everything that is wrong with p, each a *gateway.FieldError
// with a key below the given one.
func (p *Profile) validate(key string) []error {
	f := newProfileFaults(key)
	f.oneOf("order", p.Order, orders()...)
	f.limits(&p.Limits)
	if len(p.Groups) == 0 && p.SunSpec == nil {
		f.add("groups", "must not be empty: nothing would be read", "")
	}
	seen := make(map[string]int)
	for i := range p.Groups {
		g, at := &p.Groups[i], f.below("groups", i)
		if first, ok := seen[g.Name]; ok {
			at.add("name", fmt.Sprintf("%q is the name of groups[%d] already", g.Name, first), "names of groups are unique in a profile")
		} else {
			seen[g.Name] = i
		}
		at.group(p, g, false)
	}
	if p.SunSpec != nil {
		f.sunSpec(p, seen)
	}
	return *f.errs
}

func orders() []string { return []string{"ABCD", "CDAB", "BADC", "DCBA"} }

func (f *profileFaults) limits(l *Limits) {
	f.between("limits.words", l.Words, 0, maxWords)
	f.between("limits.bits", l.Bits, 0, maxBits)
	if l.Gap != nil {
		f.between("limits.gap", *l.Gap, 0, maxWords)
	}
	for i, r := range l.Forbidden {
		at := f.below("limits.forbidden", i)
		if r.Table == "" {
			at.add("table", "must not be empty", "coil, discrete, holding or input")
		}
		at.oneOf("table", r.Table, "coil", "discrete", "holding", "input")
		if at.between("from", r.From, 0, maxAddress) && at.between("to", r.To, 0, maxAddress) && r.From > r.To {
			at.add("to", fmt.Sprintf("%d is below from, %d", r.To, r.From), "")
		}
	}
}

// sunSpec checks the models. Models with the same name of their group are
// variants of one another, of which a device has one. static are the names of
// the groups that are always there.
func (f *profileFaults) sunSpec(p *Profile, static map[string]int) {
	s := &profileFaults{f.key("sunspec"), f.errs}
	for i, base := range p.SunSpec.Bases {
		s.between(fmt.Sprintf("bases[%d]", i), base, 0, maxAddress-3)
	}
	if len(p.SunSpec.Models) == 0 {
		s.add("models", "must not be empty: nothing would be read", "")
	}
	seen := make(map[int]int)
	for i := range p.SunSpec.Models {
		m, at := &p.SunSpec.Models[i], s.below("models", i)
		if len(m.IDs) == 0 {
			at.add("ids", "must not be empty", "the identifiers of the models with this layout, for instance [101, 102, 103]")
		}
		for j, id := range m.IDs {
			key := fmt.Sprintf("ids[%d]", j)
			if first, ok := seen[id]; ok {
				at.add(key, fmt.Sprintf("%d is a model of models[%d] already", id, first), "")
			}
			seen[id] = i
			at.between(key, id, 1, maxAddress-1)
		}
		if first, ok := static[m.Group.Name]; ok {
			at.add("name", fmt.Sprintf("%q is the name of groups[%d] already", m.Group.Name, first), "names of groups are unique in a profile")
		}
		if m.Group.Select != nil {
			at.add("select", "is not for SunSpec models", "")
		}
		at.group(p, &m.Group, true)
	}
}

// group checks a group; relative says that its addresses count from the start
// of a model, which is known only on the device.
func (f *profileFaults) group(p *Profile, g *Group, relative bool) {
	f.name(g.Name)
	if g.Every != 0 && g.Every < time.Millisecond || g.Every > 366*24*time.Hour {
		f.add("every", fmt.Sprintf("%s is outside 1ms to 8784h", g.Every), "")
	}
	if len(g.Points) == 0 {
		f.add("points", "must not be empty: nothing would be read", "")
	}
	names, sound := make(map[string]int), true
	for i := range g.Points {
		at, before := f.below("points", i), len(*f.errs)
		at.point(p, &g.Points[i], relative)
		if len(*f.errs) == before && len(names) <= maxValues {
			at.names(&g.Points[i], names, i)
		}
		sound = sound && len(*f.errs) == before
	}
	if len(names) > maxValues {
		f.add("points", fmt.Sprintf("make more than %d values", maxValues), "make several groups")
	}
	if g.Select != nil && !relative {
		f.selection(p, g, sound)
	}
}

// names wants the names of all values of a group to differ.
func (f *profileFaults) names(q *Point, seen map[string]int, i int) {
	t, _ := q.typ()
	var bits []uint8
	if t.class == classBits {
		bits = q.bitNumbers(t)
	}
	for e := range q.elements() {
		all := []string{q.element(e)}
		for j, bit := range bits {
			all = append(all[:j], q.element(e)+"."+q.bitName(bit))
		}
		for _, name := range all {
			if first, ok := seen[name]; ok {
				f.add("name", fmt.Sprintf("%q is the name of a value of points[%d] already", name, first), "names of values are unique in a group")
				return
			}
			seen[name] = i
		}
	}
}

// selection checks what is written before a group is read. sound says that
// nothing is wrong with its points.
func (f *profileFaults) selection(p *Profile, g *Group, sound bool) {
	s := &profileFaults{f.key("select"), f.errs}
	if len(g.Select.Values) == 0 || len(g.Select.Values) > maxReadWrite {
		s.add("values", fmt.Sprintf("%d values, must be 1 to %d", len(g.Select.Values), maxReadWrite), "")
	}
	s.between("address", g.Select.Address, 0, maxAddress+1-max(1, len(g.Select.Values)))
	if !sound || len(g.Points) == 0 {
		return
	}
	whole := span{readHolding, math.MaxInt, 0}
	end := 0
	for i := range g.Points {
		q := &g.Points[i]
		if functionOf(q.Table) != readHolding {
			f.below("points", i).add("table", "must be holding in a group with select", "function 23 reads holding registers")
			return
		}
		first, _ := q.run(0)
		last, _ := q.run(q.elements() - 1)
		whole.address, end = min(whole.address, first.address), max(end, last.end())
		if q.ScaleAt != nil {
			whole.address, end = min(whole.address, *q.ScaleAt), max(end, *q.ScaleAt+1)
		}
	}
	whole.length = end - whole.address
	if most := p.Limits.mostWords(); whole.length > most {
		s.add("", fmt.Sprintf("the points span %d registers, must be at most %d: they are read in one request", whole.length, most), "make several groups")
	}
	if r := p.Limits.forbids(whole); r != nil {
		s.add("", fmt.Sprintf("the points lie around %s, and are read in one request", r), "make several groups")
	}
}

func (l *Limits) mostWords() int {
	if l.Words == 0 {
		return maxWords
	}
	return l.Words
}

// forbids returns the first range of which s holds something.
func (l *Limits) forbids(s span) *Range {
	for i := range l.Forbidden {
		r := &l.Forbidden[i]
		if functionOf(r.Table) == s.function && s.address <= r.To && s.end() > r.From {
			return r
		}
	}
	return nil
}

// String names the range in messages.
func (r *Range) String() string {
	return fmt.Sprintf("the forbidden range %s %d to %d", r.Table, r.From, r.To)
}
