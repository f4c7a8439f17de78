package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// decoder fills structs from nodes and notes every fault on the way.
type decoder struct {
	rep   *reporter
	known map[string]bool  // paths that already have a fault
	files *files           // that options name; nil where they may not
	owner *gateway.Adapter // whose options are decoded
}

// fault notes a fault at n.
func (d *decoder) fault(n *node, path, msg, hint string) {
	d.known[path] = true
	d.rep.at(pos{n.line, n.col}, path, msg, hint)
}

// broken reports whether n has a fault already; nothing more is said of path.
func (d *decoder) broken(n *node, path string) bool {
	if n.kind == kindBroken {
		d.known[path] = true
	}
	return n.kind == kindBroken
}

// faulty reports whether path, what it is part of or what is part of it has a
// fault already: what follows from it need not be said.
func (d *decoder) faulty(path string) bool {
	for k := range d.known {
		if within(path, k) || within(k, path) {
			return true
		}
	}
	return false
}

// within reports whether path is outer or below it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// join adds a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fill decodes the mapping n into options. ignore says which other keys are
// none of its business.
func (d *decoder) fill(n *node, path string, opts []option, ignore func(key string) bool) {
	if d.broken(n, path) {
		return
	}
	if n.kind != kindMap {
		d.fault(n, path, "must be a mapping of options, not "+n.describe(), "")
		return
	}
	names := make([]string, len(opts))
	for i := range opts {
		names[i] = opts[i].name
	}
	for i := range n.entries {
		e := &n.entries[i]
		at := slices.Index(names, e.key)
		switch {
		case at >= 0:
			d.option(e, join(path, e.key), &opts[at])
		case ignore == nil || !ignore(e.key):
			msg, hint, near := unknown("option", e.key, names)
			if near != "" && n.get(near) == nil {
				d.known[join(path, near)] = true // it is not missing, only misspelt
			}
			if near != "" && opts[slices.Index(names, near)].typ == secretType() {
				d.rep.masked = append(d.rep.masked, e.val)
			}
			d.rep.at(pos{e.line, e.col}, path, msg, hint)
		}
	}
}

// option decodes one option.
func (d *decoder) option(e *entry, path string, o *option) {
	if o.typ == secretType() {
		d.rep.masked = append(d.rep.masked, e.val)
	}
	if e.val.kind == kindNull {
		if t := o.typ.Kind(); t == reflect.Struct && !isText(o.typ) || t == reflect.Map {
			return // a section whose lines are all commented out
		}
		d.known[path] = true
		d.rep.at(pos{e.line, e.col}, path, "has no value: must be "+o.typeWords(), "give a value or remove the line")
		return
	}
	if o.file != "" && e.val.kind != kindMap {
		d.fileOption(e.val, path, o)
		return
	}
	if !d.value(e.val, path, o.val) || len(o.enum) == 0 {
		return
	}
	if o.typ.Kind() == reflect.Slice {
		for i := range min(o.val.Len(), len(e.val.items)) {
			d.choice(e.val.items[i], fmt.Sprintf("%s[%d]", path, i), o.enum)
		}
		return
	}
	d.choice(e.val, path, o.enum)
}

// fileOption decodes an option whose options stand in a file of their own.
func (d *decoder) fileOption(n *node, path string, o *option) {
	switch {
	case d.broken(n, path):
	case n.kind == kindText:
		d.include(n, path, o)
	default:
		d.fault(n, path, "must be "+o.typeWords()+", not "+n.describe(), "")
	}
}

// choice checks that a scalar is one of the allowed words.
func (d *decoder) choice(n *node, path string, allowed []string) {
	if slices.Contains(allowed, n.text) {
		return
	}
	hint := ""
	if near := nearest(n.text, allowed); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	d.fault(n, path, fmt.Sprintf("must be one of %s, not %s", strings.Join(allowed, ", "), n.describe()), hint)
}

// value decodes n into v and reports whether it went without a fault.
func (d *decoder) value(n *node, path string, v reflect.Value) bool {
	t := v.Type()
	switch {
	case d.broken(n, path):
		return false
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		return d.value(n, path, v.Elem())
	case t == durationType():
		return d.duration(n, path, v)
	case t == secretType():
		return d.secret(n, path, v)
	case isText(t):
		return d.text(n, path, v)
	}
	switch t.Kind() {
	case reflect.Struct:
		before := len(d.rep.faults)
		d.fill(n, path, optionsOf(v), nil)
		return len(d.rep.faults) == before
	case reflect.Slice:
		return d.list(n, path, v)
	case reflect.Map:
		return d.mapping(n, path, v)
	}
	return d.scalar(n, path, v)
}

// wrong notes a value of the wrong type.
func (d *decoder) wrong(n *node, path string, t reflect.Type, hint string) bool {
	if t == secretType() || (t.Kind() == reflect.Slice || t.Kind() == reflect.Map) && t.Elem() == secretType() {
		if n.kind == kindMap { // YAML reads [env:NAME] as a list of a mapping
			hint = "write it in quotes"
		}
		d.fault(n, path, "must be "+words(t), hint) // never show what stands there
		return false
	}
	d.fault(n, path, "must be "+words(t)+", not "+n.describe(), hint)
	return false
}

