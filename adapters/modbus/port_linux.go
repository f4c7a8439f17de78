package modbus

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// port is a serial port. The library sets it and holds it for itself
// (TIOCEXCL); bytes go through a file of our own on the same terminal, which
// the runtime polls: Close ends a read and a write at once, nothing depends on
// the number of the descriptor (select fails from 1,024 on), and a wait takes
// no thread.
type port struct {
	*os.File
	set serial.Port
}

// openPort opens a serial port and sets it.
func openPort(path string, s *Serial) (io.ReadWriteCloser, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	p := &port{File: f}
	if err := p.setUp(path, s); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

func (p *port) setUp(path string, s *Serial) error {
	// Root passes TIOCEXCL; two gateways must not share a line all the same.
	if err := p.do(func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		_ = p.File.Close() // or it would be among those who use it
		return openError(path, unix.EBUSY)
	}
	var err error
	if p.set, err = serial.Open(path, modeOf(s)); err != nil {
		return openError(path, err)
	}
	if err := p.checkSpeed(path, s.Baud); err != nil {
		return err
	}
	if s.RS485.Enabled {
		if err := p.do(func(fd int) error { return setRS485(fd, &s.RS485) }); err != nil {
			return rs485Error(path, err)
		}
	}
	if err := p.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("open %s: %w (it is not a serial port)", path, err)
	}
	return p.set.ResetInputBuffer()
}

// checkSpeed reads back what the driver made of the baud rate: it takes the
// nearest that the port can do, without an error.
func (p *port) checkSpeed(path string, baud int) error {
	var got int
	err := p.do(func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
		if err == nil {
			got = int(t.Ospeed)
		}
		return err
	})
	// A receiver samples the last bit of eleven in its middle: 3 % is too much
	// when the other side is off as well.
	if off := max(got-baud, baud-got); err == nil && off > baud*3/100 {
		return fmt.Errorf("open %s: the port does %d baud instead of %d (set serial.baud and the devices to a rate it can do)", path, got, baud)
	}
	return nil
}

// do runs f on the descriptor.
func (p *port) do(f func(fd int) error) error {
	c, err := p.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// Close ends what reads and writes, then lets go of the port.
func (p *port) Close() error {
	err := p.File.Close()
	if p.set != nil {
		// A port that was pulled fails here; there is nothing left to do then.
		_ = p.set.Close()
	}
	return err
}

// gidOf returns the group of a file.
func gidOf(info os.FileInfo) (int, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Gid), true
}
