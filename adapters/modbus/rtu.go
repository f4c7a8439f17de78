package modbus

import (
	"encoding/binary"

	"github.com/goburrow/modbus"
)

const (
	rtuOverhead = 3   // unit and check sum around a PDU
	maxRTU      = 256 // MODBUS over Serial Line V1.02 section 2.5.1
)

// framing is how a PDU looks on a line without transaction identifiers.
type framing interface {
	// encode returns the frame.
	encode(unit byte, p *modbus.ProtocolDataUnit) ([]byte, error)
	// find looks for the first whole frame of the unit x.unit with a function
	// that x knows. used is how many bytes are done with, the frame included;
	// p is valid as long as heard is. nil: there is none yet.
	find(heard []byte, x *expected) (p *modbus.ProtocolDataUnit, used int)
	// size is how many characters a PDU of so many bytes takes.
	size(pdu int) int
	// whole returns the unit and the function of the frame that heard begins
	// with, whoever's it is, and its length; 0 when there is none.
	whole(heard []byte) (unit, function byte, n int)
}

// expected is what is looked for in what is heard.
type expected struct {
	unit byte
	q    *request
	from *debtor
}

// function reports whether answers to this function are looked for.
func (x *expected) function(f byte) bool {
	f &^= exceptionBit
	return f == x.q.function || x.from.asked(f)
}

// shape reports whether a PDU of this length is looked for.
func (x *expected) shape(f byte, size int) bool {
	if f&exceptionBit != 0 {
		return x.function(f)
	}
	if n := x.q.answerBytes(); f == x.q.function && (n == 0 || n == size) {
		return true
	}
	return x.from.owes(f, size)
}

// rtuFraming is RTU: the frame begins and ends with silence, a length is not
// given and a CRC ends it (MODBUS over Serial Line V1.02 section 2.5.1). Silence
// within a frame is not looked at: adapters and kernels break frames to pieces.
type rtuFraming struct{ *modbus.RTUClientHandler }

func newRTUFraming() framing { return rtuFraming{modbus.NewRTUClientHandler("")} }

func (r rtuFraming) encode(unit byte, p *modbus.ProtocolDataUnit) ([]byte, error) {
	r.SlaveId = unit
	return r.Encode(p)
}

func (rtuFraming) size(pdu int) int { return pdu + rtuOverhead }

// find goes by what an answer looks like: unit, function, length, and the CRC
// must agree. So bytes before it do no harm, be they noise, an echo or a frame
// of another unit.
func (r rtuFraming) find(heard []byte, x *expected) (*modbus.ProtocolDataUnit, int) {
	for i := 0; i+1 < len(heard); i++ {
		if heard[i] != x.unit || !x.function(heard[i+1]) {
			continue
		}
		n := rtuSize(heard[i:])
		switch {
		case n < 0 || n > maxRTU:
		case n == 0 || i+n > len(heard):
			// Nothing is looked for inside of an answer that is on its way.
			if n > 0 && x.shape(heard[i+1], n-rtuOverhead) {
				return nil, i
			}
		default:
			if p, err := r.Decode(heard[i : i+n]); err == nil {
				return p, i + n
			}
		}
	}
	return nil, 0
}

// rtuSize returns how long the answer is that b begins with, from its unit to
// the CRC; 0 when more bytes are needed to tell, -1 when it cannot be one.
func rtuSize(b []byte) int {
	if len(b) < 3 {
		return 0
	}
	switch {
	case b[1]&exceptionBit != 0:
		return 2 + rtuOverhead
	case b[1] == readFIFO:
		if len(b) < 4 {
			return 0
		}
		return 4 + int(binary.BigEndian.Uint16(b[2:])) + 2
	case b[1] == encapsulated:
		return rtuIdentitySize(b)
	}
	return 2 + int(b[2]) + rtuOverhead
}

// rtuIdentitySize is rtuSize for function 43/14: objects with their lengths
// follow six bytes of what there is (section 6.21 of the protocol).
func rtuIdentitySize(b []byte) int {
	const head = 8 // unit, function, MEI type, code, conformity, more, next, number
	if b[2] != meiIdentify {
		return -1
	}
	if len(b) < head {
		return 0
	}
	at := head
	for range b[head-1] {
		if at+1 >= len(b) {
			return 0
		}
		at += 2 + int(b[at+1])
	}
	return at + 2
}

func (r rtuFraming) whole(heard []byte) (unit, function byte, n int) {
	if n = rtuSize(heard); n <= 0 || n > min(maxRTU, len(heard)) {
		return 0, 0, 0
	}
	p, err := r.Decode(heard[:n])
	if err != nil {
		return 0, 0, 0
	}
	return heard[0], p.FunctionCode, n
}
