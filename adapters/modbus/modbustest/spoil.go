package modbustest

// spoil appends the answer f to dst as the fault has it.
func (l *link) spoil(dst []byte, f frame, fault *Fault) []byte {
	if fault.good() {
		return l.framing.wrap(dst, f)
	}
	if fault.WrongUnit {
		f.unit++
	}
	if fault.WrongID {
		f.id += 0x1111
	}
	if fault.WrongFunction {
		f.pdu[0] ^= 7 // 3 becomes 4, 1 becomes 6
	}
	f.pdu = resize(f.pdu, fault)
	l.pdu = f.pdu[:0] // its memory is kept
	if fault.Echo {
		dst = append(dst, l.request...)
	}
	dst = append(dst, fault.Noise...)
	at := len(dst)
	if fault.Stale {
		l.mu.Lock()
		dst = append(dst, l.previous...)
		l.mu.Unlock()
	} else {
		dst = l.framing.wrap(dst, f)
	}
	if fault.WrongProtocol && l.mbap && len(dst) > at+3 {
		dst[at+3] ^= 1
	}
	if fault.Garble > 0 {
		l.garble(dst[at:], fault.Garble)
	}
	if fault.StopAfter > 0 && fault.StopAfter < len(dst)-at {
		dst = dst[:at+fault.StopAfter]
	}
	if fault.Twice {
		dst = append(dst, dst[at:]...)
	}
	return append(dst, fault.Trail...)
}

// resize makes an answer too short or too long.
func resize(pdu []byte, fault *Fault) []byte {
	change, counted := fault.Long-fault.Short, false
	switch pdu[0] {
	case fnReadCoils, fnReadDiscrete:
		counted = true
	case fnReadHolding, fnReadInput, fnReadWrite:
		change, counted = 2*change, true
	}
	change = min(change, maxPDU-len(pdu))
	least := 1
	if counted {
		least = 2
	}
	for ; change > 0; change-- {
		pdu = append(pdu, 0xee)
	}
	pdu = pdu[:max(len(pdu)+change, least)]
	if counted && len(pdu) >= 2 {
		pdu[1] = byte(len(pdu) - 2)
		if fault.WrongCount {
			pdu[1] += 2
		}
	}
	return pdu
}

// garble turns n bits over, in one run: that the check sum of RTU finds every
// run of up to 16 is proven, any other change only nearly every time.
func (l *link) garble(b []byte, n int) {
	if l.mbap {
		b = b[:min(len(b), mbapHeader+1)]
	}
	bits := 8 * len(b)
	n = min(n, bits)
	if n <= 0 {
		return
	}
	l.rnd = l.rnd*1664525 + 1013904223 // the same places in every run of a test
	at := int(l.rnd>>8) % (bits - n + 1)
	for i := at; i < at+n; i++ {
		b[i/8] ^= 1 << (i % 8)
	}
}
