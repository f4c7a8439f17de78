package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// runCommand is `waystation-sim run`.
func runCommand(ctx context.Context, args []string, std stdio) error {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	file := fs.String("c", "", "the YAML `FILE` of the plant")
	duration := fs.Duration("duration", -1, "run this long instead of the file's duration; 0 until stopped")
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "waystation-sim run -c FILE\n\nCommands on stdin: cut [refuse|hole], restore, pull LINE, plug LINE (of Modbus), stop (silence the devices), quit.")
		fs.PrintDefaults()
	}
	if err := parseFlags(fs, args, std.err); err != nil {
		return err
	}
	if *file == "" {
		return badUsage(fs, "give the plant with -c FILE")
	}
	cfg, err := loadConfig(*file)
	if err != nil {
		return err
	}
	if *duration >= 0 {
		cfg.Duration = *duration
	}
	p, err := startPlant(cfg)
	if err != nil {
		return err
	}
	report, err := p.runAll(ctx, std)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(std.out).Encode(report); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	for _, f := range report.faults() {
		fmt.Fprintln(std.err, "waystation-sim run:", f)
		err = errWrong
	}
	return err
}

// runAll runs the plant to its end and closes it.
func (p *plant) runAll(ctx context.Context, std stdio) (PlantReport, error) {
	if err := json.NewEncoder(std.out).Encode(p.addresses()); err != nil {
		return PlantReport{}, fmt.Errorf("write addresses: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if p.cfg.Duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, p.cfg.Duration)
		defer cancel()
	}
	var side sync.WaitGroup
	if p.kafka != nil {
		side.Go(func() { p.runCuts(ctx, p.cfg.Kafka.Cut) })
	}
	err := p.loop(ctx, readLines(ctx, std.in), std.err)
	cancel()
	side.Wait()
	derr := p.stopDevices()
	report := p.report(true)
	if cerr := p.close(); err == nil {
		err = cerr
	}
	if derr != nil {
		err = derr
	}
	return report, err
}

// loop starts the devices, reports every second and obeys commands, until ctx
// ends or quit.
func (p *plant) loop(ctx context.Context, lines <-chan string, w io.Writer) error {
	ready := make(chan struct{})
	var waiting sync.WaitGroup
	defer waiting.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if p.broker != nil {
		waiting.Go(func() {
			p.awaitSubscriber(ctx, p.cfg.MQTT.WaitForSubscriber)
			close(ready)
		})
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			ready = nil
			p.startDevices(context.WithoutCancel(ctx)) // runAll stops them
		case <-tick.C:
			fmt.Fprintln(w, p.progress())
		case line := <-lines:
			quit, err := p.obey(line)
			if err != nil {
				fmt.Fprintln(w, "waystation-sim run:", err)
			}
			if quit {
				return nil
			}
		}
	}
}

func (p *plant) progress() string {
	r := p.report(false)
	s := fmt.Sprintf("%4.0f s", r.Seconds)
	if p.broker != nil || p.kafka != nil {
		s += fmt.Sprintf("  sent %d  acked %d  waiting at broker %d", r.Sent, r.Acked, r.Broker.Waiting)
	}
	for _, l := range p.modbus {
		s += "  " + l.progress(r.Modbus[l.cfg.Name])
	}
	if r.Link.Cut != "" {
		s += "  link cut (" + string(r.Link.Cut) + ")"
	}
	if f := r.faults(); len(f) > 0 {
		s += "  " + strings.Join(f, "; ")
	}
	return s
}

// obey carries out one command line and reports whether it was quit.
func (p *plant) obey(line string) (quit bool, err error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return false, nil
	}
	switch {
	case words[0] == "quit":
		return true, nil
	case words[0] == "stop":
		return false, p.stopDevices()
	case p.kafka != nil && words[0] == "cut":
		mode := CutRefuse
		if len(words) > 1 {
			mode = CutMode(words[1])
		}
		return false, p.kafka.link.Cut(mode)
	case p.kafka != nil && words[0] == "restore":
		p.kafka.link.Restore()
		return false, nil
	case len(words) == 2 && (words[0] == "pull" || words[0] == "plug"):
		return false, p.plug(words[1], words[0] == "plug")
	}
	return false, fmt.Errorf("obey %q: commands are cut [refuse|hole], restore, pull LINE, plug LINE, stop, quit", line)
}

// readLines reads lines until r or ctx ends. A reader that never ends, as a
// terminal, keeps its goroutine until the process does.
func readLines(ctx context.Context, r io.Reader) <-chan string {
	lines := make(chan string)
	if r == nil {
		return lines
	}
	go func() {
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			select {
			case lines <- sc.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return lines
}
