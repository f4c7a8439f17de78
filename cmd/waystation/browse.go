package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

const browseUsage = `usage: waystation browse [--set NAME=VALUE]… [--out FILE] [--timeout 1h] URL

Asks what there is at an address, politely and without changing anything, and
writes a configuration to start from. Ctrl-C ends it with what was found so far.

  --set NAME=VALUE   an option of this kind of address, see docs/browse.md
  --out FILE         where to write, a new file; the standard output without
  --timeout TIME     ends it with what was found so far

Kinds of addresses: %s
`

// browseOptions are the arguments of browse.
type browseOptions struct {
	url, out string
	set      map[string]string
	timeout  time.Duration
	adapter  *gateway.Adapter
}

// browse looks around at an address. It returns the exit code.
func browse(args []string, out, errOut io.Writer, adapters []gateway.Adapter) int {
	o, code := browseArgs(args, errOut, adapters)
	if code >= 0 {
		return code
	}
	if o.out != "" {
		if _, err := os.Lstat(o.out); err == nil {
			fmt.Fprintf(errOut, "waystation browse: %s is there already (name another file, or move it away)\n", o.out)
			return exitFound
		}
		if dir, err := os.Stat(filepath.Dir(o.out)); err != nil || !dir.IsDir() {
			fmt.Fprintf(errOut, "waystation browse: there is no directory %s (make it first)\n", filepath.Dir(o.out))
			return exitFound
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends it without further ado
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("%s are over", o.timeout))
	defer cancel()
	var found bytes.Buffer
	p := newProgressBar(errOut)
	err := o.adapter.Browse(ctx, &gateway.Browse{URL: o.url, Options: o.set, Out: &found, Progress: p.show, Note: p.note})
	p.end()
	if err == nil {
		if err = keep(o.out, out, found.Bytes()); err != nil && o.out != "" { // it may have taken an hour
			_, other := out.Write(found.Bytes())
			err = errors.Join(err, other)
		}
	}
	if err != nil {
		fmt.Fprintln(errOut, "waystation browse:", err)
		return exitFound
	}
	if o.out != "" {
		fmt.Fprintf(errOut, "written: %s (look it through, then: waystation check %[1]s)\n", o.out)
	}
	return exitGood
}

// browseArgs reads the arguments. A code of 0 or more ends the command.
func browseArgs(args []string, errOut io.Writer, adapters []gateway.Adapter) (o browseOptions, code int) {
	o.set = map[string]string{}
	flags := flag.NewFlagSet("browse", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() { fmt.Fprintf(errOut, browseUsage, strings.Join(browsable(adapters), ", ")) }
	flags.StringVar(&o.out, "out", "", "")
	flags.DurationVar(&o.timeout, "timeout", 24*time.Hour, "")
	flags.Func("set", "", func(text string) error {
		name, value, ok := strings.Cut(text, "=")
		if _, twice := o.set[name]; !ok || name == "" || twice {
			return errors.New("write NAME=VALUE, each name once")
		}
		o.set[name] = value
		return nil
	})
	rest, err := interspersed(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return o, exitGood
	case err != nil:
		return o, exitUsage
	case len(rest) != 1 || o.timeout <= 0:
		flags.Usage()
		return o, exitUsage
	}
	o.url = rest[0]
	scheme, _, _ := strings.Cut(o.url, ":")
	for i := range adapters {
		if adapters[i].Browse != nil && slices.Contains(adapters[i].Schemes, scheme) {
			o.adapter = &adapters[i]
			return o, -1
		}
	}
	fmt.Fprintf(errOut, "waystation browse: %q cannot be browsed: an address begins with one of %s, such as modbus://10.0.0.5\n", o.url, strings.Join(browsable(adapters), ", "))
	return o, exitUsage
}

// browsable lists the schemes that can be browsed.
func browsable(adapters []gateway.Adapter) (all []string) {
	for _, a := range adapters {
		if a.Browse != nil {
			all = append(all, a.Schemes...)
		}
	}
	return all
}

// keep writes what was found to a new file, or to out without a name.
func keep(name string, out io.Writer, found []byte) error {
	if name == "" {
		_, err := out.Write(found)
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write what was found: %w", err)
	}
	_, err = f.Write(found)
	return errors.Join(err, f.Close())
}
