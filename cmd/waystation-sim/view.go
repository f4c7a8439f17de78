package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// snapshot is one moment of a demo.
type snapshot struct {
	phase          string
	elapsed, total time.Duration
	devices        int
	plant          PlantReport
	alive          bool           // the gateway's process runs
	gateway        gateway.Status // latest answer
	answers        int            // answers so far
	err            error          // of the latest try
}

// view shows a demo: on a terminal as one block redrawn in place, elsewhere as
// one line per moment.
type view struct {
	w        io.Writer
	terminal bool
	lines    int // of the block on the terminal
}

// newView shows on stdout; on stderr, as lines, when stdout is for JSON.
func newView(std stdio, o demoOptions) *view {
	if o.json {
		return &view{w: std.err}
	}
	v := &view{w: std.out}
	if f, ok := std.out.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		v.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return v
}

func (v *view) draw(s snapshot) {
	if !v.terminal {
		fmt.Fprintln(v.w, s.line())
		return
	}
	block := s.block()
	if v.lines > 0 {
		fmt.Fprintf(v.w, "\x1b[%dA", v.lines) // up to the first line of the block
	}
	for _, l := range block {
		fmt.Fprintf(v.w, "\r\x1b[K%s\n", clip(l, 120))
	}
	v.lines = len(block)
}

// finish leaves the last block standing.
func (v *view) finish(s snapshot) {
	if v.terminal {
		v.draw(s)
		v.lines = 0
		fmt.Fprintln(v.w)
	}
}

// note prints a line below the block.
func (v *view) note(text string) {
	fmt.Fprintln(v.w, text)
	v.lines = 0
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// sums adds up sources and sinks.
func (s snapshot) sums() (in, sent, waiting uint64, link string) {
	for _, src := range s.gateway.Sources {
		in += uint64(src.Received)
	}
	link = "no answer yet"
	for _, sink := range s.gateway.Sinks {
		sent += sink.Sent
		waiting += sink.Waiting
		link = string(sink.Link.State)
	}
	if s.answers > 0 && (s.err != nil || !s.alive) {
		link = "gateway does not answer"
	}
	return in, sent, waiting, link
}

func (s snapshot) line() string {
	in, sent, waiting, link := s.sums()
	return fmt.Sprintf("%5.1f s  %s | devices sent %d acked %d, %d at broker | gateway in %d queued %d sent %d waiting %d | queue %s | sink %s",
		s.elapsed.Seconds(), s.phase, s.plant.Sent, s.plant.Acked, s.plant.Broker.Waiting,
		in, s.gateway.Books.Queued, sent, waiting, byteSize(s.gateway.Queue.Bytes), link)
}

func (s snapshot) block() []string {
	in, sent, waiting, link := s.sums()
	process := "not running"
	if s.alive {
		process = "running"
	}
	uplink := "up"
	if s.plant.Link.Cut != "" {
		uplink = "CUT (" + string(s.plant.Link.Cut) + ")"
	}
	n := func(v uint64) string { return thousands(int64(v)) }
	return []string{
		fmt.Sprintf("waystation demo  %4.0f s of %.0f s  %s", s.elapsed.Seconds(), s.total.Seconds(), bar(s.elapsed, s.total)),
		"  " + s.phase,
		fmt.Sprintf("  devices  %-22d sent %10s   acknowledged %9s   at broker %8s", s.devices, thousands(s.plant.Sent), thousands(s.plant.Acked), thousands(s.plant.Broker.Waiting)),
		fmt.Sprintf("  gateway  %-22s in   %10s   queued       %9s   waiting   %8s", process, n(in), n(s.gateway.Books.Queued), n(waiting)),
		fmt.Sprintf("  queue    %-22s of   %10s   %s", byteSize(s.gateway.Queue.Bytes), byteSize(s.gateway.Queue.MaxBytes), cmp.Or(s.gateway.Queue.State, "-")),
		fmt.Sprintf("  uplink   %-22s sent %10s   the gateway says: %s", uplink, n(sent), link),
	}
}

func bar(done, total time.Duration) string {
	const width = 40
	n := min(max(int(done*width/max(total, 1)), 0), width)
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}

// byteSize writes n in KiB, MiB or GiB.
func byteSize(n int64) string {
	v, units := float64(n), []string{"B", "KiB", "MiB", "GiB"}
	i := 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
