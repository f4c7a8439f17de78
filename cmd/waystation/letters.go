package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
)

const lettersUsage = `usage: waystation dead-letters [list]  [SELECTION] [--limit N] [--after ID] [--json] [DIR]
       waystation dead-letters show   --id ID [--json] [DIR]
       waystation dead-letters export SELECTION|--all [--out FILE|-] [--payloads PATH] [DIR]
       waystation dead-letters retry  SELECTION|--all [--to SINK] [--dry-run] [DIR]
       waystation dead-letters drop   SELECTION|--all --yes [DIR]

Records that a sink refused for good. Without DIR the running gateway is asked; with DIR, the buffer.dir of a
gateway that is stopped, what is there: a retry is then sent when it is started.

  waystation dead-letters list --sink shore --since 24h
  waystation dead-letters export --all --out letters.ndjson
  waystation dead-letters retry --reason "too large"
  waystation dead-letters drop --id 17,18 --yes

SELECTION is any of --id --sink --source --device --since --until --reason; a letter must fit all that are given.

`

// letterVerbs are what can be done with dead letters.
func letterVerbs() []string { return []string{"list", "show", "export", "retry", "drop"} }

// letterOptions are the options of `waystation dead-letters`.
type letterOptions struct {
	verb         string
	q            gateway.LetterFilter
	since, until string
	limit        int
	after        uint64
	out          string
	payloads     string
	to           string
	yes          bool
	asJSON       bool
	dir          string
	keys         []buffer.Key
	client       *client
}

// deadLetters is `waystation dead-letters`.
func deadLetters(args []string, out, errOut io.Writer) int {
	o, err := parseLetters(args, errOut)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitGood
	case errors.Is(err, errSaid):
		return exitUsage
	case err != nil:
		_, _ = fmt.Fprintln(errOut, "waystation dead-letters:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx, out, errOut); err != nil {
		hint := ""
		if errors.Is(err, buffer.ErrNoKey) {
			hint = ": give it with --key"
		}
		_, _ = fmt.Fprintf(errOut, "waystation dead-letters %s: %v%s\n", o.verb, err, hint)
		return exitFound
	}
	return exitGood
}

// flags adds the options to fs.
func (o *letterOptions) flags(fs *flag.FlagSet) {
	fs.Func("id", "only the letter of this `ID`; several, separated by commas or given again", func(text string) error {
		for one := range strings.SplitSeq(text, ",") {
			id, err := strconv.ParseUint(strings.TrimSpace(one), 10, 64)
			if err != nil || id == 0 {
				return fmt.Errorf("%q is not an id", one)
			}
			o.q.IDs = append(o.q.IDs, id)
		}
		return nil
	})
	fs.StringVar(&o.q.Sink, "sink", "", "only those this `SINK` refused; * and ? stand for any text and any byte")
	fs.StringVar(&o.q.Source, "source", "", "only records of this `SOURCE`; as --sink")
	fs.StringVar(&o.q.Device, "device", "", "only records of this `DEVICE`; as --sink")
	fs.StringVar(&o.since, "since", "", "only those refused at or after this `TIME`: 2026-11-22T14:00:00Z, or 2h, 3d for so long ago")
	fs.StringVar(&o.until, "until", "", "only those refused before this `TIME`")
	fs.StringVar(&o.q.Reason, "reason", "", "only those with this `TEXT` in the reason")
	fs.BoolVar(&o.q.All, "all", false, "all of them")
	fs.IntVar(&o.limit, "limit", 100, "list at most `N`")
	fs.Uint64Var(&o.after, "after", 0, "list those with ids above this `ID`")
	fs.StringVar(&o.out, "out", "-", "export: write JSON lines to `FILE`, which must not exist; - is the standard output")
	fs.StringVar(&o.payloads, "payloads", "", "export: write the payload of each letter to a file of its own below `PATH` instead")
	fs.StringVar(&o.to, "to", "", "retry: send them to this `SINK` instead of the one that refused them")
	fs.BoolVar(&o.yes, "yes", false, "drop: do it; they are gone for good then")
	fs.BoolVar(&o.q.DryRun, "dry-run", false, "retry, drop: only say what would be done")
	fs.BoolVar(&o.asJSON, "json", false, "print JSON, with payloads in base64")
	fs.Func("key", "`REF` of a key of encrypted letters in DIR, file:PATH, env:NAME or credential:NAME; may be given several times", func(ref string) error {
		k, err := gateway.ReadKey(gateway.Secret(ref), ".")
		o.keys = append(o.keys, k)
		return err
	})
}

