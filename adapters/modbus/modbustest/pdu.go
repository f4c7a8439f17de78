package modbustest

import "encoding/binary"

// The function codes that are served (protocol section 6).
const (
	fnReadCoils      = 1
	fnReadDiscrete   = 2
	fnReadHolding    = 3
	fnReadInput      = 4
	fnWriteCoil      = 5
	fnWriteRegister  = 6
	fnWriteCoils     = 15
	fnWriteRegisters = 16
	fnMaskWrite      = 22
	fnReadWrite      = 23
	fnReadFIFO       = 24
	fnEncapsulated   = 43
	meiIdentity      = 14
)

// The limits of the standard and its exceptions (protocol sections 6 and 7).
const (
	maxPDU        = 253
	maxReadWords  = 125
	maxReadBits   = 2000
	maxWriteWords = 123
	maxWriteBits  = 1968
	maxExchange   = 121 // registers written by function 23
	maxQueue      = 31  // registers of a FIFO
	tableEnd      = 65536

	exIllegalFunction = 1
	exIllegalAddress  = 2
	exIllegalValue    = 3
	exNoTarget        = 11 // gateway target device failed to respond
)

// parse reads what a log wants to know of a request PDU. ok is false when it
// has not the length its function needs; such a request is refused with
// exception 3, one of an unknown function with exception 1.
func parse(pdu []byte, q *Request) (ok bool) {
	q.Function = pdu[0]
	d := pdu[1:]
	word := func(i int) int { return int(binary.BigEndian.Uint16(d[i:])) }
	if q.Function == fnEncapsulated {
		if len(d) == 3 {
			q.Count, q.Address = int(d[1]), int(d[2])
		}
		return len(d) == 3
	}
	if len(d) < 2 {
		return false
	}
	q.Address, q.Count = word(0), 1
	switch q.Function {
	case fnReadCoils, fnReadDiscrete, fnReadHolding, fnReadInput:
		if len(d) == 4 {
			q.Count = word(2)
		}
		return len(d) == 4
	case fnWriteCoil, fnWriteRegister:
		return len(d) == 4
	case fnWriteCoils, fnWriteRegisters:
		if len(d) < 5 {
			return false
		}
		q.Count = word(2)
		return len(d) == 5+int(d[4])
	case fnMaskWrite:
		return len(d) == 6
	case fnReadWrite:
		if len(d) < 9 {
			return false
		}
		q.Count, q.WriteAddress, q.WriteCount = word(2), word(4), word(6)
		return len(d) == 9+int(d[8])
	case fnReadFIFO:
		return len(d) == 2
	}
	return true
}

// serve appends the answer to a request PDU, already parsed into q, to dst.
func (u *Unit) serve(dst, pdu []byte, q *Request, whole bool) []byte {
	at := len(dst)
	dst = append(dst, q.Function)
	var code byte
	switch {
	case !known(q.Function):
		code = exIllegalFunction
	case !whole:
		code = exIllegalValue
	default:
		dst, code = u.perform(dst, pdu[1:], q)
	}
	if code != 0 {
		return append(dst[:at], q.Function|0x80, code)
	}
	return dst
}

func known(function byte) bool {
	switch function {
	case fnReadCoils, fnReadDiscrete, fnReadHolding, fnReadInput, fnWriteCoil, fnWriteRegister, fnWriteCoils,
		fnWriteRegisters, fnMaskWrite, fnReadWrite, fnReadFIFO, fnEncapsulated:
		return true
	}
	return false
}

