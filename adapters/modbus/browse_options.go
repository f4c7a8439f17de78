package modbus

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// browseOptions are what --set may say of browsing.
type browseOptions struct {
	units    []int // in the order in which they are asked
	given    bool  // units were given
	from, to int   // addresses
	tables   []string
	rate     float64 // requests in a second
	requests int     // to one unit, at most
	timeout  time.Duration
	wait     time.Duration // between two reads of a register, at least
}

// browseSchemes are the schemes of URLs that can be browsed, and those of the
// lines they stand for.
func browseSchemes() map[string]string {
	return map[string]string{
		"modbus": "tcp", "modbus+tcp": "tcp", "modbus+tls": "tls", "modbus+udp": "udp",
		"modbus+rtu": "rtu", "modbus+ascii": "ascii",
		"modbus+rtu+tcp": "rtu+tcp", "modbus+ascii+tcp": "ascii+tcp", "modbus+rtu+udp": "rtu+udp",
	}
}

// schemes lists the schemes for Adapter.Schemes.
func schemes() []string { return slices.Sorted(maps.Keys(browseSchemes())) }

// browseConfig makes the line of a URL such as modbus://host or
// modbus+rtu:///dev/ttyUSB0?baud=9600&parity=none.
func browseConfig(from string, set map[string]string) (*Config, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", from, err)
	}
	scheme, ok := browseSchemes()[u.Scheme]
	if !ok {
		return nil, fmt.Errorf("browse %s: the kind %q is not one of %s", from, u.Scheme, strings.Join(schemes(), ", "))
	}
	c := defaults()
	query := u.Query()
	u.Scheme, u.RawQuery = scheme, ""
	serial := scheme == "rtu" || scheme == "ascii"
	switch {
	case serial && (u.Host != "" || u.Path == ""):
		return nil, fmt.Errorf("browse %s: there is no port in it (write modbus+rtu:///dev/ttyUSB0, with three slashes)", from)
	case !serial && u.Hostname() == "":
		return nil, fmt.Errorf("browse %s: there is no host in it", from)
	case scheme == "tls":
		u.Host = withPort(u, portSecured)
		c.TLS = &gateway.TLS{CA: set["tls.ca"], Cert: set["tls.cert"], Key: set["tls.key"], ServerName: set["tls.server_name"]}
		if err := c.TLS.Validate(); err != nil {
			return nil, fmt.Errorf("browse %s: %w", from, err)
		}
	case !serial:
		u.Host = withPort(u, portPlain)
		u.Path = ""
	}
	c.URL = u.String()
	if err := c.Serial.set(query); err != nil {
		return nil, fmt.Errorf("browse %s: %w", from, err)
	}
	return c, nil
}

// set takes the options of a serial line from the end of a URL.
func (s *Serial) set(query url.Values) (err error) {
	for key := range query {
		value := query.Get(key)
		switch key {
		case "baud":
			s.Baud, err = wholeNumber(value, 50, 10_000_000)
		case "data_bits":
			s.DataBits, err = wholeNumber(value, 7, 8)
		case "stop_bits":
			s.StopBits, err = wholeNumber(value, 1, 2)
		case "parity":
			if s.Parity = value; value != "none" && value != "even" && value != "odd" {
				err = fmt.Errorf("%q is none of none, even, odd", value)
			}
		default:
			err = fmt.Errorf("it is none of baud, data_bits, parity, stop_bits")
		}
		if err != nil {
			return fmt.Errorf("read ?%s: %w", key, err)
		}
	}
	return nil
}

// wholeNumber reads a whole number between two limits.
func wholeNumber(text string, least, most int) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is no whole number from %d to %d", text, least, most)
	}
	return n, nil
}

// readRange reads "3" or "3-9".
func readRange(text string, least, most int) (from, to int, err error) {
	a, b, two := strings.Cut(text, "-")
	if from, err = wholeNumber(a, least, most); err != nil {
		return 0, 0, err
	}
	if !two {
		return from, from, nil
	}
	if to, err = wholeNumber(b, least, most); err == nil && to < from {
		err = fmt.Errorf("%q ends before it begins", text)
	}
	return from, to, err
}

// readUnits reads "1,5,10-20".
func readUnits(text string, least, most int) (units []int, err error) {
	for _, part := range strings.Split(text, ",") {
		from, to, err := readRange(part, least, most)
		if err != nil {
			return nil, err
		}
		for u := from; u <= to; u++ {
			if !slices.Contains(units, u) {
				units = append(units, u)
			}
		}
	}
	return units, nil
}

// readOptions reads what --set said.
func readOptions(set map[string]string, lineURL string) (o browseOptions, err error) {
	o = browseOptions{from: 0, to: 9999, tables: []string{"holding", "input", "coil", "discrete"}, rate: 10, requests: 2000,
		timeout: time.Second, wait: 3 * time.Second}
	kind, _ := (&Config{URL: lineURL}).family()
	most := maxUnitTCP
	if o.units = []int{1, maxUnitTCP}; kind.framed {
		most = maxUnitSerial
		o.units, _ = readUnits(fmt.Sprintf("1-%d", most), 1, most)
	}
	for key, value := range set {
		switch key {
		case "units":
			o.units, err = readUnits(value, 1, most)
			o.given = true
		case "range":
			o.from, o.to, err = readRange(value, 0, 65535)
		case "tables":
			o.tables, err = readTables(value)
		case "rate":
			if o.rate, err = strconv.ParseFloat(value, 64); err != nil || !(o.rate >= 0.1 && o.rate <= 1000) {
				err = fmt.Errorf("%q is no number from 0.1 to 1000", value)
			}
		case "requests":
			o.requests, err = wholeNumber(value, 1, 1_000_000)
		case "timeout":
			o.timeout, err = readDuration(value, 10*time.Millisecond)
		case "wait":
			o.wait, err = readDuration(value, 0)
		case "tls.ca", "tls.cert", "tls.key", "tls.server_name":
			if !kind.secured {
				err = fmt.Errorf("it is for modbus+tls:// alone")
			}
		default:
			err = fmt.Errorf("it is none of units, range, tables, rate, requests, timeout, wait, tls.ca, tls.cert, tls.key, tls.server_name")
		}
		if err != nil {
			return o, fmt.Errorf("read --set %s: %w", key, err)
		}
	}
	return o, nil
}

func readTables(text string) (tables []string, err error) {
	for _, t := range strings.Split(text, ",") {
		if tableOf(functionOf(t)) != t || t == "fifo" || slices.Contains(tables, t) {
			return nil, fmt.Errorf("%q is none of holding, input, coil, discrete, each once", t)
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func readDuration(text string, least time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > time.Minute {
		return 0, fmt.Errorf("%q is no time from %s to 1m, such as 500ms", text, least)
	}
	return d, nil
}
