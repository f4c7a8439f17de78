package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MQTT 3.1.1 control packet types (section 2.2.1).
const (
	typePublish = 3
	typePuback  = 4
)

// maxHeader is the longest fixed header: type and four length bytes.
const maxHeader = 5

// errMalformed says that the broker's bytes are not MQTT 3.1.1.
var errMalformed = errors.New("malformed packet")

// fixedHeader reads a packet's fixed header (section 2.2) from the start of p:
// its first byte, the length of the header and of what follows it. ok is false
// when p is too short to tell.
func fixedHeader(p []byte) (first byte, header, remaining int, ok bool, err error) {
	if len(p) == 0 {
		return 0, 0, 0, false, nil
	}
	for i := 1; i < len(p) && i < maxHeader; i++ {
		remaining |= int(p[i]&0x7f) << (7 * (i - 1))
		if p[i]&0x80 == 0 {
			return p[0], i + 1, remaining, true, nil
		}
	}
	if len(p) >= maxHeader {
		return 0, 0, 0, false, fmt.Errorf("%w: remaining length of more than four bytes", errMalformed)
	}
	return 0, 0, 0, false, nil
}

// publish is the variable header and the payload of a PUBLISH (section 3.3).
// Its bytes point into the packet.
type publish struct {
	topic    []byte
	payload  []byte
	id       uint16 // packet identifier; 0 at QoS 0
	qos      byte
	retained bool
}

// parsePublish reads a PUBLISH with the given first byte and body, the bytes
// after the fixed header.
func parsePublish(first byte, body []byte) (publish, error) {
	p := publish{qos: first >> 1 & 3, retained: first&1 != 0}
	if p.qos == 3 {
		return p, fmt.Errorf("%w: PUBLISH with QoS 3", errMalformed)
	}
	if len(body) < 2 {
		return p, fmt.Errorf("%w: PUBLISH of %d bytes", errMalformed, len(body))
	}
	n := int(binary.BigEndian.Uint16(body))
	rest := body[2:]
	if n > len(rest) {
		return p, fmt.Errorf("%w: topic of %d bytes in a PUBLISH of %d", errMalformed, n, len(body))
	}
	p.topic, rest = rest[:n:n], rest[n:]
	if p.qos > 0 {
		if len(rest) < 2 {
			return p, fmt.Errorf("%w: PUBLISH without packet identifier", errMalformed)
		}
		if p.id, rest = binary.BigEndian.Uint16(rest), rest[2:]; p.id == 0 {
			return p, fmt.Errorf("%w: packet identifier 0", errMalformed)
		}
	}
	p.payload = rest
	return p, nil
}

// appendPuback appends a PUBACK (section 3.4) for each packet identifier.
func appendPuback(dst []byte, ids []uint16) []byte {
	for _, id := range ids {
		dst = append(dst, typePuback<<4, 2, byte(id>>8), byte(id))
	}
	return dst
}
