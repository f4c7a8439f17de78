package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// option is one field of a configuration struct, as every part of this
// package sees it: decoder, description, example, schema.
type option struct {
	name    string
	doc     string
	example string
	unit    string
	enum    []string
	file    string // what a file that the option may name holds; "" = it names none
	or      string // option that may be given instead where this one is required
	field   string // name of the Go field, for messages to programmers
	tagged  bool   // has a yaml tag
	typ     reflect.Type
	val     reflect.Value // holds the default and takes the decoded value
}

// optionsOf lists the options of a struct in the order of its fields.
// Embedded structs are part of it.
func optionsOf(v reflect.Value) []option {
	var out []option
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "-" || (!f.IsExported() && !f.Anonymous) {
			continue
		}
		inline := rest == "inline" || (f.Anonymous && name == "")
		if inline && f.Type.Kind() == reflect.Struct {
			out = append(out, optionsOf(v.Field(i))...)
			continue
		}
		if !f.IsExported() {
			continue
		}
		o := option{
			name: name, doc: f.Tag.Get("doc"), example: f.Tag.Get("example"), unit: f.Tag.Get("unit"),
			file: f.Tag.Get("file"), or: f.Tag.Get("or"), field: v.Type().String() + "." + f.Name, tagged: name != "", typ: f.Type, val: v.Field(i),
		}
		if name == "" {
			o.name = strings.ToLower(f.Name)
		}
		if e := f.Tag.Get("enum"); e != "" {
			o.enum = strings.Split(e, ",")
		}
		out = append(out, o)
	}
	return out
}

// structOf returns the struct below pointers and interfaces.
func structOf(v any) reflect.Value {
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer || rv.Kind() == reflect.Interface {
		rv = rv.Elem()
	}
	return rv
}

// The types that are more than their kind.
func durationType() reflect.Type { return reflect.TypeFor[time.Duration]() }
func sizeType() reflect.Type     { return reflect.TypeFor[gateway.Size]() }
func secretType() reflect.Type   { return reflect.TypeFor[gateway.Secret]() }

// isText reports whether t reads itself from text.
func isText(t reflect.Type) bool {
	return t != secretType() && reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// nested returns the struct type whose options stand below an option of type
// t: of a struct, a pointer to one, a list of them; nil when there is none.
func nested(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() == reflect.Map {
		return nested(t.Elem())
	}
	if t.Kind() != reflect.Struct || isText(t) {
		return nil
	}
	return t
}

// words says in plain words what an option of type t takes.
func words(t reflect.Type) string {
	switch t {
	case durationType():
		return "a duration such as 500ms, 10s or 2m"
	case sizeType():
		return "a size such as 64MiB"
	case secretType():
		return "a secret: env:NAME, file:PATH, credential:NAME or the text itself"
	}
	if isText(t) {
		return "text"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return words(t.Elem())
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number" + limits(t)
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list of " + plural(t.Elem())
	case reflect.Map:
		return "a mapping of names to " + plural(t.Elem())
	case reflect.Struct:
		return "a mapping of options"
	}
	return "(unsupported type " + t.String() + ")"
}

// limits says the range of the narrow whole numbers.
func limits(t reflect.Type) string {
	switch bits := t.Bits(); {
	case t.Kind() >= reflect.Uint && bits >= 32:
		return ", not negative"
	case t.Kind() >= reflect.Uint:
		return fmt.Sprintf(" from 0 to %d", uint64(1)<<bits-1)
	case bits < 32:
		return fmt.Sprintf(" from %d to %d", int64(-1)<<(bits-1), int64(1)<<(bits-1)-1)
	}
	return ""
}

func plural(t reflect.Type) string {
	switch t {
	case durationType():
		return "durations"
	case sizeType():
		return "sizes"
	case secretType():
		return "secrets"
	}
	switch {
	case nested(t) != nil:
		return "mappings"
	case isText(t), t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float32, t.Kind() == reflect.Float64:
		return "numbers"
	}
	return "whole numbers" + limits(t)
}

// typeWords is words, or the choice of an option that has one.
func (o *option) typeWords() string {
	s := words(o.typ)
	if len(o.enum) > 0 {
		s = strings.Join(o.enum, " | ")
		if o.typ.Kind() == reflect.Slice {
			s = "a list of " + s
		}
	}
	if o.file != "" {
		s = "a file or " + s
	}
	if o.unit != "" {
		s += ", in " + o.unit
	}
	return s
}

// supported reports whether the decoder knows what to do with t.
func supported(t reflect.Type) bool {
	if t == durationType() || t == sizeType() || t == secretType() || isText(t) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64, reflect.Struct:
		return true
	case reflect.Pointer, reflect.Slice:
		return supported(t.Elem())
	case reflect.Map:
		return t.Key().Kind() == reflect.String && supported(t.Elem())
	}
	return t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64
}

// defaultText returns the default of an option as YAML; "" when it has none.
func (o *option) defaultText() string {
	if o.val.IsZero() && o.typ.Kind() != reflect.Bool && !isNumber(o.typ) {
		return ""
	}
	return yamlText(o.val)
}

// told reports whether the default of an option is told by those below it.
func (o *option) told() bool {
	return nested(o.typ) != nil && !(o.typ.Kind() == reflect.Slice && o.val.Len() > 0)
}

// isNumber reports whether a zero of t is worth showing as a default.
func isNumber(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Float32, reflect.Float64:
		return true
	}
	return t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64
}

// yamlText writes a value as one line of YAML.
func yamlText(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return shortDuration(x)
	case gateway.Size:
		return x.String()
	case gateway.Secret:
		return quoted(string(x))
	case encoding.TextMarshaler:
		b, err := x.MarshalText()
		if err == nil {
			return quoted(string(b))
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return ""
		}
		return yamlText(v.Elem())
	case reflect.String:
		return quoted(v.String())
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = yamlText(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Map:
		return mapText(v)
	case reflect.Struct:
		return structText(v)
	}
	return fmt.Sprint(v.Interface())
}

func structText(v reflect.Value) string {
	var parts []string
	for _, o := range optionsOf(v) {
		if !o.val.IsZero() {
			parts = append(parts, o.name+": "+yamlText(o.val))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// mapText writes a map in the order of its keys.
func mapText(v reflect.Value) string {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = quoted(k.String()) + ": " + yamlText(v.MapIndex(k))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// shortDuration drops the zeros of time.Duration.String: 2m0s is 2m.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// quoted writes text as YAML, in quotes where plain text would be read as
// something else.
func quoted(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._/+-", r))
	}) < 0
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off":
		plain = false
	}
	if plain && s[0] >= 'A' && (s[0] <= 'Z' || s[0] >= 'a') || plain && s[0] == '/' {
		return s
	}
	return strconv.Quote(s)
}
