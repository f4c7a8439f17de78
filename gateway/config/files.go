package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// An option with the tag file takes the options themselves, or names a file
// that holds them: by its path or, as builtin:NAME, one of Adapter.Library.

// builtin is what names of files of a library begin with.
const builtin = "builtin:"

// fileDecoder is a type that reads some files itself, such as lists in CSV.
// handled is false for files that are YAML. Faults at a place of the file are
// *gateway.FileError, joined.
type fileDecoder interface {
	DecodeFile(name string, data []byte) (handled bool, err error)
}

// files are the files that options name. Each is read once.
type files struct {
	read  map[fileKey]*include
	order []*include
	used  map[string]*include // by the path of the option
}

// fileKey is a file read as a type.
type fileKey struct {
	library string // type of the adapter, for files of its library
	name    string
	typ     reflect.Type
}

// include is one file that options name.
type include struct {
	decoder               // its own: places are in that file
	root    *node         // nil when it is not YAML
	val     reflect.Value // pointer to the struct, shared by all who name the file
	lost    bool          // nothing of it can be used
	refused string        // why it could not be opened: the fault is of the option
	hint    string
}

// include fills an option from the file that n names.
func (d *decoder) include(n *node, path string, o *option) {
	if d.owner == nil {
		d.fault(n, path, "cannot name a file here", "write the options here")
		return
	}
	t := o.typ
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name := strings.TrimSpace(n.text)
	key := fileKey{name: name, typ: t}
	if strings.HasPrefix(name, builtin) {
		key.library = d.owner.Type
	} else if !filepath.IsAbs(name) {
		key.name = filepath.Join(d.rep.dir, name)
	}
	f := d.files.read[key]
	if f == nil {
		f = d.open(key, name, o)
		d.files.read[key] = f
		if f.refused == "" {
			d.files.order = append(d.files.order, f)
		}
	}
	d.files.used[path] = f
	if o.typ.Kind() == reflect.Pointer {
		o.val.Set(f.val)
	} else {
		o.val.Set(f.val.Elem())
	}
	if f.refused != "" {
		d.fault(n, path, f.refused, f.hint)
	} else if len(f.rep.faults) > 0 {
		d.known[path] = true
	}
}

// open reads and decodes a file. The result has a value in any case, so that
// nobody says besides that the option is missing.
func (d *decoder) open(key fileKey, name string, o *option) *include {
	f := &include{val: reflect.New(key.typ)}
	if v := structOf(o.val.Addr().Interface()); v.IsValid() {
		f.val.Elem().Set(v) // its defaults
	}
	var data []byte
	var err error
	shown := key.name
	if strings.HasPrefix(name, builtin) {
		shown = name
		data, err = fromLibrary(d.owner.Library, strings.TrimPrefix(name, builtin))
	} else if name == "" {
		err = &gateway.FieldError{Msg: "must not be empty", Hint: "give " + o.typeWords()}
	} else {
		data, err = fromDisk(key.name, d.owner.Library)
	}
	if err != nil {
		f.lost, f.refused = true, err.Error()
		if fe, ok := errors.AsType[*gateway.FieldError](err); ok {
			f.refused, f.hint = fe.Msg, fe.Hint
		}
		return f
	}
	f.decoder = decoder{rep: newReporter(shown, normal(data)), known: map[string]bool{}}
	f.rep.what = o.file
	if own, ok := f.val.Interface().(fileDecoder); ok {
		handled, err := readOwn(own, shown, data)
		if handled || err != nil {
			f.own(err)
			return f
		}
	}
	if f.root = parseTree(f.rep); f.root == nil {
		f.lost = true
		return f
	}
	f.lost = f.root.kind != kindMap
	f.fill(f.root, "", optionsOf(f.val.Elem()), func(key string) bool { return strings.HasPrefix(key, "x-") })
	return f
}

// readOwn runs a type's own reader, whose panics become errors.
func readOwn(own fileDecoder, name string, data []byte) (handled bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be read (%v): please report it", r)
		}
	}()
	return own.DecodeFile(name, data)
}

// own notes what a type found in a file that it reads itself.
func (f *include) own(err error) {
	if err == nil {
		return
	}
	f.lost = true // what follows from half a list need not be said
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			f.own(e)
		}
		return
	}
	if fe, ok := errors.AsType[*gateway.FileError](err); ok {
		f.rep.add(Fault{Line: fe.Line, Column: max(fe.Column, min(fe.Line, 1)), Msg: fe.Msg, Hint: fe.Hint})
		return
	}
	if fe, ok := errors.AsType[*gateway.FieldError](err); ok {
		f.rep.add(Fault{Path: fe.Key, Msg: fe.Msg, Hint: fe.Hint})
		return
	}
	f.rep.add(Fault{Msg: err.Error()})
}

