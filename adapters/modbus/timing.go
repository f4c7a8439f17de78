package modbus

import (
	"strings"
	"time"
)

// What times on a line are made of beside characters.
const (
	assumedTurn  = 5 * time.Millisecond // from a request to its answer within a device on a serial line: makers say 1 to 50 ms
	assumedTrip  = 5 * time.Millisecond // from a request to its answer on a network
	assumedIdent = 64                   // bytes of an answer to who are you
	mbapSize     = 7                    // MODBUS Messaging on TCP/IP V1.0b section 3.1.3
	tcpHeaders   = 40                   // IPv4 and TCP, RFC 791 and 9293
	udpHeaders   = 28                   // IPv4 and UDP, RFC 768
	tlsRecord    = 22                   // header, content type and tag of AES-GCM, RFC 8446 section 5.2
	tcpPackets   = 3                    // request, answer, and the acknowledgement of that
)

// carrier is what a URL says of how bytes travel.
type carrier struct {
	serial  bool // frames of a serial line
	ascii   bool
	network bool
	udp     bool
	tls     bool
}

// carrier returns how the bytes of the line travel. It allocates nothing.
func (c *Config) carrier() carrier {
	scheme, _, _ := strings.Cut(c.URL, ":")
	is := func(name string) bool { return strings.EqualFold(scheme, name) }
	return carrier{
		serial:  is("rtu") || is("ascii") || is("rtu+tcp") || is("ascii+tcp") || is("rtu+udp"),
		ascii:   is("ascii") || is("ascii+tcp"),
		network: !is("rtu") && !is("ascii"),
		udp:     is("udp") || is("rtu+udp"),
		tls:     is("tls"),
	}
}

// size returns how many bytes a request and its answer have without what the
// line puts around them.
func (q *request) size() (request, answer int) {
	request, answer = 5, q.answerBytes()
	switch q.function {
	case encapsulated:
		request, answer = 4, assumedIdent
	case readFIFO:
		request, answer = 3, 5+2*maxFIFO
	case readWrite:
		request = 10 + 2*len(q.write)
	}
	return request, answer
}

// characters returns how many bytes a PDU has on the line, headers of a network
// left out.
func (k carrier) characters(pdu int) int {
	switch {
	case k.ascii: // colon, two characters for each byte with address and LRC, CR LF
		return 1 + 2*(1+pdu+1) + 2
	case k.serial: // address and CRC
		return 1 + pdu + 2
	}
	return mbapSize + pdu
}

// bytes returns what a request and its answer have on the line together.
func (k carrier) bytes(q *request) int {
	request, answer := q.size()
	return k.characters(request) + k.characters(answer)
}

// metered returns what a request and its answer are for whoever counts packets
// and bytes of a network link.
func (k carrier) metered(q *request) (packets, bytes int) {
	packets, bytes = tcpPackets, k.bytes(q)+tcpPackets*tcpHeaders
	if k.udp {
		packets, bytes = 2, k.bytes(q)+2*udpHeaders
	}
	if k.tls {
		bytes += 2 * tlsRecord
	}
	return packets, bytes
}

// cost returns how long q keeps the line, answer and pause behind it included:
// on a serial line the characters at the baud rate, the silences that end the
// frames, and what a device is assumed to take; on a network an assumed round
// trip. The longest answer is counted where only the device knows.
func (c *Config) cost(q *request) time.Duration {
	k := c.carrier()
	pause, total := c.Pause, time.Duration(0)
	if k.network {
		total = assumedTrip
	}
	if k.serial {
		total += time.Duration(k.bytes(q))*c.Serial.charTime() + assumedTurn
		if !k.ascii {
			total += c.Serial.silence()
			pause = max(pause, c.Serial.silence())
		}
	}
	return total + pause
}

// answerTime returns how long the answer to q takes at least, from the end of
// the request on, as a timeout counts it.
func (c *Config) answerTime(q *request) time.Duration {
	k := c.carrier()
	if !k.serial {
		return 0
	}
	_, answer := q.size()
	return time.Duration(k.characters(answer)) * c.Serial.charTime()
}
