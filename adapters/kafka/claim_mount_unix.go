//go:build unix

package kafka

import (
	"errors"
	"os"
	"syscall"
)

// sameDevice reports whether two paths are on one file system.
func sameDevice(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	s, ok1 := x.Sys().(*syscall.Stat_t)
	t, ok2 := y.Sys().(*syscall.Stat_t)
	if !ok1 || !ok2 {
		return false, errors.New("the system does not say on which file system it is")
	}
	return s.Dev == t.Dev, nil
}
