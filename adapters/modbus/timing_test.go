package modbus

import (
	"testing"
	"time"
)

// TestCost holds times to those counted by hand from the standards.
func TestCost(t *testing.T) {
	us := func(n float64) time.Duration { return time.Duration(n * float64(time.Microsecond)) }
	read := request{function: readHolding, address: 1, count: 125}
	for _, tc := range []struct {
		name string
		c    Config
		q    request
		want time.Duration
	}{
		// 8 + 255 characters of 11 bits at 9600 baud, 5 ms in the device, and 3.5 characters twice.
		{"rtu", Config{URL: "rtu:///dev/x", Serial: Serial{Baud: 9600, DataBits: 8, Parity: "even"}}, read, us(263*11*1e6/9600 + 5000 + 2*3.5*11*1e6/9600)},
		{"no parity, one stop bit", Config{URL: "rtu:///dev/x", Serial: Serial{Baud: 9600, DataBits: 8, Parity: "none", StopBits: 1}}, read, us(263*10*1e6/9600 + 5000 + 2*3.5*11*1e6/9600)},
		{"fast", Config{URL: "rtu:///dev/x", Serial: Serial{Baud: 115200, DataBits: 8, Parity: "even"}}, read, us(263*11*1e6/115200 + 5000 + 2*1750)},
		{"a pause longer than the silence", Config{URL: "rtu:///dev/x", Pause: 20 * time.Millisecond, Serial: Serial{Baud: 115200, DataBits: 8, Parity: "even"}}, read, us(263*11*1e6/115200 + 5000 + 1750 + 20000)},
		// 17 + 511 characters of 10 bits; the ends of frames are characters.
		{"ascii", Config{URL: "ascii:///dev/x", Serial: Serial{Baud: 9600, DataBits: 7, Parity: "even"}}, read, us(528*10*1e6/9600 + 5000)},
		{"bits", Config{URL: "rtu:///dev/x", Serial: Serial{Baud: 19200, DataBits: 8, Parity: "even"}}, request{function: readCoils, count: 17}, us((8+3+5)*11*1e6/19200 + 5000 + 2*3.5*11*1e6/19200)},
		{"rtu over tcp", Config{URL: "rtu+tcp://h:1", Serial: Serial{Baud: 9600, DataBits: 8, Parity: "even"}}, read, us(263*11*1e6/9600 + 10000 + 2*3.5*11*1e6/9600)},
		{"tcp", Config{URL: "tcp://h:502", Pause: time.Millisecond, Serial: Serial{Baud: 19200}}, read, 6 * time.Millisecond},
	} {
		if got := tc.c.cost(&tc.q); (got - tc.want).Abs() > 2*time.Microsecond {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	c := Config{URL: "RTU:///dev/x", Serial: Serial{Baud: 9600}}
	if n := testing.AllocsPerRun(10, func() { c.cost(&read) }); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// TestSizes holds the sizes to the PDUs that are made.
func TestSizes(t *testing.T) {
	for _, q := range []request{
		{function: readCoils, count: 2000}, {function: readDiscrete, count: 1}, {function: readHolding, count: 125}, {function: readInput, count: 1},
		{function: readWrite, count: 3, write: []uint16{1, 2}}, {function: readFIFO}, {function: encapsulated},
	} {
		if got, _ := q.size(); got != 1+len(q.pdu().Data) {
			t.Errorf("%s: %d bytes, its PDU has %d", q.String(), got, 1+len(q.pdu().Data))
		}
	}
	q := request{function: readHolding, count: 10}
	for url, want := range map[string][3]int{ // bytes on the line, packets and bytes of the network
		"rtu:///dev/x": {8 + 25, 3, 0}, "ascii:///dev/x": {17 + 51, 3, 0}, "tcp://h:1": {12 + 29, 3, 41 + 120}, "tls://h:1": {41, 3, 41 + 120 + 44},
		"udp://h:1": {41, 2, 41 + 56}, "rtu+tcp://h:1": {33, 3, 33 + 120}, "ascii+tcp://h:1": {68, 3, 68 + 120}, "rtu+udp://h:1": {33, 2, 33 + 56},
	} {
		k := (&Config{URL: url}).carrier()
		packets, bytes := k.metered(&q)
		if k.bytes(&q) != want[0] || k.network && (packets != want[1] || bytes != want[2]) {
			t.Errorf("%s: %d bytes, %d packets of %d, want %v", url, k.bytes(&q), packets, bytes, want)
		}
	}
}
