package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// childCommand runs one measurement in a process of its own.
const childCommand = "child"

// backlog is what a child measured.
type backlog struct {
	OpenMS, RSSGrowth, DrainRate, DrainCPU, Anonymous, RSS, WrittenMiB, LeftMiB float64
	Drained                                                                     int
}

// openBacklog fills a queue with n records, then opens it with a cold page
// cache in a process of its own, as often as there are rounds, and drains it in
// the last.
func openBacklog(o *options) error {
	list, err := o.chosen("waystation", "tidwall", "sqlite", "bb-key")
	if err != nil {
		return err
	}
	s := newSheet("fill/s", "MiB", "open ms", "RSS growth MiB", "drain/s", "CPU µs (drain)", "anonymous MiB", "RSS MiB", "written MiB", "left MiB")
	for _, d := range list {
		if err := o.openOne(s, d); err != nil {
			s.fail(d.name, err)
		}
	}
	s.print(os.Stdout, fmt.Sprintf("%d records, opened cold %d times, drained cold %d per read; memory is the most while draining; %s.",
		o.n, o.rounds, o.read, o.meter.name()))
	return nil
}

func (o *options) openOne(s *sheet, d design) error {
	dir, err := o.fresh("open-" + d.name)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	from := time.Now()
	if err := o.fill(d, dir); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	s.add(d.name, "fill/s", float64(o.n)/time.Since(from).Seconds())
	s.add(d.name, "MiB", float64(dirBytes(dir))/(1<<20))
	for round := range o.rounds {
		b, err := o.spawn(d, dir, round == o.rounds-1)
		if err != nil {
			return err
		}
		s.add(d.name, "open ms", b.OpenMS)
		s.add(d.name, "RSS growth MiB", b.RSSGrowth)
		if b.Drained > 0 {
			s.add(d.name, "drain/s", b.DrainRate)
			s.add(d.name, "CPU µs (drain)", b.DrainCPU)
			s.add(d.name, "anonymous MiB", b.Anonymous)
			s.add(d.name, "RSS MiB", b.RSS)
			s.add(d.name, "written MiB", b.WrittenMiB)
			s.add(d.name, "left MiB", b.LeftMiB)
		}
		if round == o.rounds-1 && b.Drained != o.n {
			return fmt.Errorf("drained %d of %d within the limit of %v", b.Drained, o.n, o.limit)
		}
	}
	return nil
}

// fill appends n records in large commits.
func (o *options) fill(d design, dir string) error {
	q, err := d.open(dir)
	if err != nil {
		return err
	}
	recs := telemetry(200000, o.seed)
	const per = 16384
	for n := 0; n < o.n; {
		at := n % len(recs)
		part := recs[at:min(at+per, len(recs), at+o.n-n)]
		if err := q.append(part); err != nil {
			return errors.Join(err, q.close())
		}
		n += len(part)
	}
	return q.close()
}

// spawn measures one opening in a process of its own.
func (o *options) spawn(d design, dir string, drain bool) (b backlog, err error) {
	self, err := os.Executable()
	if err != nil {
		return b, err
	}
	dropCaches()
	cmd := exec.Command(self, childCommand, "-only", d.name, "-dir", dir, "-n", strconv.Itoa(o.n), "-read", strconv.Itoa(o.read),
		"-limit", o.limit.String(), "-broken", map[bool]string{true: "drain"}[drain])
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return b, fmt.Errorf("open in a process of its own: %w", err)
	}
	return b, json.Unmarshal(out, &b)
}

// child is one command that runs in a process of its own: an opening, or the
// load of a power cut.
func child(o *options) error {
	if os.Getenv(loadEnv) != "" {
		return load(o)
	}
	list, err := o.chosen()
	if err != nil {
		return err
	}
	o.meter = newMeter(filepath.Clean(o.dir))
	var b backlog
	before, _ := memory()
	from := o.meter.read()
	q, err := list[0].open(o.dir)
	if err != nil {
		return err
	}
	b.OpenMS = time.Since(from.at).Seconds() * 1e3
	after, _ := memory()
	b.RSSGrowth = after - before
	if o.broken == "drain" {
		if err := b.drain(o, q); err != nil {
			return err
		}
		if err := q.close(); err != nil {
			return err
		}
		b.LeftMiB = float64(dirBytes(o.dir)) / (1 << 20)
	}
	return json.NewEncoder(os.Stdout).Encode(b) // without a drain nothing is closed: the next opening finds the same
}

// drain drains the queue and notes the most memory it took.
func (b *backlog) drain(o *options, q queue) error {
	from := o.meter.read()
	for at := 0; b.Drained < o.n && time.Since(from.at) < o.limit; {
		k, err := q.drain(o.read, func([]byte) {})
		if err != nil || k == 0 {
			return fmt.Errorf("drain ended at %d of %d: %w", b.Drained, o.n, err)
		}
		b.Drained += k
		if b.Drained-at > 100000 {
			rss, anonymous := memory()
			b.RSS, b.Anonymous, at = max(b.RSS, rss), max(b.Anonymous, anonymous), b.Drained
		}
	}
	to := o.meter.read()
	b.DrainRate = float64(b.Drained) / to.at.Sub(from.at).Seconds()
	b.DrainCPU = float64((to.cpu - from.cpu).Microseconds()) / float64(b.Drained)
	b.WrittenMiB = o.meter.written(from, to) / (1 << 20)
	return nil
}
