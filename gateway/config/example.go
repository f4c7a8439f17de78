package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// Example returns a configuration with every option of every section and
// adapter. What must be given is given; all else stands as a comment with its
// default or an example: lines of text begin with "# ", options with "#".
func Example(adapters []gateway.Adapter) string {
	e := &exampler{}
	e.line(0, "# An example with every option. Written by \"waystation describe --example\".")
	e.line(0, "# Lines that begin with # and no space are options at their defaults, or examples.")
	for _, s := range defaults().sections() {
		e.line(0, "")
		e.comment(0, s.doc)
		e.line(0, s.name+":")
		e.options(optionsOf(structOf(s.into)), s.name, topRequired(), 1)
	}
	for _, r := range []role{roleSource, roleSink} {
		e.line(0, "")
		e.line(0, string(r)+"s:")
		for _, a := range sorted(adapters) {
			for _, h := range halves(&a) {
				if h.role == r {
					e.member(&a, &h)
				}
			}
		}
	}
	return e.b.String()
}

// exampler writes lines of YAML.
type exampler struct {
	b   strings.Builder
	off bool // what follows is commented out
}

// line writes one line; options that are off get a # before them.
func (e *exampler) line(depth int, s string) {
	if e.off && s != "" && !strings.HasPrefix(s, "# ") {
		s = "#" + s
	}
	if s != "" {
		e.b.WriteString(strings.Repeat("  ", depth) + s)
	}
	e.b.WriteByte('\n')
}

func (e *exampler) comment(depth int, doc string) {
	for _, l := range wrap(doc, 110-2*depth) {
		e.line(depth, "# "+l)
	}
}

// member writes one source or sink.
func (e *exampler) member(a *gateway.Adapter, h *half) {
	e.comment(1, a.Doc)
	e.line(1, "- name: example-"+strings.ToLower(a.Type))
	e.line(2, "type: "+quoted(a.Type))
	var rest []option
	for _, o := range h.options() {
		if o.name != "name" && o.name != "type" {
			rest = append(rest, o)
		}
	}
	e.options(rest, "", h.required(), 2)
}

// options writes options; those not required are commented out.
func (e *exampler) options(opts []option, path string, required map[string]bool, depth int) {
	for i := range opts {
		o := &opts[i]
		here := join(path, o.name)
		was := e.off
		if !needed(required, here) {
			e.off = true
		}
		e.comment(depth, o.doc)
		kids := o.kids()
		switch {
		case kids == nil || o.example != "" || o.typ.Kind() == reflect.Map || depth > maxStructs:
			e.line(depth, o.name+": "+o.sample())
		case o.typ.Kind() == reflect.Slice:
			e.line(depth, o.name+": "+o.sample())
			for _, k := range kids {
				e.comment(depth+1, fmt.Sprintf("%s[].%s: %s. %s", o.name, k.name, k.typeWords(), k.doc))
			}
		default:
			e.line(depth, o.name+":")
			e.options(kids, here, required, depth+1)
		}
		e.off = was
	}
}

// needed reports whether path or something below it must be given.
func needed(required map[string]bool, path string) bool {
	for k := range required {
		if within(k, path) {
			return true
		}
	}
	return false
}

// sample returns a value that shows what an option takes.
func (o *option) sample() string {
	if o.typ == secretType() {
		return or(o.example, "file:/etc/waystation/"+o.name)
	}
	if o.example != "" {
		return o.exampleText()
	}
	if d := o.defaultText(); d != "" {
		return d
	}
	if len(o.enum) > 0 && o.typ.Kind() == reflect.String {
		return quoted(o.enum[0])
	}
	switch o.typ {
	case durationType():
		return "10s"
	case sizeType():
		return "1MiB"
	}
	switch o.typ.Kind() {
	case reflect.Slice:
		return "[]"
	case reflect.Map, reflect.Struct:
		return "{}"
	case reflect.String:
		return `""`
	case reflect.Pointer:
		return (&option{typ: o.typ.Elem(), val: reflect.Zero(o.typ.Elem()), name: o.name}).sample()
	}
	return fmt.Sprint(o.val.Interface())
}

// exampleText returns the example as YAML: text that YAML would read as
// something else is put in quotes, lists without brackets get them.
func (o *option) exampleText() string {
	t := o.typ
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.String, isText(t) && t != sizeType():
		if strings.HasPrefix(o.example, `"`) {
			return o.example
		}
		return quoted(o.example)
	case t.Kind() == reflect.Slice && !strings.HasPrefix(o.example, "["):
		items := strings.Split(o.example, ",")
		for i := range items {
			items[i] = quoted(strings.TrimSpace(items[i]))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return o.example
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
