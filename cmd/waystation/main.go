package main

import (
	"fmt"
	"io"
	"os"

	"github.com/waystation-iot/waystation/adapters"
)

func main() { os.Exit(dispatch(os.Args[1:], os.Stdout, os.Stderr)) }

// command is one subcommand.
type command struct {
	name, help string
	run        func(args []string, out, errOut io.Writer) int
}

// commands returns the subcommands in the order of the help.
func commands() []command {
	all := adapters.All()
	return []command{
		{"run", "run the gateway: waystation run -c FILE", func(a []string, o, e io.Writer) int { return run(a, e, all) }},
		{"check", "find everything wrong with configurations: waystation check [--connect] FILE…", func(a []string, o, e io.Writer) int { return check(a, o, e, all) }},
		{"describe", "show every option of an adapter: waystation describe [TYPE]", func(a []string, o, e io.Writer) int { return describe(a, o, e, all) }},
		{"browse", "look around and write a configuration: waystation browse [--out FILE] URL", func(a []string, o, e io.Writer) int { return browse(a, o, e, all) }},
		{"status", "show a running gateway: waystation status [--watch] [--json]", status},
		{"dead-letters", "records a sink refused for good: waystation dead-letters list|show|export|retry|drop", deadLetters},
		{"queue", "look at, check, repair and carry a queue: waystation queue COMMAND DIR", queue},
		{"schema", "print the schema of an encoding: waystation schema avro|protobuf|json", schema},
		{"version", "show the version", func(_ []string, o, _ io.Writer) int { _, _ = fmt.Fprintln(o, versionLine()); return exitGood }},
	}
}

// dispatch runs the subcommand named by the first argument.
func dispatch(args []string, out, errOut io.Writer) int {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(out)
		if len(args) == 0 {
			return exitUsage
		}
		return exitGood
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(args[1:], out, errOut)
		}
	}
	_, _ = fmt.Fprintf(errOut, "waystation: unknown command %q\n\n", args[0])
	usage(errOut)
	return exitUsage
}

func usage(w io.Writer) {
	_, _ = fmt.Fprintln(w, "waystation keeps what devices say until the data centre has it.\n\nCommands:")
	for _, c := range commands() {
		_, _ = fmt.Fprintf(w, "  %-13s %s\n", c.name, c.help)
	}
	_, _ = fmt.Fprintln(w, "\nExit codes: 0 good, 1 something is wrong, 2 called wrongly.")
}
