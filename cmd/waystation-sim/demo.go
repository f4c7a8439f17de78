package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// demoFiles are identical to configs/demo, which a test holds.
//
//go:embed demo/plant.yaml demo/waystation.yaml
var demoFiles embed.FS

const (
	subscribeLimit = 15 * time.Second // from the start of the gateway to its subscription
	drainLimit     = 12 * time.Second // beyond the duration of the demo
	judgeLimit     = 10 * time.Second
	demoSlack      = 48 * time.Second // all of it ends this long after its duration at the latest
)

// demoOptions are the options of `waystation-sim demo`.
type demoOptions struct {
	gateway  string        // path of the gateway's program
	duration time.Duration // from the first message to the end of draining
	cut      time.Duration // length of the outage
	mode     CutMode
	repeats  int64
	keep     bool
	json     bool
}

// demoCommand is `waystation-sim demo`.
func demoCommand(ctx context.Context, args []string, std stdio) error {
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	var o demoOptions
	fs.StringVar(&o.gateway, "gateway", "", "`PATH` of the gateway's program (default: waystation beside this program)")
	fs.DurationVar(&o.duration, "duration", time.Minute, "of the whole story")
	fs.DurationVar(&o.cut, "cut", 0, "length of the outage (default: 20s, or a third of a short duration)")
	mode := fs.String("mode", string(CutRefuse), "how the link is cut: refuse (connections are reset) or hole (bytes vanish)")
	fs.Int64Var(&o.repeats, "repeats", defaultRepeats, "records that may be repeated: one batch")
	fs.BoolVar(&o.keep, "keep", false, "keep the files: configurations, queue, Kafka's log, the gateway's output")
	fs.BoolVar(&o.json, "json", false, "print the verdict as JSON on stdout, progress on stderr")
	if err := parseFlags(fs, args, std.err); err != nil {
		return err
	}
	o.mode = CutMode(*mode)
	if o.mode != CutRefuse && o.mode != CutHole {
		return badUsage(fs, fmt.Sprintf("mode %q is neither refuse nor hole", *mode))
	}
	if o.cut == 0 {
		o.cut = min(20*time.Second, o.duration/3)
	}
	tl, err := newTimeline(o.duration, o.cut)
	if err != nil {
		return badUsage(fs, err.Error())
	}
	if o.gateway, err = findGateway(o.gateway); err != nil {
		return err
	}
	d := &demo{opts: o, times: tl, view: newView(std, o)}
	v, err := d.run(ctx)
	if err != nil {
		return err
	}
	return printVerdict(v, o.json, std)
}

// timeline says when what happens, counted from the first message.
type timeline struct{ cut, kill, restart, restore, stop, end time.Duration }

// newTimeline lays out a demo of duration d with an outage of length cut: in
// 60 s the link fails at 8 s, the gateway is killed in the middle of the
// outage and started again 2 s later, the devices stop at 45 s.
func newTimeline(d, cut time.Duration) (timeline, error) {
	t := timeline{cut: min(8*time.Second, d*8/60), stop: d * 3 / 4, end: d}
	t.kill = t.cut + cut/2
	t.restart = t.kill + min(2*time.Second, cut/4)
	t.restore = t.cut + cut
	switch {
	case d < time.Second || d > 24*time.Hour:
		return t, fmt.Errorf("duration %s is not between 1s and 24h", d)
	case cut < 100*time.Millisecond:
		return t, fmt.Errorf("cut %s is shorter than 100ms", cut)
	case t.restore > t.stop:
		return t, fmt.Errorf("cut %s is too long: the link fails at %s and must be back before the devices stop at %s", cut, t.cut, t.stop)
	}
	return t, nil
}

// findGateway resolves the path of the gateway's program.
func findGateway(path string) (string, error) {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find the gateway: %w", err)
		}
		path = filepath.Join(filepath.Dir(self), "waystation")
		if runtime.GOOS == "windows" {
			path += ".exe"
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.IsDir() {
		return "", fmt.Errorf("find the gateway: %s is not a program (build it with `make build`, or name it with --gateway)", path)
	}
	return filepath.Abs(path)
}

// demo is one run of the demonstration. Everything in it is done by one
// goroutine; plant, poller and child have their own.
type demo struct {
	opts  demoOptions
	times timeline
	view  *view

	dir    string
	plant  *plant
	child  *child
	poller *poller
	tail   *tail
	begun  time.Time // of the first message
	phase  string
}

