package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/waystation-iot/waystation/adapters/kafka"
	"github.com/waystation-iot/waystation/gateway/codec"
)

const schemaUsage = `usage: waystation schema [--request | --fingerprint] avro | protobuf | json

Prints the schema of what a sink writes with that encoding.

  --request       as the body of a request to a schema registry:
                  waystation schema --request avro | curl --data @- \
                    -H 'Content-Type: application/vnd.schemaregistry.v1+json' \
                    https://REGISTRY/subjects/TOPIC-value/versions
  --fingerprint   its SHA-256; the header schema-fingerprint begins with the same 16 digits
`

// schema prints a schema. It returns the exit code.
func schema(args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("schema", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() { _, _ = fmt.Fprint(errOut, schemaUsage) }
	request := flags.Bool("request", false, "")
	fingerprint := flags.Bool("fingerprint", false, "")
	names, err := interspersed(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		return exitGood
	}
	if err != nil || len(names) != 1 || *request && *fingerprint {
		if err == nil {
			flags.Usage()
		}
		return exitUsage
	}
	text, err := codec.Schema(names[0])
	if err != nil {
		_, _ = fmt.Fprintf(errOut, "waystation schema: %v\n", err)
		return exitUsage
	}
	switch {
	case *request:
		body, err := kafka.SchemaRequest(names[0], text)
		if err != nil {
			_, _ = fmt.Fprintf(errOut, "waystation schema: %v\n", err)
			return exitFound
		}
		text = string(body) + "\n"
	case *fingerprint:
		text = codec.Fingerprint(text) + "\n"
	}
	if _, err := io.WriteString(out, text); err != nil {
		_, _ = fmt.Fprintf(errOut, "waystation schema: write: %v\n", err)
		return exitFound
	}
	return exitGood
}
