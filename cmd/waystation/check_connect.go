package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/config"
)

// endGrace is how long a check may take to notice that its time is over.
const endGrace = 2 * time.Second

// side is a source or sink whose far side is tried out.
type side struct {
	File     string            `json:"file"`
	Kind     string            `json:"kind"` // source or sink
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Findings []gateway.Finding `json:"findings"`

	checker gateway.Checker
	env     gateway.Env

	mu   sync.Mutex // guards over, and Findings until it is set
	over bool       // no finding is taken any more
	done chan struct{}
}

// sides lists what a configuration connects to.
func sides(file string, cfg *config.Config) (all []*side) {
	add := func(kind, name, typ string, conf any) {
		s := &side{File: file, Kind: kind, Name: name, Type: typ, done: make(chan struct{}),
			env: gateway.Env{GatewayID: cfg.Gateway.ID, Name: name, Dir: cfg.Dir, Log: slog.New(slog.DiscardHandler)}}
		s.checker, _ = conf.(gateway.Checker)
		all = append(all, s)
	}
	for _, x := range cfg.Sources {
		add("source", x.Name, x.Type, x.Config)
	}
	for _, x := range cfg.Sinks {
		add("sink", x.Name, x.Type, x.Config)
	}
	return all
}

// take keeps a finding.
func (s *side) take(f gateway.Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.Findings = append(s.Findings, f)
	}
}

// run checks the far side until ctx ends.
func (s *side) run(ctx context.Context) {
	defer close(s.done)
	if s.checker == nil {
		s.take(gateway.Finding{Level: gateway.OK, What: "connection", Detail: "type " + s.Type + " has nothing to try"})
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			if r := recover(); r != nil {
				s.take(gateway.Finding{Level: gateway.Fail, What: "check", Detail: fmt.Sprintf("it panicked: %v", r), Fix: "report it"})
			}
		}()
		s.checker.Check(ctx, s.env, s.take)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		select {
		case <-ended:
		case <-time.After(endGrace):
		}
	}
	if ctx.Err() != nil {
		s.take(gateway.Finding{Level: gateway.Fail, What: "check", Detail: "it was not finished: " + context.Cause(ctx).Error(), Fix: "give it longer with --timeout"})
	}
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
}

// failed reports whether a finding failed.
func (s *side) failed() bool {
	for _, f := range s.Findings {
		if f.Level == gateway.Fail {
			return true
		}
	}
	return false
}

// connect checks the far sides, all at once, prints what was found, in the order
// of the configuration, and reports whether nothing failed.
func connect(ctx context.Context, all []*side, out io.Writer, asJSON bool) (bool, error) {
	for _, s := range all {
		go s.run(ctx)
	}
	good := true
	for _, s := range all {
		<-s.done
		good = good && !s.failed()
		if asJSON {
			continue
		}
		if _, err := io.WriteString(out, s.text()); err != nil {
			return good, err
		}
	}
	if !asJSON {
		return good, nil
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return good, enc.Encode(all)
}

// text writes one line for each finding and one for what to do.
func (s *side) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s (%s):\n", s.Kind, s.Name, s.Type)
	for _, f := range s.Findings {
		writeFinding(&b, f)
	}
	return b.String()
}

// writeFinding writes one line for a finding, and one for what to do.
func writeFinding(b *strings.Builder, f gateway.Finding) {
	mark := map[gateway.Level]string{gateway.OK: "✓", gateway.Note: "!", gateway.Fail: "✗"}[f.Level]
	fmt.Fprintf(b, "  %s %s: %s\n", mark, f.What, f.Detail)
	if f.Fix != "" {
		fmt.Fprintf(b, "      → %s\n", f.Fix)
	}
}
