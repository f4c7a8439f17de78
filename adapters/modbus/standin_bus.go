package modbus

import (
	"errors"
	"io/fs"

	"github.com/waystation-iot/waystation/gateway"
)

// Adapter stands in for the entry of the bus.
func Adapter(library fs.FS) gateway.Adapter {
	return gateway.Adapter{Type: "modbus", Doc: "Reads Modbus devices over TCP, TLS, UDP and serial lines.", Library: library, Schemes: schemes(), Browse: browse,
		NewSource: func() gateway.SourceConfig { return defaults() }}
}

// Source stands in for the source.
func (c *Config) Source(gateway.Env) (gateway.Source, error) {
	return nil, errors.New("not merged yet")
}
