package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"sort"
	"syscall"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/config"
	"github.com/waystation-iot/waystation/gateway/observe"
)

// gcPercent trades a little memory for fewer collections: the heap of a
// gateway is a few MiB, and at Go's default of 100 it is collected dozens of
// times per second under flow. memoryFloor bounds it: near that much the
// collector works as hard as it must.
const (
	gcPercent   = 300
	memoryFloor = 256 << 20
)

// run is `waystation run`. It returns when a signal ends it.
func run(args []string, errOut io.Writer, all []gateway.Adapter) int {
	fs := flag.NewFlagSet("waystation run", flag.ContinueOnError)
	fs.SetOutput(errOut)
	file := fs.String("c", "/etc/waystation.yaml", "configuration file")
	profile := fs.String("cpuprofile", "", "write a CPU profile of the whole run to this file, for go tool pprof")
	if err := fs.Parse(args); err != nil {
		return exitUsage
	}
	if fs.NArg() > 0 {
		_, _ = fmt.Fprintf(errOut, "waystation run: unexpected argument %q; usage: waystation run -c FILE\n", fs.Arg(0))
		return exitUsage
	}
	cfg, err := config.Load(*file, all)
	if err != nil {
		_, _ = fmt.Fprintln(errOut, err)
		return exitFound
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryFloor)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := logger(cfg.Log, errOut)
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			_, _ = fmt.Fprintln(errOut, err)
			return exitFound
		}
		defer func() { pprof.StopCPUProfile(); _ = f.Close() }()
		if err := pprof.StartCPUProfile(f); err != nil {
			_, _ = fmt.Fprintln(errOut, err)
			return exitFound
		}
	}
	if err := serve(ctx, cfg, log); err != nil {
		log.Error("stopped", "error", err)
		return exitFound
	}
	log.Info("stopped")
	return exitGood
}

