package config

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// Part checks a file by itself that is no configuration but what an option of
// an adapter may name, such as a profile. kind says what it is; "" means that
// it does not look like any, and is to be loaded as a configuration. The error
// is a Faults.
func Part(path string, adapters []gateway.Adapter) (kind string, err error) {
	data, err := fromDisk(path, nil)
	if err != nil {
		return "", nil // Load says it
	}
	keys := topKeys(data)
	for i := range adapters {
		a := &adapters[i]
		for _, h := range halves(a) {
			for _, f := range fileOptions(h.options(), "") {
				if f.reads(path, data) || f.likely(keys) {
					return f.kind, f.checkAlone(path, a)
				}
			}
		}
	}
	return "", nil
}

// topKeys returns the keys at the top of a YAML file; none when it is none.
func topKeys(data []byte) []string {
	var keys []string
	if root := parseTree(newReporter("", normal(data))); root != nil {
		for i := range root.entries {
			keys = append(keys, root.entries[i].key)
		}
	}
	return keys
}

// likely reports whether keys are more likely those of such a file than of a
// configuration.
func (f *namedFile) likely(keys []string) bool {
	sections := []string{"sources", "sinks"}
	for _, s := range defaults().sections() {
		sections = append(sections, s.name)
	}
	own := 0
	for _, k := range keys {
		if slices.Contains(sections, k) {
			return false
		}
		if slices.ContainsFunc(f.opts, func(o option) bool { return o.name == k }) {
			own++
		}
	}
	return own > 0
}

// reads reports whether the type reads this file itself.
func (f *namedFile) reads(path string, data []byte) bool {
	own, ok := reflect.New(f.typ).Interface().(fileDecoder)
	if ext := filepath.Ext(path); !ok || ext == "" || strings.HasPrefix(ext, ".y") {
		return false
	}
	handled, _ := readOwn(own, path, data)
	return handled
}

// checkAlone decodes the file and runs the type's own checks, when it has any.
func (f *namedFile) checkAlone(path string, a *gateway.Adapter) error {
	rep := newReporter(path, "")
	d := &decoder{rep: rep, known: map[string]bool{}, files: &files{}, owner: a}
	o := &option{file: f.kind, typ: f.typ, val: reflect.New(f.typ).Elem()}
	inc := d.open(fileKey{name: path, typ: f.typ}, path, o)
	if inc.refused != "" {
		return Faults{{File: path, Msg: inc.refused, Hint: inc.hint}}
	}
	if v, ok := inc.val.Interface().(interface{ Validate() error }); ok {
		eachFault(guarded(v.Validate), func(fe *gateway.FieldError) { inc.check(fe.Key, fe) })
	}
	return inc.rep.result()
}
