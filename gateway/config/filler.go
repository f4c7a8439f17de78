package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// filler fills a Config from the tree of its file.
type filler struct {
	decoder
	cfg      *Config
	adapters []gateway.Adapter
	root     *node
	held     map[string]holder // what sources need for themselves
}

// file decodes the whole file.
func (f *filler) file(root *node) {
	if f.broken(root, "") {
		return
	}
	if root.kind != kindMap {
		f.fault(root, "", "must be a mapping with gateway, sources and sinks, not "+root.describe(), "")
		return
	}
	f.root = root
	names := []string{"sources", "sinks"}
	for _, s := range f.cfg.sections() {
		names = append(names, s.name)
		e := root.get(s.name)
		if e != nil && e.val.kind != kindNull {
			f.fill(e.val, s.name, optionsOf(structOf(s.into)), nil)
		}
	}
	for i := range root.entries {
		e := &root.entries[i]
		if !slices.Contains(names, e.key) && !strings.HasPrefix(e.key, "x-") {
			msg, hint, near := unknown("section", e.key, names)
			if near != "" && root.get(near) == nil {
				f.known[near] = true
			}
			f.rep.at(pos{e.line, e.col}, "", msg, hint)
		}
	}
	f.checkGateway(root)
	f.checkBuffer(root)
	f.checkRest(root)
	f.members(root, "sources", f.source)
	f.members(root, "sinks", f.sink)
}

// find returns the place of the option at path below n: of its value, or of
// the deepest part of the path that is there. root is where n itself stands.
func find(n *node, path string) pos {
	at := pos{n.line, n.col}
	for path != "" && n != nil {
		if path[0] == '[' {
			num, rest, ok := strings.Cut(path[1:], "]")
			i, err := strconv.Atoi(num)
			if !ok || err != nil || i < 0 || i >= len(n.items) {
				return at
			}
			n, path = n.items[i], strings.TrimPrefix(rest, ".")
			at = pos{n.line, n.col}
			continue
		}
		e := longest(n, path)
		if e == nil {
			return at
		}
		n, path = e.val, strings.TrimPrefix(path[len(e.key):], ".")
		at = pos{n.line, n.col}
		if n.kind == kindNull || (path == "" && n.line != e.line) {
			at = pos{e.line, e.col} // below its key: the key says more than the first line of it
		}
	}
	return at
}

// longest returns the entry whose key begins path; of several the longest, as
// keys of mappings may contain dots.
func longest(n *node, path string) *entry {
	var best *entry
	for i := range n.entries {
		e := &n.entries[i]
		rest, ok := strings.CutPrefix(path, e.key)
		if ok && e.key != "" && (rest == "" || rest[0] == '.' || rest[0] == '[') && (best == nil || len(e.key) > len(best.key)) {
			best = e
		}
	}
	return best
}

// check notes a fault of the option at path below base, unless that option
// has one already. under is the path of base.
func (f *filler) check(base *node, under string, err *gateway.FieldError) {
	path := under
	if err.Key != "" {
		path = join(under, err.Key)
	}
	if file, rest := f.files.below(path); file != nil {
		file.check(rest, err)
		return
	}
	if f.faulty(path) && err.Key != "" {
		return
	}
	f.known[path] = true
	f.rep.at(find(base, err.Key), path, err.Msg, err.Hint)
}

func (f *filler) checkGateway(root *node) {
	g := &f.cfg.Gateway
	hint := "1 to 64 of A-Z a-z 0-9 . _ -, for instance id: ship-042"
	switch {
	case g.ID == "":
		f.check(root, "", &gateway.FieldError{Key: "gateway.id", Msg: "must not be empty: every gateway needs an identity", Hint: hint})
	case len(g.ID) > 64 || !only(g.ID, "._-", true):
		f.check(root, "", &gateway.FieldError{Key: "gateway.id", Msg: fmt.Sprintf("%q is not an identity", clip(g.ID, 80)), Hint: hint})
	}
	f.tags(root, "gateway", g.Tags)
}

