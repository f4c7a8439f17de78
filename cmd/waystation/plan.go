package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/config"
)

const planUsage = `usage: waystation plan [--source NAME] [--json] FILE

Shows what the sources of a configuration will read and how: requests, bytes and
time on the line, and how busy the line will be. Opens no connection. Exit code 1
when a plan cannot be kept or the configuration has faults.
`

// sourcePlan is the plan of one source.
type sourcePlan struct {
	Source string        `json:"source"`
	Type   string        `json:"type"`
	Plan   *gateway.Plan `json:"plan"` // null: the type has none
}

// plan is `waystation plan`. It returns the exit code.
func plan(args []string, out, errOut io.Writer, adapters []gateway.Adapter) int {
	flags := flag.NewFlagSet("plan", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() { _, _ = fmt.Fprint(errOut, planUsage) }
	source := flags.String("source", "", "")
	asJSON := flags.Bool("json", false, "")
	files, err := interspersed(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		return exitGood
	}
	if err != nil || len(files) != 1 {
		if err == nil {
			flags.Usage()
		}
		return exitUsage
	}
	cfg, err := config.Load(files[0], adapters)
	if err != nil {
		_, _ = fmt.Fprintln(errOut, err)
		return exitFound
	}
	all := plans(cfg)
	if *source != "" {
		one := slices.IndexFunc(all, func(p sourcePlan) bool { return p.Source == *source })
		if one < 0 {
			names := make([]string, len(all))
			for i := range all {
				names[i] = all[i].Source
			}
			_, _ = fmt.Fprintf(errOut, "waystation plan: no source %q: sources are %s\n", *source, strings.Join(names, ", "))
			return exitUsage
		}
		all = all[one : one+1]
	}
	if *asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		err = enc.Encode(all)
	} else {
		err = writePlans(out, all)
	}
	if err != nil {
		_, _ = fmt.Fprintf(errOut, "waystation plan: write: %v\n", err)
		return exitFound
	}
	if len(unkept(all)) > 0 {
		return exitFound
	}
	return exitGood
}

// plans asks every source for its plan.
func plans(cfg *config.Config) []sourcePlan {
	out := make([]sourcePlan, 0, len(cfg.Sources))
	for _, s := range cfg.Sources {
		p := sourcePlan{Source: s.Name, Type: s.Type}
		if planner, ok := s.Config.(gateway.Planner); ok {
			made := planner.Plan(gateway.Env{GatewayID: cfg.Gateway.ID, Name: s.Name, Dir: cfg.Dir, Log: slog.New(slog.DiscardHandler)})
			p.Plan = &made
		}
		out = append(out, p)
	}
	return out
}

// unkept returns what cannot be kept of plans, a line each.
func unkept(all []sourcePlan) (lines []string) {
	for _, p := range all {
		if p.Plan == nil {
			continue
		}
		for _, f := range p.Plan.Findings {
			if f.Level != gateway.Fail {
				continue
			}
			line := fmt.Sprintf("source %s: %s: %s", p.Source, f.What, f.Detail)
			if f.Fix != "" {
				line += " (" + f.Fix + ")"
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// unkeepable reports whether a plan of a configuration cannot be kept, and says
// which and why.
func unkeepable(file string, cfg *config.Config, errOut io.Writer) bool {
	lines := unkept(plans(cfg))
	for _, line := range lines {
		fmt.Fprintf(errOut, "%s: %s\n", file, line)
	}
	if len(lines) > 0 {
		fmt.Fprintf(errOut, "%s: %s of which the plan cannot be kept: see waystation plan %s\n", file, count(len(lines), "thing"), file)
	}
	return len(lines) > 0
}

// writePlans writes plans for a person, and at the end which sources have none.
func writePlans(out io.Writer, all []sourcePlan) error {
	var b strings.Builder
	var none []string
	for _, p := range all {
		if p.Plan == nil {
			none = append(none, fmt.Sprintf("%s (%s)", p.Source, p.Type))
			continue
		}
		_, _ = fmt.Fprintf(&b, "source %s (%s)\n", p.Source, p.Type)
		for _, t := range p.Plan.Tables {
			writeTable(&b, &t)
		}
		b.WriteString("\n")
		for _, f := range p.Plan.Findings {
			writeFinding(&b, f)
		}
		b.WriteString("\n")
	}
	if len(none) > 0 {
		_, _ = fmt.Fprintf(&b, "no plan, as what comes is not asked for: %s\n", strings.Join(none, ", "))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// writeTable aligns a table. Columns of which all cells begin with a figure
// stand at their right edge.
func writeTable(b *strings.Builder, t *gateway.PlanTable) {
	_, _ = fmt.Fprintf(b, "\n  %s\n", t.Title)
	rows := append([][]string{t.Head}, t.Rows...)
	width := make([]int, len(t.Head))
	number := make([]bool, len(t.Head))
	for c := range t.Head {
		number[c] = len(t.Rows) > 0
		for _, r := range t.Rows {
			number[c] = number[c] && r[c] != "" && r[c][0] >= '0' && r[c][0] <= '9'
		}
		for _, r := range rows {
			width[c] = max(width[c], len([]rune(r[c])))
		}
	}
	w := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	for i, r := range rows {
		for c, cell := range r {
			if i == 0 {
				cell = strings.ToUpper(cell)
			}
			if number[c] {
				cell = fmt.Sprintf("%*s", width[c], cell)
			}
			if c == 0 {
				cell = "    " + cell
			}
			end := "\t"
			if c == len(r)-1 {
				end = "\n"
			}
			_, _ = io.WriteString(w, cell+end)
		}
	}
	_ = w.Flush() // into memory
}
