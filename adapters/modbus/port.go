package modbus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"go.bug.st/serial"
)

// modeOf translates the options of a line.
func modeOf(s *Serial) *serial.Mode {
	m := &serial.Mode{BaudRate: s.Baud, DataBits: s.DataBits, StopBits: serial.OneStopBit}
	switch s.Parity {
	case "even":
		m.Parity = serial.EvenParity
	case "odd":
		m.Parity = serial.OddParity
	}
	if s.stopBits() == 2 {
		m.StopBits = serial.TwoStopBits
	}
	return m
}

var errInUse = errors.New("another program uses it")

var errNotSerial = errors.New("it is not a serial port, or cannot be set as serial says")

// codeOf translates what the library says.
func codeOf(err error) error {
	var pe *serial.PortError
	if !errors.As(err, &pe) {
		return err
	}
	switch pe.Code() {
	case serial.PortBusy:
		return syscall.EBUSY
	case serial.PermissionDenied:
		return syscall.EACCES
	case serial.PortNotFound:
		return syscall.ENOENT
	case serial.InvalidSerialPort:
		return errNotSerial
	}
	return err
}

// openError says what a person can do about a port that does not open.
func openError(path string, err error) error {
	switch err = codeOf(err); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("open %s: there is no such port (%s)", path, otherPorts("/dev"))
	case errors.Is(err, fs.ErrPermission):
		group := groupOf(path)
		return fmt.Errorf("open %s: permission denied (the user of the gateway must be in the group %s: usermod -aG %s waystation, then start it again)", path, group, group)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("open %s: %w (%s)", path, errInUse, holders("/proc", path))
	case isGone(err):
		return fmt.Errorf("open %s: %w (there is no hardware behind it)", path, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// rs485Error says why the direction cannot be switched.
func rs485Error(path string, err error) error {
	if errors.Is(err, syscall.ENOTTY) || errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("set RS-485 on %s: the driver of this port cannot switch the direction: %w (most adapters switch it themselves: leave out serial.rs485)", path, err)
	}
	return fmt.Errorf("set RS-485 on %s: %w (leave out serial.rs485 where the adapter switches the direction itself)", path, err)
}

// maxListed bounds the ports and programs that an error names.
const maxListed = 8

// portNames are the names that drivers give to serial ports.
var portNames = [...]string{"ttyUSB*", "ttyACM*", "ttyAMA*", "ttyS[0-9]*", "ttymxc*", "ttyO[0-9]*", "ttySC*", "ttyTHS*"}

// otherPorts lists the ports there are: by their stable names and, without one,
// by those of their drivers.
func otherPorts(dev string) string {
	names, _ := filepath.Glob(filepath.Join(dev, "serial", "by-id", "*"))
	stable := map[string]bool{}
	for _, n := range names {
		if to, err := filepath.EvalSymlinks(n); err == nil {
			stable[to] = true
		}
	}
	for _, pattern := range portNames {
		found, _ := filepath.Glob(filepath.Join(dev, pattern))
		for _, n := range found {
			if !stable[n] && !isPlaceholder(n) {
				names = append(names, n)
			}
		}
	}
	if len(names) == 0 {
		return "there is no serial port at all: is the adapter plugged in, does dmesg know it?"
	}
	return "there are: " + list(names)
}

// isPlaceholder reports whether n is one of the many ttyS of a PC without a
// port behind it.
func isPlaceholder(n string) bool {
	kind, err := os.ReadFile(filepath.Join("/sys/class/tty", filepath.Base(n), "type"))
	return err == nil && strings.TrimSpace(string(kind)) == "0" // PORT_UNKNOWN of linux/serial.h
}

func list(names []string) string {
	more := ""
	if len(names) > maxListed {
		more = fmt.Sprintf(" and %d more", len(names)-maxListed)
		names = names[:maxListed]
	}
	return strings.Join(names, ", ") + more
}

// groupOf returns the group that may use a port: dialout on Debian and its
// like, uucp on others.
func groupOf(path string) string {
	const usual = "dialout"
	info, err := os.Stat(path)
	if err != nil {
		return usual
	}
	gid, ok := gidOf(info)
	if !ok || gid == 0 {
		return usual
	}
	g, err := user.LookupGroupId(strconv.Itoa(gid))
	if err != nil {
		return usual
	}
	return g.Name
}

// holders names the programs that have a port open, as far as this user may see.
func holders(proc, path string) string {
	const unknown = "see who with: fuser "
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return unknown + path
	}
	links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	var names []string
	for _, l := range links {
		to, err := os.Readlink(l)
		if err != nil || to != target {
			continue
		}
		process := filepath.Dir(filepath.Dir(l))
		if filepath.Base(process) == strconv.Itoa(os.Getpid()) {
			process = filepath.Join(proc, "self")
		}
		name, _ := os.ReadFile(filepath.Join(process, "comm"))
		n := fmt.Sprintf("%s, process %s", strings.TrimSpace(string(name)), filepath.Base(process))
		if filepath.Base(process) == "self" {
			n = "another line of this gateway"
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return unknown + path
	}
	return "by " + list(names)
}
