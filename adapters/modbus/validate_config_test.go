package modbus

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// okProfile is a small profile that is right.
func okProfile() *Profile {
	return &Profile{Groups: []Group{{Name: "g", Points: []Point{{Name: "p"}}}}}
}

// okConfig is a line with one device that is right.
func okConfig(url string) *Config {
	c := defaults()
	c.URL, c.Profile = url, okProfile()
	return c
}

// faultsOf returns the faults of c: key, message and hint of each.
func faultsOf(c *Config) []string {
	var out []string
	var walk func(error)
	walk = func(err error) {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				walk(e)
			}
		} else if fe, ok := errors.AsType[*gateway.FieldError](err); ok {
			out = append(out, fe.Error())
		} else if err != nil {
			out = append(out, "no field error: "+err.Error())
		}
	}
	walk(c.Validate())
	return out
}

func TestLinesThatAreRight(t *testing.T) {
	for _, url := range []string{"tcp://10.0.0.5:502", "tcp://plc", "TCP://plc:1502/", "tls://plc:802", "udp://[fe80::1]:502", "rtu:///dev/ttyUSB0",
		"ascii:///dev/serial/by-id/usb-FTDI-if00-port0", "rtu+tcp://10.0.0.5:4001", "ascii+tcp://moxa:4001", "rtu+udp://moxa:4001"} {
		if got := faultsOf(okConfig(url)); got != nil {
			t.Errorf("%s: %v", url, got)
		}
	}
}

func TestURLFaults(t *testing.T) {
	for url, want := range map[string]string{
		"":                       "url: must not be empty (for example tcp://10.0.0.5:502",
		"10.0.0.5:502":           `"10.0.0.5:502" is not the address of a line (write tcp://10.0.0.5:502 for Modbus/TCP; the schemes are tcp,`,
		"/dev/ttyUSB0":           "(write rtu:///dev/ttyUSB0)",
		"modbus://plc":           "(write tcp:// for Modbus/TCP, rtu:// for a serial port)",
		"tcp://%zz":              "is not an address",
		"tcp://u:p@plc:502":      "must not carry credentials",
		"tcp://plc:502?a=b":      "has something behind the address",
		"tcp://plc:502/1":        "has something behind the port (units stand under unit or devices)",
		"tcp://plc:0":            "needs a port, 1 to 65535",
		"tcp://plc:70000":        "needs a port, 1 to 65535",
		"tcp://:502":             "has no host",
		"rtu+tcp://plc":          "needs a port, 1 to 65535 (serial servers have their own",
		"rtu://dev/ttyUSB0":      "(three slashes: rtu:///dev/ttyUSB0)",
		"rtu:ttyUSB0":            "is not the path of a port",
		"rtu:///dev/tty?baud=96": "(options of a serial port stand under serial)",
	} {
		if got := faultsOf(okConfig(url)); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%s: want %s, got %v", url, want, got)
		}
	}
}

