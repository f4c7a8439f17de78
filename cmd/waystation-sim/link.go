package main

import (
	"fmt"
	"net"
	"sync"
)

// CutMode says how a link is cut.
type CutMode string

// The ways to cut a link.
const (
	CutRefuse CutMode = "refuse" // open connections are reset, new ones too: the far side is down
	CutHole   CutMode = "hole"   // every byte vanishes and nobody is told: the far side is out of reach
)

// Link is the only way to a server and can be cut. While it is cut with
// CutHole, connections stay open and what is sent over them in either
// direction is swallowed; a connection that lost bytes is reset when the link
// comes back, because its stream has a hole then.
type Link struct {
	mu      sync.Mutex // guards all below
	mode    CutMode    // "" while the link is up
	conns   map[*linkConn]bool
	cuts    int
	refused int64 // connections reset because the link was cut
}

func newLink() *Link { return &Link{conns: map[*linkConn]bool{}} }

// LinkState is what a Link has done and is doing.
type LinkState struct {
	Cut         CutMode `json:"cut,omitempty"` // "" while the link is up
	Cuts        int     `json:"cuts"`
	Refused     int64   `json:"refused"` // connections reset by cuts
	Connections int     `json:"connections"`
}

// Cut cuts the link until Restore. A second Cut changes the mode.
func (l *Link) Cut(mode CutMode) error {
	if mode != CutRefuse && mode != CutHole {
		return fmt.Errorf("cut link: mode %q is neither %q nor %q", mode, CutRefuse, CutHole)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mode == "" {
		l.cuts++
	}
	l.mode = mode
	if mode == CutRefuse {
		l.resetLocked(func(*linkConn) bool { return true })
	}
	return nil
}

// Restore brings the link back.
func (l *Link) Restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mode = ""
	l.resetLocked(func(c *linkConn) bool { return c.holed })
}

// State returns the state of the link.
func (l *Link) State() LinkState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return LinkState{Cut: l.mode, Cuts: l.cuts, Refused: l.refused, Connections: len(l.conns)}
}

func (l *Link) resetLocked(which func(*linkConn) bool) {
	for c := range l.conns {
		if which(c) {
			l.refused++
			reset(c.Conn)
			delete(l.conns, c)
		}
	}
}

// reset closes a connection so that the peer sees an error, not an end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // the close tells the peer all the same
	}
	_ = c.Close() // nothing to do about a connection that is thrown away
}

// Wrap puts the link before a listener.
func (l *Link) Wrap(ln net.Listener) net.Listener { return &linkListener{Listener: ln, link: l} }

type linkListener struct {
	net.Listener
	link *Link
}

// Accept returns the next connection that comes through.
func (ll *linkListener) Accept() (net.Conn, error) {
	for {
		conn, err := ll.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := ll.link.admit(conn); c != nil {
			return c, nil
		}
	}
}

func (l *Link) admit(conn net.Conn) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mode == CutRefuse {
		l.refused++
		reset(conn)
		return nil
	}
	c := &linkConn{Conn: conn, link: l}
	l.conns[c] = true
	return c
}

// swallow reports whether bytes that pass now are lost, and remembers that
// this connection lost some.
func (l *Link) swallow(c *linkConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mode == CutHole {
		c.holed = true
	}
	return c.holed
}

// linkConn is the server's end of a connection through a Link.
type linkConn struct {
	net.Conn
	link  *Link
	holed bool // lost bytes; guarded by link.mu
}

func (c *linkConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if n > 0 && c.link.swallow(c) {
			n = 0
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *linkConn) Write(p []byte) (int, error) {
	if len(p) > 0 && c.link.swallow(c) {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *linkConn) Close() error {
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
	return c.Conn.Close()
}
