package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is the released version; development builds tell their commit.
const version = "0.1.0-dev"

// versionLine is what `waystation version` prints.
func versionLine() string {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				commit = " commit " + s.Value[:12]
			}
		}
	}
	return fmt.Sprintf("waystation %s%s %s %s/%s", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
