//go:build failpoint

package kafka

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// newFailpoint returns what kills this process, with SIGKILL, when it comes to
// the step that WAYSTATION_TEST_FAILPOINT names for the n-th time:
// "<point>:<n>", such as "end-after:3". It exists only in a binary built with
// -tags failpoint. docs/testing-peers.md lists the points.
func newFailpoint() func(point string) {
	name, count, ok := strings.Cut(os.Getenv("WAYSTATION_TEST_FAILPOINT"), ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if !ok || err != nil {
		return nil
	}
	var seen atomic.Int64
	return func(point string) {
		if point == name && seen.Add(1) == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}
}
