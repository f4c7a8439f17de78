package modbustest

import (
	"encoding/binary"
	"encoding/hex"
)

// frame is one request or answer without its framing.
type frame struct {
	unit byte
	id   uint16 // transaction identifier
	pdu  []byte // function code and data
}

// framing is how frames lie in a stream of bytes.
type framing interface {
	// split takes the first frame from b. n is how many bytes it took; 0 wants
	// more of them. f.pdu lies in b or in scratch. ended says that the line has
	// fallen silent and no more will come. ok is false when what was taken is no
	// frame.
	split(b []byte, ended bool) (f frame, n int, ok bool)
	// wrap appends the frame to dst.
	wrap(dst []byte, f frame) []byte
}

// mbap is the framing of Modbus/TCP (messaging section 3.1.3).
type mbap struct{}

const mbapHeader = 7 // with the unit

func (mbap) split(b []byte, ended bool) (f frame, n int, ok bool) {
	if len(b) < mbapHeader {
		return f, tail(b, ended), false
	}
	length := int(binary.BigEndian.Uint16(b[4:])) // with the unit
	if binary.BigEndian.Uint16(b[2:]) != 0 || length < 2 || length > maxPDU+1 {
		return f, len(b), false
	}
	if len(b) < 6+length {
		return f, tail(b, ended), false
	}
	return frame{unit: b[6], id: binary.BigEndian.Uint16(b), pdu: b[mbapHeader : 6+length]}, 6 + length, true
}

func (mbap) wrap(dst []byte, f frame) []byte {
	dst = binary.BigEndian.AppendUint16(dst, f.id)
	dst = append(dst, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(f.pdu)+1))
	return append(append(dst, f.unit), f.pdu...)
}

// tail is how much of a frame that is not whole is taken: nothing as long as
// more may come.
func tail(b []byte, ended bool) int {
	if ended {
		return len(b)
	}
	return 0
}

// rtu is the framing of a serial line in RTU mode (serial line section 2.5.1).
// A slave on a real line knows the end of a request by 3.5 characters of
// silence; here it is told by the function code, and by silence where that is
// unknown, since nothing in a process can measure a silence that short.
type rtu struct{}

func (rtu) split(b []byte, ended bool) (f frame, n int, ok bool) {
	want := requestBytes(b)
	switch {
	case want == 0 || len(b) < want:
		if !ended {
			if len(b) > maxPDU+3 {
				return f, len(b), false
			}
			return f, 0, false
		}
		want = len(b)
	}
	if want < 4 || crc(b[:want-2]) != binary.LittleEndian.Uint16(b[want-2:]) {
		return f, len(b), false // nothing behind it can be trusted either
	}
	return frame{unit: b[0], pdu: b[1 : want-2]}, want, true
}

func (rtu) wrap(dst []byte, f frame) []byte {
	at := len(dst)
	dst = append(append(dst, f.unit), f.pdu...)
	return binary.LittleEndian.AppendUint16(dst, crc(dst[at:]))
}

// requestBytes is how long the RTU frame of a request is that begins with b, 0
// when that cannot be told (yet).
func requestBytes(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case fnReadCoils, fnReadDiscrete, fnReadHolding, fnReadInput, fnWriteCoil, fnWriteRegister:
		return 8
	case fnWriteCoils, fnWriteRegisters:
		return counted(b, 6)
	case fnMaskWrite:
		return 10
	case fnReadWrite:
		return counted(b, 10)
	case fnReadFIFO:
		return 6
	case fnEncapsulated:
		return 7
	}
	return 0
}

// counted is the length of a frame with a byte count at place i.
func counted(b []byte, i int) int {
	if len(b) <= i {
		return 0
	}
	return i + 1 + int(b[i]) + 2
}

// crc is the check sum of RTU (serial line section 6.2.2), bit by bit as the
// standard describes it.
func crc(b []byte) uint16 {
	sum := uint16(0xffff)
	for _, x := range b {
		sum ^= uint16(x)
		for range 8 {
			low := sum & 1
			sum >>= 1
			if low != 0 {
				sum ^= 0xa001
			}
		}
	}
	return sum
}

// ascii is the framing of a serial line in ASCII mode (serial line section
// 2.5.2): a colon, two upper case digits for each byte, CR LF.
type ascii struct{ scratch []byte }

const maxASCII = 1 + 2*(maxPDU+2) + 2

func (a *ascii) split(b []byte, ended bool) (f frame, n int, ok bool) {
	if b[0] != ':' {
		for n < len(b) && b[n] != ':' {
			n++
		}
		return f, n, false
	}
	end := 1
	for end < len(b) && b[end] != '\n' && b[end] != ':' {
		end++
	}
	switch {
	case end == len(b) && end < maxASCII:
		return f, tail(b, ended), false
	case end == len(b):
		return f, len(b), false
	case b[end] == ':':
		return f, end, false // a colon begins a new frame, whatever came before
	}
	text := b[1:end]
	if len(text) < 7 || text[len(text)-1] != '\r' {
		return f, end + 1, false
	}
	text = text[:len(text)-1]
	for _, c := range text {
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') {
			return f, end + 1, false
		}
	}
	a.scratch = a.scratch[:0]
	data, err := hex.AppendDecode(a.scratch, text)
	a.scratch = data
	if err != nil || len(data) > maxPDU+2 || lrc(data) != 0 {
		return f, end + 1, false
	}
	return frame{unit: data[0], pdu: data[1 : len(data)-1]}, end + 1, true
}

func (a *ascii) wrap(dst []byte, f frame) []byte {
	sum := f.unit
	dst = appendHex(append(dst, ':'), f.unit)
	for _, x := range f.pdu {
		sum += x
		dst = appendHex(dst, x)
	}
	return append(appendHex(dst, -sum), '\r', '\n')
}

func appendHex(dst []byte, x byte) []byte {
	const digits = "0123456789ABCDEF"
	return append(dst, digits[x>>4], digits[x&15])
}

// lrc is the sum of all bytes; it is 0 with the check byte of ASCII mode among
// them (serial line section 6.2.1).
func lrc(b []byte) (sum byte) {
	for _, x := range b {
		sum += x
	}
	return sum
}
