package gateway

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Rule says what becomes of the records it matches. Every condition that is
// given must hold; a rule without conditions matches all.
type Rule struct {
	Device  string   // pattern of the device; "" = any. See NewRules
	Name    string   // pattern of the name; "" = any
	Quality *Quality // the worst of the record and its values
	Value   string   // pattern of the names of values, one of which must be there; "" = none need be
	Above   *float64 // such a value is a number above it
	Below   *float64 // and below it
	Equals  *string  // such a value is this text, or the same number, true or false

	Lane LaneChoice // where the record waits
	Drop bool       // it is not queued, and counts as filtered
	Tags []Tag      // put on the record; they replace tags of the same key
}

// maxRules bounds the rules of one source.
const maxRules = 256

// rules is the Transform of a list of rules.
type rules struct {
	list   []rule
	tagged []Tag // tags of the record being changed
}

// rule is a Rule made ready.
type rule struct {
	Rule
	device, name, value pattern
	number              *float64 // Equals as a number
}

// NewRules returns the Transform that changes each record as the first rule
// that matches it says; a record that none matches goes on as it is. Every
// fault is a *FieldError with a key such as "[2].match.device".
//
// A pattern is written as an MQTT topic filter: levels separated by /, + for
// any one level, # at the end for all levels from there on, none included.
// Besides, * stands for any characters within a level. Case counts.
func NewRules(list []Rule) (Transform, []*FieldError) {
	var faults []*FieldError
	bad := func(i int, key, msg, hint string) {
		faults = append(faults, &FieldError{Key: fmt.Sprintf("[%d]%s", i, key), Msg: msg, Hint: hint})
	}
	if len(list) > maxRules {
		return nil, []*FieldError{{Msg: fmt.Sprintf("%d rules: at most %d", len(list), maxRules), Hint: "patterns such as pump/+/alarm cover many devices"}}
	}
	t := &rules{}
	all := -1 // the first rule that matches everything
	for i, r := range list {
		if all >= 0 {
			bad(i, "", fmt.Sprintf("is never reached: rule %d matches every record", all+1), "put that one last")
			break
		}
		c := rule{Rule: r}
		here := func(key, msg, hint string) { bad(i, key, msg, hint) }
		c.compile(".match", here)
		c.check(here)
		if c.matchesAll() {
			all = i
		}
		t.list = append(t.list, c)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return t, nil
}

// patternHint says how a pattern is written.
const patternHint = "write it as an MQTT topic filter, such as pump/+/alarm or deck/#"

// compile makes the patterns ready; under is the key they stand under.
func (c *rule) compile(under string, bad func(key, msg, hint string)) {
	for _, p := range []struct {
		key, text string
		into      *pattern
	}{{"device", c.Device, &c.device}, {"name", c.Name, &c.name}, {"value", c.Value, &c.value}} {
		var msg string
		if *p.into, msg = newPattern(p.text); msg != "" {
			bad(under+"."+p.key, msg, patternHint)
		}
	}
}

// checkValue tells what of the conditions on values cannot work and reads Equals.
func (c *rule) checkValue(under string, bad func(key, msg, hint string)) {
	if c.Value == "" && (c.Above != nil || c.Below != nil || c.Equals != nil) {
		bad(under, "above, below and equals need value: the name of the signal", `value: "*" stands for any`)
	}
	if c.Above != nil && c.Below != nil && *c.Above >= *c.Below {
		bad(under, fmt.Sprintf("no number is above %v and below %v", *c.Above, *c.Below), "two rules say one or the other")
	}
	if c.Equals != nil && (c.Above != nil || c.Below != nil) {
		bad(under, "equals goes with neither above nor below", "")
	}
	if c.Equals != nil {
		if f, err := strconv.ParseFloat(*c.Equals, 64); err == nil {
			c.number = &f
		}
	}
}

// check tells what of a rule cannot work.
func (c *rule) check(bad func(key, msg, hint string)) {
	c.checkValue(".match", bad)
	switch {
	case c.Drop && (c.Lane != 0 || len(c.Tags) > 0):
		bad("", "lane and tags have no effect on records that are dropped", "remove them, or drop")
	case !c.Drop && c.Lane == 0 && len(c.Tags) == 0:
		bad("", "does nothing: needs lane, tags or drop", "to let such records pass by the rules below, give their lane")
	}
}

func (c *rule) matchesAll() bool {
	return c.device.all() && c.name.all() && c.Value == "" && c.Quality == nil
}

// Apply implements Transform.
func (t *rules) Apply(r *Record, emit func(*Record)) {
	for i := range t.list {
		c := &t.list[i]
		if !c.matches(r) {
			continue
		}
		if c.Drop {
			return
		}
		if c.Lane != 0 {
			r.Lane = c.Lane
		}
		if len(c.Tags) > 0 {
			t.tagged = joinTags(t.tagged[:0], c.Tags, r.Tags)
			r.Tags = t.tagged
		}
		break
	}
	emit(r)
}

func (c *rule) matches(r *Record) bool {
	if c.Quality != nil && worst(r) != *c.Quality {
		return false
	}
	if !c.device.match(r.Device) || !c.name.match(r.Name) {
		return false
	}
	return c.Value == "" || slices.ContainsFunc(r.Values, c.holds)
}

// worst is the worst quality of a record and its values.
func worst(r *Record) Quality {
	q := r.Quality
	for i := range r.Values {
		q = max(q, r.Values[i].Quality)
	}
	return min(q, Bad)
}

// holds reports whether a value is one the rule asks for.
func (c *rule) holds(v Value) bool {
	if !c.value.match(v.Name) {
		return false
	}
	if c.Above == nil && c.Below == nil && c.Equals == nil {
		return true
	}
	var f float64
	switch v.kind {
	case KindInt:
		f = float64(v.Int())
	case KindUint:
		f = float64(v.num)
	case KindFloat:
		f = v.Float()
	case KindBool:
		return c.Equals != nil && *c.Equals == strconv.FormatBool(v.num != 0)
	case KindString:
		return c.Equals != nil && *c.Equals == v.str
	default:
		return false
	}
	if c.Equals != nil {
		return c.number != nil && f == *c.number
	}
	return (c.Above == nil || f > *c.Above) && (c.Below == nil || f < *c.Below) // false for NaN
}

// pattern matches texts of levels separated by /. The zero value matches all.
type pattern struct {
	levels []string
	rest   bool // # at the end
}

// newPattern reads a pattern, or says what is wrong with it.
func newPattern(s string) (p pattern, msg string) {
	if s == "" {
		return p, ""
	}
	p.levels = strings.Split(s, "/")
	n := len(p.levels)
	if p.levels[n-1] == "#" {
		p.levels, p.rest = p.levels[:n-1], true
	}
	if i := slices.Index(p.levels, "#"); i >= 0 {
		return pattern{}, fmt.Sprintf("%q has # before its last level", clip(s))
	}
	return p, ""
}

// all reports whether the pattern matches every text.
func (p *pattern) all() bool { return len(p.levels) == 0 }

func (p *pattern) match(s string) bool {
	if p.all() {
		return true
	}
	for i, want := range p.levels {
		level, rest, more := strings.Cut(s, "/")
		if want != "+" && want != level && !wild(want, level) {
			return false
		}
		if last := i == len(p.levels)-1; last {
			return p.rest || !more
		}
		if !more {
			return false
		}
		s = rest
	}
	return false
}

// wild matches a level against one with * in it.
func wild(want, level string) bool {
	head, tail, found := strings.Cut(want, "*")
	if !found || !strings.HasPrefix(level, head) {
		return false
	}
	level = level[len(head):]
	for {
		piece, next, more := strings.Cut(tail, "*")
		if !more {
			return strings.HasSuffix(level, piece)
		}
		i := strings.Index(level, piece)
		if i < 0 {
			return false
		}
		level, tail = level[i+len(piece):], next
	}
}
