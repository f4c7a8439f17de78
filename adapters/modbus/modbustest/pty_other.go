//go:build !linux

package modbustest

import (
	"errors"
	"os"
	"time"
)

type terminal struct {
	*os.File
	path string
}

func openTerminal() (*terminal, error) {
	return nil, errors.New("simulated serial lines need Linux (do this: use a line over TCP)")
}

func (t *terminal) waiting() bool { return false }

func nap(d time.Duration) { time.Sleep(d) }
