package gateway

import "github.com/waystation-iot/waystation/buffer"

// NewThinner returns what keeps the first, the last and every nth record.
func NewThinner(every int) buffer.Thinner { return &thinner{every: max(1, every)} }

type thinner struct{ every, n int }

// Observe implements buffer.Thinner.
func (t *thinner) Observe(i int, _ []byte) { t.n = i + 1 }

// Keep implements buffer.Thinner.
func (t *thinner) Keep() []bool {
	out := make([]bool, t.n)
	for i := range out {
		out[i] = i%t.every == 0 || i == t.n-1
	}
	return out
}
