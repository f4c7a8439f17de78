package modbus

import "golang.org/x/sys/unix"

// pending is how many bytes lie in the receive buffer of a socket.
func pending(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
	if err != nil {
		return 1 << 30
	}
	return n
}
