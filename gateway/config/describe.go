package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// maxStructs bounds how deep structs may hold structs.
const maxStructs = 8

// half is an adapter in one of its roles.
type half struct {
	role     role
	shared   any
	own      any
	validate func() error
}

// halves returns an adapter's roles with fresh defaults.
func halves(a *gateway.Adapter) []half {
	var out []half
	if a.NewSource != nil {
		if c := a.NewSource(); !isNil(c) {
			out = append(out, half{roleSource, &sourceShared{}, c, c.Validate})
		}
	}
	if a.NewSink != nil {
		if c := a.NewSink(); !isNil(c) {
			out = append(out, half{roleSink, &sinkShared{}, c, c.Validate})
		}
	}
	return out
}

// required returns the options that must be given: those of which the
// defaults complain.
func (h *half) required() map[string]bool {
	out := map[string]bool{"name": true, "type": true}
	var collect func(error)
	collect = func(err error) {
		switch e := err.(type) {
		case nil:
		case *gateway.FieldError:
			key, _, _ := strings.Cut(e.Key, "[")
			out[key] = true
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				collect(one)
			}
		default:
			collect(errors.Unwrap(err))
		}
	}
	collect(h.validate())
	return out
}

// options are all options of the half: the shared ones first.
func (h *half) options() []option {
	return append(optionsOf(structOf(h.shared)), optionsOf(structOf(h.own))...)
}

// printer writes and keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) f(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// Describe writes every option of an adapter.
func Describe(w io.Writer, a gateway.Adapter) error {
	p := &printer{w: w}
	for i, h := range halves(&a) {
		if i > 0 {
			p.f("\n")
		}
		p.f("%s as a %s: %s\n\n", a.Type, h.role, a.Doc)
		p.options(h.options(), "", h.required(), 1)
		p.fileParts(&h, &a)
	}
	return p.err
}

// DescribeTop writes the options outside sources and sinks.
func DescribeTop(w io.Writer) error {
	p := &printer{w: w}
	for i, s := range defaults().sections() {
		if i > 0 {
			p.f("\n")
		}
		p.f("%s: %s\n\n", s.name, s.doc)
		p.options(optionsOf(structOf(s.into)), s.name, topRequired(), 1)
	}
	p.f("\nsources: List of what is read, at least one. sinks: list of where records go, at least one.\n")
	p.f("Each entry has a name and a type; the other options are those of its type.\n")
	return p.err
}

func topRequired() map[string]bool { return map[string]bool{"gateway.id": true} }

// options writes options, those of nested structs indented below them.
func (p *printer) options(opts []option, path string, required map[string]bool, depth int) {
	indent := strings.Repeat("  ", depth)
	for i := range opts {
		o := &opts[i]
		here := join(path, o.name)
		p.f("%s%s: %s", indent, o.name, o.typeWords())
		if required[here] {
			p.f(" (%s)", o.requiredWords())
		} else if d := o.defaultText(); d != "" && !o.told() {
			p.f(" (default %s)", d)
		}
		p.f("\n")
		for _, line := range wrap(o.doc, 96-2*depth) {
			p.f("%s    %s\n", indent, line)
		}
		if o.example != "" {
			p.f("%s    Example: %s: %s\n", indent, o.name, o.exampleText())
		}
		if kids := o.below(); kids != nil && depth < maxStructs {
			p.options(kids, here, required, depth+2)
		}
	}
}

// kids returns the options below an option, with their defaults.
func (o *option) kids() []option {
	t := nested(o.typ)
	switch {
	case t == nil:
		return nil
	case o.val.Kind() == reflect.Struct:
		return optionsOf(o.val)
	case o.val.Kind() == reflect.Pointer && !o.val.IsNil() && o.val.Elem().Kind() == reflect.Struct:
		return optionsOf(o.val.Elem())
	}
	return optionsOf(reflect.New(t).Elem())
}

// wrap breaks text into lines of at most width characters.
func wrap(s string, width int) []string {
	var lines []string
	line, n := "", 0
	for _, word := range strings.Fields(s) {
		w := len([]rune(word))
		if n > 0 && n+1+w > width {
			lines, line, n = append(lines, line), "", 0
		}
		if n > 0 {
			line, n = line+" ", n+1
		}
		line, n = line+word, n+w
	}
	if n > 0 {
		lines = append(lines, line)
	}
	return lines
}

// sorted returns the adapters in the order of their types.
func sorted(adapters []gateway.Adapter) []gateway.Adapter {
	out := slices.Clone(adapters)
	slices.SortStableFunc(out, func(a, b gateway.Adapter) int { return strings.Compare(a.Type, b.Type) })
	return out
}

// Types writes one line for each adapter.
func Types(w io.Writer, adapters []gateway.Adapter) error {
	p := &printer{w: w}
	for _, a := range sorted(adapters) {
		var roles []string
		for _, r := range []role{roleSource, roleSink} {
			if r.has(&a) {
				roles = append(roles, string(r))
			}
		}
		p.f("  %-12s %-12s %s\n", a.Type, strings.Join(roles, ", "), a.Doc)
	}
	return p.err
}

