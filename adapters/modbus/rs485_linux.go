package modbus

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// serialRS485 is struct serial_rs485 of linux/serial.h: 32 bytes on every
// architecture.
type serialRS485 struct {
	flags       uint32
	delayBefore uint32 // milliseconds
	delayAfter  uint32
	padding     [5]uint32
}

// Flags of struct serial_rs485.
const (
	rs485Enabled    = 1 << 0
	rs485RTSOnSend  = 1 << 1
	rs485RTSAfter   = 1 << 2
	rs485RxDuringTx = 1 << 4
)

// driver returns what the driver is told.
func (r *RS485) driver() serialRS485 {
	d := serialRS485{
		flags:       rs485Enabled,
		delayBefore: uint32(r.DelayBefore / time.Millisecond),
		delayAfter:  uint32(r.DelayAfter / time.Millisecond),
	}
	if r.RTSLow {
		d.flags |= rs485RTSAfter
	} else {
		d.flags |= rs485RTSOnSend
	}
	if r.ReceiveOwn {
		d.flags |= rs485RxDuringTx
	}
	return d
}

// setRS485 lets the driver of a port switch the direction of the line.
func setRS485(fd int, r *RS485) error {
	d := r.driver()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSRS485, uintptr(unsafe.Pointer(&d)))
	if errno != 0 {
		return errno
	}
	return nil
}
