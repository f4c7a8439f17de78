package modbustest

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"
)

// listener is one way to the plant.
type listener struct {
	open   func() error // (again)
	shut   func()
	remove func() // what is left of it, at the end; may be nil

	mu   sync.Mutex // held while it opens and shuts; guards live
	live bool
}

func (l *listener) plug() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live {
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

// ListenTCPAt is ListenTCP at a host:port.
func (s *Server) ListenTCPAt(addr string) (string, error) { return s.stream(addr, nil, newMBAP) }

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
func (s *Server) ListenUDP() (addr string, err error) { return s.datagrams(newMBAP) }

// ListenRTUOverUDP opens a line with RTU frames in datagrams.
func (s *Server) ListenRTUOverUDP() (addr string, err error) { return s.datagrams(newRTU) }

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

func (s *Server) accept(lis net.Listener, tc *tls.Config, frames func() framing) {
	for {
		c, err := lis.Accept()
		if err != nil {
			return
		}
		if tc != nil {
			c = tls.Server(c, tc)
		}
		l := newLink(s, c, frames())
		l.counted = true
		if !s.enter(l) {
			l.close()
			continue
		}
		s.ending.Go(l.run)
	}
}

// datagrams serves a socket.
func (s *Server) datagrams(frames func() framing) (string, error) {
	at := loopback
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
		l.serve(req)
	}
}

// maxPeers bounds the masters that a socket remembers.
const maxPeers = 256

// peer is one master at a UDP socket.
type peer struct {
	sock net.PacketConn
	addr net.Addr
}

func (p *peer) Read([]byte) (int, error)           { return 0, net.ErrClosed } // the socket reads for all
func (p *peer) Write(b []byte) (int, error)        { return p.sock.WriteTo(b, p.addr) }
func (p *peer) Close() error                       { return nil }
func (p *peer) SetReadDeadline(time.Time) error    { return nil }
func (p *peer) SetWriteDeadline(t time.Time) error { return p.sock.SetWriteDeadline(t) }
