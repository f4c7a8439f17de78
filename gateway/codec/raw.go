package codec

import "github.com/waystation-iot/waystation/gateway"

// Raw makes one record of a payload and leaves it untouched, byte for byte.
// Build one with New.
type Raw struct {
	device      *template
	contentType string
}

// Decode appends one record. It never fails and, once a topic was seen,
// allocates nothing beyond dst.
func (d *Raw) Decode(dst []gateway.Record, topic string, payload []byte) ([]gateway.Record, error) {
	if payload == nil {
		payload = []byte{} // an empty payload is a payload
	}
	return append(dst, gateway.Record{
		Device:      d.device.expand(topic, ""),
		Name:        topic,
		Payload:     payload,
		ContentType: d.contentType,
	}), nil
}
