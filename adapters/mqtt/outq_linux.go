package mqtt

import (
	"net"
	"syscall"
	"unsafe"
)

// unsent is how many bytes written to a TCP connection the far side's network
// has not confirmed yet (SIOCOUTQ); -1 when it cannot be told.
func unsent(c net.Conn) int {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return -1
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return -1
	}
	n := int32(-1)
	if err := raw.Control(func(fd uintptr) {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
			n = -1
		}
	}); err != nil {
		return -1
	}
	return int(n)
}
