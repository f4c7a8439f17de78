// Waystation-sim is a plant for demonstrations and tests: from one YAML file
// it runs an MQTT broker, groups of simulated devices that publish to it, and
// a Kafka-compatible broker whose link can be cut. It judges what arrived in
// Kafka, and `waystation-sim demo` puts a real gateway between the two ends,
// cuts the link, kills the gateway and proves that nothing was lost.
//
// Everything listens on the loopback interface only.
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
)

// The exit codes, as for every waystation program.
const (
	exitGood  = 0
	exitWrong = 1 // it found something wrong
	exitUsage = 2
)

// command is one subcommand. It returns errWrong (possibly wrapped) when it
// did its work and found something wrong, errUsage when it was called wrongly.
type command struct {
	name string
	doc  string
	run  func(ctx context.Context, args []string, std stdio) error
}

// stdio is what a command reads and writes.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// errUsage marks a command line that cannot be carried out; the usage was
// already shown.
var errUsage = errors.New("usage")

// errWrong marks a verdict that is not good; it was already shown.
var errWrong = errors.New("found something wrong")

func commands() []command {
	return []command{
		{"run", "run the plant of a YAML file until its duration is over or SIGINT", runCommand},
		{"judge", "read everything from Kafka and say what is lost, repeated or out of order", judgeCommand},
		{"demo", "plant + real gateway + outage + kill -9, judged at the end", demoCommand},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code := dispatch(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// dispatch runs the subcommand named by the first argument and returns the
// exit code.
func dispatch(ctx context.Context, args []string, std stdio) int {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(std.err)
		return exitUsage
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		err := c.run(ctx, args[1:], std)
		switch {
		case err == nil:
			return exitGood
		case errors.Is(err, errUsage):
			return exitUsage
		case errors.Is(err, errWrong):
			return exitWrong
		}
		fmt.Fprintf(std.err, "waystation-sim %s: %v\n", c.name, err)
		return exitWrong
	}
	fmt.Fprintf(std.err, "waystation-sim: unknown command %q\n", args[0])
	usage(std.err)
	return exitUsage
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "waystation-sim is a plant for demonstrations and tests.")
	fmt.Fprintln(w)
	for _, c := range commands() {
		fmt.Fprintf(w, "  waystation-sim %-6s %s\n", c.name, c.doc)
	}
	fmt.Fprintln(w, "\n`waystation-sim COMMAND -h` shows the options of a command.")
}

// parseFlags parses args and refuses what is left over.
func parseFlags(fs *flag.FlagSet, args []string, w io.Writer) error {
	fs.SetOutput(w)
	if err := fs.Parse(args); err != nil {
		return errUsage // the flag package has said why
	}
	if fs.NArg() > 0 {
		return badUsage(fs, fmt.Sprintf("unexpected argument %q", fs.Arg(0)))
	}
	return nil
}

// badUsage says what is wrong with a command line and returns errUsage.
func badUsage(fs *flag.FlagSet, msg string) error {
	fmt.Fprintf(fs.Output(), "waystation-sim %s: %s\n", fs.Name(), msg)
	fs.Usage()
	return errUsage
}
