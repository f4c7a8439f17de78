package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/config"
)

const describeUsage = `usage: waystation describe [--json | --markdown | --example] [TYPE]

Without TYPE: the types of sources and sinks, and the options that are not theirs.
With TYPE: every option of that type.

  --json       the JSON schema of the configuration, for editors
  --markdown   all options as Markdown
  --example    a configuration with every option

With TYPE, --markdown, --json and --example speak of that type alone.
`

// describe prints what can be configured, from the structs that are decoded.
// It returns the exit code.
func describe(args []string, out, errOut io.Writer, adapters []gateway.Adapter) int {
	flags := flag.NewFlagSet("describe", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() { fmt.Fprint(errOut, describeUsage) }
	asJSON := flags.Bool("json", false, "")
	asMarkdown := flags.Bool("markdown", false, "")
	asExample := flags.Bool("example", false, "")
	types, err := interspersed(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		return exitGood
	}
	forms := 0
	for _, set := range []bool{*asJSON, *asMarkdown, *asExample} {
		if set {
			forms++
		}
	}
	if err != nil || len(types) > 1 || forms > 1 {
		if err == nil {
			flags.Usage()
		}
		return exitUsage
	}
	if len(types) == 1 {
		one, ok := only(adapters, types[0])
		if !ok {
			fmt.Fprintf(errOut, "waystation describe: unknown type %q: types are %s\n", types[0], strings.Join(typeNames(adapters), ", "))
			return exitUsage
		}
		adapters = one
	}
	switch {
	case *asJSON:
		_, err = out.Write(config.Schema(adapters))
	case *asMarkdown:
		_, err = io.WriteString(out, config.Markdown(adapters))
	case *asExample:
		_, err = io.WriteString(out, config.Example(adapters))
	case len(types) == 1:
		err = config.Describe(out, adapters[0])
	default:
		err = overview(out, adapters)
	}
	if err != nil {
		fmt.Fprintf(errOut, "waystation describe: write: %v\n", err)
		return exitFound
	}
	return exitGood
}

// interspersed parses flags that may also stand behind the other arguments,
// and returns those.
func interspersed(flags *flag.FlagSet, args []string) ([]string, error) {
	var rest []string
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) == 0 {
			return rest, nil
		}
		rest, args = append(rest, args[0]), args[1:]
	}
}

// overview lists the types and describes the options outside them.
func overview(out io.Writer, adapters []gateway.Adapter) error {
	if _, err := io.WriteString(out, "Types of sources and sinks; waystation describe TYPE lists the options of one:\n\n"); err != nil {
		return err
	}
	if err := config.Types(out, adapters); err != nil {
		return err
	}
	if _, err := io.WriteString(out, "\nSections of the configuration:\n\n"); err != nil {
		return err
	}
	return config.DescribeTop(out)
}

// only returns the adapter with the given type.
func only(adapters []gateway.Adapter, typ string) ([]gateway.Adapter, bool) {
	for i := range adapters {
		if adapters[i].Type == typ {
			return adapters[i : i+1], true
		}
	}
	return nil, false
}

func typeNames(adapters []gateway.Adapter) []string {
	names := make([]string, len(adapters))
	for i := range adapters {
		names[i] = adapters[i].Type
	}
	return names
}
