package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystation-iot/waystation/adapters"
	"github.com/waystation-iot/waystation/gateway"
)

// TestPlanGolden holds what is printed to testdata/plan. Look at what has
// changed, and write it anew with
//
//	go run ./cmd/waystation plan FILE.yaml > FILE.txt, and with --json > FILE.json
func TestPlanGolden(t *testing.T) {
	for name, code := range map[string]int{"fits": exitGood, "full": exitFound} {
		for ext, args := range map[string][]string{".txt": nil, ".json": {"--json"}} {
			file := filepath.Join("testdata", "plan", name)
			want, err := os.ReadFile(file + ext)
			if err != nil {
				t.Fatal(err)
			}
			var out, errOut strings.Builder
			if got := plan(append(args, file+".yaml"), &out, &errOut, adapters.All()); got != code || errOut.String() != "" {
				t.Errorf("%s%s: exit %d, %s", name, ext, got, errOut.String())
			}
			if out.String() != string(want) {
				t.Errorf("%s%s is not what is printed now:\n%s", name, ext, out.String())
			}
		}
	}
}

// planSource has the plan that its URL names.
type planSource struct{ knobSource }

func (c *planSource) Plan(env gateway.Env) gateway.Plan {
	p := gateway.Plan{Tables: []gateway.PlanTable{{Title: "items", Head: []string{"item", "µs", "note"}, Rows: [][]string{{"a", "1", ""}, {"bb", "10", "x"}}}}}
	if c.URL == "bad" {
		p.Findings = []gateway.Finding{{Level: gateway.Fail, What: "line", Detail: env.Name + " of " + env.GatewayID + " is full", Fix: "slow down"}, {Level: gateway.Note, What: "line", Detail: "old"}}
	}
	return p
}

func TestPlan(t *testing.T) {
	all := append(knobs(), gateway.Adapter{Type: "planned", Doc: "Has a plan.", NewSource: func() gateway.SourceConfig { return &planSource{} }})
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const sinks = "sinks: [{name: s, type: out}]\n"
	good := write("good.yaml", "gateway: {id: g}\nsources: [{name: a, type: in, url: x}, {name: b, type: planned, url: x}, {name: c, type: in, url: x}]\n"+sinks)
	bad := write("bad.yaml", "gateway: {id: g}\nsources: [{name: a, type: planned, url: bad}, {name: b, type: planned, url: x}]\n"+sinks)
	wrong := write("wrong.yaml", "gateway: {id: g}\nsources: [{name: a, type: planned, urk: x}]\n"+sinks)
	const table = "source b (planned)\n\n  items\n    ITEM  ΜS  NOTE\n    a      1  \n    bb    10  x\n\n\n"
	for _, tc := range []struct {
		name     string
		args     []string
		code     int
		out, err []string
	}{
		{"good", []string{good}, 0, []string{table + "no plan, as what comes is not asked for: a (in), c (in)\n"}, nil},
		{"one source", []string{good, "--source", "b"}, 0, []string{table}, nil},
		{"one without", []string{"--source", "a", good}, 0, []string{"no plan, as what comes is not asked for: a (in)\n"}, nil},
		{"no such source", []string{"--source", "z", good}, 2, nil, []string{`no source "z": sources are a, b, c`}},
		{"cannot be kept", []string{bad}, 1, []string{"source a (planned)", "  ✗ line: a of g is full\n      → slow down\n  ! line: old\n", table}, nil},
		{"the other source", []string{"--source", "b", bad}, 0, []string{table}, nil},
		{"faults", []string{wrong}, 1, nil, []string{"urk"}},
		{"json", []string{"--json", bad}, 1, []string{`"source": "a"`, `"level": "fail"`}, nil},
		{"no file", nil, 2, nil, []string{"usage: waystation plan"}},
		{"two files", []string{good, bad}, 2, nil, []string{"usage: waystation plan"}},
		{"bad flag", []string{"-x"}, 2, nil, []string{"-x", "usage: waystation plan"}},
		{"help", []string{"-h"}, 0, nil, []string{"usage: waystation plan"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errOut strings.Builder
			if code := plan(tc.args, &out, &errOut, all); code != tc.code {
				t.Errorf("exit %d, want %d", code, tc.code)
			}
			expect(t, "out", out.String(), tc.out)
			expect(t, "errOut", errOut.String(), tc.err)
			if strings.HasPrefix(tc.name, "one source") && out.String() != table {
				t.Errorf("more than one source:\n%s", out.String())
			}
		})
	}
	var out, errOut strings.Builder
	var parsed []sourcePlan
	if plan([]string{"--json", good}, &out, &errOut, all); json.Unmarshal([]byte(out.String()), &parsed) != nil || len(parsed) != 3 || parsed[0].Plan != nil || parsed[1].Plan == nil {
		t.Errorf("as JSON: %s", out.String())
	}
	out.Reset()
	if code := check([]string{good, bad}, &out, &errOut, all); code != exitFound || out.String() != good+": ok: 3 sources, 1 sink\n" {
		t.Errorf("check: exit %d, %s", code, out.String())
	}
	expect(t, "errOut", errOut.String(), []string{bad + ": source a: line: a of g is full (slow down)\n", bad + ": 1 thing of which the plan cannot be kept: see waystation plan " + bad + "\n"})
}
