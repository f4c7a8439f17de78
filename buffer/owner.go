package buffer

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// shelfName is the file of the dead letters.
const shelfName = "dead-letters.db"

// lockOwner tells whether a process has the queue in dir open, without trying
// the lock: that could keep a gateway from starting at just that moment. It
// reads the kernel's list of locks, proc(5); where that is not to be had, or
// the process belongs to another container, nobody is found.
func lockOwner(dir string) (held bool, pid int) {
	path := filepath.Join(dir, lockName)
	st, err := os.Stat(path)
	if err != nil {
		return false, 0
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return false, 0
	}
	text, _ := os.ReadFile(path)
	written, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	f, err := os.Open("/proc/locks")
	if err != nil {
		return false, 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if p, ok := heldBy(lines.Text(), sys, written); ok {
			return true, p
		}
	}
	return false, 0
}

// heldBy reads one line of /proc/locks, such as
// "1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF". On file systems whose
// device is not the one stat tells (overlays), the pid in the file decides.
func heldBy(line string, st *syscall.Stat_t, written int) (pid int, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[1] != "FLOCK" {
		return 0, false
	}
	id := strings.Split(f[5], ":")
	pid, err := strconv.Atoi(f[4])
	if err != nil || len(id) != 3 || id[2] != strconv.FormatUint(uint64(st.Ino), 10) {
		return 0, false
	}
	major, _ := strconv.ParseUint(id[0], 16, 32)
	minor, _ := strconv.ParseUint(id[1], 16, 32)
	dev := uint64(st.Dev) //nolint:unconvert // it is not 64 bits everywhere
	same := major == (dev>>8&0xfff|dev>>32&^0xfff) && minor == (dev&0xff|dev>>12&^0xff)
	return pid, same || pid == written && written > 0
}
