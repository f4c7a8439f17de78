// Package devices holds the profiles of devices that come with the gateway:
// register maps as data, one YAML file each, by the maps that their makers
// publish. docs/modbus-profiles.md tells how one is written.
package devices

import (
	"embed"
	"io/fs"
)

//go:embed *.yaml
var files embed.FS

// Files returns the profiles: NAME.yaml is builtin:NAME of a configuration.
func Files() fs.FS { return files }
