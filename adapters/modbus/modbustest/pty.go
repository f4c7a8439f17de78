package modbustest

import (
	"fmt"
	"os"
	"path/filepath"
)

// The modes of a serial line.
const (
	RTU   = "rtu"
	ASCII = "ascii"
)

// PTYOptions are how a pseudo terminal behaves.
type PTYOptions struct {
	Mode string // RTU, which is the default, or ASCII
	// Baud makes it keep the time of a line with that many bits per second,
	// where who speaks at the same time is not understood. 0: as fast as it goes.
	Baud int
	Link string // path of the symbolic link to the port; "" makes one in a temporary folder
	Echo bool   // the port hears all that it sends, as some RS-485 adapters do
}

// PTY is a serial line on a pseudo terminal.
type PTY struct {
	// Path is a symbolic link to the port, as /dev/serial/by-id has them for
	// adapters. It is gone while the line is pulled.
	Path string

	l *listener
}

// Pull takes the adapter out: the port hangs up and its path is gone.
func (p *PTY) Pull() { p.l.unplug() }

// Plug puts it back, as another port under the same path.
func (p *PTY) Plug() error { return p.l.plug() }

// ListenPTY opens a serial line on a pseudo terminal (Linux).
func (s *Server) ListenPTY(o PTYOptions) (*PTY, error) {
	frames, bits := newRTU, rtuBits
	switch o.Mode {
	case "", RTU:
	case ASCII:
		frames, bits = newASCII, asciiBits
	default:
		return nil, fmt.Errorf("open a pty in mode %q: not %s or %s", o.Mode, RTU, ASCII)
	}
	l := &listener{}
	if o.Link == "" {
		dir, err := os.MkdirTemp("", "modbustest")
		if err != nil {
			return nil, fmt.Errorf("open a pty: %w", err)
		}
		o.Link = filepath.Join(dir, "usb-Simulated_RS485-if00-port0")
		l.remove = func() { _ = os.RemoveAll(dir) }
	}
	s.terminals(l, o, frames, bits)
	if err := s.add(l); err != nil {
		l.unplug()
		if l.remove != nil {
			l.remove()
		}
		return nil, err
	}
	return &PTY{Path: o.Link, l: l}, nil
}

// terminals makes l open a new pseudo terminal each time.
func (s *Server) terminals(l *listener, o PTYOptions, frames func() framing, bits int) {
	var k *link
	l.open = func() error {
		t, err := openTerminal()
		if err != nil {
			return fmt.Errorf("open a pty: %w", err)
		}
		if info, err := os.Lstat(o.Link); err == nil && info.Mode()&os.ModeSymlink != 0 {
			_ = os.Remove(o.Link) // of a process that was killed
		}
		if err := os.Symlink(t.path, o.Link); err != nil {
			_ = t.Close()
			return fmt.Errorf("open a pty: %w", err)
		}
		k = newLink(s, t, frames())
		k.echo, k.ended = o.Echo, func() { _ = os.Remove(o.Link) }
		if o.Baud > 0 {
			k.pace = newPace(o.Baud, bits, t.waiting)
		}
		if !s.enter(k) {
			k.close()
			return errClosed
		}
		s.ending.Go(k.run)
		return nil
	}
	l.shut = func() { k.close() }
	l.gone = func() bool {
		select {
		case <-k.done:
			return true
		default:
			return false
		}
	}
}
