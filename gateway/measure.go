package gateway

// Measure is one figure of a source for monitoring, beyond what the engine
// counts: waystation_source_<Name>{source="…", Labels…}.
type Measure struct {
	Name    string // lower case with underscores; ends in _total when it only grows
	Help    string // one sentence, the same for all of one name
	Counter bool   // it only grows
	Labels  []Tag  // beside source; the same keys for all of one name
	Value   float64
}

// Measurer is a Source that has figures to tell. Measures may be called from any
// goroutine at any time, must not block, and returns a bounded number.
type Measurer interface{ Measures() []Measure }

// measuresOf returns the figures of a source, if it tells any.
func measuresOf(x any) []Measure {
	m, ok := x.(Measurer)
	if !ok {
		return nil
	}
	return m.Measures()
}
