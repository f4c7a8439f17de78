package modbus

import "time"

// charTime stands in for that of the serial line.
func (s *Serial) charTime() time.Duration {
	if s.Baud <= 0 {
		return 0
	}
	parity, stop := 1, s.StopBits
	if s.Parity == "none" {
		parity = 0
	}
	if stop == 0 {
		stop = 2 - parity
	}
	return time.Duration(1+s.DataBits+parity+stop) * time.Second / time.Duration(s.Baud)
}

// silence stands in for that of the serial line.
func (s *Serial) silence() time.Duration {
	if s.Baud <= 0 || s.Baud > 19200 {
		return 1750 * time.Microsecond
	}
	return 11 * 7 * time.Second / time.Duration(2*s.Baud)
}
