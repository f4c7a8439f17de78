package modbustest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// openPort opens a line as a master does.
func openPort(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}
