package gateway

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/waystation-iot/waystation/buffer"
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
	At         time.Time // when it was refused
	Reason     string
	Stored     []byte // the record as stored; see RecordDecoder
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

// DeadLetters lists up to n dead letters with ids above after, oldest first.
// Entries that cannot be read are listed with the reason and no record.
func DeadLetters(s *buffer.Shelf, after uint64, n int) ([]DeadLetter, error) {
	kept, err := s.List(after, n)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	out := make([]DeadLetter, 0, len(kept))
	for _, k := range kept {
		l, err := DeadLetter{}, k.Err
		if err == nil {
			l, err = parseDeadLetter(k.ID, k.Data)
		}
		if err != nil {
			l = DeadLetter{ID: k.ID, Reason: err.Error()}
		}
		out = append(out, l)
	}
	return out, nil
}
