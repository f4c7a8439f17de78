// Package adapters is the one list of adapters: a line here makes an adapter
// part of the daemon, of `describe` and `check`, and of the documentation.
package adapters

import (
	"github.com/waystation-iot/waystation/adapters/kafka"
	"github.com/waystation-iot/waystation/adapters/modbus"
	"github.com/waystation-iot/waystation/adapters/mqtt"
	"github.com/waystation-iot/waystation/configs/devices"
	"github.com/waystation-iot/waystation/gateway"
)

// All returns every adapter.
func All() []gateway.Adapter {
	return []gateway.Adapter{
		mqtt.Adapter(),
		modbus.Adapter(devices.Files()),
		kafka.Adapter(),
	}
}
