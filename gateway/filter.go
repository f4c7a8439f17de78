package gateway

import (
	"fmt"
	"slices"
)

// Condition says which records are meant: every field that is given must hold.
// Patterns are those of NewRules.
type Condition struct {
	Source  string   // pattern of the configured name of the source; "" = any
	Lane    string   // name of the lane; "" = any
	Device  string   // pattern; "" = any
	Name    string   // pattern; "" = any
	Tags    []Tag    // each is there, with a value that the pattern matches
	Quality *Quality // the worst of the record and its values
	Value   string   // pattern of the names of values, one of which must be there; "" = none need be
	Above   *float64 // such a value is a number above it
	Below   *float64 // and below it
	Equals  *string  // such a value is this text, or the same number, true or false
}

// Filter says which records a sink is sent. The zero value and nil want all.
type Filter struct{ include, exclude []condition }

// condition is a Condition made ready.
type condition struct {
	rule
	lane    string
	source  pattern
	tags    []tagPattern
	notices bool // it asks for the gateway's own records, by their source
}

type tagPattern struct {
	key   string
	value pattern
}

// NewFilter returns a Filter that wants the records that one of include
// matches, all when there are none, and that none of exclude does. Every fault
// is a *FieldError with a key such as "include[2].device".
//
// What the gateway says of itself (source waystation: losses, high water) is
// wanted in any case, unless a condition of exclude gives that very source.
func NewFilter(include, exclude []Condition) (*Filter, []*FieldError) {
	var faults []*FieldError
	f := &Filter{}
	for _, side := range []struct {
		key  string
		list []Condition
		into *[]condition
	}{{"include", include, &f.include}, {"exclude", exclude, &f.exclude}} {
		if len(side.list) > maxRules {
			faults = append(faults, &FieldError{Key: side.key, Msg: fmt.Sprintf("%d conditions: at most %d", len(side.list), maxRules), Hint: "patterns such as pump/+/alarm cover many devices"})
			continue
		}
		for i, c := range side.list {
			*side.into = append(*side.into, c.compile(func(key, msg, hint string) {
				faults = append(faults, &FieldError{Key: fmt.Sprintf("%s[%d]%s", side.key, i, key), Msg: msg, Hint: hint})
			}))
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return f, nil
}

// compile makes a condition ready and tells what of it cannot work.
func (c *Condition) compile(tell func(key, msg, hint string)) condition {
	good := true
	bad := func(key, msg, hint string) {
		good = false
		tell(key, msg, hint)
	}
	out := condition{lane: c.Lane, notices: c.Source == NoticeSource, rule: rule{Rule: Rule{Device: c.Device, Name: c.Name, Value: c.Value,
		Quality: c.Quality, Above: c.Above, Below: c.Below, Equals: c.Equals}}}
	out.compile("", bad)
	out.checkValue("", bad)
	var msg string
	if out.source, msg = newPattern(c.Source); msg != "" {
		bad(".source", msg, patternHint)
	}
	for _, t := range c.Tags {
		p, msg := newPattern(t.Value)
		if msg != "" {
			bad(".tags", msg, patternHint)
		}
		out.tags = append(out.tags, tagPattern{t.Key, p})
	}
	if good && c.Source == "" && c.Lane == "" && len(c.Tags) == 0 && out.matchesAll() {
		bad("", "matches every record", "needs source, lane, device, name, tags, quality or value")
	}
	return out
}

// wants reports whether a record of the named lane is to be sent.
func (f *Filter) wants(lane string, r *Record) bool {
	if f == nil {
		return true
	}
	notice := r.Source == NoticeSource
	for i := range f.exclude {
		if c := &f.exclude[i]; (!notice || c.notices) && c.holdsFor(lane, r) {
			return false
		}
	}
	if notice || len(f.include) == 0 {
		return true
	}
	for i := range f.include {
		if f.include[i].holdsFor(lane, r) {
			return true
		}
	}
	return false
}

// holdsFor reports whether the condition holds for a record of the named lane.
func (c *condition) holdsFor(lane string, r *Record) bool {
	if c.lane != "" && c.lane != lane || !c.source.match(r.Source) || !c.matches(r) {
		return false
	}
	for i := range c.tags {
		t := &c.tags[i]
		if !slices.ContainsFunc(r.Tags, func(x Tag) bool { return x.Key == t.key && t.value.match(x.Value) }) {
			return false
		}
	}
	return true
}
