package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/config"
)

// Exit codes of the subcommands.
const (
	exitGood  = 0
	exitFound = 1 // it found something wrong
	exitUsage = 2
)

const checkUsage = `usage: waystation check FILE…

Finds everything that is wrong with configurations, with line, column and a hint.
Opens no connection. Exit code 0 when all files are right, 1 when one is not.
`

// check reads configurations as the daemon does and prints all their faults.
// It returns the exit code.
func check(args []string, out, errOut io.Writer, adapters []gateway.Adapter) int {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() { fmt.Fprint(errOut, checkUsage) }
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitGood
		}
		return exitUsage
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return exitUsage
	}
	code := exitGood
	for _, file := range flags.Args() {
		cfg, err := config.Load(file, adapters)
		if err != nil {
			code = exitFound
			fmt.Fprintln(errOut, err)
			if fs, ok := errors.AsType[config.Faults](err); ok {
				fmt.Fprintf(errOut, "%s: %s\n", file, count(len(fs), "fault"))
			}
			continue
		}
		if _, err := fmt.Fprintf(out, "%s: ok: %s, %s\n", file, count(len(cfg.Sources), "source"), count(len(cfg.Sinks), "sink")); err != nil {
			return exitFound
		}
	}
	return code
}

// count writes a number of things: "1 sink", "2 sinks".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
