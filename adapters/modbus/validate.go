package modbus

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// Bounds of the options.
const (
	maxPipeline   = 16
	maxBaud       = 4_000_000 // beyond what any port does
	maxUnitSerial = 247       // MODBUS over Serial Line V1.02 section 2.2
	maxUnitTCP    = 255       // MODBUS Messaging on TCP/IP V1.0b section 4.2
	minEvery      = 10 * time.Millisecond
	maxEvery      = 24 * time.Hour
	minTimeout    = 10 * time.Millisecond
	maxTimeout    = time.Minute
	maxPause      = time.Minute
	maxRetries    = 10
	maxRTSDelay   = 100 * time.Millisecond // RS485_MAX_RTS_DELAY of Linux
)

// bad notes a fault.
type bad func(key, hint, format string, args ...any)

// Validate implements gateway.SourceConfig.
func (c *Config) Validate() error {
	var errs []error
	note := func(key, hint, format string, args ...any) {
		errs = append(errs, &gateway.FieldError{Key: key, Msg: fmt.Sprintf(format, args...), Hint: hint})
	}
	c.checkURL(note)
	c.checkSerial(note)
	c.checkLine(note)
	if c.TLS != nil {
		errs = append(errs, c.TLS.Validate())
	}
	errs = append(errs, c.checkDevices(note)...)
	return errors.Join(errs...)
}

// family is what the scheme of a URL says of a line.
type family struct {
	port    bool // a serial port of this machine; else host and port
	framed  bool // frames of a serial line, whatever carries them: its units
	ascii   bool
	secured bool
	ids     bool // transaction identifiers on a stream: requests may overlap
}

// families are the schemes of lines.
func families() map[string]family {
	return map[string]family{
		"tcp": {ids: true}, "tls": {secured: true, ids: true}, "udp": {},
		"rtu": {port: true, framed: true}, "ascii": {port: true, framed: true, ascii: true},
		"rtu+tcp": {framed: true}, "ascii+tcp": {framed: true, ascii: true}, "rtu+udp": {framed: true},
	}
}

// family returns what the URL says of the line; false when it says nothing.
func (c *Config) family() (family, bool) {
	scheme, _, _ := strings.Cut(c.URL, ":")
	f, ok := families()[strings.ToLower(scheme)]
	return f, ok
}

// checkURL checks the address of the line.
func (c *Config) checkURL(note bad) {
	const schemes = "tcp, tls, udp, rtu, ascii, rtu+tcp, ascii+tcp or rtu+udp"
	f, known := c.family()
	u, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		note("url", "for example tcp://10.0.0.5:502 or rtu:///dev/ttyUSB0", "must not be empty")
		return
	case !known:
		hint := "the schemes are " + schemes
		switch {
		case strings.HasPrefix(c.URL, "/dev/"):
			hint = "write rtu://" + c.URL
		case !strings.ContainsAny(c.URL, "/ "):
			hint = fmt.Sprintf("write tcp://%s for Modbus/TCP; %s", c.URL, hint)
		case strings.HasPrefix(c.URL, "modbus"):
			hint = "write tcp:// for Modbus/TCP, rtu:// for a serial port"
		}
		note("url", hint, "%q is not the address of a line", c.URL)
		return
	case err != nil:
		note("url", "for example tcp://10.0.0.5:502", "%q is not an address", c.URL)
		return
	case u.User != nil:
		note("url", "Modbus knows no passwords", "must not carry credentials")
	case u.RawQuery != "" || u.Fragment != "":
		note("url", "options of a serial port stand under serial", "%q has something behind the address", c.URL)
	}
	if f.port {
		checkPort(c.URL, u, note)
		return
	}
	port, err := strconv.Atoi(portOf(u))
	switch {
	case u.Hostname() == "":
		note("url", "for example "+u.Scheme+"://10.0.0.5:502", "%q has no host", c.URL)
	case err != nil || port < 1 || port > 65535:
		hint := "Modbus/TCP has 502, with TLS 802"
		if f.framed {
			hint = "serial servers have their own: see how theirs is set"
		}
		note("url", hint, "%q needs a port, 1 to 65535", c.URL)
	case u.Path != "" && u.Path != "/":
		note("url", "units stand under unit or devices", "%q has something behind the port", c.URL)
	}
}

