package modbustest

import (
	"encoding/binary"
	"maps"
	"slices"
)

// write serves the functions that write and read nothing.
func (u *Unit) write(data []byte, q *Request) byte {
	table, limit := Holding, maxWriteWords
	if q.Function == fnWriteCoil || q.Function == fnWriteCoils {
		table, limit = Coil, maxWriteBits
	}
	if code := u.refusal(table, q.Address, q.Count, limit); code != 0 {
		return code
	}
	word := func(i int) uint16 { return binary.BigEndian.Uint16(data[i:]) }
	u.mu.Lock()
	defer u.mu.Unlock()
	switch q.Function {
	case fnWriteCoil:
		if word(2) != 0 && word(2) != 0xff00 {
			return exIllegalValue
		}
		u.bits[0].set(q.Address, word(2)>>15)
	case fnWriteRegister:
		u.words[0].set(q.Address, word(2))
	case fnWriteCoils:
		if int(data[4]) != (q.Count+7)/8 {
			return exIllegalValue
		}
		for i := range q.Count {
			u.bits[0].set(q.Address+i, uint16(data[5+i/8]>>(i%8)&1))
		}
	case fnWriteRegisters:
		if int(data[4]) != 2*q.Count {
			return exIllegalValue
		}
		for i := range q.Count {
			u.words[0].set(q.Address+i, word(5+2*i))
		}
	case fnMaskWrite: // protocol section 6.16
		and, or := word(2), word(4)
		u.words[0].set(q.Address, u.words[0].get(q.Address)&and|or&^and)
	}
	return 0
}

// exchange does the write of function 23, which comes before the read.
func (u *Unit) exchange(data []byte, q *Request) byte {
	if code := u.refusal(Holding, q.Address, q.Count, maxReadWords); code != 0 {
		return code
	}
	if code := u.refusal(Holding, q.WriteAddress, q.WriteCount, maxExchange); code != 0 {
		return code
	}
	if int(data[8]) != 2*q.WriteCount {
		return exIllegalValue
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range q.WriteCount {
		u.words[0].set(q.WriteAddress+i, binary.BigEndian.Uint16(data[9+2*i:]))
	}
	return 0
}

// The read device id codes of function 43/14 (protocol section 6.21).
const (
	idBasic      = 1
	idRegular    = 2
	idExtended   = 3
	idIndividual = 4
)

// level is the category of an object.
func level(object byte) byte {
	switch {
	case object <= 2:
		return idBasic
	case object < 0x80:
		return idRegular
	}
	return idExtended
}

// identify serves function 43/14. data is what follows the function code: MEI
// type, read device id code, object id.
func (u *Unit) identify(dst, data []byte) ([]byte, byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	mei, code, first := data[0], data[1], data[2]
	if mei != meiIdentity || len(u.identity) == 0 {
		return dst, exIllegalFunction
	}
	if code < idBasic || code > idIndividual {
		return dst, exIllegalValue
	}
	ids := slices.Sorted(maps.Keys(u.identity))
	conformity := level(ids[len(ids)-1]) | 0x80 // stream and individual access
	_, there := u.identity[first]
	if code == idIndividual {
		if !there {
			return dst, exIllegalAddress
		}
		ids = []byte{first}
	} else {
		if !there {
			first = 0 // of a stream an unknown object means the beginning
		}
		ids = slices.DeleteFunc(ids, func(id byte) bool { return id < first || level(id) > code })
	}
	begin := len(dst)
	dst = append(dst, mei, code, conformity, 0, 0, 0)
	for i, id := range ids {
		value := u.identity[id]
		value = value[:min(len(value), maxPDU-9)]
		if 1+len(dst)-begin+2+len(value) > maxPDU {
			dst[begin+3], dst[begin+4] = 0xff, ids[i]
			break
		}
		dst = append(append(dst, id, byte(len(value))), value...)
		dst[begin+5]++
	}
	return dst, 0
}