// check notes a fault of the option at path within the file.
func (f *include) check(path string, err *gateway.FieldError) {
	if f.lost || f.faulty(path) {
		return
	}
	f.known[path] = true
	at := pos{}
	if f.root != nil {
		at = find(f.root, path)
	}
	f.rep.at(at, path, err.Msg, err.Hint)
}

// below returns the file that holds the option at path, and the rest of the
// path within it.
func (fs *files) below(path string) (*include, string) {
	for end := len(path) - 1; end > 0; end-- {
		if path[end] != '.' && path[end] != '[' {
			continue
		}
		if f := fs.used[path[:end]]; f != nil {
			return f, strings.TrimPrefix(path[end:], ".")
		}
	}
	return nil, ""
}

// result returns the faults of the main file and after them those of the
// files it names.
func (fs *files) result(main *reporter) error {
	var out Faults
	for _, rep := range fs.reporters(main) {
		if one, ok := errors.AsType[Faults](rep.result()); ok {
			out = append(out, one...)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out[:min(len(out), maxFaults)]
}

func (fs *files) reporters(main *reporter) []*reporter {
	out := []*reporter{main}
	for _, f := range fs.order {
		out = append(out, f.rep)
	}
	return out
}

// fromLibrary reads a file that comes with an adapter.
func fromLibrary(library fs.FS, name string) ([]byte, error) {
	names := libraryNames(library)
	if len(names) == 0 {
		return nil, &gateway.FieldError{Msg: "no files come with this type", Hint: "give the path of a file"}
	}
	if !slices.Contains(names, name) {
		hint := "there are: " + strings.Join(names, ", ")
		if near := nearest(name, names); near != "" {
			hint = fmt.Sprintf("did you mean %s%s? %s", builtin, near, hint)
		}
		return nil, &gateway.FieldError{Msg: fmt.Sprintf("%s%s does not come with the gateway", builtin, clip(name, 60)), Hint: hint}
	}
	return fs.ReadFile(library, name+".yaml")
}

// libraryNames lists what builtin: may name, sorted.
func libraryNames(library fs.FS) []string {
	if library == nil {
		return nil
	}
	found, err := fs.Glob(library, "*.yaml")
	if err != nil {
		return nil
	}
	for i, name := range found {
		found[i] = strings.TrimSuffix(path.Base(name), ".yaml")
	}
	slices.Sort(found)
	return found
}

// fromDisk reads the file at path, which is bounded.
func fromDisk(path string, library fs.FS) ([]byte, error) {
	info, err := os.Stat(path) // opening a pipe could take forever
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &gateway.FieldError{Msg: fmt.Sprintf("file %s does not exist", clip(path, 200)), Hint: neighbours(path, library)}
	case err == nil && info.IsDir():
		return nil, &gateway.FieldError{Msg: path + " is a directory", Hint: "name a file in it"}
	case err == nil && !info.Mode().IsRegular():
		return nil, &gateway.FieldError{Msg: path + " is not a file"}
	}
	var file *os.File
	if err == nil {
		file, err = os.Open(path)
	}
	var data []byte
	if err == nil {
		defer file.Close()
		data, err = io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	}
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return nil, &gateway.FieldError{Msg: fmt.Sprintf("file %s cannot be read: %s", clip(path, 200), err)}
	}
	if len(data) > maxFileBytes {
		return nil, &gateway.FieldError{Msg: fmt.Sprintf("file %s is larger than %d MiB", clip(path, 200), maxFileBytes>>20)}
	}
	return data, nil
}

// maxNeighbours is how many files a hint lists.
const maxNeighbours = 8

// neighbours says what might have been meant by a file that is not there.
func neighbours(path string, library fs.FS) string {
	base := filepath.Base(path)
	names := libraryNames(library)
	if bare := strings.TrimSuffix(base, filepath.Ext(base)); slices.Contains(names, bare) {
		return fmt.Sprintf("did you mean %s%s?", builtin, bare)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return "directory " + filepath.Dir(path) + " cannot be read either"
	}
	var there []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".csv"}, ext) {
			there = append(there, e.Name())
		}
	}
	same, other := there[:0:0], there[:0:0] // of the kind that was meant, first
	for _, name := range there {
		if filepath.Ext(name) == filepath.Ext(base) {
			same = append(same, name)
		} else {
			other = append(other, name)
		}
	}
	there = append(same, other...)
	hint := ""
	if near := nearest(base, there); near != "" {
		hint = fmt.Sprintf("did you mean %q? ", near)
	}
	if len(there) > maxNeighbours {
		there = append(there[:maxNeighbours], "…")
	}
	if len(there) > 0 {
		hint += "files there: " + strings.Join(there, ", ")
	} else {
		hint += "no such files are there"
	}
	if len(names) > 0 {
		hint += "; " + builtin + " has " + strings.Join(names, ", ")
	}
	return hint
}
