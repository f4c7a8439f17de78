package buffer

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// The buckets of a segment.
const (
	bucketBlocks = "b"
	bucketMeta   = "m"
)

// The keys of the meta bucket.
const (
	keyFormat     = "format"     // u32
	keyGeneration = "generation" // 8 bytes
	keyFirst      = "first"      // u64, first seq of the segment
	keyJournal    = "journal"    // see encodeJournal
	cursorPrefix  = "cursor:"    // + name: position, 5 × u64
)

// Generation identifies a queue. A queue that is created anew gets another
// one, so that (generation, lane, seq) never repeats.
type Generation [8]byte

// String returns the generation in hexadecimal.
func (g Generation) String() string { return hex.EncodeToString(g[:]) }

// position is a cursor's place in one lane with what became of the records before it.
type position struct {
	next uint64 // everything below is done with
	from uint64 // where the cursor began
	sent uint64 // released as sent
	dead uint64 // released as refused for good
	lost uint64 // released as evicted or unreadable
}

// meta is the meta bucket of a segment.
type meta struct {
	generation Generation
	first      uint64
	cursors    map[string]position
	journal    []Loss
}

func (m *meta) putAll(b *bolt.Bucket) error {
	if err := b.Put([]byte(keyFormat), binary.BigEndian.AppendUint32(nil, segmentFormat)); err != nil {
		return err
	}
	if err := b.Put([]byte(keyGeneration), m.generation[:]); err != nil {
		return err
	}
	if err := b.Put([]byte(keyFirst), binary.BigEndian.AppendUint64(nil, m.first)); err != nil {
		return err
	}
	return putState(b, m.cursors, m.journal)
}

// putState writes the cursors and the journal.
func putState(b *bolt.Bucket, cursors map[string]position, journal []Loss) error {
	for name, p := range cursors {
		if err := b.Put([]byte(cursorPrefix+name), encodePosition(p)); err != nil {
			return err
		}
	}
	return b.Put([]byte(keyJournal), encodeJournal(journal))
}

func encodePosition(p position) []byte {
	be := binary.BigEndian
	var v []byte
	for _, u := range [...]uint64{p.next, p.from, p.sent, p.dead, p.lost} {
		v = be.AppendUint64(v, u)
	}
	return v
}

func decodePosition(v []byte) (position, bool) {
	if len(v) != 40 {
		return position{}, false
	}
	be := binary.BigEndian
	return position{next: be.Uint64(v), from: be.Uint64(v[8:]), sent: be.Uint64(v[16:]), dead: be.Uint64(v[24:]), lost: be.Uint64(v[32:])}, true
}

// readMeta reads a segment's meta bucket.
func readMeta(tx *bolt.Tx) (*meta, error) {
	b := tx.Bucket([]byte(bucketMeta))
	if b == nil {
		return nil, fmt.Errorf("%w: no meta bucket", errDamaged)
	}
	f, g, first := b.Get([]byte(keyFormat)), b.Get([]byte(keyGeneration)), b.Get([]byte(keyFirst))
	if len(f) != 4 || len(g) != len(Generation{}) || len(first) != 8 {
		return nil, fmt.Errorf("%w: meta bucket incomplete", errDamaged)
	}
	if v := binary.BigEndian.Uint32(f); v != segmentFormat {
		return nil, fmt.Errorf("%w: segment format %d, this version reads %d", ErrNewerFormat, v, segmentFormat)
	}
	m := &meta{first: binary.BigEndian.Uint64(first), cursors: map[string]position{}}
	copy(m.generation[:], g)
	var err error
	if m.journal, err = decodeJournal(b.Get([]byte(keyJournal))); err != nil {
		return nil, err
	}
	return m, b.ForEach(func(k, v []byte) error {
		name, ok := strings.CutPrefix(string(k), cursorPrefix)
		if !ok {
			return nil
		}
		p, ok := decodePosition(v)
		if !ok {
			return fmt.Errorf("%w: cursor %s has %d bytes", errDamaged, name, len(v))
		}
		m.cursors[name] = p
		return nil
	})
}
