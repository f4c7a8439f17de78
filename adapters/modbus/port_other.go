//go:build !linux

package modbus

import (
	"errors"
	"fmt"
	"io"
	"os"

	"go.bug.st/serial"
)

// openPort opens a serial port and sets it.
func openPort(path string, s *Serial) (io.ReadWriteCloser, error) {
	if s.RS485.Enabled {
		return nil, rs485Error(path, errors.New("drivers switch the direction of a line on Linux only"))
	}
	p, err := serial.Open(path, modeOf(s))
	if err != nil {
		return nil, openError(path, err)
	}
	if err := p.ResetInputBuffer(); err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return p, nil
}

func gidOf(os.FileInfo) (int, bool) { return 0, false }
