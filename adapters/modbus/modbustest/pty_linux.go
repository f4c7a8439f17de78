package modbustest

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal, seen from its master's end. It keeps the
// slave's end open, so that a master that closes and opens its port finds the
// line as it was.
type terminal struct {
	*os.File
	slave *os.File
	path  string // of the slave's end
}

func openTerminal() (*terminal, error) {
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t := &terminal{File: f}
	err = t.control(f, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		t.path = fmt.Sprintf("/dev/pts/%d", n)
		return err
	})
	if err == nil {
		t.slave, err = os.OpenFile(t.path, os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err == nil {
		err = t.control(t.slave, raw)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// control calls do with the descriptor of f, without making it a blocking one
// as Fd would.
func (t *terminal) control(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := c.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// raw lets every byte through as it is (cfmakeraw of termios(3)).
func raw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// Close hangs up the line.
func (t *terminal) Close() error {
	err := t.File.Close()
	if t.slave != nil {
		err = errors.Join(err, t.slave.Close())
	}
	return err
}

// patience is how long a master may not read before bytes are lost, as they are
// in a port that overruns.
const patience = 5 * time.Millisecond

// Write never fails because nobody listens.
func (t *terminal) Write(b []byte) (int, error) {
	_ = t.SetWriteDeadline(time.Now().Add(patience))
	n, err := t.File.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return len(b), nil
	}
	return n, err
}

// waiting reports whether there are bytes to read.
func (t *terminal) waiting() bool {
	ready := false
	_ = t.control(t.File, func(fd int) error {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		ready = n > 0 && fds[0].Revents&unix.POLLIN != 0
		return err
	})
	return ready
}

// nap sleeps without the runtime's timers.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil)
}
