//go:build !linux

package mqtt

import "net"

// unsent is how many bytes written to a TCP connection the far side's network
// has not confirmed yet; here it cannot be told.
func unsent(net.Conn) int { return -1 }
