package buffer

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// The buckets of a segment.
const (
	bucketBlocks = "b"
	bucketMeta   = "m"
)

// The keys of the meta bucket. bbolt checks nothing but its own meta pages, so
// every value is sealed: a CRC-32C of it follows. A newer format keeps the
// sealed u32 under "format", whatever else it changes.
const (
	keyFormat     = "format"     // u32
	keyGeneration = "generation" // 8 bytes
	keyFirst      = "first"      // u64, first seq of the segment
	keyOrigin     = "origin"     // text, who a guest's queue belonged to; only in guests
	keySealed     = "sealed"     // see mark; only where encryption is or was on
	keyNext       = "next"       // u64, seq after the last record of the lane, written by every commit
	keyJournal    = "journal"    // see encodeJournal
	keyThinned    = "thinned"    // u32, how often the segment was thinned; only when it was
	keyDelivered  = "delivered"  // u64, below it lie only segments kept for replay; only with retention
	cursorPrefix  = "cursor:"    // + name: position, 5 × u64
	filterPrefix  = "filtered:"  // + name: see putPosition; only of a cursor that has some
)

// The formats of a segment. One with a mark has another, so that a version
// which would write in plain does not open it.
const (
	segmentFormat = 1
	markedFormat  = 2
)

// seal appends the checksum of v to v.
func seal(v []byte) []byte {
	return binary.BigEndian.AppendUint32(v, crc32.Checksum(v, crc32.MakeTable(crc32.Castagnoli)))
}

// unseal returns what was sealed, or false when it is damaged.
func unseal(v []byte) ([]byte, bool) {
	n := len(v) - 4
	if n < 0 || crc32.Checksum(v[:n], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(v[n:]) {
		return nil, false
	}
	return v[:n], true
}

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

	filtered uint64 // released as not wanted
}

// meta is the meta bucket of a segment.
type meta struct {
	generation Generation
	origin     string
	first      uint64
	mark       []byte // see mark; nil when there is none
	next       uint64 // 0 when it is damaged
	cursors    map[string]position
	journal    []Loss
	thinned    uint32
	delivered  uint64
	damaged    []string // keys whose values failed their checksum and are left out
}

func (m *meta) putAll(b *bolt.Bucket) error {
	format := uint32(segmentFormat)
	if m.mark != nil {
		format = markedFormat
	}
	if err := b.Put([]byte(keyFormat), seal(binary.BigEndian.AppendUint32(nil, format))); err != nil {
		return err
	}
	if err := b.Put([]byte(keyGeneration), seal(m.generation[:len(m.generation):len(m.generation)])); err != nil {
		return err
	}
	if m.origin != "" {
		if err := b.Put([]byte(keyOrigin), seal([]byte(m.origin))); err != nil {
			return err
		}
	}
	if m.mark != nil {
		if err := b.Put([]byte(keySealed), seal(m.mark[:len(m.mark):len(m.mark)])); err != nil {
			return err
		}
	}
	if err := b.Put([]byte(keyFirst), seal(binary.BigEndian.AppendUint64(nil, m.first))); err != nil {
		return err
	}
	if err := errors.Join(putNext(b, m.next), m.putOptional(b)); err != nil {
		return err
	}
	for name, p := range m.cursors {
		if err := putPosition(b, name, p); err != nil {
			return err
		}
	}
	return b.Put([]byte(keyJournal), seal(encodeJournal(m.journal)))
}

// putOptional stores what an older version neither writes nor reads.
func (m *meta) putOptional(b *bolt.Bucket) error {
	if m.thinned > 0 {
		if err := b.Put([]byte(keyThinned), seal(binary.BigEndian.AppendUint32(nil, m.thinned))); err != nil {
			return err
		}
	}
	return putDelivered(b, m.delivered)
}

// putDelivered stores below which seq everything was delivered, 0 for nothing.
func putDelivered(b *bolt.Bucket, seq uint64) error {
	if seq == 0 {
		return nil
	}
	return b.Put([]byte(keyDelivered), seal(binary.BigEndian.AppendUint64(nil, seq)))
}

// readOptional reads what putOptional stored. Without it a segment counts as
// not thinned, and a new cursor begins at the oldest record.
func (m *meta) readOptional(b metaValues) {
	if v, ok := unseal(b.Get([]byte(keyThinned))); ok && len(v) == 4 {
		m.thinned = binary.BigEndian.Uint32(v)
	}
	if v, ok := unseal(b.Get([]byte(keyDelivered))); ok && len(v) == 8 {
		m.delivered = binary.BigEndian.Uint64(v)
	}
}

