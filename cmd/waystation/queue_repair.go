package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/waystation-iot/waystation/buffer"
)

const queueRepairUsage = `usage: waystation queue repair DIR

Rebuilds damaged segments from what can still be read, brings back what
segments set aside (*.seg.bad) hold and no sink has passed, and removes what
interrupted writes left. The gateway must be stopped. It works on copies and
keeps every damaged original as .seg.bad.

  waystation queue repair --dry-run /var/lib/waystation
  waystation queue repair --deep /var/lib/waystation
`

// queueRepair is `waystation queue repair`.
func queueRepair(args []string, out, errOut io.Writer) int {
	t := newTool("repair", queueRepairUsage, out, errOut)
	t.withKeys()
	t.withQuiet()
	var o buffer.RepairOptions
	t.fs.BoolVar(&o.DryRun, "dry-run", false, "only show what would be done; changes nothing, also while the gateway runs")
	t.fs.BoolVar(&o.Deep, "deep", false, "look for missing blocks also in pages that are no longer used; takes memory for one segment.\nMay bring back records of a commit that failed and was never acknowledged")
	t.fs.BoolVar(&o.Discard, "discard", false, "delete damaged originals instead of keeping them")
	if code, ok := t.parse(args, 0); !ok {
		return code
	}
	bar := t.progress("read")
	o.Keys, o.Progress = t.keys, bar.step
	rep, err := buffer.Repair(t.dir, o)
	bar.end()
	if rep != nil {
		if t.asJSON {
			if printErr := t.print(repairView(rep, o.DryRun)); err == nil {
				err = printErr
			}
		} else {
			writeRepair(out, rep, o.DryRun)
		}
	}
	if err != nil {
		return t.fail(err)
	}
	return exitGood
}

type seqRange struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

func ranges(in []buffer.SeqRange) []seqRange {
	out := make([]seqRange, len(in))
	for i, r := range in {
		out[i] = seqRange(r)
	}
	return out
}

// repairView makes the JSON form of a report.
func repairView(rep *buffer.RepairReport, dry bool) any {
	type action struct {
		Lane    string     `json:"lane"`
		File    string     `json:"file"`
		Done    string     `json:"done"`
		Why     string     `json:"why"`
		Kept    string     `json:"kept,omitempty"`
		Blocks  int        `json:"blocks"`
		Back    []seqRange `json:"back"`
		Missing []seqRange `json:"missing"`
	}
	v := struct {
		DryRun  bool     `json:"dry_run"`
		Actions []action `json:"actions"`
	}{dry, []action{}}
	for _, a := range rep.Actions {
		v.Actions = append(v.Actions, action{a.Lane, a.File, a.Done, a.Why, a.Kept, a.Blocks, ranges(a.Back), ranges(a.Missing)})
	}
	return v
}

// writeRepair writes a report for a person.
func writeRepair(out io.Writer, rep *buffer.RepairReport, dry bool) {
	if len(rep.Actions) == 0 {
		_, _ = fmt.Fprintln(out, "nothing to repair")
		return
	}
	for _, a := range rep.Actions {
		done := a.Done
		if dry && done != "nothing to do" {
			done = "would be " + done
		}
		_, _ = fmt.Fprintf(out, "%s: %s: %s\n", a.File, done, a.Why)
		writeRanges(out, "back", a.Back)
		writeRanges(out, "lost", a.Missing)
		if a.Kept != "" {
			_, _ = fmt.Fprintf(out, "    the damaged original is %s\n", a.Kept)
		}
	}
	if dry {
		_, _ = fmt.Fprintln(out, "nothing was changed: this was a dry run")
	}
}

func writeRanges(out io.Writer, what string, rs []buffer.SeqRange) {
	if len(rs) == 0 {
		return
	}
	text := make([]string, len(rs))
	for i, r := range rs {
		text[i] = seqs(r.First, r.Last)
	}
	_, _ = fmt.Fprintf(out, "    %s: seqs %s\n", what, strings.Join(text, ", "))
}
