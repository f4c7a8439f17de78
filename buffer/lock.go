package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const lockName = "lock"

// lockDir takes the directory for this process. On a read-only file system,
// where nobody can write, the lock file is only opened when it exists.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if classify(err) != nil {
		if f, err = os.Open(path); errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open queue: %w", explainDir(dir, err))
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(path)
		_ = f.Close()
		return nil, fmt.Errorf("open queue %s: %w (pid %s): stop it, or give this gateway a directory of its own",
			dir, ErrInUse, strings.TrimSpace(string(pid)))
	}
	if f.Truncate(0) == nil { // who holds it, for the message above; no harm when it cannot be written
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}
