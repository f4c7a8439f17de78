package modbus

// span is the run of registers or bits that one point needs. It is never split.
type span struct {
	function byte // that reads it
	address  int  // first
	length   int  // registers, or bits of coils and discrete inputs
}

// end is the address behind the last.
func (s span) end() int { return s.address + s.length }

// block is one request of a plan.
type block struct {
	span
	spans []int // which of the plan's spans lie in it, ascending by address
}

// reading is what a poll found for one span.
type reading struct {
	// data are the registers as they came, most significant byte first, or the
	// bits of coils and discrete inputs packed from the least significant bit
	// on (bit 0 of data[0] is the first of the span). nil when err is not.
	data []byte
	err  error // why there is none: *modbus.ModbusError, *silence, or that it is held off
}