// logger writes to the error output; a service manager adds the time and host.
func logger(c config.Log, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.SlogLevel()}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// serve runs a gateway until ctx ends.
func serve(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	log.Info("starting", "gateway", cfg.Gateway.ID, "version", version, "queue", cfg.Buffer.Dir)
	l, err := listener(cfg)
	if err != nil {
		return err
	}
	g, _, err := build(cfg, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	web := make(chan error, 1)
	if cfg.HTTP.Listen == "" {
		web <- nil
	} else {
		view := observe.View{Status: g.Status, Letters: g.Letters(), Replays: g.Replays, StartReplay: g.StartReplay, EndReplay: g.EndReplay}
		go func() {
			err := observe.Serve(ctx, l, view, log)
			if err != nil {
				cancel() // a gateway nobody can see is a fault of its start
			}
			web <- err
		}()
	}
	err = g.Run(ctx)
	cancel()
	return errors.Join(err, <-web)
}

// listener says where the API listens. It reads the files of TLS and the token.
func listener(cfg *config.Config) (l observe.Listener, err error) {
	l.Addr = cfg.HTTP.Listen
	if l.TLS, err = cfg.HTTP.TLS.Config(cfg.Dir); err != nil {
		return l, err
	}
	if l.Token, err = cfg.HTTP.Token.Reveal(cfg.Dir); err != nil {
		return l, fmt.Errorf("http.token: %w", err)
	}
	return l, nil
}

// build opens the queue and makes the sources and sinks. It opens no connection.
func build(cfg *config.Config, log *slog.Logger) (*gateway.Gateway, *buffer.Shelf, error) {
	o := gateway.Options{ID: cfg.Gateway.ID, Version: version, ShutdownTimeout: cfg.Shutdown.Timeout, Log: log,
		FlashEndurance: cfg.Buffer.FlashEndurance, Large: cfg.Buffer.Large}
	for _, ln := range cfg.Lanes {
		o.Shares = append(o.Shares, ln.Share)
	}
	for _, s := range cfg.Sources {
		src, err := s.Config.Source(env(cfg, "source", s.Name, log))
		if err != nil {
			return nil, nil, err
		}
		o.Sources = append(o.Sources, gateway.SourceSpec{Name: s.Name, Type: s.Type, Lane: s.Lane,
			Tags: mergeTags(cfg.Gateway.Tags, s.Tags), Transform: s.Rules, Source: src})
	}
	for _, s := range cfg.Sinks {
		sink, err := s.Config.Sink(env(cfg, "sink", s.Name, log))
		if err != nil {
			return nil, nil, err
		}
		o.Sinks = append(o.Sinks, gateway.SinkSpec{Name: s.Name, Type: s.Type, Sink: sink, Filter: s.Filter, Batch: s.Batch})
	}
	q, err := queueOptions(cfg, log)
	if err != nil {
		return nil, nil, err
	}
	if o.Queue, err = buffer.Open(q); err != nil {
		return nil, nil, err
	}
	if o.Dead, err = buffer.OpenShelf(buffer.ShelfOptions{Dir: q.Dir, MaxBytes: cfg.Buffer.DeadLetterBytes(), Keys: q.Keys, Log: log}); err != nil {
		return nil, nil, errors.Join(err, o.Queue.Close(context.Background()))
	}
	g, err := gateway.New(o)
	if err != nil {
		return nil, nil, errors.Join(err, o.Queue.Close(context.Background()), o.Dead.Close())
	}
	return g, o.Dead, nil
}

// stateDir is where sources and sinks keep what is theirs, beside the queue. No
// lane can have this name.
const stateDir = ".state"

// env is what the source or sink of that name is told.
func env(cfg *config.Config, kind, name string, log *slog.Logger) gateway.Env {
	return gateway.Env{GatewayID: cfg.Gateway.ID, Name: name, Dir: cfg.Dir, Log: log.With(kind, name),
		State: filepath.Join(gateway.InDir(cfg.Dir, cfg.Buffer.Dir), stateDir, kind+"-"+name)}
}

// queueOptions returns how the configuration wants the queue. It reads the keys.
func queueOptions(cfg *config.Config, log *slog.Logger) (buffer.Options, error) {
	b := &cfg.Buffer
	o := buffer.Options{Dir: gateway.InDir(cfg.Dir, b.Dir), MaxBytes: max(b.QueueBytes(), buffer.MinBytes), SegmentBytes: int64(b.SegmentBytes),
		Compression: buffer.Compression(b.Compression), Policy: buffer.Policy(b.Policy), HighWater: b.HighWater, Prefill: b.Prefill,
		Retain: buffer.Retention{For: b.Retain.For, Bytes: int64(b.Retain.Bytes)}, Log: log}
	for _, ln := range cfg.Lanes {
		o.Lanes = append(o.Lanes, buffer.LaneOptions{Name: ln.Name, MaxBytes: int64(ln.MaxBytes), Policy: buffer.Policy(ln.Policy), MaxDelay: ln.MaxDelay})
	}
	if cfg.Thins() {
		o.Thin = func() buffer.Thinner { return gateway.NewThinner(b.ThinEvery) }
	}
	if b.Encryption.Key == "" {
		return o, nil
	}
	for _, ref := range append([]gateway.Secret{b.Encryption.Key}, b.Encryption.OldKeys...) {
		k, err := gateway.ReadKey(ref, cfg.Dir)
		if err != nil {
			return o, fmt.Errorf("buffer.encryption: %w", err)
		}
		o.Keys = append(o.Keys, k)
	}
	return o, nil
}

// mergeTags puts the gateway's tags under those of a source, sorted by key.
func mergeTags(all map[string]string, own []gateway.Tag) []gateway.Tag {
	merged := map[string]string{}
	for k, v := range all {
		merged[k] = v
	}
	for _, t := range own {
		merged[t.Key] = t.Value
	}
	out := make([]gateway.Tag, 0, len(merged))
	for k, v := range merged {
		out = append(out, gateway.Tag{Key: k, Value: v})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}
