package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/waystation-iot/waystation/adapters"
	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/config"
)

const queueExportUsage = `usage: waystation queue export --ndjson FILE|- DIR
       waystation queue export --archive FILE (--gateway ID | --config FILE) DIR

--ndjson writes one JSON object per line, as docs/record-json.md describes a
record, with a member "queue" that tells its place. --archive writes what the
slowest sink still waits for to a file that another gateway imports: stored
blocks as they are, with seqs and generation. Both only read, unless --release
is given: then the gateway must be stopped, and what is in the archive counts
as sent and is not sent from here any more.

  waystation queue export --ndjson - --from 24h --source engine /var/lib/waystation
  waystation queue export --archive /media/usb/aurora.tar --config /etc/waystation.yaml --release DIR
`

// exportFlags are the options of export.
type exportFlags struct {
	s                     selection
	ndjson, archive       string
	gateway, config, sink string
	all, release          bool
}

// queueExport is `waystation queue export`.
func queueExport(args []string, out, errOut io.Writer) int {
	t := newTool("export", queueExportUsage, out, errOut)
	t.withKeys()
	t.withQuiet()
	var f exportFlags
	f.s.flags(t, 0)
	t.fs.StringVar(&f.ndjson, "ndjson", "", "write JSON lines to `FILE`; - is the standard output")
	t.fs.StringVar(&f.archive, "archive", "", "write an archive to `FILE`, which must not exist")
	t.fs.StringVar(&f.gateway, "gateway", "", "`ID` of the gateway whose queue it is, gateway.id of its configuration")
	t.fs.StringVar(&f.config, "config", "", "take the id from this configuration `FILE`")
	t.fs.StringVar(&f.sink, "sink", "", "archive what this `SINK` has not sent, instead of what the slowest has not")
	t.fs.BoolVar(&f.all, "all", false, "archive everything that is stored, also what was sent and is kept")
	t.fs.BoolVar(&f.release, "release", false, "then count what is in the archive as sent; needs the gateway stopped")
	if code, ok := t.parse(args, 0); !ok {
		return code
	}
	id, err := f.check()
	if err != nil {
		return t.usageError("%v", err)
	}
	if f.ndjson != "" {
		return f.lines(t, id)
	}
	return f.tar(t, id)
}

// check finds what does not go together, and the id of the gateway.
func (f *exportFlags) check() (id string, err error) {
	selected := f.s != selection{}
	switch {
	case (f.ndjson == "") == (f.archive == ""):
		return "", errors.New("give --ndjson FILE or --archive FILE")
	case f.archive != "" && selected:
		return "", errors.New("an archive holds whole lanes from one seq on: --lane, --from, --to, --source, --device and --limit go with --ndjson")
	case f.ndjson != "" && (f.release || f.all || f.sink != ""):
		return "", errors.New("--release, --all and --sink go with --archive")
	case f.all && f.sink != "":
		return "", errors.New("give --all or --sink")
	case f.gateway != "" && f.config != "":
		return "", errors.New("give --gateway or --config")
	case f.config != "":
		cfg, err := config.Load(f.config, adapters.All())
		if err != nil {
			return "", fmt.Errorf("read the gateway's id: %w", err)
		}
		return cfg.Gateway.ID, nil
	case f.archive != "" && f.gateway == "":
		return "", errors.New("give --gateway ID or --config FILE: the records travel with the id of the gateway that collected them")
	}
	return f.gateway, nil
}

// lines writes JSON lines.
func (f *exportFlags) lines(t *queueTool, id string) int {
	o, err := f.s.options(time.Now())
	if err != nil {
		return t.usageError("%v", err)
	}
	q, err := buffer.Examine(t.dir, buffer.ExamineOptions{Keys: t.keys})
	if err != nil {
		return t.fail(err)
	}
	to, done := t.out, func(err error) error { return err }
	if f.ndjson != "-" {
		file, finish, err := create(f.ndjson)
		if err != nil {
			return t.fail(err)
		}
		to, done = file, finish
	}
	w := bufio.NewWriterSize(to, 64<<10)
	n, holes := 0, 0
	var line []byte
	err = f.s.scan(q, o, func(x *shown) (err error) {
		x.id = id
		if line, err = x.appendJSON(line[:0]); err == nil {
			_, err = w.Write(line)
			n++
		}
		return err
	}, func(r *buffer.Run) error {
		if r.Reason == buffer.ReasonDamaged || r.Reason == buffer.ReasonUnknown {
			holes++
		}
		_, _ = fmt.Fprintf(t.errOut, "not there: %s %s: %s: %v\n", r.Lane, seqs(r.First, r.Next-1), r.Reason, r.Err)
		return nil
	})
	if err = done(errors.Join(err, w.Flush())); err != nil {
		return t.fail(err)
	}
	if !t.quiet {
		_, _ = fmt.Fprintf(t.errOut, "%s written\n", count(n, "record"))
	}
	if holes > 0 {
		return exitFound
	}
	return exitGood
}

// create opens a file that gets its name when it is complete.
func create(path string) (*os.File, func(error) error, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, nil, fmt.Errorf("write %s: it exists: choose another name", path)
	}
	f, err := os.OpenFile(path+".partial", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return f, func(err error) error {
		if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			_ = os.Remove(f.Name())
		}
		return err
	}, nil
}

// tar writes an archive.
func (f *exportFlags) tar(t *queueTool, id string) int {
	bar := t.progress("exported")
	m, err := buffer.ExportArchive(t.dir, f.archive, buffer.ArchiveOptions{Gateway: id, Cursor: f.sink, All: f.all, Release: f.release, Keys: t.keys, Now: time.Now(), Progress: bar.step})
	bar.end()
	if err != nil {
		return t.fail(err)
	}
	if t.asJSON {
		if err := t.print(m); err != nil {
			return exitFound
		}
		return exitGood
	}
	if len(m.Lanes) == 0 {
		_, _ = fmt.Fprintln(t.out, "nothing waits: no archive was written")
		return exitGood
	}
	writeManifest(t.out, filepath.Clean(f.archive), m)
	if f.release {
		_, _ = fmt.Fprintln(t.out, "released: what is in the archive counts as sent and is not sent from here; keep the archive until it is imported")
	} else {
		_, _ = fmt.Fprintln(t.out, "not released: this gateway sends the same records too, so drop repeats by (gateway, generation, lane, seq), or export with --release")
	}
	return exitGood
}

// writeManifest says what an archive holds.
func writeManifest(out io.Writer, file string, m *buffer.Manifest) {
	_, _ = fmt.Fprintf(out, "%s: gateway %s, generation %s, made %s\n", file, m.Gateway, m.Generation, stamp(m.Made))
	for _, ln := range m.Lanes {
		more := ""
		if ln.Gateway != m.Gateway {
			more += ", of gateway " + ln.Gateway
		}
		if ln.Sealed {
			more += fmt.Sprintf(", encrypted with %v: the gateway that delivers them needs that key", ln.Keys)
		}
		_, _ = fmt.Fprintf(out, "  %s: seqs %s, %s, %s, %s to %s%s\n", ln.Lane, seqs(ln.First, ln.Next-1), count(int(ln.Records), "record"), gateway.Size(ln.Bytes), stamp(ln.From), stamp(ln.To), more)
		for _, l := range ln.Losses {
			_, _ = fmt.Fprintf(out, "    lost before: seqs %s, %s\n", seqs(l.First, l.Last), l.Reason)
		}
	}
}
