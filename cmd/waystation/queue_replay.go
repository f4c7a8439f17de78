package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

const replayUsage = `usage: waystation queue replay --from T --to T [--sink S] [--source S] [--device D] [--rate N] [--watch] [--url URL] [DIR]
       waystation queue replay --list | --watch | --cancel ID [--url URL]

Sends stored records again, with the header replayed=true. T is an RFC 3339 time or how long ago: 90s, 2h, 3d, now.
Without DIR the running gateway is asked; with DIR the replay is left for the gateway that is started on it next.

  waystation queue replay --from 2h --watch
  waystation queue replay --from 3d --to 1d --sink shore --source engine /var/lib/waystation

`

// replayOptions are the options of `waystation queue replay`.
type replayOptions struct {
	from, to, cancel    string
	request             gateway.ReplayRequest
	watch, list, asJSON bool
	dir                 string
	client              *client
}

// queueReplay is `waystation queue replay`.
func queueReplay(args []string, out, errOut io.Writer) int {
	o, err := parseReplay(args, errOut)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitGood
	case errors.Is(err, errSaid):
		return exitUsage
	case err != nil:
		_, _ = fmt.Fprintln(errOut, "waystation queue replay:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := o.run(ctx, out); err != nil {
		_, _ = fmt.Fprintln(errOut, "waystation queue replay:", err)
		return exitFound
	}
	return exitGood
}

// errSaid says that the flag package has told what is wrong.
var errSaid = errors.New("usage")

// parseReplay reads the command line.
func parseReplay(args []string, errOut io.Writer) (*replayOptions, error) {
	o := &replayOptions{}
	fs := flag.NewFlagSet("waystation queue replay", flag.ContinueOnError)
	fs.SetOutput(errOut)
	fs.Usage = func() { _, _ = fmt.Fprint(errOut, replayUsage); fs.PrintDefaults() }
	remote := remoteFlags(fs)
	fs.StringVar(&o.from, "from", "", "received at or after this `time`")
	fs.StringVar(&o.to, "to", "now", "received before this `time`")
	fs.StringVar(&o.request.Sink, "sink", "", "`name` of the sink; may be left out when there is one")
	fs.StringVar(&o.request.Source, "source", "", "only this source; * and ? stand for any text and any byte")
	fs.StringVar(&o.request.Device, "device", "", "only this device; as --source")
	fs.IntVar(&o.request.Rate, "rate", 0, fmt.Sprintf("records per second at most (default %d, up to %d)", gateway.DefaultReplayRate, gateway.MaxReplayRate))
	fs.BoolVar(&o.watch, "watch", false, "show the progress until it is over")
	fs.BoolVar(&o.list, "list", false, "list the replays of the running gateway")
	fs.StringVar(&o.cancel, "cancel", "", "cancel the replay with this `id`, or take it off the list when it is over")
	fs.BoolVar(&o.asJSON, "json", false, "print JSON")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, errSaid
	}
	var err error
	if o.client, err = remote(); err != nil {
		return nil, err
	}
	o.dir = fs.Arg(0)
	made := o.from != ""
	switch {
	case fs.NArg() > 1:
		return nil, fmt.Errorf("unexpected argument %q (options come before DIR)", fs.Arg(1))
	case o.dir != "" && (o.list || o.watch || o.cancel != ""):
		return nil, errors.New("--list, --watch and --cancel ask a running gateway: leave DIR out")
	case made && (o.list || o.cancel != ""), o.list && o.cancel != "":
		return nil, errors.New("--from, --list and --cancel exclude each other")
	case !made && !o.list && !o.watch && o.cancel == "":
		fs.Usage()
		return nil, errors.New("--from is missing")
	case !made:
		return o, nil
	}
	now := time.Now()
	var err1, err2 error
	o.request.From, err1 = parseWhen("from", o.from, now)
	o.request.To, err2 = parseWhen("to", o.to, now)
	return o, errors.Join(err1, err2)
}

