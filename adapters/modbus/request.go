package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/goburrow/modbus"
)

// The functions that are used (MODBUS Application Protocol V1.1b3 section 6).
const (
	readCoils     = modbus.FuncCodeReadCoils
	readDiscrete  = modbus.FuncCodeReadDiscreteInputs
	readHolding   = modbus.FuncCodeReadHoldingRegisters
	readInput     = modbus.FuncCodeReadInputRegisters
	readWrite     = modbus.FuncCodeReadWriteMultipleRegisters
	readFIFO      = modbus.FuncCodeReadFIFOQueue
	encapsulated  = 0x2B // encapsulated interface transport, section 6.19
	meiIdentify   = 0x0E // read device identification, section 6.21
	exceptionBit  = 0x80
	maxWords      = 125  // registers in one read, section 6.3
	maxReadWrite  = 121  // registers written by function 23, section 6.17
	maxBits       = 2000 // section 6.1
	maxFIFO       = 31   // section 6.18
	maxPDU        = 253  // section 4.1
	identifyBasic = 1    // read device id code: vendor, product, revision
)

// request is one request to one unit.
type request struct {
	unit     byte
	function byte
	address  uint16
	count    uint16 // registers or bits; of function 43 the first object
	// Of function 23 alone.
	writeAt uint16
	write   []uint16
	// timeout is for the answer, from the end of the request to the end of the answer.
	timeout time.Duration
}

// String names the request in messages: "holding 100+20".
func (q *request) String() string {
	switch q.function {
	case readFIFO:
		return fmt.Sprintf("fifo %d", q.address)
	case encapsulated:
		return "device identification"
	case readWrite:
		return fmt.Sprintf("holding %d+%d after writing %d+%d", q.address, q.count, q.writeAt, len(q.write))
	}
	return fmt.Sprintf("%s %d+%d", tableOf(q.function), q.address, q.count)
}

// tableOf returns the name of the table that a function reads.
func tableOf(function byte) string {
	switch function {
	case readCoils:
		return "coil"
	case readDiscrete:
		return "discrete"
	case readInput:
		return "input"
	case readFIFO:
		return "fifo"
	}
	return "holding"
}

// functionOf returns the function that reads a table; "" is holding.
func functionOf(table string) byte {
	switch table {
	case "coil":
		return readCoils
	case "discrete":
		return readDiscrete
	case "input":
		return readInput
	case "fifo":
		return readFIFO
	}
	return readHolding
}

// pdu returns the request without the addressing of a line.
func (q *request) pdu() *modbus.ProtocolDataUnit {
	p := &modbus.ProtocolDataUnit{FunctionCode: q.function}
	switch q.function {
	case encapsulated:
		p.Data = []byte{meiIdentify, identifyBasic, byte(q.count)}
	case readFIFO:
		p.Data = binary.BigEndian.AppendUint16(nil, q.address)
	default:
		p.Data = make([]byte, 0, 4)
		p.Data = binary.BigEndian.AppendUint16(p.Data, q.address)
		p.Data = binary.BigEndian.AppendUint16(p.Data, q.count)
	}
	if q.function == readWrite {
		p.Data = binary.BigEndian.AppendUint16(p.Data, q.writeAt)
		p.Data = binary.BigEndian.AppendUint16(p.Data, uint16(len(q.write)))
		p.Data = append(p.Data, byte(2*len(q.write)))
		for _, w := range q.write {
			p.Data = binary.BigEndian.AppendUint16(p.Data, w)
		}
	}
	return p
}

// errForeign says that a PDU is not the answer to a request: it is of another
// function. A line drops it and waits on.
var errForeign = errors.New("the answer is to another request")

// lengthError says that a unit answered a request with more or less than was
// asked for. Nothing on the line can be trusted then until it is quiet.
type lengthError struct {
	asked     string
	got, want int // bytes
}

func (e *lengthError) Error() string {
	return fmt.Sprintf("the answer to %s has %d bytes of data, not %d", e.asked, e.got, e.want)
}

// answer returns the data of the answer to q: registers or bits as they came,
// of function 43 what follows the MEI type, of function 24 the registers. The
// error is a *modbus.ModbusError when the unit refused, errForeign, or a
// *lengthError.
func (q *request) answer(p *modbus.ProtocolDataUnit) ([]byte, error) {
	switch {
	case p.FunctionCode == q.function|exceptionBit:
		if len(p.Data) != 1 {
			return nil, &lengthError{q.String(), len(p.Data), 1}
		}
		return nil, &modbus.ModbusError{FunctionCode: p.FunctionCode, ExceptionCode: p.Data[0]}
	case p.FunctionCode != q.function:
		return nil, errForeign
	case q.function == encapsulated:
		if len(p.Data) < 6 || p.Data[0] != meiIdentify {
			return nil, errForeign
		}
		return p.Data[1:], nil
	case q.function == readFIFO:
		return q.fifo(p.Data)
	}
	want := 2 * int(q.count)
	if q.function == readCoils || q.function == readDiscrete {
		want = (int(q.count) + 7) / 8
	}
	if len(p.Data) != want+1 || int(p.Data[0]) != want {
		return nil, &lengthError{q.String(), max(0, len(p.Data)-1), want}
	}
	return p.Data[1:], nil
}

// fifo takes the answer of function 24 apart: byte count, FIFO count, registers.
func (q *request) fifo(data []byte) ([]byte, error) {
	if len(data) < 4 {
		return nil, &lengthError{q.String(), len(data), 4}
	}
	n := int(binary.BigEndian.Uint16(data[2:]))
	if n > maxFIFO || len(data) != 4+2*n || int(binary.BigEndian.Uint16(data)) != 2+2*n {
		return nil, &lengthError{q.String(), len(data), 4 + 2*n}
	}
	return data[4:], nil
}

// answerBytes is how long the PDU of the answer to q is, in bytes with the
// function code; 0 when only the answer tells.
func (q *request) answerBytes() int {
	switch q.function {
	case readCoils, readDiscrete:
		return 2 + (int(q.count)+7)/8
	case readFIFO, encapsulated:
		return 0
	}
	return 2 + 2*int(q.count)
}