// parseLetters reads the command line.
func parseLetters(args []string, errOut io.Writer) (*letterOptions, error) {
	o := &letterOptions{verb: "list"}
	for _, v := range letterVerbs() {
		if len(args) > 0 && args[0] == v {
			o.verb, args = v, args[1:]
			break
		}
	}
	fs := flag.NewFlagSet("waystation dead-letters", flag.ContinueOnError)
	fs.SetOutput(errOut)
	fs.Usage = func() { _, _ = fmt.Fprint(errOut, lettersUsage); fs.PrintDefaults() }
	remote := remoteFlags(fs)
	o.flags(fs)
	rest, err := interspersed(fs, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil, err
	case err != nil:
		return nil, errSaid
	case len(rest) > 1:
		return nil, fmt.Errorf("unexpected argument %q: give one DIR", rest[1])
	case len(rest) == 1:
		o.dir = rest[0]
	}
	if st, err := os.Stat(o.dir); o.dir != "" && (err != nil || !st.IsDir()) {
		return nil, fmt.Errorf("%q is neither one of %s nor a directory", o.dir, strings.Join(letterVerbs(), ", "))
	}
	if o.client, err = remote(); err != nil {
		return nil, err
	}
	now := time.Now()
	for _, x := range []struct {
		name, text string
		into       *time.Time
	}{{"since", o.since, &o.q.Since}, {"until", o.until, &o.q.Until}} {
		if x.text == "" {
			continue
		}
		if *x.into, err = parseWhen(x.name, x.text, now); err != nil {
			return nil, err
		}
	}
	return o, o.check(fs)
}

// check finds what does not go together.
func (o *letterOptions) check(fs *flag.FlagSet) error {
	only := map[string]string{"limit": "list", "after": "list", "out": "export", "payloads": "export", "to": "retry", "yes": "drop"}
	var err error
	fs.Visit(func(f *flag.Flag) {
		if verb, ok := only[f.Name]; ok && verb != o.verb {
			err = fmt.Errorf("--%s goes with %s, not with %s", f.Name, verb, o.verb)
		}
	})
	switch {
	case err != nil:
		return err
	case o.limit < 1:
		return fmt.Errorf("--limit %d: list at least 1", o.limit)
	case o.q.DryRun && o.verb != "retry" && o.verb != "drop":
		return errors.New("--dry-run goes with retry and drop")
	case o.verb == "show" && len(o.q.IDs) != 1:
		return errors.New("say which with --id ID")
	case o.payloads != "" && o.out != "-":
		return errors.New("give --out or --payloads")
	case o.dir == "" && len(o.keys) > 0:
		return errors.New("--key goes with DIR: a running gateway has its keys")
	}
	if err := o.q.Check(o.verb != "list" && o.verb != "show"); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), gateway.ErrLetterRequest.Error()+": "))
	}
	return nil
}

// run does what the options ask for.
func (o *letterOptions) run(ctx context.Context, out, errOut io.Writer) error {
	from, done, err := o.open()
	if err != nil {
		return err
	}
	switch o.verb {
	case "show":
		err = o.show(ctx, from, out)
	case "export":
		err = o.export(ctx, from, out, errOut)
	case "retry", "drop":
		err = o.change(ctx, from, out)
	default:
		err = o.list(ctx, from, out)
	}
	return errors.Join(err, done())
}

// change sends letters again or drops them.
func (o *letterOptions) change(ctx context.Context, from letterBox, out io.Writer) error {
	q := o.q
	q.DryRun = q.DryRun || o.verb == "drop" && !o.yes
	r, err := from.change(ctx, o.verb, q, o.to)
	if err != nil {
		return err
	}
	if o.asJSON {
		if err := printJSON(out, r); err != nil {
			return err
		}
	} else if err := o.tell(out, &r, q.DryRun); err != nil {
		return err
	}
	if q.DryRun && !o.q.DryRun {
		return errors.New("nothing was dropped: say --yes to drop them for good (export keeps a copy)")
	}
	return nil
}

// tell says what was done, or would be.
func (o *letterOptions) tell(out io.Writer, r *gateway.LetterResult, dry bool) (err error) {
	n := count(r.Count, "dead letter")
	switch {
	case o.verb == "drop" && dry:
		_, err = fmt.Fprintf(out, "%s would be dropped\n", n)
	case o.verb == "drop":
		_, err = fmt.Fprintf(out, "%s dropped\n", n)
	case dry:
		_, err = fmt.Fprintf(out, "%s would be sent again\n", n)
	case o.dir != "":
		_, err = fmt.Fprintf(out, "%s to be sent again when the gateway is started\n", n)
	default:
		_, err = fmt.Fprintf(out, "%s to be sent again, after live records; see how far with: waystation dead-letters list\n", n)
	}
	for sink, n := range r.NoSink {
		_, _ = fmt.Fprintf(out, "%s left alone: sink %s is not configured any more; send them to another one with --to SINK\n", count(n, "dead letter"), sink)
	}
	if r.NoRecord > 0 {
		_, _ = fmt.Fprintf(out, "%s left alone: what they hold cannot be read; see: waystation dead-letters list\n", count(r.NoRecord, "dead letter"))
	}
	return err
}