// perform does what q asks and appends the data of the answer to dst; a code
// that is not 0 refuses.
func (u *Unit) perform(dst, data []byte, q *Request) ([]byte, byte) {
	switch q.Function {
	case fnReadCoils:
		return u.readBits(dst, Coil, q)
	case fnReadDiscrete:
		return u.readBits(dst, Discrete, q)
	case fnReadHolding:
		return u.readWords(dst, Holding, q)
	case fnReadInput:
		return u.readWords(dst, Input, q)
	case fnReadWrite:
		if code := u.exchange(data, q); code != 0 {
			return dst, code
		}
		return u.readWords(dst, Holding, q)
	case fnReadFIFO:
		return u.readFIFO(dst, q)
	case fnEncapsulated:
		return u.identify(dst, data)
	}
	code := u.write(data, q)
	n := 4 // the answer repeats address and value or count
	if q.Function == fnMaskWrite {
		n = 6
	}
	return append(dst, data[:min(n, len(data))]...), code
}

// refusal says why a run of addresses may not be touched, 0 when it may.
func (u *Unit) refusal(table string, addr, n, limit int) byte {
	if n < 1 || n > limit {
		return exIllegalValue
	}
	if addr+n > tableEnd {
		return exIllegalAddress
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	open := u.allowed[table]
	if open == nil {
		return 0
	}
	for a := addr; a < addr+n; {
		next := a
		for _, e := range open {
			if e.from <= a && a <= e.to {
				next = max(next, e.to+1)
			}
		}
		if next == a {
			return exIllegalAddress
		}
		a = next
	}
	return 0
}

func (u *Unit) limits() (words, bits int, compute func(string, int) (uint16, bool)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.limitW, u.limitB, u.compute
}

func (u *Unit) readWords(dst []byte, table string, q *Request) ([]byte, byte) {
	limit, _, compute := u.limits()
	if code := u.refusal(table, q.Address, q.Count, limit); code != 0 {
		return dst, code
	}
	dst = append(dst, byte(2*q.Count))
	at := len(dst)
	u.mu.Lock()
	w := &u.words[0]
	if table == Input {
		w = &u.words[1]
	}
	for a := q.Address; a < q.Address+q.Count; a++ {
		dst = binary.BigEndian.AppendUint16(dst, w.get(a))
	}
	u.mu.Unlock()
	for i := 0; compute != nil && i < q.Count; i++ {
		if v, ok := compute(table, q.Address+i); ok {
			binary.BigEndian.PutUint16(dst[at+2*i:], v)
		}
	}
	return dst, 0
}

func (u *Unit) readBits(dst []byte, table string, q *Request) ([]byte, byte) {
	_, limit, compute := u.limits()
	if code := u.refusal(table, q.Address, q.Count, limit); code != 0 {
		return dst, code
	}
	n := (q.Count + 7) / 8
	dst = append(dst, byte(n))
	at := len(dst)
	for range n {
		dst = append(dst, 0)
	}
	u.mu.Lock()
	w := &u.bits[0]
	if table == Discrete {
		w = &u.bits[1]
	}
	for i := range q.Count {
		dst[at+i/8] |= byte(w.get(q.Address+i)&1) << (i % 8)
	}
	u.mu.Unlock()
	for i := 0; compute != nil && i < q.Count; i++ {
		if v, ok := compute(table, q.Address+i); ok {
			dst[at+i/8] &^= 1 << (i % 8)
			if v != 0 {
				dst[at+i/8] |= 1 << (i % 8)
			}
		}
	}
	return dst, 0
}

// readFIFO serves function 24 (protocol section 6.18). The queue stays.
func (u *Unit) readFIFO(dst []byte, q *Request) ([]byte, byte) {
	if code := u.refusal(FIFO, q.Address, 1, 1); code != 0 {
		return dst, code
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	queue, there := u.fifos[q.Address]
	switch {
	case !there:
		return dst, exIllegalAddress
	case len(queue) > maxQueue:
		return dst, exIllegalValue
	}
	q.Count = len(queue)
	dst = binary.BigEndian.AppendUint16(dst, uint16(2+2*len(queue)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(queue)))
	for _, v := range queue {
		dst = binary.BigEndian.AppendUint16(dst, v)
	}
	return dst, 0
}
