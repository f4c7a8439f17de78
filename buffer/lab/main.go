package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// options are the flags; each command reads those that it names in its usage.
type options struct {
	dir, scratch string
	only         string
	n, batch     int
	read, rounds int
	rate         int
	every, span  time.Duration
	fast         bool
	producers    int
	seed         uint64
	states       int
	broken       string
	journal      bool
	limit        time.Duration
	meter        meter
}

// command is one of the lab's.
type command struct {
	name, help string
	run        func(*options) error
}

func commands() []command {
	return []command{
		{"list", "the designs", list},
		{"bench", "append, drain, and both at once (-n -batch -read)", bench},
		{"steady", "write amplification at a low rate (-rate -every -span; -fast: commits follow at once)", steady},
		{"group", "producers that each wait for their record (-producers -span)", group},
		{"open", "open a backlog of -n records, drain it cold", openBacklog},
		{"powercut", "states after a power cut, on a recording file system (-states -seed; needs /dev/fuse and root)", powercut},
		{"enospc", "a full disk (-dir on a small file system of its own)", enospc},
	}
}

func main() {
	o := &options{}
	f := flag.NewFlagSet("lab", flag.ExitOnError)
	f.StringVar(&o.dir, "dir", "bin/lab-data", "working directory, on the medium to measure")
	f.StringVar(&o.scratch, "scratch", "/dev/shm/waystation-lab", "where crash states are built")
	f.StringVar(&o.only, "only", "", "comma-separated designs; empty = all the command is for")
	f.IntVar(&o.n, "n", 60000, "records")
	f.IntVar(&o.batch, "batch", 100, "records per commit")
	f.IntVar(&o.read, "read", 1000, "records per read")
	f.IntVar(&o.rounds, "rounds", 3, "rounds; designs take turns, figures are medians")
	f.IntVar(&o.rate, "rate", 100, "records per second")
	f.DurationVar(&o.every, "every", time.Second, "time between commits")
	f.DurationVar(&o.span, "span", 200*time.Second, "time that a run stands for")
	f.BoolVar(&o.fast, "fast", false, "do not wait between commits")
	f.IntVar(&o.producers, "producers", 200, "producers that wait")
	f.Uint64Var(&o.seed, "seed", 1, "seed")
	f.IntVar(&o.states, "states", 1000, "crash states")
	f.StringVar(&o.broken, "broken", "", "leave out syncs, to see the states fail: file, dir")
	f.BoolVar(&o.journal, "journal", false, "powercut: the sync of a file makes all names durable, as on ext4; else only that of their directory")
	f.DurationVar(&o.limit, "limit", 10*time.Second, "end a phase of one design after this long")
	f.Usage = func() { usage(f) }
	if len(os.Args) < 2 {
		usage(f)
		os.Exit(2)
	}
	_ = f.Parse(os.Args[2:])
	if os.Args[1] == childCommand { // see powercut.go and open.go
		end(child(o))
	}
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name == os.Args[1] })
	if i < 0 || f.NArg() > 0 {
		usage(f)
		os.Exit(2)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		end(err)
	}
	o.meter = newMeter(o.dir)
	end(commands()[i].run(o))
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func usage(f *flag.FlagSet) {
	fmt.Fprintln(os.Stderr, "usage: lab COMMAND [flags]")
	for _, c := range commands() {
		fmt.Fprintf(os.Stderr, "  %-9s %s\n", c.name, c.help)
	}
	f.PrintDefaults()
}

func list(*options) error {
	for _, d := range designs() {
		fmt.Printf("%-20s %s\n", d.name, d.note)
	}
	return nil
}

// chosen returns the designs named by -only, or else those by default, or else all.
func (o *options) chosen(defaults ...string) ([]design, error) {
	names := defaults
	if o.only != "" {
		names = strings.Split(o.only, ",")
	}
	if len(names) == 0 {
		return designs(), nil
	}
	var out []design
	for _, name := range names {
		i := slices.IndexFunc(designs(), func(d design) bool { return d.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no design is named %q: see lab list", name)
		}
		out = append(out, designs()[i])
	}
	return out, nil
}

// turns calls fn for each design in every round, in another order each time,
// with an empty directory; what fn returns is noted in the sheet.
func (o *options) turns(s *sheet, list []design, fn func(d design, dir string) error) error {
	for _, d := range list {
		s.row(d.name)
	}
	for round := range o.rounds {
		for i := range list {
			d := list[(i+round*7)%len(list)]
			dir, err := o.fresh(d.name)
			if err != nil {
				return err
			}
			runtime.GC() // what the one before left is not charged to this one
			if err := fn(d, dir); err != nil {
				s.fail(d.name, err)
			}
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// fresh makes an empty directory.
func (o *options) fresh(name string) (string, error) {
	dir := filepath.Join(o.dir, "run-"+name)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o700)
}
