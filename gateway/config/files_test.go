package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/waystation-iot/waystation/gateway"
)

// fakeMap is what files hold in these tests.
type fakeMap struct {
	Name   string      `yaml:"name" doc:"Name."`
	Token  string      `yaml:"token" doc:"Something secret."`
	Points []fakePoint `yaml:"points" doc:"Points."`
}

type fakePoint struct {
	Name string    `yaml:"name" doc:"Name."`
	Type string    `yaml:"type" enum:"int,text" doc:"Type."`
	More *fakeMore `yaml:"more" file:"more" doc:"More of it."`
}

type fakeMore struct {
	Text string `yaml:"text" doc:"Text."`
}

// DecodeFile reads lists of names.
func (m *fakeMap) DecodeFile(name string, data []byte) (bool, error) {
	if !strings.HasSuffix(name, ".csv") {
		return false, nil
	}
	var errs []error
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		switch line {
		case "bad":
			errs = append(errs, &gateway.FileError{Line: i + 1, Column: 2, Msg: "is bad", Hint: "make it good"})
		case "panic":
			panic("a bug")
		case "odd":
			errs = append(errs, errors.New("is odd"))
		}
		m.Points = append(m.Points, fakePoint{Name: line})
	}
	return true, errors.Join(errs...)
}

// fakeLine is a source with devices that name files.
type fakeLine struct {
	Map   *fakeMap  `yaml:"map" file:"map" or:"units" doc:"Map." example:"builtin:one"`
	Units []fakeOne `yaml:"units" doc:"Units."`
	Own   fakeMap   `yaml:"own" file:"map" doc:"Map with defaults."`
	Alone bool      `yaml:"alone" doc:"Needs the thing for itself."`
}

type fakeOne struct {
	Map   *fakeMap `yaml:"map" file:"map" doc:"Map."`
	Plain fakeMap  `yaml:"plain" file:"map" doc:"Map that is no pointer."`
}

func (c *fakeLine) Validate() error {
	var errs []error
	check := func(key string, m *fakeMap) {
		for i := range m.Points {
			if m.Points[i].Name == "" {
				errs = append(errs, &gateway.FieldError{Key: fmt.Sprintf("%s.points[%d].name", key, i), Msg: "must not be empty"})
			}
		}
		if len(m.Points) == 0 {
			errs = append(errs, &gateway.FieldError{Key: key + ".points", Msg: "lists no points"})
		}
	}
	if c.Map != nil && c.Map.Name == "odd" {
		errs = append(errs, &gateway.FieldError{Key: "map", Msg: "is odd"})
	}
	if c.Map != nil {
		check("map", c.Map)
	} else if len(c.Units) == 0 {
		errs = append(errs, &gateway.FieldError{Key: "map", Msg: "must not be empty"})
	}
	for i := range c.Units {
		if m := c.Units[i].Map; m != nil {
			check(fmt.Sprintf("units[%d].map", i), m)
		}
	}
	return errors.Join(errs...)
}

func (c *fakeLine) Source(gateway.Env) (gateway.Source, error) { return nil, nil }

func (c *fakeLine) Occupies() string {
	if c.Alone {
		return "the thing"
	}
	return ""
}
func (c *fakeLine) Alternative() string { return "share it" }

func fakesWithFiles() []gateway.Adapter {
	library := fstest.MapFS{"one.yaml": {Data: []byte("name: one\npoints: [{name: a}]\n")}, "two.yaml": {Data: []byte("points: [{name: \"\"}]\n")}}
	return append(fakes(), gateway.Adapter{Type: "line", Doc: "A line.", Library: library, NewSource: func() gateway.SourceConfig { return &fakeLine{Own: fakeMap{Name: "mine"}} }})
}

// fileConfig is a configuration with sources of type line.
func fileConfig(options ...string) string {
	var b strings.Builder
	b.WriteString(okGateway + "sources:\n")
	for i, o := range options {
		fmt.Fprintf(&b, "  - {name: s%d, type: line, %s}\n", i, o)
	}
	return b.String() + okSinks
}

// inDir parses a configuration in a directory with the given files.
func inDir(t *testing.T, files map[string]string, text string) (*Config, error) {
	t.Helper()
	return Parse(filepath.Join(dirOf(t, files), "w.yaml"), []byte(text), fakesWithFiles())
}

