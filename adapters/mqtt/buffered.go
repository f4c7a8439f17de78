package mqtt

import (
	"bufio"
	"net"
)

// buffered reads a connection in large pieces: TLS reads the five bytes of
// each record header alone.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func newReader(c net.Conn) *bufio.Reader { return bufio.NewReaderSize(c, readBuffer) }

// Read implements net.Conn.
func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }
