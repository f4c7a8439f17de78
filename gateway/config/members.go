package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// sourceShared are the options every source has.
type sourceShared struct {
	Name  string            `yaml:"name" example:"deck" doc:"Name of this source, unique over all sources. 1 to 64 of a-z 0-9 _ -"`
	Type  string            `yaml:"type" doc:"What it connects to."`
	Lane  string            `yaml:"lane" example:"telemetry" doc:"Lane of its records, one of buffer.lanes: alarm, telemetry or bulk unless configured. Default: the default lane, telemetry."`
	Tags  map[string]string `yaml:"tags" example:"{deck: upper}" doc:"Tags put on every record of this source."`
	Rules []ruleConfig      `yaml:"rules" doc:"What becomes of single records: lane, tags or drop. The first rule that matches a record decides; a record that none matches goes on as it is."`
}

// sinkShared are the options every sink has.
type sinkShared struct {
	Name string `yaml:"name" example:"shore" doc:"Name of this sink, unique over all sinks. Its place in the queue is kept under this name."`
	Type string `yaml:"type" doc:"What it connects to."`

	Filter filterConfig `yaml:"filter" doc:"Which records this sink is sent. Left out: all of them."`
	Batch  batchConfig  `yaml:"batch" doc:"How many records are sent at once. Left out: the gateway finds what suits the link."`
}

// role says which half of an adapter is meant.
type role string

const (
	roleSource role = "source"
	roleSink   role = "sink"
)

// has reports whether an adapter can be r.
func (r role) has(a *gateway.Adapter) bool {
	if r == roleSource {
		return a.NewSource != nil
	}
	return a.NewSink != nil
}

// other is the other role.
func (r role) other() role {
	if r == roleSource {
		return roleSink
	}
	return roleSource
}

// typesOf lists the types that can be r, sorted.
func typesOf(adapters []gateway.Adapter, r role) []string {
	var out []string
	for i := range adapters {
		if r.has(&adapters[i]) {
			out = append(out, adapters[i].Type)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// adapter finds the adapter that the member names by its type; nil after
// noting a fault.
func (f *filler) adapter(item *node, path string, r role) *gateway.Adapter {
	e := item.get("type")
	known := typesOf(f.adapters, r)
	if e == nil || e.val.kind == kindNull {
		if near := misspelt(item, "type"); near == "" {
			f.check(item, path, &gateway.FieldError{Key: "type", Msg: "must not be empty", Hint: "one of " + strings.Join(known, ", ")})
		}
		return nil
	}
	if f.broken(e.val, join(path, "type")) {
		return nil
	}
	name, ok := plainText(e.val)
	if !ok {
		f.wrong(e.val, join(path, "type"), structOf(&sinkShared{}).Field(1).Type(), "one of "+strings.Join(known, ", "))
		return nil
	}
	for i := range f.adapters {
		if a := &f.adapters[i]; a.Type == name && r.has(a) {
			return a
		}
	}
	if slices.Contains(typesOf(f.adapters, r.other()), name) {
		f.fault(e.val, join(path, "type"), fmt.Sprintf("type %q is a %s, it cannot be used as a %s", name, r.other(), r), "types of "+string(r)+"s: "+strings.Join(known, ", "))
		return nil
	}
	hint := "types of " + string(r) + "s: " + strings.Join(known, ", ")
	if near := nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %q? %s", near, hint)
	}
	f.fault(e.val, join(path, "type"), fmt.Sprintf("unknown type %q", clip(name, 40)), hint)
	return nil
}

// misspelt returns the key of n that probably means word.
func misspelt(n *node, word string) string {
	for i := range n.entries {
		if k := n.entries[i].key; k != word && nearest(k, []string{word}) != "" {
			return k
		}
	}
	return ""
}

// source decodes one source and returns its name.
func (f *filler) source(item *node, path string) string {
	shared := &sourceShared{}
	a := f.adapter(item, path, roleSource)
	if a == nil {
		f.sharedOnly(item, path, shared)
		return f.checkName(item, path, shared.Name)
	}
	own := a.NewSource()
	if isNil(own) {
		f.fault(item, path, "adapter "+a.Type+" gives no configuration: please report it", "")
		return ""
	}
	f.owner = a
	f.decodeInto(item, path, shared, own)
	if f.checkName(item, path, shared.Name) == gateway.NoticeSource {
		f.check(item, path, &gateway.FieldError{Key: "name", Msg: fmt.Sprintf("%q is the name of the gateway's own records", gateway.NoticeSource), Hint: "take another"})
	}
	tags := f.tags(f.root, path, shared.Tags)
	f.validate(item, path, own.Validate)
	f.exclusive(item, path, shared.Name, own)
	lane := f.defaultLane()
	if item.get("lane") != nil {
		lane = f.lane(item, path, "lane", shared.Lane)
	}
	rules := f.rules(item, path, shared.Rules)
	f.cfg.Sources = append(f.cfg.Sources, Source{Name: shared.Name, Type: a.Type, Lane: lane, Tags: tags, Rules: rules, Config: own})
	return shared.Name
}

// sink decodes one sink and returns its name.
func (f *filler) sink(item *node, path string) string {
	shared := &sinkShared{}
	a := f.adapter(item, path, roleSink)
	if a == nil {
		f.sharedOnly(item, path, shared)
		return f.checkName(item, path, shared.Name)
	}
	own := a.NewSink()
	if isNil(own) {
		f.fault(item, path, "adapter "+a.Type+" gives no configuration: please report it", "")
		return ""
	}
	f.owner = a
	f.decodeInto(item, path, shared, own)
	f.checkName(item, path, shared.Name)
	f.validate(item, path, own.Validate)
	f.cfg.Sinks = append(f.cfg.Sinks, Sink{Name: shared.Name, Type: a.Type, Filter: f.filter(item, path, &shared.Filter), Batch: f.batch(item, path, shared.Batch), Config: own})
	return shared.Name
}

// sharedOnly decodes what can be decoded of a member whose type is unknown.
func (f *filler) sharedOnly(item *node, path string, shared any) {
	f.fill(item, path, optionsOf(structOf(shared)), func(key string) bool {
		return nearest(key, []string{"type"}) == "" || item.get("type") != nil
	})
}

// holder is the source that has something for itself.
type holder struct {
	name string
	line int
}

// exclusive notes a fault when another source already has what own needs for
// itself.
func (f *filler) exclusive(item *node, path, name string, own gateway.SourceConfig) {
	x, ok := own.(gateway.Exclusive)
	if !ok || f.faulty(path) {
		return
	}
	thing := x.Occupies()
	if thing == "" {
		return
	}
	at := find(item, "url") // or where the source begins
	if first, taken := f.held[thing]; taken {
		f.rep.at(at, path, fmt.Sprintf("%s is taken by source %q in line %d", thing, first.name, first.line), x.Alternative())
		return
	}
	if f.held == nil {
		f.held = map[string]holder{}
	}
	f.held[thing] = holder{name, at.line}
}