// dirOf makes a directory with the given files.
func dirOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), data)
	}
	return dir
}

// TestFileShared reads one file for many: once, and all have the same.
func TestFileShared(t *testing.T) {
	files := map[string]string{"maps/m.yaml": "x-p: &p {type: int}\nname: m\npoints: [{<<: *p, name: a}]\n", "maps/own.yaml": "points: [{name: c}]\n"}
	cfg, err := inDir(t, files, fileConfig(`map: maps/m.yaml, units: [{map: "./maps/m.yaml", plain: maps/m.yaml}, {map: {name: here, points: [{name: b}]}}], own: maps/own.yaml`, `map: "builtin:one"`))
	if err != nil {
		t.Fatal(err)
	}
	c := cfg.Sources[0].Config.(*fakeLine)
	if c.Map == nil || c.Map != c.Units[0].Map || c.Map.Points[0] != (fakePoint{Name: "a", Type: "int"}) || c.Units[0].Plain.Name != "m" || c.Units[1].Map.Name != "here" {
		t.Errorf("got %+v", c)
	}
	if c.Own.Name != "mine" || len(c.Own.Points) != 1 {
		t.Errorf("an option with defaults: %+v", c.Own)
	}
	if one := cfg.Sources[1].Config.(*fakeLine).Map; one.Name != "one" || len(one.Points) != 1 {
		t.Errorf("builtin: %+v", one)
	}
}

// TestFileFaults shows what is wrong with a file, at its place in that file.
func TestFileFaults(t *testing.T) {
	files := map[string]string{
		"m.yaml": "name: m\npoints:\n  - {name: a, type: itn}\n  - {name: \"\"}\n", "other.yml": "points: [{name: a}]\n", "empty.yaml": "# nothing\n", "list.yaml": "- a\n",
		"broken.yaml": "name: [a\n", "secret.yaml": "token: abc\nnmae: x\npoints: [{name: a}]\n", "l.csv": "a\nbad\nb\nodd\n", "p.csv": "panic\n", "own.csv": "a\n\nb\n",
		"twice.yaml": "name: a\nname: b\npoints: [{name: a}]\n", "nested.yaml": "points: other.yml\n", "sub/x.txt": "", "deep.yaml": "points: [{name: a, more: x}]\n", "odd.yaml": "name: odd\npionts: []\npoints: [{name: a}]\n", "large.yaml": strings.Repeat("#", maxFileBytes+1), "latin.yaml": "name: \xe4\n",
	}
	tests := []struct {
		name, options string
		want          []string // one for each fault
	}{
		{"two faults", `map: m.yaml`, []string{"m.yaml:3:21: points[0].type: must be one of int, text, not the text \"itn\"", "m.yaml:4:12: points[1].name: must not be empty"}},
		{"once though named twice", `map: m.yaml, units: [{map: m.yaml}, {map: m.yaml}]`, []string{"m.yaml:3:21: ", "m.yaml:4:12: "}},
		{"unknown option", `map: secret.yaml`, []string{"secret.yaml:2:1: unknown option \"nmae\": did you mean \"name\"?"}},
		{"not there", `map: m.yam`, []string{`m.yam does not exist: did you mean "m.yaml"? files there: broken.yaml`}},
		{"not there, its kind first", `map: zzz.csv`, []string{`zzz.csv does not exist: files there: l.csv, own.csv, p.csv, broken.yaml, `}},
		{"not there, built in", `map: one.yml`, []string{"does not exist: did you mean builtin:one?"}},
		{"nothing there", `map: sub/m.yaml`, []string{"does not exist: no such files are there; builtin:has one, two"}},
		{"no directory", `map: none/m.yaml`, []string{"none cannot be read either"}},
		{"directory", `map: sub`, []string{"sub is a directory: name a file in it"}},
		{"device", `map: /dev/null`, []string{"/dev/null is not a file"}},
		{"too large", `map: large.yaml`, []string{"large.yaml is larger than 2 MiB"}},
		{"no text", `map: ""`, []string{"w.yaml:3:33: sources[0].map: must not be empty: give a file or a mapping of options"}},
		{"not text", `map: [m.yaml]`, []string{"w.yaml:3:33: sources[0].map: must be a file or a mapping of options, not a list"}},
		{"number", `map: 5`, []string{"must be a file or a mapping of options, not 5"}},
		{"nothing", `map: `, []string{"has no value: must be a file or a mapping of options"}},
		{"empty", `map: empty.yaml`, []string{"empty.yaml:1:1: is empty: must be a map"}},
		{"a list", `map: list.yaml`, []string{"list.yaml:1:1: must be a mapping of options, not a list"}},
		{"broken", `map: broken.yaml`, []string{"broken.yaml:1:7: not valid YAML"}},
		{"not UTF-8", `map: latin.yaml`, []string{"latin.yaml:1:7: is not UTF-8 text"}},
		{"key twice", `map: twice.yaml`, []string{`twice.yaml:2:1: key "name" comes twice`}},
		{"wrong type", `map: nested.yaml`, []string{"nested.yaml:1:9: points: must be a list of mappings"}},
		{"unknown library file", `map: "builtin:oen"`, []string{"builtin:oen does not come with the gateway: did you mean builtin:one? there are: one, two"}},
		{"path in library", `map: "builtin:../one"`, []string{"builtin:../one does not come with the gateway"}},
		{"fault in library", `map: "builtin:two"`, []string{"builtin:two:1:17: points[0].name: must not be empty"}},
		{"file within a file", `map: deep.yaml`, []string{"deep.yaml:1:26: points[0].more: cannot name a file here"}},
		{"fault in the file hides one of the option", `map: odd.yaml`, []string{"odd.yaml:2:1: unknown option"}},
		{"own reader", `map: l.csv`, []string{"l.csv: is odd", "l.csv:2:2: is bad: make it good"}},
		{"own reader, checked", `map: own.csv`, []string{"own.csv: points[1].name: must not be empty"}},
		{"own reader crashes", `map: p.csv`, []string{"p.csv: cannot be read (a bug): please report it"}},
		{"missing", `alone: false`, []string{"sources[0].map: must not be empty"}},
	}
	dir := dirOf(t, files)
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse(filepath.Join(dir, "w.yaml"), []byte(fileConfig(tc.options)), fakesWithFiles())
			fs, ok := errors.AsType[Faults](err)
			if !ok || len(fs) != len(tc.want) {
				t.Fatalf("want %d faults, got %v", len(tc.want), err)
			}
			for i, want := range tc.want {
				if !strings.Contains(strings.ReplaceAll(fs[i].Error(), "builtin: ", "builtin:"), want) {
					t.Errorf("want %s\ngot  %v", want, fs[i].Error())
				}
			}
		})
	}
}

