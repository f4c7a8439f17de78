package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/observe"
)

// client asks a running gateway.
type client struct {
	base string
	http http.Client
}

// remoteFlags adds --url to fs and returns the client made from it after Parse.
func remoteFlags(fs *flag.FlagSet) func() *client {
	url := fs.String("url", "http://127.0.0.1:8100", "address of the gateway (http.listen of its configuration)")
	return func() *client {
		base := strings.TrimRight(*url, "/")
		if !strings.Contains(base, "://") {
			base = "http://" + base
		}
		return &client{base: base, http: http.Client{Timeout: 10 * time.Second}}
	}
}

// get reads a path into x.
func (c *client) get(ctx context.Context, path string, x any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("no gateway answers at %s: is it running? (see http.listen in its configuration, and --url)", c.base)
		}
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("read %s%s: %w", c.base, path, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s%s: %s: %s", c.base, path, res.Status, strings.TrimSpace(string(body)))
	}
	if err := json.Unmarshal(body, x); err != nil {
		return fmt.Errorf("get %s%s: not the answer of a gateway: %w", c.base, path, err)
	}
	return nil
}

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
	c := remote()
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

// deadLetters is `waystation dead-letters`.
func deadLetters(args []string, out, errOut io.Writer) int {
	fs := flag.NewFlagSet("waystation dead-letters", flag.ContinueOnError)
	fs.SetOutput(errOut)
	remote := remoteFlags(fs)
	asJSON := fs.Bool("json", false, "print them as JSON, with the payload in base64")
	limit := fs.Int("limit", 100, "how many to show, at most 1000")
	after := fs.Uint64("after", 0, "show those with ids above this")
	if err := fs.Parse(args); err != nil || fs.NArg() > 0 {
		return exitUsage
	}
	var letters []struct {
		ID             uint64    `json:"id"`
		Sink           string    `json:"sink"`
		Lane           string    `json:"lane"`
		Seq            uint64    `json:"seq"`
		At             time.Time `json:"at"`
		Reason         string    `json:"reason"`
		Device         string    `json:"device"`
		Bytes          int       `json:"bytes"`
		Payload        []byte    `json:"payload,omitempty"`
		Source, Name   string
		GenerationText string `json:"generation"`
	}
	path := fmt.Sprintf("/api/v1/dead-letters?after=%d&limit=%d", *after, *limit)
	if err := remote().get(context.Background(), path, &letters); err != nil {
		_, _ = fmt.Fprintln(errOut, "waystation dead-letters:", err)
		return exitFound
	}
	if *asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		_ = enc.Encode(letters)
		return exitGood
	}
	for _, l := range letters {
		_, _ = fmt.Fprintf(out, "%d  %s  sink %s  %s/%d  %s  %d bytes: %s\n", l.ID, l.At.Format(time.RFC3339), l.Sink, l.Lane, l.Seq, l.Device, l.Bytes, l.Reason)
	}
	if len(letters) == 0 {
		_, _ = fmt.Fprintln(out, "none")
	}
	return exitGood
}
