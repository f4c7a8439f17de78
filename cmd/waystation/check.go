package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/config"
)

// Exit codes of the subcommands.
const (
	exitGood  = 0
	exitFound = 1 // it found something wrong
	exitUsage = 2
)

const checkUsage = `usage: waystation check [--connect [--timeout 30s] [--json]] FILE…

Finds everything that is wrong with configurations, with line, column and a hint.
A plan that cannot be kept is a fault as well; waystation plan shows it.
Opens no connection, unless with --connect: then it tries out brokers, log-in,
topics, limits, rights and clocks, writes no record and takes none, and says what
to fix. Exit code 0 when nothing is wrong, 1 when something is. A profile of a
device may be checked by itself.
`

// checkOptions are the flags.
type checkOptions struct {
	connect, json bool
	timeout       time.Duration
}

// check reads configurations as the daemon does and prints all their faults.
// It returns the exit code.
func check(args []string, out, errOut io.Writer, adapters []gateway.Adapter) int {
	var o checkOptions
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() { fmt.Fprint(errOut, checkUsage) }
	flags.BoolVar(&o.connect, "connect", false, "try the far sides out")
	flags.BoolVar(&o.json, "json", false, "print the findings as JSON")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Second, "for all of --connect")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitGood
		}
		return exitUsage
	}
	if flags.NArg() == 0 || o.timeout <= 0 || o.json && !o.connect {
		flags.Usage()
		return exitUsage
	}
	code := exitGood
	var all []*side
	for _, file := range flags.Args() {
		cfg, found, err := readFile(file, adapters)
		if err != nil {
			code = exitFound
			fmt.Fprintln(errOut, err)
			if fs, ok := errors.AsType[config.Faults](err); ok {
				fmt.Fprintf(errOut, "%s: %s\n", file, count(len(fs), "fault"))
			}
			continue
		}
		if cfg != nil {
			all = append(all, sides(file, cfg)...)
			if unkeepable(file, cfg, errOut) {
				code = exitFound
				continue
			}
		}
		if o.json {
			continue
		}
		if _, err := fmt.Fprintf(out, "%s: ok: %s\n", file, found); err != nil {
			return exitFound
		}
	}
	if !o.connect {
		return code
	}
	return max(code, tryOut(all, out, errOut, o))
}

// readFile reads a configuration, or what an option may name: a profile. found
// says what was found to be right.
func readFile(file string, adapters []gateway.Adapter) (cfg *config.Config, found string, err error) {
	if kind, err := config.Part(file, adapters); kind != "" {
		return nil, "a " + kind, err
	}
	if cfg, err = config.Load(file, adapters); err != nil {
		return nil, "", err
	}
	return cfg, fmt.Sprintf("%s, %s", count(len(cfg.Sources), "source"), count(len(cfg.Sinks), "sink")), nil
}

// tryOut runs the checks of --connect; Ctrl-C ends them.
func tryOut(all []*side, out, errOut io.Writer, o checkOptions) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("%s are over", o.timeout))
	defer cancel()
	good, err := connect(ctx, all, out, o.json)
	if err != nil {
		fmt.Fprintln(errOut, "waystation check:", err)
	}
	if err != nil || !good {
		return exitFound
	}
	return exitGood
}

// count writes a number of things: "1 sink", "2 sinks".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
