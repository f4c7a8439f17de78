package modbustest

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// listener is one way to the plant.
type listener struct {
	open   func() error // (again)
	shut   func()
	gone   func() bool // whether it ended by itself; may be nil
	remove func()      // what is left of it, at the end; may be nil

	mu   sync.Mutex // held while it opens and shuts; guards live
	live bool
}

func (l *listener) plug() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live && (l.gone == nil || !l.gone()) {
		return nil
	}
	err := l.open()
	l.live = err == nil
	return err
}

func (l *listener) unplug() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live {
		l.live = false
		l.shut()
	}
}

// add opens a new listener and keeps it.
func (s *Server) add(l *listener) error {
	if err := l.plug(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	s.lines = append(s.lines, l)
	return nil
}

const loopback = "127.0.0.1:0"

// ListenTCP opens a line for Modbus/TCP and returns its host:port.
func (s *Server) ListenTCP() (addr string, err error) { return s.stream(loopback, nil, newMBAP) }

// Schemes are the lines that ListenAt knows.
func Schemes() []string { return []string{"tcp", "udp", "rtu+tcp", "ascii+tcp", "rtu+udp"} }

// ListenAt opens a line of a scheme (see Schemes) at a host:port and returns
// where it is; port 0 takes a free one.
func (s *Server) ListenAt(scheme, addr string) (string, error) {
	switch scheme {
	case "tcp":
		return s.stream(addr, nil, newMBAP)
	case "udp":
		return s.datagrams(addr, newMBAP)
	case "rtu+tcp":
		return s.stream(addr, nil, newRTU)
	case "ascii+tcp":
		return s.stream(addr, nil, newASCII)
	case "rtu+udp":
		return s.datagrams(addr, newRTU)
	}
	return "", fmt.Errorf("listen for %q: none of %s", scheme, strings.Join(Schemes(), ", "))
}

// ListenTLS opens a line for Modbus/TCP Security.
func (s *Server) ListenTLS(c *tls.Config) (addr string, err error) {
	return s.stream(loopback, c, newMBAP)
}

// ListenRTUOverTCP opens a line with RTU frames in a TCP stream.
func (s *Server) ListenRTUOverTCP() (addr string, err error) { return s.stream(loopback, nil, newRTU) }

// ListenASCIIOverTCP opens a line with ASCII frames in a TCP stream.
func (s *Server) ListenASCIIOverTCP() (addr string, err error) {
	return s.stream(loopback, nil, newASCII)
}

// ListenUDP opens a line for Modbus/TCP frames in datagrams.
func (s *Server) ListenUDP() (addr string, err error) { return s.datagrams(loopback, newMBAP) }

// ListenRTUOverUDP opens a line with RTU frames in datagrams.
func (s *Server) ListenRTUOverUDP() (addr string, err error) { return s.datagrams(loopback, newRTU) }

func newMBAP() framing  { return mbap{} }
func newRTU() framing   { return rtu{} }
func newASCII() framing { return &ascii{} }

// stream listens for connections.
func (s *Server) stream(at string, tc *tls.Config, frames func() framing) (string, error) {
	var lis net.Listener
	l := &listener{}
	l.open = func() (err error) {
		if lis, err = net.Listen("tcp", at); err != nil {
			return fmt.Errorf("listen at %s: %w", at, err)
		}
		at = lis.Addr().String() // the same port when it is opened again
		accept := lis
		s.ending.Go(func() { s.accept(accept, tc, frames) })
		return nil
	}
	l.shut = func() { _ = lis.Close() }
	if err := s.add(l); err != nil {
		l.unplug()
		return "", err
	}
	return lis.Addr().String(), nil
}

// admit serves a connection, unless it must not.
func (s *Server) admit(l *link) bool {
	l.counted = true
	if !s.enter(l) {
		return false
	}
	s.ending.Go(l.run)
	return true
}

func (s *Server) accept(lis net.Listener, tc *tls.Config, frames func() framing) {
	for {
		c, err := lis.Accept()
		if err != nil {
			return
		}
		if tc != nil {
			c = tls.Server(c, tc)
		}
		if l := newLink(s, c, frames()); !s.admit(l) {
			l.close()
		}
	}
}

// datagrams serves a socket.
func (s *Server) datagrams(at string, frames func() framing) (string, error) {
	var conn net.PacketConn
	l := &listener{}
	l.open = func() (err error) {
		if conn, err = net.ListenPacket("udp", at); err != nil {
			return fmt.Errorf("listen at %s: %w", at, err)
		}
		at = conn.LocalAddr().String()
		sock, f := conn, frames()
		s.ending.Go(func() { s.receive(sock, f) })
		return nil
	}
	l.shut = func() { _ = conn.Close() }
	if err := s.add(l); err != nil {
		l.unplug()
		return "", err
	}
	return conn.LocalAddr().String(), nil
}

// receive serves one datagram after the other. What is not one whole request is
// dropped, as nothing behind it can be lost.
func (s *Server) receive(sock net.PacketConn, f framing) {
	var buf [2048]byte
	peers := map[string]*link{}
	defer func() {
		for _, l := range peers {
			l.close()
			s.leave(l)
		}
	}()
	for {
		n, from, err := sock.ReadFrom(buf[:])
		if err != nil {
			return
		}
		name := from.String()
		l := peers[name]
		if l == nil {
			if len(peers) >= maxPeers {
				for other, old := range peers {
					old.close()
					s.leave(old)
					delete(peers, other)
					break
				}
			}
			if l = newLink(s, &peer{sock, from}, f); !s.enter(l) {
				continue
			}
			peers[name] = l
		}
		req, took, ok := f.split(buf[:n], true)
		if n == 0 || !ok || took != n {
			s.stats.broken.Add(1)
			continue
		}
		l.request = buf[:n]
		if !l.serve(req) {
			s.leave(l)
			delete(peers, name)
		}
	}
}

// maxPeers bounds the masters that a socket remembers.
const maxPeers = 256

// peer is one master at a UDP socket.
type peer struct {
	sock net.PacketConn
	addr net.Addr
}

func (p *peer) Read([]byte) (int, error)        { return 0, net.ErrClosed } // the socket reads for all
func (p *peer) Write(b []byte) (int, error)     { return p.sock.WriteTo(b, p.addr) }
func (p *peer) Close() error                    { return nil }
func (p *peer) SetReadDeadline(time.Time) error { return nil }