// run tells the whole story and judges it. It leaves no process and, without
// keep, no file behind.
func (d *demo) run(ctx context.Context) (v *Verdict, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.opts.duration+demoSlack, errors.New("the demo took too long"))
	defer cancel()
	defer func() { err = errors.Join(err, d.cleanUp()) }()
	if err := d.setUp(ctx); err != nil {
		return nil, d.explain(ctx, err)
	}
	if err := d.tell(ctx); err != nil {
		return nil, d.explain(ctx, err)
	}
	faults, err := d.drain(ctx)
	if err != nil {
		return nil, d.explain(ctx, err)
	}
	d.enter("gateway stops (SIGTERM)")
	if err := d.child.stop(); err != nil {
		faults = append(faults, err.Error())
	}
	d.enter("judging what is in Kafka")
	v, err = d.judge(ctx)
	if err != nil {
		return nil, d.explain(ctx, err)
	}
	for _, f := range append(faults, d.plant.report(false).faults()...) {
		v.fault("%s", f)
	}
	d.view.finish(d.snapshot())
	return v, nil
}

// explain adds what a person needs to know to an error.
func (d *demo) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if d.child != nil {
		if tail := strings.TrimSpace(d.child.logTail()); tail != "" {
			err = fmt.Errorf("%w\nthe gateway printed last:\n%s", err, tail)
		}
	}
	return err
}

// setUp starts plant and gateway and returns when the gateway has subscribed.
func (d *demo) setUp(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "waystation-demo-"); err != nil {
		return fmt.Errorf("make directory of the demo: %w", err)
	}
	cfg, err := d.plantConfig()
	if err != nil {
		return err
	}
	if d.plant, err = startPlant(cfg); err != nil {
		return err
	}
	if d.tail, err = startTail(d.plant.kafka.addr, cfg.Kafka.Topics); err != nil {
		return err
	}
	httpAddr, err := freeAddress()
	if err != nil {
		return err
	}
	config := filepath.Join(d.dir, "waystation.yaml")
	if err := writeGatewayConfig(config, d.plant.addresses(), httpAddr, filepath.Join(d.dir, "data")); err != nil {
		return err
	}
	d.child = &child{path: d.opts.gateway, config: config, logPath: filepath.Join(d.dir, "gateway.log")}
	d.enter("starting the gateway")
	if err := d.child.start(); err != nil {
		return err
	}
	d.poller = startPoller(httpAddr)
	wait, cancel := context.WithTimeout(ctx, subscribeLimit)
	defer cancel()
	select {
	case <-d.plant.broker.subscribed:
		return nil
	case <-d.child.ended():
		return fmt.Errorf("start gateway %s: it ended at once: %w", d.opts.gateway, orNil(d.child.life.err))
	case <-wait.Done():
		return fmt.Errorf("start gateway %s: no MQTT subscription within %s", d.opts.gateway, subscribeLimit)
	}
}

func orNil(err error) error {
	if err == nil {
		return errors.New("exit code 0")
	}
	return err
}

// plantConfig is the embedded plant on free ports, with the files in d.dir;
// the demo cuts the link itself.
func (d *demo) plantConfig() (*Config, error) {
	data, err := demoFiles.ReadFile("demo/plant.yaml")
	if err != nil {
		return nil, err
	}
	cfg, err := parseConfig("plant.yaml", data)
	if err != nil {
		return nil, err
	}
	cfg.Duration, cfg.Kafka.Cut = 0, nil
	cfg.MQTT.Listen, cfg.Kafka.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Kafka.Dir = filepath.Join(d.dir, "kafka")
	return cfg, nil
}

// writeGatewayConfig writes the embedded configuration of the gateway with
// other addresses.
func writeGatewayConfig(path string, a Addresses, httpAddr, dataDir string) error {
	data, err := demoFiles.ReadFile("demo/waystation.yaml")
	if err != nil {
		return err
	}
	text := strings.NewReplacer(
		"127.0.0.1:1883", a.MQTT,
		"127.0.0.1:9092", a.Kafka,
		"127.0.0.1:8100", httpAddr,
		"./data", fmt.Sprintf("%q", dataDir),
	).Replace(string(data))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write configuration of the gateway: %w", err)
	}
	return nil
}

// freeAddress is a loopback address nobody listens on.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return ln.Addr().String(), ln.Close()
}

// cleanUp ends what is still running and removes the files.
func (d *demo) cleanUp() error {
	var err error
	if d.child != nil {
		err = d.child.kill() // no effect after a good end
	}
	if d.poller != nil {
		d.poller.stop()
	}
	if d.tail != nil {
		d.tail.stop()
	}
	if d.plant != nil {
		err = errors.Join(err, d.plant.close())
	}
	if d.dir == "" {
		return err
	}
	if d.opts.keep {
		d.view.note("files kept in " + d.dir)
		return err
	}
	return joinRemove(err, d.dir)
}
