package peers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// port is a TCP port of 127.0.0.1 that stays ours while the peer is down.
//
// The socket is bound with SO_REUSEADDR and never listens. So the peer can
// listen on the port (it sets SO_REUSEADDR too), a client that dials while the
// peer is down is refused, and the kernel gives the port to nobody else: not to
// another listener on port 0, and not to an outgoing connection, which could
// otherwise connect to itself there and make a dead peer look alive.
type port struct {
	number int
	held   *os.File // closed by the garbage collector with the peer that owns it
}

// holdPort reserves the given port, or one of the system's choice for 0.
func holdPort(number int) (port, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return port{}, fmt.Errorf("open socket to hold a port: %w", err)
	}
	held := os.NewFile(uintptr(fd), "held port")
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return port{}, fmt.Errorf("set SO_REUSEADDR to hold a port: %w", err)
	}
	loopback := &syscall.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}
	if err := syscall.Bind(fd, loopback); err != nil {
		return port{}, fmt.Errorf("bind 127.0.0.1:%d: %w", number, err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return port{}, fmt.Errorf("read the held port: %w", err)
	}
	bound, ok := name.(*syscall.SockaddrInet4)
	if !ok {
		return port{}, fmt.Errorf("read the held port: unexpected address %T", name)
	}
	return port{number: bound.Port, held: held}, nil
}

func (p port) addr() string { return fmt.Sprintf("127.0.0.1:%d", p.number) }

// holdPorts reserves the n ports that dir/ports names, or n of the system's
// choice, and writes them there. So a peer started again on its folder is found
// at its old address, also by another test process.
func holdPorts(dir string, n int) ([]port, error) {
	path := filepath.Join(dir, "ports")
	wanted := make([]string, n)
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		wanted = strings.Fields(string(text))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read ports: %w", err)
	}
	if len(wanted) != n {
		return nil, fmt.Errorf("read ports of %s: got %d, want %d", path, len(wanted), n)
	}
	var ports []port
	var numbers []string
	for _, want := range wanted {
		number, err := strconv.Atoi("0" + want) // "" for a new folder
		if err != nil {
			return nil, fmt.Errorf("read ports of %s: %w", path, err)
		}
		p, err := holdPort(number)
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
		numbers = append(numbers, strconv.Itoa(p.number))
	}
	if err := os.WriteFile(path, []byte(strings.Join(numbers, " ")+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("write ports: %w", err)
	}
	return ports, nil
}
