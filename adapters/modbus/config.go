package modbus

import (
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// Config says how to reach one line and which devices are on it.
type Config struct {
	URL     string        `yaml:"url" doc:"Line: tcp://host:502, tls://host:802, udp://host:502, rtu:///dev/ttyUSB0 or ascii:///dev/ttyUSB0 (best by its stable name below /dev/serial/by-id), rtu+tcp://host:port, ascii+tcp://host:port, rtu+udp://host:port." example:"tcp://10.0.0.5:502"`
	Serial  Serial        `yaml:"serial" doc:"Options of a serial line, also of the one behind rtu+tcp, ascii+tcp and rtu+udp: its silences are kept."`
	TLS     *gateway.TLS  `yaml:"tls" doc:"Options of a tls:// line (Modbus/TCP Security)."`
	Connect time.Duration `yaml:"connect_timeout" doc:"Limit for opening the line."`
	Settle  time.Duration `yaml:"connect_pause" doc:"Time to leave a device alone after the line was opened."`
	Pause   time.Duration `yaml:"pause" doc:"Least time between an answer and the next request. A serial line keeps the silence of its standard in any case."`
	// Pipeline is for lines with transaction identifiers.
	Pipeline int `yaml:"pipeline" doc:"Requests that may be under way at once, on tcp and tls lines to devices that allow it."`

	DeviceOptions `yaml:",inline"`
	Devices       []Device `yaml:"devices" doc:"Devices on this line. Left out: one device, with the name of the source and the options given here; else these options are the defaults of the devices."`
}

// Serial is how a serial line is set.
type Serial struct {
	Baud     int    `yaml:"baud" doc:"Bits per second." example:"9600"`
	DataBits int    `yaml:"data_bits" doc:"Bits of a character: 8 for RTU, 7 or 8 for ASCII." enum:"7,8"`
	Parity   string `yaml:"parity" doc:"Parity. The standard wants even; many devices come with none." enum:"none,even,odd"`
	StopBits int    `yaml:"stop_bits" doc:"Stop bits; 0: 1 with parity, 2 without, as the standard wants." enum:"0,1,2"`
	RS485    RS485  `yaml:"rs485" doc:"Direction of a half-duplex line by the driver of the port (Linux). Not needed for adapters that do it themselves, as most USB ones do."`
}

// RS485 is how the driver of a port switches the direction of the line
// (struct serial_rs485 of Linux).
type RS485 struct {
	Enabled     bool          `yaml:"enabled" doc:"Whether the driver switches the direction with RTS."`
	RTSLow      bool          `yaml:"rts_low_on_send" doc:"Whether RTS is low while sending, for transceivers wired the other way round."`
	DelayBefore time.Duration `yaml:"delay_before_send" doc:"Time between RTS and the first character, whole milliseconds."`
	DelayAfter  time.Duration `yaml:"delay_after_send" doc:"Time between the last character and RTS, whole milliseconds."`
	ReceiveOwn  bool          `yaml:"receive_own" doc:"Whether the port hears what it sends; it is then dropped."`
}

// Device is one device of a line with several.
type Device struct {
	Name          string `yaml:"name" doc:"Name of the device: the key of its records. Unique on the line; 1 to 64 of a-z 0-9 _ - ." example:"pump-1"`
	DeviceOptions `yaml:",inline"`
	Tags          map[string]string `yaml:"tags" doc:"Tags put on every record of the device, besides those of the source."`
}

// DeviceOptions are how one device is read.
type DeviceOptions struct {
	Unit      int           `yaml:"unit" doc:"Unit identifier (slave address): 1 to 247, on TCP also 255 for the device itself. Default 1." example:"1"`
	Profile   *Profile      `yaml:"profile" file:"profile" or:"devices" doc:"What is read: a file with a profile (YAML, or a CSV list of registers), relative to this one; builtin:NAME for one that comes with the gateway; or the profile itself." example:"builtin:sdm630"`
	Every     time.Duration `yaml:"every" doc:"Time between two polls of a group that does not say it. Default 1s." example:"1s"`
	Timeout   time.Duration `yaml:"timeout" doc:"Limit for an answer, from the end of the request to the end of the answer. On a serial line the time that the answer takes at the baud rate comes on top. Default 1s."`
	Retries   *int          `yaml:"retries" doc:"How often a request without an answer is made again before the poll is given up. Default 1." example:"1"`
	Report    string        `yaml:"report" doc:"When a poll becomes a record: every poll; when a value has changed (by more than its deadband); or then, with the changed values alone. Default poll." enum:"poll,change,changed"`
	Heartbeat time.Duration `yaml:"heartbeat" doc:"With report change or changed: time after which a whole record is made although nothing has changed. Default 10m."`
	Identify  bool          `yaml:"identify" doc:"Whether the device is asked who it is (function 43/14) when the line opens; vendor, product and revision become tags."`
}

// Defaults of what DeviceOptions leave out.
const (
	defaultUnit      = 1
	defaultEvery     = time.Second
	defaultTimeout   = time.Second
	defaultRetries   = 1
	defaultReport    = "poll"
	defaultHeartbeat = 10 * time.Minute
)

// defaults returns the default configuration.
func defaults() *Config {
	return &Config{Connect: 5 * time.Second, Pipeline: 1, Serial: Serial{Baud: 19200, DataBits: 8, Parity: "even"}}
}
