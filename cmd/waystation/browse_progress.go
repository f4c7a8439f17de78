package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	barWidth    = 24
	barText     = 40                     // characters of what is being done
	redrawEvery = 100 * time.Millisecond // on a terminal
	lineEvery   = 10 * time.Second       // elsewhere
)

// progressBar shows how far browsing is: a bar that is drawn over on a terminal,
// a line now and then elsewhere. Its methods are for one goroutine.
type progressBar struct {
	w        io.Writer
	terminal bool
	shown    time.Time // when it was shown last
	drawn    bool      // a bar stands in the last line
	now      func() time.Time
}

func newProgressBar(w io.Writer) *progressBar {
	p := &progressBar{w: w, now: time.Now}
	if f, ok := w.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// show says how much of total is done; 0 = total is not known.
func (p *progressBar) show(done, total int, what string) {
	every := lineEvery
	if p.terminal {
		every = redrawEvery
	}
	now := p.now()
	if !p.shown.IsZero() && now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	if r := []rune(what); len(r) > barText {
		what = string(r[:barText-1]) + "…"
	}
	part := ""
	if total > 0 {
		done = min(max(done, 0), total)
		part = fmt.Sprintf("%3d %% ", int(100*int64(done)/int64(total)))
	}
	if !p.terminal {
		fmt.Fprintln(p.w, strings.TrimSpace(part+what))
		return
	}
	if total > 0 {
		full := int(barWidth * int64(done) / int64(total))
		part = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + part
	}
	fmt.Fprint(p.w, "\r\x1b[K"+part+what)
	p.drawn = true
}

// note prints a line above the bar.
func (p *progressBar) note(format string, args ...any) {
	p.end()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// end wipes the bar away.
func (p *progressBar) end() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn, p.shown = false, time.Time{}
	}
}
