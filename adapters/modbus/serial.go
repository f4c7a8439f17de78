package modbus

import (
	"context"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"time"
)

// Bits of a character and silences are those of MODBUS over Serial Line V1.02.
const (
	charBits     = 11                      // section 2.5.1, also of a line set to fewer
	fixedSilence = 1750 * time.Microsecond // section 2.5.1.1, above fixedAbove
	fixedAbove   = 19200                   // bits per second
)

// stopBits returns how many stop bits there are.
func (s *Serial) stopBits() int {
	switch {
	case s.StopBits != 0:
		return s.StopBits
	case s.parityBits() == 0:
		return 2
	}
	return 1
}

func (s *Serial) parityBits() int {
	if s.Parity == "none" {
		return 0
	}
	return 1
}

// charTime is how long a character lasts: start bit, data, parity and stop bits.
func (s *Serial) charTime() time.Duration {
	if s.Baud <= 0 {
		return 0
	}
	bits := 1 + s.DataBits + s.parityBits() + s.stopBits()
	return time.Duration(bits) * time.Second / time.Duration(s.Baud)
}

// silence is the least time between two frames: 3.5 characters of 11 bits,
// 1.75 ms above 19,200 baud (MODBUS over Serial Line V1.02 section 2.5.1.1).
func (s *Serial) silence() time.Duration {
	if s.Baud <= 0 || s.Baud > fixedAbove {
		return fixedSilence
	}
	return charBits * 7 * time.Second / time.Duration(2*s.Baud)
}

// openSerial opens the port of a line rtu:///dev/… or ascii:///dev/….
func openSerial(_ context.Context, c *Config) (line, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("open the line: %w", err)
	}
	f := framingOf(u.Scheme)
	if f == nil || u.Path == "" {
		return nil, fmt.Errorf("open the line %s: it is not that of a serial port", c.URL)
	}
	path := u.Path
	if runtime.GOOS == "windows" {
		path = strings.TrimPrefix(path, "/")
	}
	port, err := openPort(path, &c.Serial)
	if err != nil {
		return nil, err
	}
	return newSerialLine(path, port, f, &c.Serial), nil
}

// openFramed connects to a line rtu+tcp, ascii+tcp or rtu+udp. The silences and
// the time of characters are those of the line behind it, as Serial has it.
func openFramed(ctx context.Context, c *Config) (line, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("open the line: %w", err)
	}
	mode, network, _ := strings.Cut(u.Scheme, "+")
	f := framingOf(mode)
	if f == nil || network != "tcp" && network != "udp" {
		return nil, fmt.Errorf("open the line %s: it is not one of rtu+tcp, ascii+tcp, rtu+udp", c.URL)
	}
	conn, err := dial(ctx, network, u.Host)
	if err != nil {
		return nil, err
	}
	return newSerialLine(u.Host, conn, f, &c.Serial), nil
}

// framingOf returns how frames look on a line: rtu or ascii, nil for others.
func framingOf(mode string) framing {
	switch mode {
	case "rtu":
		return newRTUFraming()
	case "ascii":
		return newASCIIFraming()
	}
	return nil
}
