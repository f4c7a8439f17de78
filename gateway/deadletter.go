package gateway

import (
	"encoding/binary"
	"fmt"
	"time"
)

// DeadLetter is a record that a sink refused for good, with its place in the
// queue and the reason.
type DeadLetter struct {
	ID         uint64
	Sink       string
	Gateway    string // whose queue gave the seq; "" = this gateway's
	Generation string
	Lane       Lane   // its number when it was refused
	LaneName   string // of the lane
	Seq        uint64
	At         time.Time // when it was refused, the last time
	Reason     string    // of that
	Stored     []byte    // the record as stored; see RecordDecoder

	Unreadable  bool      // the entry cannot be read: Reason says why, and little else is known
	FirstAt     time.Time // when it was refused first; zero when At is that
	FirstReason string
	Retries     int       // that were refused
	RetryTo     string    // sink that it waits to be sent to again; "" = it waits for a person
	Asked       time.Time // when that was asked for
	Reported    bool      // it is on the dead-letter topic of the sink
	ReportError string    // why it cannot be
}

// deadLetterVersion is the version of the stored form: version u8 | sink |
// gateway | generation | lane name | lane u8 | seq varint | at i64 (Unix ns) |
// reason | record. Version 1, which is still read, has neither gateway nor
// lane name.
const deadLetterVersion = 2

// letter makes the stored form of a dead letter, of the lane of the chunk.
func (f *forwarder) letter(seq uint64, reason string, stored []byte) []byte {
	ln := &f.lanes[f.lane]
	p := []byte{deadLetterVersion}
	p = appendText(appendText(p, f.name), ln.Origin)
	p = appendText(appendText(p, ln.Generation), ln.Name)
	p = binary.AppendUvarint(append(p, byte(f.lane)), seq)
	p = binary.BigEndian.AppendUint64(p, uint64(f.clock.Now().UnixNano()))
	return append(appendText(p, reason), stored...)
}

// parseDeadLetter reads the stored form.
func parseDeadLetter(id uint64, p []byte) (DeadLetter, error) {
	if len(p) == 0 || p[0] < 1 || p[0] > deadLetterVersion {
		return DeadLetter{}, fmt.Errorf("read dead letter %d: %w: unknown version", id, ErrRecordFormat)
	}
	c := cut{p: p[1:], d: &RecordDecoder{}}
	l := DeadLetter{ID: id, Sink: c.text()}
	if p[0] > 1 {
		l.Gateway = c.text()
	}
	l.Generation = c.text()
	if p[0] > 1 {
		l.LaneName = c.text()
	}
	l.Lane, l.Seq = Lane(c.u8()), c.varint()
	if p[0] == 1 {
		l.LaneName = l.Lane.String()
	}
	l.At, l.Reason = time.Unix(0, int64(c.u64())), c.text()
	l.Stored = c.p // what is left
	if c.bad {
		return DeadLetter{}, fmt.Errorf("read dead letter %d: %w: cut short", id, ErrRecordFormat)
	}
	return l, nil
}
