// Package codec turns payloads into records and records into payloads.
package codec

import "github.com/waystation-iot/waystation/gateway"

// Decoder turns one payload into records, appended to dst. topic is where the
// payload came from (an MQTT topic, a file name). The records may point into
// payload. On error the caller stores the payload as a record of bad quality:
// nothing is dropped. A Decoder is used by one goroutine at a time.
type Decoder interface {
	Decode(dst []gateway.Record, topic string, payload []byte) ([]gateway.Record, error)
}

// Position says which record of which queue is encoded. A repeat has the same
// Gateway, Generation, Lane and Seq.
type Position struct {
	Gateway    string // whose queue numbered it
	Generation string // identity of that queue
	Lane       string // name
	Seq        uint64
	Replayed   bool // sent before, and asked for again
}

// Encoder appends the payload for one record to dst. An error means that this
// record can never be encoded. An encoding that says nothing of the queue does
// not read at.
type Encoder interface {
	Encode(dst []byte, r *gateway.Record, at *Position) ([]byte, error)
	// ContentType is the media type of what Encode makes for r (RFC 6838).
	ContentType(r *gateway.Record) string
}
