package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/observe"
)

// status is `waystation status`. It returns exitFound when something needs a person.
func status(args []string, out, errOut io.Writer) int {
	fs := flag.NewFlagSet("waystation status", flag.ContinueOnError)
	fs.SetOutput(errOut)
	remote := remoteFlags(fs)
	watch := fs.Bool("watch", false, "show it again every second until interrupted")
	asJSON := fs.Bool("json", false, "print the whole status as JSON")
	if err := fs.Parse(args); err != nil || fs.NArg() > 0 {
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := remote()
	if err != nil {
		_, _ = fmt.Fprintln(errOut, "waystation status:", err)
		return exitUsage
	}
	for {
		var s gateway.Status
		err := c.get(ctx, "/api/v1/status", &s)
		if ctx.Err() != nil {
			return exitGood
		}
		if *watch {
			_, _ = fmt.Fprint(out, "\x1b[H\x1b[2J")
		}
		if err != nil {
			_, _ = fmt.Fprintln(errOut, "waystation status:", err)
		}
		code := exitFound
		if err == nil {
			code = showStatus(&s, *asJSON, out)
		}
		if !*watch {
			return code
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return exitGood
		}
	}
}

// showStatus writes the status and returns exitFound when something needs a person.
func showStatus(s *gateway.Status, asJSON bool, out io.Writer) int {
	var err error
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(s)
	} else {
		err = observe.Text(out, s)
	}
	if err != nil || len(observe.Troubles(s)) > 0 {
		return exitFound
	}
	return exitGood
}