// Markdown returns docs/configuration.md: every option of every section and
// adapter.
func Markdown(adapters []gateway.Adapter) string {
	var b strings.Builder
	b.WriteString(markdownHead)
	for _, s := range defaults().sections() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.name, s.doc)
		table(&b, optionsOf(structOf(s.into)), s.name, topRequired())
	}
	for _, r := range []role{roleSource, roleSink} {
		fmt.Fprintf(&b, "\n## %ss\n\nA list, at least one entry.\n", r)
		for _, a := range sorted(adapters) {
			for _, h := range halves(&a) {
				if h.role == r {
					fmt.Fprintf(&b, "\n### %s: type %s\n\n%s\n\n", r, a.Type, a.Doc)
					table(&b, h.options(), "", h.required())
					fileTables(&b, &h, &a)
				}
			}
		}
	}
	return b.String()
}

const markdownHead = `# Configuration

<!-- Written by "waystation describe --markdown" from the same structs that are decoded. Do not edit. -->

One YAML file. Unknown options are refused; ` + "`waystation check FILE`" + ` finds everything that is wrong with a file and opens no connection.
Relative paths start at the directory of the file. Sections whose names begin with ` + "`x-`" + ` are ignored: a place for anchors
(` + "`&name`" + `) that are used elsewhere by ` + "`*name`" + ` or ` + "`<<: *name`" + `.

A duration is written 500ms, 10s, 2m or 1h30m; a size 512KiB, 64MiB or 8GiB; a secret env:NAME, file:PATH, credential:NAME (of the systemd unit) or, worse, the text itself.
`

// table writes options as a Markdown table; nested ones with their path.
func table(b *strings.Builder, opts []option, path string, required map[string]bool) {
	b.WriteString("| Option | Type | Default | Meaning |\n|---|---|---|---|\n")
	rows(b, opts, rowContext{path: path, required: required})
}

// rowContext says where in the tree of options a row stands.
type rowContext struct {
	path     string
	shown    string
	required map[string]bool
	depth    int
}

func rows(b *strings.Builder, opts []option, c rowContext) {
	for i := range opts {
		o := &opts[i]
		path := join(c.path, o.name)
		shown := join(c.shown, o.name)
		def := o.defaultText()
		switch {
		case c.required[path]:
			def = "**required**" + strings.TrimPrefix(o.requiredWords(), "required")
		case o.told() || def == "":
			def = ""
		default:
			def = "`" + def + "`"
		}
		doc := o.doc
		if o.example != "" {
			doc += " Example: `" + o.exampleText() + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", shown, cell(o.typeWords()), cell(def), cell(doc))
		if kids := o.below(); kids != nil && c.depth < maxStructs {
			if o.typ.Kind() == reflect.Slice {
				shown += "[]"
			}
			rows(b, kids, rowContext{path: path, shown: shown, required: c.required, depth: c.depth + 1})
		}
	}
}

// cell makes text safe inside a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(s)
}

// CheckDocs returns what the structs of the adapters and of this package lack:
// doc tags, yaml tags, types the decoder knows, names that are free, examples
// of what is required.
func CheckDocs(adapters []gateway.Adapter) error {
	var errs []error
	for _, s := range defaults().sections() {
		errs = append(errs, lacking(optionsOf(structOf(s.into)), 0)...)
	}
	for i := range adapters {
		a := &adapters[i]
		if a.Type == "" || a.Doc == "" {
			errs = append(errs, fmt.Errorf("adapter %q has no type or no doc", a.Type))
		}
		hs := halves(a)
		if len(hs) == 0 {
			errs = append(errs, fmt.Errorf("adapter %s is neither source nor sink", a.Type))
		}
		for _, h := range hs {
			errs = append(errs, lacking(h.options(), 0)...)
			errs = append(errs, h.withoutExample()...)
		}
	}
	return errors.Join(errs...)
}

// withoutExample returns the required options that Example cannot fill in.
func (h *half) withoutExample() []error {
	var errs []error
	required := h.required()
	for _, o := range optionsOf(structOf(h.own)) {
		if required[o.name] && o.example == "" && o.kids() == nil {
			errs = append(errs, fmt.Errorf("field %s is required and has no example tag", o.field))
		}
	}
	return errs
}

// lacking checks options that stand in one mapping.
func lacking(opts []option, depth int) []error {
	var errs []error
	taken := map[string]string{}
	for i := range opts {
		o := &opts[i]
		if other, dup := taken[o.name]; dup {
			errs = append(errs, fmt.Errorf("option %q of %s is taken by %s", o.name, o.field, other))
		}
		taken[o.name] = o.field
		switch {
		case !o.tagged:
			errs = append(errs, fmt.Errorf("field %s has no yaml tag", o.field))
		case o.doc == "":
			errs = append(errs, fmt.Errorf("field %s has no doc tag", o.field))
		case !supported(o.typ):
			errs = append(errs, fmt.Errorf("field %s has type %s, which cannot be configured", o.field, o.typ))
		case o.notAFile() != "":
			errs = append(errs, errors.New(o.notAFile()))
		}
		if kids := o.kids(); kids != nil {
			if depth >= maxStructs {
				return append(errs, fmt.Errorf("field %s nests structs deeper than %d", o.field, maxStructs))
			}
			errs = append(errs, lacking(kids, depth+1)...)
		}
	}
	return errs
}
