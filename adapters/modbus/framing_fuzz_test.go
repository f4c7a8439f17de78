package modbus

import (
	"bytes"
	"testing"
	"time"

	"github.com/goburrow/modbus"
)

// fuzzFraming lets find loose on what is heard, whole and byte by byte: it must
// find the same, never more than there is, and only frames that are whole when
// they are encoded again.
func fuzzFraming(f *testing.F, frames framing, lower func([]byte) []byte) {
	q := &request{unit: 1, function: readHolding, count: 2, timeout: time.Second}
	good := frame(frames, 1, readHolding, 4, 1, 2, 3, 4)
	f.Add(good, byte(1))
	f.Add(append([]byte{0, 1, 3}, good...), byte(1))
	f.Add(append(frame(frames, 2, readHolding, 4, 1, 2, 3, 4), good...), byte(1))
	f.Add(frame(frames, 1, readHolding|exceptionBit, 2), byte(1))
	f.Add(frame(frames, 1, readFIFO, 0, 4, 0, 1, 0, 7), byte(2))
	f.Add(frame(frames, 1, encapsulated, meiIdentify, 1, 1, 0, 0, 1, 0, 2, 'a', 'b'), byte(3))
	f.Add([]byte(":010304000A000B0"), byte(1))
	f.Add([]byte{1, 24, 255, 255, 0, 0, 0, 0}, byte(2))
	functions := [...]byte{readCoils, readHolding, readFIFO, encapsulated, readWrite}
	f.Fuzz(func(t *testing.T, heard []byte, kind byte) {
		q := *q
		q.function = functions[int(kind)%len(functions)]
		x := &expected{q.unit, &q, &debtor{debts: []debt{{function: readInput, bytes: 6}}}}
		p, used := frames.find(heard, x)
		if used < 0 || used > len(heard) {
			t.Fatalf("used %d of %d", used, len(heard))
		}
		if unit, _, n := frames.whole(heard); n < 0 || n > len(heard) || n > 0 && p != nil && n == used && unit != q.unit {
			t.Fatalf("a whole frame of unit %d in %d of %d", unit, n, len(heard))
		}
		if p == nil {
			return
		}
		if !x.function(p.FunctionCode) {
			t.Fatalf("function %d", p.FunctionCode)
		}
		again, err := frames.encode(q.unit, &modbus.ProtocolDataUnit{FunctionCode: p.FunctionCode, Data: p.Data})
		if err != nil || !bytes.HasSuffix(lower(heard[:used]), lower(again)) {
			t.Fatalf("found % x (%v), which is not the end of % x", again, err, heard[:used])
		}
		_, _ = q.answer(p)
		want := append([]byte{p.FunctionCode}, p.Data...)
		for n := range used {
			if p, _ := frames.find(heard[:n], x); p != nil && bytes.Equal(append([]byte{p.FunctionCode}, p.Data...), want) && n < len(again) {
				t.Fatalf("found after %d bytes of a frame of %d", n, len(again))
			}
		}
	})
}

func FuzzRTU(f *testing.F) {
	fuzzFraming(f, newRTUFraming(), func(b []byte) []byte { return b })
}

func FuzzASCII(f *testing.F) { fuzzFraming(f, newASCIIFraming(), bytes.ToLower) }
