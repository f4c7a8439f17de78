package gateway

// Fact is something that a source or a sink tells of itself in the status,
// beyond what the engine knows: how it delivers, when a certificate ends.
type Fact struct {
	Name  string `json:"name"`           // a few words, lower case: "delivery", "certificate"
	Value string `json:"value"`          // as a person reads it
	Warn  bool   `json:"warn,omitempty"` // a person must act
	Ends  int64  `json:"ends,omitempty"` // Unix seconds when it ends, as a certificate does; 0 = it does not
}

// Reporter is a Source or Sink that has facts to tell. Facts may be called from
// any goroutine at any time and must not block.
type Reporter interface{ Facts() []Fact }

// factsOf returns the facts of a source or sink, if it tells any.
func factsOf(x any) []Fact {
	r, ok := x.(Reporter)
	if !ok {
		return nil
	}
	return r.Facts()
}