// portOf returns the port of an address: that of Modbus when it has none.
// Serial servers have no usual one.
func portOf(u *url.URL) string {
	switch {
	case u.Port() != "" || families()[strings.ToLower(u.Scheme)].framed:
		return u.Port()
	case strings.EqualFold(u.Scheme, "tls"):
		return "802"
	}
	return "502"
}

// checkPort checks the path of a serial port.
func checkPort(text string, u *url.URL, note bad) {
	switch {
	case u.Host != "":
		note("url", fmt.Sprintf("three slashes: %s:///%s%s", u.Scheme, u.Host, u.Path), "%q is not the path of a port", text)
	case !filepath.IsAbs(u.Path):
		note("url", "for example "+u.Scheme+":///dev/ttyUSB0", "%q is not the path of a port", text)
	}
}

// checkSerial checks the options of a serial line.
func (c *Config) checkSerial(note bad) {
	f, known := c.family()
	s := &c.Serial
	if known && !f.framed && *s != defaults().Serial {
		note("serial", "leave it out", "has no effect on a line over %s", strings.SplitN(c.URL, ":", 2)[0])
		return
	}
	if s.Baud < 1 || s.Baud > maxBaud {
		note("serial.baud", "9600 and 19200 are usual", "%d is out of range: 1 to %d", s.Baud, maxBaud)
	}
	switch {
	case s.DataBits != 7 && s.DataBits != 8:
		note("serial.data_bits", "", "%d is not possible: 7 or 8", s.DataBits)
	case s.DataBits == 7 && known && f.framed && !f.ascii:
		note("serial.data_bits", "7 is for ascii", "must be 8 for RTU")
	}
	if s.Parity != "none" && s.Parity != "even" && s.Parity != "odd" {
		note("serial.parity", "", "%q is not possible: none, even or odd", s.Parity)
	}
	if s.StopBits < 0 || s.StopBits > 2 {
		note("serial.stop_bits", "", "%d is not possible: 0, 1 or 2", s.StopBits)
	}
	if known && !f.port && s.RS485 != (RS485{}) {
		note("serial.rs485", "it is for ports of this machine: rtu or ascii", "has no effect here")
	}
	for key, d := range map[string]time.Duration{"delay_before_send": s.RS485.DelayBefore, "delay_after_send": s.RS485.DelayAfter} {
		if d < 0 || d > maxRTSDelay || d%time.Millisecond != 0 {
			note("serial.rs485."+key, "", "%s is not possible: whole milliseconds, at most %s", d, maxRTSDelay)
		}
	}
}

// checkLine checks what holds for the line as a whole.
func (c *Config) checkLine(note bad) {
	f, known := c.family()
	switch {
	case c.TLS != nil && known && !f.secured:
		note("tls", "use tls://", "has no effect on a line over %s", strings.SplitN(c.URL, ":", 2)[0])
	case c.Pipeline < 1 || c.Pipeline > maxPipeline:
		note("pipeline", "1 suits every device", "%d is out of range: 1 to %d", c.Pipeline, maxPipeline)
	case c.Pipeline > 1 && known && !f.ids:
		note("pipeline", "leave it out", "must be 1: answers on this line do not say to which request they belong")
	}
	if c.Connect < 100*time.Millisecond || c.Connect > 5*time.Minute {
		note("connect_timeout", "5s suits most", "%s is out of range: 100ms to 5m", c.Connect)
	}
	if c.Settle < 0 || c.Settle > maxPause {
		note("connect_pause", "", "%s is out of range: 0s to %s", c.Settle, maxPause)
	}
	if c.Pause < 0 || c.Pause > maxPause {
		note("pause", "", "%s is out of range: 0s to %s", c.Pause, maxPause)
	}
}

// Occupies implements gateway.Exclusive: the port or the address of the line.
func (c *Config) Occupies() string {
	u, err := url.Parse(c.URL)
	f, known := c.family()
	switch {
	case err != nil || !known:
		return ""
	case !f.port:
		return "the line to " + net.JoinHostPort(strings.ToLower(u.Hostname()), portOf(u))
	}
	path := filepath.Clean(u.Path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // the same port by another name
	}
	return "port " + path
}

// Alternative implements gateway.Exclusive.
func (c *Config) Alternative() string {
	return "list both devices under devices of one source: they share the line"
}
