package modbus

import (
	"io/fs"

	"github.com/waystation-iot/waystation/gateway"
)

// Adapter returns the entry for the list of adapters. library holds the
// profiles that come with the gateway.
func Adapter(library fs.FS) gateway.Adapter {
	return gateway.Adapter{Type: "modbus", Doc: "Reads Modbus devices: TCP, TLS, UDP, RTU and ASCII, on a line of their own or many on one.",
		NewSource: func() gateway.SourceConfig { return defaults() }, Library: library,
		Schemes: schemes(), Browse: browse}
}

// Source implements gateway.SourceConfig.
func (c *Config) Source(env gateway.Env) (gateway.Source, error) { return newSource(c, env) }
