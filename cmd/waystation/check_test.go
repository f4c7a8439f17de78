package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystation-iot/waystation/gateway"
)

// knobSource and knobSink are the smallest configurations of adapters.
type knobSource struct {
	URL string `yaml:"url" example:"tcp://h" doc:"Where it is."`
}

func (c *knobSource) Validate() error {
	if c.URL == "" {
		return &gateway.FieldError{Key: "url", Msg: "must not be empty"}
	}
	return nil
}
func (*knobSource) Source(gateway.Env) (gateway.Source, error) { return nil, errors.New("not built") }

type knobSink struct {
	Topic string `yaml:"topic" example:"t" doc:"Where to."`
}

func (*knobSink) Validate() error                        { return nil }
func (*knobSink) Sink(gateway.Env) (gateway.Sink, error) { return nil, errors.New("not built") }

func knobs() []gateway.Adapter {
	return []gateway.Adapter{
		{Type: "in", Doc: "A way in.", NewSource: func() gateway.SourceConfig { return &knobSource{} }},
		{Type: "out", Doc: "A way out.", NewSink: func() gateway.SinkConfig { return &knobSink{} }},
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"good.yaml": "gateway: {id: g}\nsources: [{name: a, type: in, url: x}, {name: b, type: in, url: x}]\nsinks: [{name: s, type: out}]\n",
		"bad.yaml":  "gateway: {id: g}\nsources: [{name: a, type: in, urk: x}]\nsinks: [{name: s, type: outt}]\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good, bad, none := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "none.yaml")
	for _, tc := range []struct {
		name     string
		args     []string
		code     int
		out, err []string
	}{
		{"good", []string{good}, 0, []string{good + ": ok: 2 sources, 1 sink\n"}, nil},
		{"all faults", []string{bad}, 1, nil, []string{bad + `:2:31: sources[0]: unknown option "urk": did you mean "url"?`, bad + ":3:", `unknown type "outt"`, bad + ": 2 faults\n", "^"}},
		{"several", []string{none, bad, good}, 1, []string{"ok: 2 sources"}, []string{"none.yaml: cannot be read: no such file", "urk", "none.yaml: 1 fault\n"}},
		{"no file", nil, 2, nil, []string{"usage: waystation check"}},
		{"bad flag", []string{"-x"}, 2, nil, []string{"-x", "usage: waystation check"}},
		{"help", []string{"-h"}, 0, nil, []string{"usage: waystation check"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errOut strings.Builder
			if code := check(tc.args, &out, &errOut, knobs()); code != tc.code {
				t.Errorf("exit %d, want %d", code, tc.code)
			}
			expect(t, "out", out.String(), tc.out)
			expect(t, "errOut", errOut.String(), tc.err)
		})
	}
}

// expect looks for every want in got; no want means that got is empty.
func expect(t *testing.T, what, got string, want []string) {
	t.Helper()
	if len(want) == 0 && got != "" {
		t.Errorf("%s: got %q, want nothing", what, got)
	}
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%s: no %q in\n%s", what, w, got)
		}
	}
}

func TestDescribe(t *testing.T) {
	for _, tc := range []struct {
		name     string
		args     []string
		code     int
		out, err []string
	}{
		{"overview", nil, 0, []string{"  in           source       A way in.", "  out          sink", "buffer:", "max_bytes"}, nil},
		{"type", []string{"in"}, 0, []string{"in as a source: A way in.", "url: text (required)"}, nil},
		{"unknown", []string{"x"}, 2, nil, []string{`unknown type "x": types are in, out`}},
		{"two", []string{"in", "out"}, 2, nil, []string{"usage: waystation describe"}},
		{"two forms", []string{"--json", "--example"}, 2, nil, []string{"usage: waystation describe"}},
		{"markdown", []string{"--markdown"}, 0, []string{"# Configuration", "### sink: type out"}, nil},
		{"example", []string{"--example"}, 0, []string{"type: in", "type: out"}, nil},
		{"flag last", []string{"in", "--json"}, 0, []string{"source-in"}, nil},
		{"bad flag", []string{"--yaml"}, 2, nil, []string{"-yaml", "usage: waystation describe"}},
		{"help", []string{"--help"}, 0, nil, []string{"usage: waystation describe"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errOut strings.Builder
			if code := describe(tc.args, &out, &errOut, knobs()); code != tc.code {
				t.Errorf("exit %d, want %d", code, tc.code)
			}
			expect(t, "out", out.String(), tc.out)
			expect(t, "errOut", errOut.String(), tc.err)
		})
	}
	var out, errOut strings.Builder
	if code := describe([]string{"--json"}, &out, &errOut, knobs()); code != 0 || !json.Valid([]byte(out.String())) {
		t.Errorf("exit %d, schema %s", code, out.String())
	}
}

// TestExampleIsRight checks what describe --example prints.
func TestExampleIsRight(t *testing.T) {
	var out, errOut strings.Builder
	describe([]string{"--example"}, &out, &errOut, knobs())
	file := filepath.Join(t.TempDir(), "example.yaml")
	if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := check([]string{file}, &out, &errOut, knobs()); code != 0 {
		t.Errorf("exit %d: %s", code, errOut.String())
	}
}

// shut is a writer that fails, as standard output into a closed pipe does.
type shut struct{}

func (shut) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestDescribeReportsWriteErrors(t *testing.T) {
	for _, args := range [][]string{nil, {"in"}, {"--json"}, {"--markdown"}, {"--example"}} {
		var errOut strings.Builder
		if code := describe(args, shut{}, &errOut, knobs()); code != 1 || !strings.Contains(errOut.String(), "broken pipe") {
			t.Errorf("%v: exit %d, %s", args, code, errOut.String())
		}
	}
}