// TestFileExcerpt shows the line of the file with a caret, secrets masked.
func TestFileExcerpt(t *testing.T) {
	_, err := inDir(t, map[string]string{"m.yaml": "{token: hunter2, nmae: x, points: [{name: a}]}\n"}, fileConfig("map: m.yaml"))
	fs, _ := errors.AsType[Faults](err)
	want := "      1 | {token: *******, nmae: x, points: [{name: a}]}\n        |                  ^\n"
	if len(fs) != 1 || fs[0].Excerpt != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// TestFileFaultsBounded stops at some number over all files.
func TestFileFaultsBounded(t *testing.T) {
	bad := "points:\n" + strings.Repeat("  - {nmae: a}\n", 80)
	_, err := inDir(t, map[string]string{"a.yaml": bad, "b.yaml": bad}, fileConfig("map: a.yaml", "map: b.yaml"))
	if fs, _ := errors.AsType[Faults](err); len(fs) != maxFaults {
		t.Errorf("%d faults", len(fs))
	}
}

// TestFileTag is for structs only.
func TestFileTag(t *testing.T) {
	type wrong struct {
		Path string `yaml:"path" file:"map" doc:"Path."`
	}
	errs := lacking(optionsOf(structOf(&wrong{})), 0)
	if err := errors.Join(errs...); err == nil || !strings.Contains(err.Error(), "has a file tag and is no struct") {
		t.Errorf("got %v", err)
	}
}

// TestFileAbsolute takes files from anywhere.
func TestFileAbsolute(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.yaml")
	write(t, path, "points: [{name: a}]\r\n")
	cfg, err := inDir(t, nil, fileConfig("map: "+path))
	if err != nil || len(cfg.Sources[0].Config.(*fakeLine).Map.Points) != 1 {
		t.Errorf("got %v", err)
	}
}

// TestExclusive refuses two sources that need the same for themselves.
func TestExclusive(t *testing.T) {
	const one = `map: "builtin:one", alone: true`
	if _, err := inDir(t, nil, fileConfig(one, `map: "builtin:one"`, `map: "builtin:one"`)); err != nil {
		t.Errorf("one alone: %v", err)
	}
	_, err := inDir(t, nil, fileConfig(one, one+", alne: true"))
	if fs, _ := errors.AsType[Faults](err); len(fs) != 1 || !strings.Contains(fs[0].Msg, "alne") {
		t.Errorf("of a source with a fault: %v", err)
	}
	_, err = inDir(t, nil, fileConfig(one, one))
	fs, _ := errors.AsType[Faults](err)
	if len(fs) != 1 || fs[0].Line != 4 || !strings.Contains(fs[0].Error(), `sources[1]: the thing is taken by source "s0" in line 3: share it`) {
		t.Errorf("got %v", err)
	}
}

// TestFileDescribed tells of such options in every form.
func TestFileDescribed(t *testing.T) {
	var b strings.Builder
	if err := Describe(&b, fakesWithFiles()[2]); err != nil {
		t.Fatal(err)
	}
	page := Markdown(fakesWithFiles())
	for text, wants := range map[string][]string{
		b.String():                       {"map: a file or a mapping of options (required, or units)", "\nmap: what such a file, or the option map, holds\nThese come with the gateway: builtin:one, builtin:two.\n", "\n  points: a list of mappings\n"},
		page:                             {"| `map` | a file or a mapping of options | **required**, or units |", "#### map: a file, or `map` of type line", "`builtin:one`, `builtin:two`", "| `points[].type` | int \\| text |"},
		Example(fakesWithFiles()):        {"\n    map: builtin:one\n"},
		string(Schema(fakesWithFiles())): {`"$ref": "#/$defs/file-map"`, `"file-map": {`, `"anyOf": [`},
	} {
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	}
	if strings.Contains(page, "`units[].map.") {
		t.Error("the options of files are told more than once")
	}
	if err := CheckDocs(fakesWithFiles()); err != nil {
		t.Error(err)
	}
}

// Validate is what checks such a file by itself.
func (m *fakeMap) Validate() error {
	if m.Name == "panic" {
		panic("a bug")
	}
	for i := range m.Points {
		if m.Points[i].Name == "" {
			return fmt.Errorf("wrapped: %w", &gateway.FieldError{Key: fmt.Sprintf("points[%d].name", i), Msg: "must not be empty"})
		}
	}
	return nil
}

// TestPart checks a file by itself, and knows it from a configuration.
func TestPart(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct{ text, kind, want string }{
		"good.yaml":    {"x-a: 1\nname: a\npoints: [{name: b}]\n", "map", ""},
		"option.yaml":  {"points: [{nmae: b}]\n", "map", "option.yaml:1:11: points[0]: unknown option \"nmae\""},
		"checked.yaml": {"points:\n  - {name: \"\"}\n", "map", "checked.yaml:2:12: points[0].name: must not be empty"},
		"panic.yaml":   {"name: panic\n", "map", "panic.yaml:1:1: the checks of this adapter failed"},
		"good.csv":     {"a\nb\n", "map", ""},
		"bad.csv":      {"a\nbad\n", "map", "bad.csv:2:2: is bad"},
		"config.yaml":  {okAll, "", ""},
		"mixed.yaml":   {"name: a\nsources: []\n", "", ""},
		"other.yaml":   {"a: b\n", "", ""},
		"broken.yaml":  {"points: [\n", "", ""},
		"empty.yaml":   {"", "", ""},
	} {
		path := filepath.Join(dir, name)
		write(t, path, tc.text)
		kind, err := Part(path, fakesWithFiles())
		if kind != tc.kind || (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %q, %v", name, kind, err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "none.yaml")} {
		if kind, err := Part(path, fakesWithFiles()); kind != "" || err != nil {
			t.Errorf("%s: got %q, %v", path, kind, err)
		}
	}
}