func (d *decoder) scalar(n *node, path string, v reflect.Value) bool {
	t := v.Type()
	switch k := t.Kind(); {
	case k == reflect.String:
		s, ok := plainText(n)
		if !ok {
			return d.wrong(n, path, t, quoteHint(n))
		}
		v.SetString(s)
	case k == reflect.Bool:
		if n.kind != kindBool {
			return d.wrong(n, path, t, boolHint(n))
		}
		v.SetBool(strings.EqualFold(n.text, "true"))
	case k == reflect.Float32 || k == reflect.Float64:
		f, err := strconv.ParseFloat(strings.ReplaceAll(n.text, "_", ""), t.Bits())
		number := n.kind == kindInt || n.kind == kindFloat || n.kind == kindText && n.plain // the library takes 1e-3 for text
		if err != nil || !number || math.IsInf(f, 0) || math.IsNaN(f) {
			return d.wrong(n, path, t, "")
		}
		v.SetFloat(f)
	case k >= reflect.Int && k <= reflect.Uint64:
		return d.whole(n, path, v)
	default:
		d.fault(n, path, "cannot be set: "+words(t), "")
		return false
	}
	return true
}

// plainText returns the text of a scalar: numbers keep the way they are
// written, true, false and null are not text.
func plainText(n *node) (string, bool) {
	return n.text, n.kind == kindText || n.kind == kindInt || n.kind == kindFloat
}

func quoteHint(n *node) string {
	if n.kind == kindBool {
		return fmt.Sprintf("write it in quotes: %q", n.text)
	}
	return ""
}

func boolHint(n *node) string {
	switch strings.ToLower(n.text) {
	case "yes", "on", "y", "1":
		return "write true"
	case "no", "off", "n", "0":
		return "write false"
	}
	return ""
}

// whole decodes a whole number: decimal, 0x, 0o or 0b. A leading zero is
// refused: YAML 1.1 reads it as octal, YAML 1.2 as decimal.
func (d *decoder) whole(n *node, path string, v reflect.Value) bool {
	t := v.Type()
	digits := strings.TrimLeft(n.text, "+-")
	if n.kind == kindInt && len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		return d.wrong(n, path, t, "write it without leading zeros")
	}
	text := strings.TrimPrefix(n.text, "+")
	if n.kind != kindInt {
		return d.wrong(n, path, t, "")
	}
	if v.CanUint() {
		u, err := strconv.ParseUint(text, 0, t.Bits())
		if err != nil {
			return d.wrong(n, path, t, "")
		}
		v.SetUint(u)
		return true
	}
	i, err := strconv.ParseInt(text, 0, t.Bits())
	if err != nil {
		return d.wrong(n, path, t, "")
	}
	v.SetInt(i)
	return true
}

func (d *decoder) duration(n *node, path string, v reflect.Value) bool {
	s, ok := plainText(n)
	if !ok {
		return d.wrong(n, path, v.Type(), "")
	}
	dur, err := time.ParseDuration(s)
	if err != nil {
		hint := ""
		if n.kind == kindInt {
			hint = "add a unit, for instance " + clip(n.text, 20) + "s"
		}
		return d.wrong(n, path, v.Type(), hint)
	}
	if dur < 0 {
		d.fault(n, path, "must not be negative", "")
		return false
	}
	v.SetInt(int64(dur))
	return true
}

// secret decodes a secret and tries to read what it refers to.
func (d *decoder) secret(n *node, path string, v reflect.Value) bool {
	s, ok := plainText(n)
	if !ok {
		return d.wrong(n, path, v.Type(), "")
	}
	v.SetString(s)
	text, err := gateway.Secret(s).Reveal(d.rep.dir)
	switch {
	case err != nil:
		d.fault(n, path, err.Error(), "")
		return false
	case text == "" && reference(s):
		d.fault(n, path, "secret "+clip(s, 80)+" is empty", "")
		return false
	}
	return true
}

// text decodes a type that reads itself from text.
func (d *decoder) text(n *node, path string, v reflect.Value) bool {
	s, ok := plainText(n)
	if !ok {
		return d.wrong(n, path, v.Type(), "")
	}
	u, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	if !ok {
		return d.wrong(n, path, v.Type(), "")
	}
	if err := u.UnmarshalText([]byte(s)); err != nil {
		if v.Type() == sizeType() {
			return d.wrong(n, path, v.Type(), "units are B, KiB, MiB, GiB, TiB and kB, MB, GB, TB")
		}
		d.fault(n, path, err.Error(), "")
		return false
	}
	return true
}

func (d *decoder) list(n *node, path string, v reflect.Value) bool {
	if n.kind != kindList {
		hint := ""
		if s, ok := plainText(n); ok && v.Type().Elem().Kind() == reflect.String {
			hint = "write [" + quoted(clip(s, 60)) + "]"
		}
		return d.wrong(n, path, v.Type(), hint)
	}
	out, good := reflect.MakeSlice(v.Type(), len(n.items), len(n.items)), true
	for i, item := range n.items {
		if v.Type().Elem() == secretType() {
			d.rep.masked = append(d.rep.masked, item)
		}
		good = d.value(item, fmt.Sprintf("%s[%d]", path, i), out.Index(i)) && good
	}
	v.Set(out)
	return good
}

func (d *decoder) mapping(n *node, path string, v reflect.Value) bool {
	if n.kind != kindMap {
		return d.wrong(n, path, v.Type(), "")
	}
	out, good := reflect.MakeMapWithSize(v.Type(), len(n.entries)), true
	for i := range n.entries {
		e := &n.entries[i]
		item := reflect.New(v.Type().Elem()).Elem()
		if item.Type() == secretType() {
			d.rep.masked = append(d.rep.masked, e.val)
		}
		good = d.value(e.val, join(path, e.key), item) && good
		out.SetMapIndex(reflect.ValueOf(e.key).Convert(v.Type().Key()), item)
	}
	v.Set(out)
	return good
}
