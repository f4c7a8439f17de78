package modbus

import (
	"bytes"
	"encoding/hex"

	"github.com/goburrow/modbus"
)

const (
	minASCII = 9   // ":", unit, function, LRC, CR LF
	maxASCII = 513 // MODBUS over Serial Line V1.02 section 2.5.2.1
)

// asciiFraming is ASCII: from ':' to CR LF, hexadecimal, with an LRC. Up to a
// second may pass between two characters (section 2.5.2.1).
type asciiFraming struct{ *modbus.ASCIIClientHandler }

func newASCIIFraming() framing { return asciiFraming{modbus.NewASCIIClientHandler("")} }

func (a asciiFraming) encode(unit byte, p *modbus.ProtocolDataUnit) ([]byte, error) {
	a.SlaveId = unit
	return a.Encode(p)
}

func (asciiFraming) size(pdu int) int { return 1 + 2*(pdu+2) + 2 }

// find takes the first frame of the unit; a ':' begins a new one at any time.
func (a asciiFraming) find(heard []byte, x *expected) (*modbus.ProtocolDataUnit, int) {
	for at := 0; ; {
		frame, end := asciiFrame(heard, at)
		if frame == nil {
			return nil, 0
		}
		at = end
		if unit, p := a.open(frame); p != nil && unit == x.unit && x.function(p.FunctionCode) {
			return p, end
		}
	}
}

// asciiFrame returns the next whole frame at or behind at, and where it ends.
func asciiFrame(heard []byte, at int) (frame []byte, end int) {
	for {
		stop := bytes.Index(heard[at:], []byte("\r\n"))
		if stop < 0 {
			return nil, at
		}
		end = at + stop + 2
		if start := bytes.LastIndexByte(heard[at:end], ':'); start >= 0 {
			return heard[at+start : end], end
		}
		at = end
	}
}

// open decodes a frame; nil when it is broken.
func (a asciiFraming) open(frame []byte) (unit byte, p *modbus.ProtocolDataUnit) {
	if len(frame) < minASCII || len(frame) > maxASCII || len(frame)%2 != 1 {
		return 0, nil
	}
	p, err := a.Decode(frame)
	var u [1]byte
	if err != nil || p.FunctionCode == 0 {
		return 0, nil
	}
	if _, err := hex.Decode(u[:], frame[1:3]); err != nil {
		return 0, nil
	}
	return u[0], p
}

func (a asciiFraming) whole(heard []byte) (unit, function byte, n int) {
	frame, end := asciiFrame(heard, 0)
	if frame == nil {
		return 0, 0, 0
	}
	unit, p := a.open(frame)
	if p == nil {
		return 0, 0, 0
	}
	return unit, p.FunctionCode, end
}
