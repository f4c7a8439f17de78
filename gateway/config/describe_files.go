package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// fileOptions are the options, at any depth, that may name a file: one of
// each kind, with its path. What such a file holds is told once, apart.
func fileOptions(opts []option, path string) []namedFile {
	return appendFiles(nil, opts, path, 0)
}

// namedFile is a kind of file and the first option that may name one.
type namedFile struct {
	kind string
	path string
	opts []option // what stands in such a file
}

func appendFiles(out []namedFile, opts []option, path string, depth int) []namedFile {
	for i := range opts {
		o := &opts[i]
		kids := o.kids()
		switch {
		case kids == nil || depth > maxStructs:
		case o.file == "":
			out = appendFiles(out, kids, join(path, o.name), depth+1)
		case !slices.ContainsFunc(out, func(f namedFile) bool { return f.kind == o.file }):
			out = append(out, namedFile{o.file, join(path, o.name), kids})
		}
	}
	return out
}

// requiredWords says that an option must be given; where another may be given
// instead, which.
func (o *option) requiredWords() string {
	if o.or != "" {
		return "required, or " + o.or
	}
	return "required"
}

// below returns the options that are told below an option.
func (o *option) below() []option {
	if o.file != "" {
		return nil
	}
	return o.kids()
}

// fileTables writes what the files hold that options may name.
func fileTables(b *strings.Builder, h *half, a *gateway.Adapter) {
	for _, f := range fileOptions(h.options(), "") {
		fmt.Fprintf(b, "\n#### %s: a file, or `%s` of type %s\n\n", f.kind, f.path, a.Type)
		if names := libraryNames(a.Library); len(names) > 0 {
			fmt.Fprintf(b, "These come with the gateway: `%s%s`.\n\n", builtin, strings.Join(names, "`, `"+builtin))
		}
		table(b, f.opts, "", nil)
	}
}

// fileParts writes the same for a terminal.
func (p *printer) fileParts(h *half, a *gateway.Adapter) {
	for _, f := range fileOptions(h.options(), "") {
		p.f("\n%s: what such a file, or the option %s, holds\n", f.kind, f.path)
		if names := libraryNames(a.Library); len(names) > 0 {
			for _, line := range wrap("These come with the gateway: "+builtin+strings.Join(names, ", "+builtin)+".", 98) {
				p.f("%s\n", line)
			}
		}
		p.f("\n")
		p.options(f.opts, "", nil, 1)
	}
}

// fileSchemas adds what the files hold to the definitions of the schema.
func fileSchemas(h *half, defs object) {
	for _, f := range fileOptions(h.options(), "") {
		defs["file-"+f.kind] = mappingSchema(f.opts, "", nil, 0)
	}
}

// fileSchema describes an option that may name a file.
func (o *option) fileSchema() object {
	ref := object{"$ref": "#/$defs/file-" + o.file}
	return object{"oneOf": []any{object{"type": "string", "minLength": 1}, ref}}
}

// notAFile returns what is wrong with the tag file of an option, "" when
// nothing is.
func (o *option) notAFile() string {
	t := o.typ
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if o.file != "" && (t.Kind() != reflect.Struct || isText(t)) {
		return fmt.Sprintf("field %s has a file tag and is no struct", o.field)
	}
	return ""
}