func TestOptionFaults(t *testing.T) {
	many := 11
	tests := []struct {
		name, url, want string
		change          func(c *Config)
	}{
		{"baud", "rtu:///dev/tty", "serial.baud: 0 is out of range: 1 to 4000000", func(c *Config) { c.Serial.Baud = 0 }},
		{"data bits", "ascii:///dev/tty", "serial.data_bits: 6 is not possible: 7 or 8", func(c *Config) { c.Serial.DataBits = 6 }},
		{"data bits of RTU", "rtu+tcp://h:1", "serial.data_bits: must be 8 for RTU (7 is for ascii)", func(c *Config) { c.Serial.DataBits = 7 }},
		{"parity", "rtu:///dev/tty", `serial.parity: "mark" is not possible`, func(c *Config) { c.Serial.Parity = "mark" }},
		{"stop bits", "rtu:///dev/tty", "serial.stop_bits: 3 is not possible", func(c *Config) { c.Serial.StopBits = 3 }},
		{"rs485 elsewhere", "rtu+tcp://h:1", "serial.rs485: has no effect here", func(c *Config) { c.Serial.RS485.Enabled = true }},
		{"rs485 delay", "rtu:///dev/tty", "serial.rs485.delay_before_send: 101ms is not possible", func(c *Config) { c.Serial.RS485.DelayBefore = 101 * time.Millisecond }},
		{"rs485 fraction", "rtu:///dev/tty", "serial.rs485.delay_after_send: 1.5ms is not possible", func(c *Config) { c.Serial.RS485.DelayAfter = 1500 * time.Microsecond }},
		{"serial of TCP", "tcp://h", "serial: has no effect on a line over tcp (leave it out)", func(c *Config) { c.Serial.Baud = 9600 }},
		{"tls of TCP", "tcp://h", "tls: has no effect on a line over tcp (use tls://)", func(c *Config) { c.TLS = &gateway.TLS{} }},
		{"tls files", "tls://h", "tls.cert: cert and key must be given together", func(c *Config) { c.TLS = &gateway.TLS{Cert: "x"} }},
		{"pipeline", "tcp://h", "pipeline: 17 is out of range: 1 to 16", func(c *Config) { c.Pipeline = 17 }},
		{"pipeline of UDP", "udp://h", "pipeline: must be 1", func(c *Config) { c.Pipeline = 2 }},
		{"connect timeout", "tcp://h", "connect_timeout: 0s is out of range", func(c *Config) { c.Connect = 0 }},
		{"connect pause", "tcp://h", "connect_pause: 2m0s is out of range", func(c *Config) { c.Settle = 2 * time.Minute }},
		{"pause", "tcp://h", "pause: -1s is out of range", func(c *Config) { c.Pause = -time.Second }},
		{"unit of a serial line", "rtu:///dev/tty", "unit: 248 is not a unit of a serial line: 1 to 247", func(c *Config) { c.Unit = 248 }},
		{"unit", "tcp://h", "unit: 256 is not a unit", func(c *Config) { c.Unit = 256 }},
		{"every", "tcp://h", "every: 9ms is out of range: 10ms to 24h", func(c *Config) { c.Every = 9 * time.Millisecond }},
		{"timeout", "tcp://h", "timeout: 1m1s is out of range", func(c *Config) { c.Timeout = 61 * time.Second }},
		{"retries", "tcp://h", "retries: 11 is out of range: 0 to 10", func(c *Config) { c.Retries = &many }},
		{"report", "tcp://h", `report: "never" is not possible`, func(c *Config) { c.Report = "never" }},
		{"heartbeat", "tcp://h", "heartbeat: 1ms is out of range", func(c *Config) { c.Report, c.Heartbeat = "change", time.Millisecond }},
		{"heartbeat for nothing", "tcp://h", "heartbeat: has no effect with report poll", func(c *Config) { c.Heartbeat = time.Minute }},
		{"no profile", "tcp://h", "profile: must not be empty: it says what is read", func(c *Config) { c.Profile = nil }},
		{"empty profile", "tcp://h", "profile.groups: must not be empty", func(c *Config) { c.Profile = &Profile{} }},
		{"no profile of a device", "tcp://h", "devices[1].profile: must not be empty", func(c *Config) {
			c.Devices = []Device{{Name: "a", DeviceOptions: DeviceOptions{Profile: c.Profile}}, {Name: "b", DeviceOptions: DeviceOptions{Unit: 2}}}
			c.Profile = nil
		}},
		{"empty profile of two", "tcp://h", "devices[0].profile.groups: must not be empty", func(c *Config) {
			p := &Profile{}
			c.Devices = []Device{{Name: "a", DeviceOptions: DeviceOptions{Profile: p}}, {Name: "b", DeviceOptions: DeviceOptions{Unit: 2, Profile: p}}}
		}},
		{"no name", "tcp://h", "devices[0].name: must not be empty", func(c *Config) { c.Devices = []Device{{}} }},
		{"name", "tcp://h", `devices[0].name: "Pump 1" is not the name of a device`, func(c *Config) { c.Devices = []Device{{Name: "Pump 1"}} }},
		{"name twice", "tcp://h", `devices[1].name: name "a" is taken by device 1`, func(c *Config) {
			c.Devices = []Device{{Name: "a"}, {Name: "a", DeviceOptions: DeviceOptions{Unit: 2}}}
		}},
		{"unit twice", "tcp://h", `devices[1].unit: unit 1 is taken by device "a"`, func(c *Config) { c.Devices = []Device{{Name: "a"}, {Name: "b"}} }},
		{"tags", "tcp://h", "devices[0].tags: a tag needs a name", func(c *Config) { c.Devices = []Device{{Name: "a", Tags: map[string]string{"": "x"}}} }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := okConfig(tc.url)
			tc.change(c)
			if got := faultsOf(c); len(got) != 1 || !strings.Contains(got[0], tc.want) {
				t.Errorf("want %s, got %v", tc.want, got)
			}
		})
	}
}

// TestDevices fills in what devices leave out: from the line, then the defaults.
func TestDevices(t *testing.T) {
	c := okConfig("rtu:///dev/tty")
	one, none := c.devices("engine"), 0
	r := 1
	want := DeviceOptions{Unit: 1, Profile: c.Profile, Every: time.Second, Timeout: time.Second, Retries: &r, Report: "poll", Heartbeat: 10 * time.Minute}
	if len(one) != 1 || one[0].Name != "engine" || !reflect.DeepEqual(one[0].DeviceOptions, want) {
		t.Errorf("got %+v", one)
	}
	c.Every, c.Retries, c.Report, c.Identify = 5*time.Second, &none, "change", true
	other := okProfile()
	c.Devices = []Device{{Name: "a", DeviceOptions: DeviceOptions{Unit: 3}}, {Name: "b", DeviceOptions: DeviceOptions{Unit: 4, Every: time.Minute, Profile: other, Report: "poll"}, Tags: map[string]string{"k": "v"}}}
	two := c.devices("engine")
	a, b := two[0], two[1]
	if a.Name != "a" || a.Unit != 3 || a.Every != 5*time.Second || *a.Retries != 0 || a.Report != "change" || !a.Identify || a.Profile != c.Profile {
		t.Errorf("got %+v", a)
	}
	if b.Unit != 4 || b.Every != time.Minute || b.Profile != other || b.Report != "poll" || b.Tags["k"] != "v" {
		t.Errorf("got %+v", b)
	}
}

// TestOccupies tells lines apart, whatever they are called.
func TestOccupies(t *testing.T) {
	dir := t.TempDir()
	port := filepath.Join(dir, "ttyUSB0")
	if err := errors.Join(os.WriteFile(port, nil, 0o600), os.Symlink(port, filepath.Join(dir, "by-id"))); err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(port)
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"tcp://PLC:502": "the line to plc:502", "tcp://plc": "the line to plc:502", "tls://plc": "the line to plc:802", "udp://[::1]:5": "the line to [::1]:5",
		"rtu+tcp://moxa:4001": "the line to moxa:4001", "rtu:///dev/none/../tty9": "port /dev/tty9",
		"rtu://" + port: "port " + real, "ascii://" + dir + "/by-id": "port " + real, "what": "",
	} {
		if got := okConfig(url).Occupies(); got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
	if a := okConfig("").Alternative(); !strings.Contains(a, "devices") {
		t.Error(a)
	}
}
