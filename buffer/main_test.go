package buffer

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killEnv); dir != "" { // this is the writer of TestKill
		fmt.Fprintln(os.Stderr, killWriter(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
