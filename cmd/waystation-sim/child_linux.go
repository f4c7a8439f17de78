//go:build linux

package main

import "syscall"

// childAttr lets a child die with us, even by kill -9, and keeps Ctrl-C on the
// terminal from reaching it: we end it ourselves.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