// tags checks the tags of the section at path and returns them sorted by key.
func (f *filler) tags(root *node, path string, m map[string]string) []gateway.Tag {
	out := make([]gateway.Tag, 0, len(m))
	for k, v := range m {
		if k == "" || len(k) > 128 || strings.ContainsFunc(k, func(r rune) bool { return r < 0x20 }) {
			f.check(root, "", &gateway.FieldError{Key: path + ".tags", Msg: "a tag needs a name of 1 to 128 characters"})
		}
		out = append(out, gateway.Tag{Key: k, Value: v})
	}
	slices.SortFunc(out, func(a, b gateway.Tag) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func (f *filler) checkRest(root *node) {
	if f.cfg.Shutdown.Timeout <= 0 {
		f.check(root, "", &gateway.FieldError{Key: "shutdown.timeout", Msg: "must be more than 0"})
	}
	f.checkHTTP(root)
}

// only reports whether s consists of letters, digits and the extra
// characters; upper allows capital letters.
func only(s, extra string, upper bool) bool {
	for _, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || upper && r >= 'A' && r <= 'Z' || strings.ContainsRune(extra, r)
		if !ok {
			return false
		}
	}
	return true
}

// members decodes the list of sources or of sinks.
func (f *filler) members(root *node, section string, one func(*node, string) string) {
	e := root.get(section)
	if e == nil || e.val.kind == kindNull || (e.val.kind == kindList && len(e.val.items) == 0) {
		if !f.faulty(section) {
			f.check(root, "", &gateway.FieldError{Key: section, Msg: "must not be empty: needs at least one " + strings.TrimSuffix(section, "s")})
		}
		return
	}
	if f.broken(e.val, section) {
		return
	}
	if e.val.kind != kindList {
		f.fault(e.val, section, "must be a list, not "+e.val.describe(), "begin each entry with a dash: - {name: …, type: …}")
		return
	}
	lines := map[string]int{}
	for i, item := range e.val.items {
		path := fmt.Sprintf("%s[%d]", section, i)
		if f.broken(item, path) {
			continue
		}
		if item.kind != kindMap {
			f.fault(item, path, "must be a mapping with name and type, not "+item.describe(), "")
			continue
		}
		name := one(item, path)
		if first, dup := lines[name]; dup {
			at := find(item, "name")
			f.rep.at(at, path+".name", fmt.Sprintf("name %q is taken: the first stands in line %d", name, first), "names are unique over all "+section)
		} else if name != "" {
			lines[name] = find(item, "name").line
		}
	}
}

// checkName checks the name of a source or sink and returns it.
func (f *filler) checkName(item *node, path, name string) string {
	hint := "1 to 64 of a-z 0-9 _ -, beginning with a letter or digit"
	switch {
	case name == "":
		f.check(item, path, &gateway.FieldError{Key: "name", Msg: "must not be empty", Hint: hint})
	case len(name) > 64 || !only(name, "_-", false) || name[0] == '_' || name[0] == '-':
		f.check(item, path, &gateway.FieldError{Key: "name", Msg: fmt.Sprintf("%q is not a name", clip(name, 80)), Hint: hint})
	}
	return name
}

// validate runs an adapter's own checks and places what they find.
func (f *filler) validate(item *node, path string, check func() error) {
	err := func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("the checks of this adapter failed (%v): please report it", r)
			}
		}()
		return check()
	}()
	f.errors(item, path, err)
}

// errors places every *gateway.FieldError joined or wrapped in err.
func (f *filler) errors(item *node, path string, err error) {
	if err == nil {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			f.errors(item, path, e)
		}
		return
	}
	if fe, ok := err.(*gateway.FieldError); ok {
		f.check(item, path, fe)
		return
	}
	if inner := errors.Unwrap(err); inner != nil {
		f.errors(item, path, inner)
		return
	}
	f.check(item, path, &gateway.FieldError{Msg: err.Error()})
}

// decodeInto decodes the options of a member: those that all share, and
// those of its adapter.
func (f *filler) decodeInto(item *node, path string, shared, own any) {
	opts := append(optionsOf(structOf(shared)), optionsOf(structOf(own))...)
	f.fill(item, path, opts, nil)
}

// isNil reports whether an adapter returned no configuration.
func isNil(v any) bool {
	rv := reflect.ValueOf(v)
	return v == nil || rv.Kind() == reflect.Pointer && rv.IsNil()
}
