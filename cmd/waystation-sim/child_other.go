//go:build !linux

package main

import "syscall"

// childAttr is nothing where a child cannot be made to die with us.
func childAttr() *syscall.SysProcAttr { return nil }
