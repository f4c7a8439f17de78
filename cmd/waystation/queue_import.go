package main

import (
	"fmt"
	"io"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
)

const queueImportUsage = `usage: waystation queue import DIR ARCHIVE…

Takes archives of other gateways over into the queue in DIR, whose gateway must
be stopped. When it starts again it delivers them after its own records, with
the gateway id, generation and seqs they came with. Every archive is checked
whole first. Importing one twice, or again after an interruption, is safe.

  waystation queue import /var/lib/waystation /media/usb/aurora.tar
  waystation queue import --dry-run /var/lib/waystation /media/usb/*.tar
`

// queueImport is `waystation queue import`.
func queueImport(args []string, out, errOut io.Writer) int {
	t := newTool("import", queueImportUsage, out, errOut)
	t.withQuiet()
	var size gateway.Size
	t.fs.TextVar(&size, "max-bytes", gateway.Size(0), "refuse what would make the queue larger than `SIZE`: buffer.max_bytes of the configuration, less the eighth for dead letters")
	dry := t.fs.Bool("dry-run", false, "only check the archives and show what would be done")
	if code, ok := t.parse(args, 1<<10); !ok {
		return code
	}
	if len(t.rest) == 0 {
		return t.usageError("give the archives after DIR")
	}
	bar := t.progress("imported")
	reps, err := buffer.Import(t.dir, t.rest, buffer.ImportOptions{MaxBytes: int64(size), DryRun: *dry, Progress: bar.step})
	bar.end()
	if t.asJSON {
		if printErr := t.print(importView(reps, *dry)); err == nil {
			err = printErr
		}
	} else {
		for _, r := range reps {
			writeImport(out, &r, *dry)
		}
	}
	if err != nil {
		return t.fail(err)
	}
	return exitGood
}

// importView makes the JSON form of what was imported.
func importView(reps []buffer.ImportReport, dry bool) any {
	type lane struct {
		Lane       string `json:"lane"`
		Gateway    string `json:"gateway"`
		Generation string `json:"generation"`
		First      uint64 `json:"first"`
		Next       uint64 `json:"next"`
		Jumped     uint64 `json:"jumped,omitempty"`
	}
	type archive struct {
		Archive string `json:"archive"`
		Lanes   []lane `json:"lanes"`
	}
	v := struct {
		DryRun   bool      `json:"dry_run"`
		Archives []archive `json:"archives"`
	}{dry, []archive{}}
	for _, r := range reps {
		a := archive{Archive: r.Archive, Lanes: []lane{}}
		for _, l := range r.Lanes {
			a.Lanes = append(a.Lanes, lane{l.Lane, l.Gateway, l.Generation, l.First, l.Next, l.Jumped})
		}
		v.Archives = append(v.Archives, a)
	}
	return v
}

// writeImport says what became of an archive.
func writeImport(out io.Writer, r *buffer.ImportReport, dry bool) {
	writeManifest(out, r.Archive, r.Manifest)
	took := "taken over"
	if dry {
		took = "would be taken over"
	}
	for _, l := range r.Lanes {
		if l.First >= l.Next {
			_, _ = fmt.Fprintf(out, "  %s: all of it was here before\n", l.Lane)
			continue
		}
		_, _ = fmt.Fprintf(out, "  %s: %s: seqs %s\n", l.Lane, took, seqs(l.First, l.Next-1))
		if l.Jumped > 0 {
			_, _ = fmt.Fprintf(out, "    %d seqs before them are not in the archive: the other gateway had delivered them itself\n", l.Jumped)
		}
	}
}
