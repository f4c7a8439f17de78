package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MQTT 3.1.1 control packet types (section 2.2.1).
const (
	typeConnack    = 2
	typePublish    = 3
	typePuback     = 4
	typePubrec     = 5
	typePubrel     = 6
	typePubcomp    = 7
	typeSubscribe  = 8
	typeSuback     = 9
	typeUnsuback   = 11
	typePingreq    = 12
	typePingresp   = 13
	typeDisconnect = 14
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

// appendAck appends what acknowledges m: PUBACK at QoS 1 (section 3.4), PUBREC
// at QoS 2 (section 3.5), nothing at QoS 0.
func (m *publish) appendAck(dst []byte) []byte {
	switch m.qos {
	case 1:
		return append(dst, typePuback<<4, 2, byte(m.id>>8), byte(m.id))
	case 2:
		return append(dst, typePubrec<<4, 2, byte(m.id>>8), byte(m.id))
	}
	return dst
}

// checkControl checks a packet other than PUBLISH before it is passed to paho,
// which trusts their lengths: a SUBACK with more codes than filters would end
// the process. filters is how many we subscribe to.
func checkControl(kind byte, remaining, filters int) error {
	want := 2
	switch kind {
	case typeConnack, typePuback, typePubrec, typePubrel, typePubcomp, typeUnsuback:
	case typeSuback:
		want = 2 + filters
	case typePingresp:
		want = 0
	case typeDisconnect:
		return fmt.Errorf("%w: DISCONNECT from the broker; is there another client with our client_id?", errMalformed)
	default:
		return fmt.Errorf("%w: packet type %d from the broker", errMalformed, kind)
	}
	if remaining != want {
		return fmt.Errorf("%w: packet type %d of %d bytes instead of %d", errMalformed, kind, remaining, want)
	}
	return nil
}

// subscribeID is the packet identifier of our SUBSCRIBE. Brokers number their
// messages from 1, and paho its packets too. The two have nothing to do with
// each other, but mochi-mqtt 2.7.9 refuses a SUBSCRIBE that bears the number
// of a message in flight.
const subscribeID = 0xffff

// renumber gives a SUBSCRIBE or SUBACK another packet identifier and returns
// the one it had.
func renumber(packet []byte, id uint16) (was uint16) {
	if _, n, _, ok, _ := fixedHeader(packet); ok && len(packet) >= n+2 {
		was = binary.BigEndian.Uint16(packet[n:])
		binary.BigEndian.PutUint16(packet[n:], id)
	}
	return was
}

// refusedError says why the broker refused to connect us, by the return code
// of its CONNACK (section 3.2.2.3).
type refusedError byte

// Error implements error.
func (e refusedError) Error() string {
	why := [...]string{1: "it does not speak MQTT 3.1.1", 2: "it does not accept our client_id",
		3: "it is not available", 4: "wrong user or password", 5: "not authorised: allow our user and client_id to connect"}
	if int(e) < len(why) {
		return fmt.Sprintf("connect: the broker refuses us: %s (code %d)", why[e], byte(e))
	}
	return fmt.Sprintf("connect: the broker refuses us with code %d", byte(e))
}
