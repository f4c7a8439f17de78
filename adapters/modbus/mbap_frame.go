package modbus

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"syscall"
)

// frames takes whole ADUs from a connection.
type frames interface {
	// next returns the next ADU, valid until the call after. The error is
	// os.ErrDeadlineExceeded when the connection's deadline passes, and the call
	// after that goes on where it ended.
	next() ([]byte, error)
	// partial says what was received of an ADU that is not whole, nil when nothing was.
	partial() error
}

// outOfStep says that what comes is no frame. Where the next one begins is not
// to be known.
type outOfStep struct{ what string }

func (e *outOfStep) Error() string { return e.what + ": the line is out of step" }

// stream takes ADUs from a stream of bytes.
type stream struct {
	from io.Reader
	buf  [3 * mbapMost]byte
	a, b int // what is received and not taken is buf[a:b]
}

// next implements frames.
func (s *stream) next() ([]byte, error) {
	if s.a > mbapMost {
		s.b = copy(s.buf[:], s.buf[s.a:s.b])
		s.a = 0
	}
	for {
		n, err := s.length()
		if err != nil {
			return nil, err
		}
		if n > 0 && s.b-s.a >= n {
			s.a += n
			return s.buf[s.a-n : s.a], nil
		}
		if s.a > 0 {
			s.b = copy(s.buf[:], s.buf[s.a:s.b])
			s.a = 0
		}
		n, err = s.from.Read(s.buf[s.b:])
		s.b += n
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// length is that of the ADU that begins, 0 when too little of it is there.
func (s *stream) length() (int, error) {
	head := s.buf[s.a:s.b]
	if len(head) >= 4 && (head[2] != 0 || head[3] != 0) {
		return 0, &outOfStep{fmt.Sprintf("a header with protocol %d, not 0", binary.BigEndian.Uint16(head[2:]))}
	}
	if len(head) < 6 {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint16(head[4:]))
	if n < 2 || n > mbapMost-mbapHeader+1 {
		return 0, &outOfStep{fmt.Sprintf("a header with length %d, not 2 to %d", n, mbapMost-mbapHeader+1)}
	}
	return n + mbapHeader - 1, nil
}

// partial implements frames.
func (s *stream) partial() error {
	switch n, err := s.length(); {
	case s.a == s.b:
		return nil
	case err != nil || n == 0:
		return fmt.Errorf("%d bytes of the header of an answer", s.b-s.a)
	default:
		return fmt.Errorf("%d of %d bytes of an answer", s.b-s.a, n)
	}
}

// datagrams takes ADUs from a connection that carries one in each datagram.
type datagrams struct {
	from io.Reader
	buf  [mbapMost + 1]byte // one more, to see what is too long
}

// next implements frames. What it returns need not be an ADU.
func (d *datagrams) next() ([]byte, error) {
	n, err := d.from.Read(d.buf[:])
	if err == io.EOF { // an empty one
		err = nil
	}
	return d.buf[:n], err
}

func (d *datagrams) partial() error { return nil }

// wellFormed returns an errForeign when a frame is no ADU.
func wellFormed(frame []byte) error {
	switch {
	case len(frame) < mbapHeader+1:
		return &stranger{fmt.Sprintf("%d bytes that are no frame", len(frame))}
	case frame[2] != 0 || frame[3] != 0:
		return &stranger{fmt.Sprintf("a frame with protocol %d, not 0", binary.BigEndian.Uint16(frame[2:]))}
	case len(frame) > mbapMost, int(binary.BigEndian.Uint16(frame[4:])) != len(frame)-mbapHeader+1:
		return &stranger{fmt.Sprintf("a frame of %d bytes with length %d in its header", len(frame), binary.BigEndian.Uint16(frame[4:]))}
	}
	return nil
}

// mostGivenUp is how many identifiers without an answer are remembered.
const mostGivenUp = 64

// transactions gives out transaction identifiers, and remembers those of
// requests that were given up, because their answers may still come.
type transactions struct {
	last  uint16
	given []awaited // oldest first; at most mostGivenUp
}

// newTransactions begins anywhere: gateways to serial lines were seen to give
// the answer to a request of an old connection to the next one.
func newTransactions() transactions {
	return transactions{last: uint16(rand.Uint32()), given: make([]awaited, 0, mostGivenUp)}
}

// next returns an identifier that is neither given up nor taken.
func (t *transactions) next(taken func(uint16) bool) uint16 {
	for {
		t.last++
		if t.index(t.last) < 0 && (taken == nil || !taken(t.last)) {
			return t.last
		}
	}
}

// giveUp remembers an identifier, and forgets the oldest when there are too many.
func (t *transactions) giveUp(x awaited) {
	if len(t.given) == mostGivenUp {
		t.given = t.given[:copy(t.given, t.given[1:])]
	}
	t.given = append(t.given, x)
}

func (t *transactions) index(id uint16) int {
	return slices.IndexFunc(t.given, func(x awaited) bool { return x.id == id })
}

// late reports whether id was given up, and forgets it: it is answered now.
func (t *transactions) late(id uint16) bool {
	i := t.index(id)
	if i >= 0 {
		t.given = slices.Delete(t.given, i, i+1)
	}
	return i >= 0
}

// socket is a connection that can be asked for what is there without waiting.
// TLS sits on top of it.
type socket struct {
	net.Conn
	raw  syscall.RawConn
	take func(fd uintptr) bool
	at   bool // whether Read returns at once
	// What take works with and finds.
	into []byte
	n    int
	err  error
}

// newSocket wraps c, which is returned as it is when the system cannot be asked.
func newSocket(c net.Conn) (conn net.Conn, settle func(on bool)) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return c, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return c, nil
	}
	s := &socket{Conn: c, raw: raw}
	s.take = func(fd uintptr) bool {
		s.n, s.err = syscall.Read(int(fd), s.into) // the descriptor never blocks
		return true
	}
	return s, func(on bool) { s.at = on }
}

// Read implements net.Conn. When it is to return at once and nothing is there,
// the error is os.ErrDeadlineExceeded.
func (s *socket) Read(p []byte) (int, error) {
	if !s.at || len(p) == 0 {
		return s.Conn.Read(p)
	}
	s.into = p
	err := s.raw.Read(s.take)
	s.into = nil
	switch {
	case err != nil:
		return 0, err
	case s.err == syscall.EAGAIN || s.err == syscall.EINTR:
		return 0, os.ErrDeadlineExceeded
	case s.err != nil:
		return 0, os.NewSyscallError("read", s.err)
	case s.n == 0:
		return 0, io.EOF
	}
	return s.n, nil
}
