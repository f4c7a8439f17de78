package kafka

import (
	"sync"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// facts is what the sink tells of itself, each fact under its name, in the
// order in which they were first set.
type facts struct {
	mu  sync.Mutex // guards all
	all []gateway.Fact
}

// set replaces the fact of that name; with an empty value it is taken away.
func (f *facts) set(x gateway.Fact) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.all {
		if f.all[i].Name == x.Name {
			f.all[i] = x
			return
		}
	}
	f.all = append(f.all, x)
}

// Facts implements gateway.Reporter.
func (s *Sink) Facts() []gateway.Fact {
	s.facts.mu.Lock()
	defer s.facts.mu.Unlock()
	var out []gateway.Fact
	for _, x := range s.facts.all {
		if x.Value != "" {
			out = append(out, x)
		}
	}
	out = append(out, s.secure.facts(time.Now())...)
	return append(out, s.claims.facts()...)
}