// parseWhen reads an RFC 3339 time, or how long before now.
func parseWhen(flag, s string, now time.Time) (time.Time, error) {
	if s == "now" {
		return now, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n < 100_000 {
			return now.Add(-time.Duration(n * float64(24*time.Hour))), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return now, fmt.Errorf("--%s %q: write a time such as 2026-11-22T14:00:00Z, or how long ago: 90s, 2h, 3d, now", flag, s)
}

// run does what the options ask for.
func (o *replayOptions) run(ctx context.Context, out io.Writer) error {
	switch {
	case o.cancel != "":
		if err := o.client.do(ctx, http.MethodDelete, "/api/v1/replays/"+url.PathEscape(o.cancel), nil, nil); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "replay %s is cancelled, or off the list if it was over\n", o.cancel)
		return err
	case o.from == "":
		return o.follow(ctx, "", out)
	}
	var made gateway.Replay
	var err error
	if o.dir != "" {
		made, err = leaveReplay(o.dir, o.request)
	} else {
		err = o.client.do(ctx, http.MethodPost, "/api/v1/replays", o.request, &made)
	}
	if err != nil {
		return err
	}
	if o.watch {
		return o.follow(ctx, made.ID, out)
	}
	return o.show(out, []gateway.Replay{made})
}

// follow shows the replays, or the one of that id, and with --watch again every
// second until none of them is under way.
func (o *replayOptions) follow(ctx context.Context, id string, out io.Writer) error {
	for {
		var all []gateway.Replay
		if err := o.client.do(ctx, http.MethodGet, "/api/v1/replays", nil, &all); err != nil {
			return err
		}
		open := false
		shown := all[:0]
		for _, r := range all {
			if id == "" || r.ID == id {
				shown = append(shown, r)
				open = open || r.State == gateway.ReplayWaiting || r.State == gateway.ReplayRunning
			}
		}
		if err := o.show(out, shown); err != nil {
			return err
		}
		if !o.watch || !open {
			for _, r := range shown {
				if id != "" && r.State != gateway.ReplayDone {
					return fmt.Errorf("replay %s is %s: %s", r.ID, r.State, cmp.Or(r.Error, "by a person"))
				}
			}
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// show prints replays.
func (o *replayOptions) show(out io.Writer, all []gateway.Replay) error {
	if o.asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	}
	for i := range all {
		if _, err := fmt.Fprintln(out, replayLine(&all[i])); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "none")
		return err
	}
	return nil
}

// replayLine describes a replay in one line.
func replayLine(r *gateway.Replay) string {
	var looked, all uint64
	for _, ln := range r.Lanes {
		looked, all = looked+ln.Next-ln.First, all+ln.End-ln.First
	}
	s := fmt.Sprintf("replay %s  %s", r.ID, r.State)
	if all > 0 {
		s += fmt.Sprintf("  %d %%", looked*100/all)
	}
	s += fmt.Sprintf("  to %s  %s to %s", cmp.Or(r.Sink, "the only sink"), r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	for _, f := range [][2]string{{"source", r.Source}, {"device", r.Device}} {
		if f[1] != "" {
			s += "  " + f[0] + " " + f[1]
		}
	}
	s += fmt.Sprintf("  %d/s  %d sent", r.Rate, r.Sent)
	if r.Refused > 0 {
		s += fmt.Sprintf(", %d refused", r.Refused)
	}
	if r.Gone > 0 {
		s += fmt.Sprintf(", %d no longer stored", r.Gone)
	}
	if r.Error != "" {
		s += ": " + r.Error
	}
	return s
}

// leaveReplay leaves a replay in the directory of a queue that no process has
// open.
func leaveReplay(dir string, q gateway.ReplayRequest) (gateway.Replay, error) {
	unlock, err := lockQueue(dir)
	if err != nil {
		return gateway.Replay{}, err
	}
	defer unlock()
	return gateway.LeaveReplay(dir, q, time.Now())
}

// lockQueue keeps a gateway from starting on a queue, until unlock is called.
func lockQueue(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is not the directory of a queue: it has no file lock", dir)
	}
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(path)
		_ = f.Close()
		return nil, fmt.Errorf("%s is in use by a gateway (pid %s): ask it, with --url and without DIR", dir, strings.TrimSpace(string(pid)))
	}
	return func() { _ = f.Close() }, nil
}
