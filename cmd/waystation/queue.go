package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
)

// queueCommands returns the tools for a queue directory.
func queueCommands() []command {
	return []command{
		{"status", "what waits, for whom, since when, and what is damaged", queueStatus},
		{"verify", "read every block and report what is damaged", queueVerify},
		{"repair", "rebuild damaged segments from what can be read (gateway stopped)", queueRepair},
		{"inspect", "show records, segments or blocks", queueInspect},
		{"export", "write records as JSON lines, or as an archive for another gateway", queueExport},
		{"import", "take an archive over, to be delivered from here (gateway stopped)", queueImport},
		{"replay", "send delivered records again", queueReplay},
	}
}

// queue is `waystation queue`.
func queue(args []string, out, errOut io.Writer) int {
	if len(args) > 0 {
		for _, c := range queueCommands() {
			if c.name == args[0] {
				return c.run(args[1:], out, errOut)
			}
		}
		if args[0] != "-h" && args[0] != "--help" && args[0] != "help" {
			_, _ = fmt.Fprintf(errOut, "waystation queue: unknown command %q\n\n", args[0])
			queueUsage(errOut)
			return exitUsage
		}
		queueUsage(out)
		return exitGood
	}
	queueUsage(errOut)
	return exitUsage
}

func queueUsage(w io.Writer) {
	_, _ = fmt.Fprintln(w, "usage: waystation queue COMMAND DIR\n\nDIR is buffer.dir of the configuration. Commands that only read also work while the gateway runs.\n\nCommands:")
	for _, c := range queueCommands() {
		_, _ = fmt.Fprintf(w, "  %-8s %s\n", c.name, c.help)
	}
	_, _ = fmt.Fprintln(w, "\nwaystation queue COMMAND -h shows its options. Exit codes: 0 good, 1 something is wrong, 2 called wrongly.")
}

// queueTool is one call of a tool: its flags and where it writes.
type queueTool struct {
	name   string
	fs     *flag.FlagSet
	out    io.Writer
	errOut io.Writer
	asJSON bool
	quiet  bool
	keys   []buffer.Key
	dir    string
	rest   []string // arguments after DIR
}

// newTool returns a tool with the flags that all have. usage is its help
// without the list of options.
func newTool(name, usage string, out, errOut io.Writer) *queueTool {
	t := &queueTool{name: name, fs: flag.NewFlagSet("waystation queue "+name, flag.ContinueOnError), out: out, errOut: errOut}
	t.fs.SetOutput(errOut)
	t.fs.BoolVar(&t.asJSON, "json", false, "print JSON, for machines")
	t.fs.Usage = func() {
		_, _ = fmt.Fprint(errOut, usage, "\nOptions, before or after DIR:\n")
		t.fs.PrintDefaults()
	}
	return t
}

// withKeys adds --key.
func (t *queueTool) withKeys() {
	t.fs.Func("key", "`REF` of a key of an encrypted queue, file:PATH, env:NAME or credential:NAME; may be given several times", func(ref string) error {
		k, err := gateway.ReadKey(gateway.Secret(ref), ".")
		t.keys = append(t.keys, k)
		return err
	})
}

// withQuiet adds --quiet.
func (t *queueTool) withQuiet() {
	t.fs.BoolVar(&t.quiet, "quiet", false, "show no progress")
}

// parse reads the arguments: DIR and at most more others. ok is false when the
// tool ends here, with that code.
func (t *queueTool) parse(args []string, more int) (code int, ok bool) {
	rest, err := interspersed(t.fs, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitGood, false
	case err != nil:
		return exitUsage, false
	case len(rest) == 0 || len(rest) > 1+more:
		t.fs.Usage()
		return exitUsage, false
	}
	t.dir, t.rest = rest[0], rest[1:]
	return exitGood, true
}

// usageError says what is wrong with the arguments.
func (t *queueTool) usageError(format string, a ...any) int {
	_, _ = fmt.Fprintf(t.errOut, "waystation queue %s: %s\n", t.name, fmt.Sprintf(format, a...))
	return exitUsage
}

// fail reports why a tool could not do its work, with a remedy.
func (t *queueTool) fail(err error) int {
	hint := ""
	switch {
	case errors.Is(err, buffer.ErrNewerFormat):
		hint = ": nothing was touched; use the version of waystation that wrote it, or a newer one"
	case errors.Is(err, buffer.ErrReadOnly):
		hint = ": mount it writable, or copy the directory to another disk and work there"
	case errors.Is(err, buffer.ErrNoKey):
		hint = ": give it with --key"
	}
	_, _ = fmt.Fprintf(t.errOut, "waystation queue %s: %v%s\n", t.name, err, hint)
	return exitFound
}

// print writes v as JSON.
func (t *queueTool) print(v any) error {
	enc := json.NewEncoder(t.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// progress returns what shows how far a tool is, nil when it shall not.
func (t *queueTool) progress(what string) *progress {
	if t.asJSON || t.quiet {
		return nil
	}
	tty := false
	if f, ok := t.errOut.(*os.File); ok {
		st, err := f.Stat()
		tty = err == nil && st.Mode()&os.ModeCharDevice != 0
	}
	return &progress{w: t.errOut, what: what, tty: tty, now: time.Now}
}

// progress shows how far a long work is: a bar on a terminal, else a line
// every few seconds.
type progress struct {
	w     io.Writer
	what  string
	tty   bool
	now   func() time.Time
	start time.Time
	last  time.Time
	drawn bool
}

// step notes that done of total bytes are done. A nil progress shows nothing.
func (p *progress) step(done, total int64) {
	if p == nil || total <= 0 {
		return
	}
	now, every := p.now(), 5*time.Second
	if p.start.IsZero() {
		p.start, p.last = now, now
	}
	if p.tty {
		every = 200 * time.Millisecond
	}
	if now.Sub(p.last) < every {
		return
	}
	p.last = now
	rate := float64(done) / now.Sub(p.start).Seconds()
	left := "?"
	if rate > 0 {
		left = (time.Duration(float64(total-done)/rate) * time.Second).String()
	}
	text := fmt.Sprintf("%s %s of %s, %s/s, %s left", p.what, gateway.Size(done), gateway.Size(total), gateway.Size(rate), left)
	if !p.tty {
		_, _ = fmt.Fprintln(p.w, text)
		return
	}
	const width = 24
	full := int(min(done, total) * width / total)
	p.drawn = true
	_, _ = fmt.Fprintf(p.w, "\r[%s%s] %s\x1b[K", strings.Repeat("#", full), strings.Repeat(".", width-full), text)
}

// end removes the bar.
func (p *progress) end() {
	if p != nil && p.drawn {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

// stamp writes a time, "-" when there is none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// seqs writes a run of seqs.
func seqs(first, last uint64) string {
	if first == last {
		return strconv.FormatUint(first, 10)
	}
	return fmt.Sprintf("%d..%d", first, last)
}

// when is a pointer to t for JSON, nil when there is none.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
