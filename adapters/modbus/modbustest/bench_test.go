package modbustest

import (
	"io"
	"testing"
)

// BenchmarkPollTCP is one request for 125 registers and its answer: the whole
// of the simulator's work and a master that only reads bytes.
func BenchmarkPollTCP(b *testing.B) {
	s := plant(b)
	s.Unit(1)
	c := dial(b, want(s.ListenTCP())(b))
	request := mbap{}.wrap(nil, frame{1, 1, reads(0, 125)})
	answer := make([]byte, 9+250)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			b.Fatal(err)
		}
	}
}