func putNext(b *bolt.Bucket, next uint64) error {
	return b.Put([]byte(keyNext), seal(binary.BigEndian.AppendUint64(nil, next)))
}

// putPosition stores a cursor. What was filtered is kept beside it and counts as
// sent in the position itself, so that the books of an older version, which
// knows no filters, balance.
func putPosition(b *bolt.Bucket, name string, p position) error {
	if err := b.Put([]byte(cursorPrefix+name), encodePosition(p)); err != nil {
		return err
	}
	if p.filtered == 0 {
		return b.Delete([]byte(filterPrefix + name)) // of one that had the name before
	}
	return b.Put([]byte(filterPrefix+name), seal(binary.BigEndian.AppendUint64(nil, p.filtered)))
}

// apart takes what was filtered, stored as v, out of what counts as sent. When
// it is damaged or missing it stays there.
func (p position) apart(v []byte) position {
	if v, ok := unseal(v); ok && len(v) == 8 {
		p.filtered = min(p.sent, binary.BigEndian.Uint64(v))
		p.sent -= p.filtered
	}
	return p
}

// encodePosition returns the sealed value of a cursor, what was filtered
// counted as sent.
func encodePosition(p position) []byte {
	be := binary.BigEndian
	v := make([]byte, 0, 44)
	for _, u := range [...]uint64{p.next, p.from, p.sent + p.filtered, p.dead, p.lost} {
		v = be.AppendUint64(v, u)
	}
	return seal(v)
}

func decodePosition(v []byte) (position, bool) {
	v, ok := unseal(v)
	if !ok || len(v) != 40 {
		return position{}, false
	}
	be := binary.BigEndian
	return position{next: be.Uint64(v), from: be.Uint64(v[8:]), sent: be.Uint64(v[16:]), dead: be.Uint64(v[24:]), lost: be.Uint64(v[32:])}, true
}

// optional returns a value that need not be there.
func (m *meta) optional(b metaValues, key string) []byte {
	v := b.Get([]byte(key))
	if v == nil {
		return nil
	}
	v, ok := unseal(v)
	if !ok {
		m.damaged = append(m.damaged, key)
		return nil
	}
	return v
}

// readMeta reads a segment's meta bucket. A damaged cursor, journal or
// generation is left out and named in meta.damaged: the cursor then begins at
// the oldest record (repeated, not lost), a loss has no reason, and the queue
// goes on under a new generation.
func readMeta(tx *bolt.Tx) (*meta, error) {
	b := tx.Bucket([]byte(bucketMeta))
	if b == nil {
		return nil, fmt.Errorf("%w: no meta bucket", errDamaged)
	}
	return readMetaFrom(b)
}

// metaValues is the meta bucket, read with bbolt or without.
type metaValues interface {
	Get(key []byte) []byte
	ForEach(fn func(k, v []byte) error) error
}

func readMetaFrom(b metaValues) (*meta, error) {
	f, ok := unseal(b.Get([]byte(keyFormat)))
	if !ok || len(f) != 4 {
		return nil, fmt.Errorf("%w: format of the segment", errDamaged)
	}
	if v := binary.BigEndian.Uint32(f); v != segmentFormat && v != markedFormat {
		return nil, fmt.Errorf("%w: segment format %d, this version reads up to %d", ErrNewerFormat, v, markedFormat)
	}
	m := &meta{cursors: map[string]position{}}
	for key, to := range map[string]*uint64{keyFirst: &m.first, keyNext: &m.next} {
		if v, ok := unseal(b.Get([]byte(key))); ok && len(v) == 8 {
			*to = binary.BigEndian.Uint64(v)
		} else {
			m.damaged = append(m.damaged, key)
		}
	}
	if v, ok := unseal(b.Get([]byte(keyGeneration))); ok && len(v) == len(Generation{}) {
		copy(m.generation[:], v)
	} else {
		m.damaged = append(m.damaged, keyGeneration)
	}
	m.origin = string(m.optional(b, keyOrigin))
	m.mark = bytes.Clone(m.optional(b, keySealed))
	if v, ok := unseal(b.Get([]byte(keyJournal))); ok {
		var err error
		if m.journal, err = decodeJournal(v); err != nil {
			return nil, err
		}
	} else {
		m.damaged = append(m.damaged, keyJournal)
	}
	m.readOptional(b)
	return m, b.ForEach(func(k, v []byte) error {
		name, ok := strings.CutPrefix(string(k), cursorPrefix)
		if !ok {
			return nil
		}
		p, ok := decodePosition(v)
		if !ok {
			m.damaged = append(m.damaged, string(k))
			return nil
		}
		m.cursors[name] = p.apart(b.Get([]byte(filterPrefix + name)))
		return nil
	})
}
