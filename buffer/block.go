package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A block is the unit of storage and of damage. Big-endian:
//
//	0  magic "wB"     2  version u8   3  codec u8   4  count u32
//	8  first seq u64  16 committed at, Unix ms i64
//	24 raw length u32 28 body length u32
//	32 CRC-32C (Castagnoli) of bytes 0..31 and all after 35, u32
//	36 version 2 only: flags u8, and for each flag in this order
//	     sparse: span u32, the seqs from first that the block speaks for;
//	       until i64, Unix ms when the last of them was committed
//	     sealed: see crypt.go
//	.. body: the framed records (see Batch), compressed with codec. In a sparse
//	   block they are preceded, compressed with them, by one unsigned varint per
//	   record: its seq less that of the record before, the first's less first.
//
// Version 1 is written for blocks that need none of the flags, so that an
// older version of this package reads all it can.
const (
	blockHeader   = 36
	blockMagic    = "wB"
	blockVersion  = 1
	blockVersion2 = 2
	flagSparse    = 1 // some seqs of the span are not there: the block was thinned
	flagSealed    = 2 // the body is encrypted
	sparseHeader  = 12
	// maxRawBlock is what a body may expand to: one largest record with its frame and seq.
	maxRawBlock = MaxRecordBytes + 2*binary.MaxVarintLen64
	// A block is numbered in pieces of 16 bits: the constant must not be negative.
	_ uint = pieceBytes<<16 - maxRawBlock - blockHeader - 128
)

// errDamaged says that a block's bytes are not what was written.
var errDamaged = errors.New("damaged block")

// block is a decoded block.
type block struct {
	first uint64
	span  uint64 // seqs it speaks for; more than count when it is sparse
	count int
	when  int64    // Unix ms of the commit; of a sparse block, of its first seq
	until int64    // of a sparse block: Unix ms when its last seq was committed
	seqs  []uint64 // of the records of a sparse block, else nil
	raw   []byte   // framed records

	sealed bool // it was encrypted, and is what was written
}

// end returns the seq after the last that the block speaks for.
func (b *block) end() uint64 { return b.first + b.span }

// scope is what a sealed block belongs to besides its header.
type scope struct {
	generation Generation
	lane       string
	sealed     uint64 // from this seq on every block must be sealed; 0 = none must
}

// header is the part of a block before its body.
type header struct {
	codec           byte
	count           int
	first           uint64
	when, until     int64
	rawLen, bodyLen int
	flags           byte
	span            uint64
	body            int // where the body begins
}

// parseHeader reads a header from at least the first piece of a block. It
// checks nothing but that it is one this version knows.
func parseHeader(p []byte) (h header, err error) {
	if len(p) < blockHeader || string(p[:2]) != blockMagic {
		return h, fmt.Errorf("%w: no header", errDamaged)
	}
	be := binary.BigEndian
	h = header{codec: p[3], count: int(be.Uint32(p[4:])), first: be.Uint64(p[8:]), when: int64(be.Uint64(p[16:])),
		rawLen: int(be.Uint32(p[24:])), bodyLen: int(be.Uint32(p[28:])), body: blockHeader}
	h.span, h.until = uint64(h.count), h.when
	if p[2] > blockVersion2 || p[3] > codecZstd {
		return h, fmt.Errorf("%w: block version %d, codec %d", ErrNewerFormat, p[2], p[3])
	}
	if p[2] == blockVersion {
		return h, nil
	}
	if len(p) < h.body+1 {
		return h, fmt.Errorf("%w: header cut short", errDamaged)
	}
	h.flags = p[h.body]
	h.body++
	if h.flags&^(flagSparse|flagSealed) != 0 {
		return h, fmt.Errorf("%w: block flags %#x", ErrNewerFormat, h.flags)
	}
	if h.flags&flagSparse != 0 {
		if len(p) < h.body+sparseHeader {
			return h, fmt.Errorf("%w: header cut short", errDamaged)
		}
		h.span, h.until = uint64(be.Uint32(p[h.body:])), int64(be.Uint64(p[h.body+4:]))
		h.body += sparseHeader
	}
	if h.flags&flagSealed != 0 {
		if h.body += sealedHeader; len(p) < h.body {
			return h, fmt.Errorf("%w: header cut short", errDamaged)
		}
	}
	return h, nil
}

// encode appends the block for the framed records b.raw to dst.
func (k *coder) encode(dst []byte, of scope, b block) ([]byte, error) {
	at := len(dst)
	var head [blockHeader]byte
	dst = append(dst, head[:]...)
	plain, flags := b.raw, byte(0)
	if b.seqs != nil {
		flags = flagSparse
		plain = prependSeqs(b)
	}
	if k.seals() {
		flags |= flagSealed
	}
	dst = k.extend(dst, flags, &b)
	body, codec := len(dst), k.codec
	dst, err := k.compress(dst, plain)
	if err != nil {
		return nil, err
	}
	if len(dst)-body >= len(plain) { // compression gained nothing
		codec = codecNone
		dst = append(dst[:body], plain...)
	}
	h := dst[at : at+blockHeader]
	copy(h, blockMagic)
	if h[2], h[3] = blockVersion, codec; flags != 0 {
		h[2] = blockVersion2
	}
	be := binary.BigEndian
	be.PutUint32(h[4:], uint32(b.count))
	be.PutUint64(h[8:], b.first)
	be.PutUint64(h[16:], uint64(b.when))
	be.PutUint32(h[24:], uint32(len(plain)))
	if flags&flagSealed != 0 {
		if dst, err = k.sealBlock(dst, at, body, of); err != nil {
			return nil, err
		}
		h = dst[at : at+blockHeader]
	}
	be.PutUint32(h[28:], uint32(len(dst)-body))
	be.PutUint32(h[32:], crc32.Update(crc32.Checksum(h[:32], k.crc), k.crc, dst[at+blockHeader:]))
	return dst, nil
}

// extend appends what version 2 puts between header and body, with room for
// what seal fills in.
func (k *coder) extend(dst []byte, flags byte, b *block) []byte {
	if flags == 0 {
		return dst
	}
	dst = append(dst, flags)
	if flags&flagSparse != 0 {
		dst = binary.BigEndian.AppendUint32(dst, uint32(b.span))
		dst = binary.BigEndian.AppendUint64(dst, uint64(b.until))
	}
	if flags&flagSealed != 0 {
		var room [sealedHeader]byte
		dst = append(dst, room[:]...)
	}
	return dst
}

// prependSeqs returns the seqs and the framed records of a sparse block.
func prependSeqs(b block) []byte {
	out := make([]byte, 0, len(b.raw)+2*len(b.seqs))
	before := b.first
	for _, s := range b.seqs {
		out = binary.AppendUvarint(out, s-before)
		before = s
	}
	return append(out, b.raw...)
}

// blockEnd reads the first seq and the seq after the last from the first piece
// of a block without checking the body.
func blockEnd(p []byte) (first, end uint64, ok bool) {
	h, err := parseHeader(p)
	return h.first, h.first + h.span, err == nil
}

// rawLength reads the expanded length of a block from its header.
func rawLength(p []byte) uint32 { return binary.BigEndian.Uint32(p[24:]) }

// blockTimes reads from a block's header when its first and its last seq were
// committed, Unix ms.
func blockTimes(p []byte) (from, to int64, ok bool) {
	h, err := parseHeader(p)
	return h.when, h.until, err == nil
}

// isSparse reads from a block's header whether it was thinned.
func isSparse(p []byte) bool {
	h, err := parseHeader(p)
	return err == nil && h.flags&flagSparse != 0
}

// decode checks p and appends its framed records to dst; the returned block's
// raw is within the appended part. The errors are errDamaged, errTampered,
// ErrNoKey and ErrNewerFormat.
func (k *coder) decode(dst, p []byte, of scope) ([]byte, block, error) {
	var b block
	if err := k.check(p); err != nil {
		return dst, b, err
	}
	h, err := parseHeader(p)
	if err != nil {
		return dst, b, err
	}
	body := p[h.body:]
	b.first, b.count, b.when, b.until, b.span = h.first, h.count, h.when, h.until, h.span
	if h.bodyLen != len(body) || h.rawLen > maxRawBlock || h.rawLen < 0 || b.span < uint64(b.count) || b.end() < b.first {
		return dst, b, fmt.Errorf("%w: lengths differ", errDamaged)
	}
	if b.sealed = h.flags&flagSealed != 0; b.sealed {
		s := k.pool.Get().(*scratch)
		defer k.pool.Put(s)
		if body, err = k.openBlock(s, p, h, of); err != nil {
			return dst, b, err
		}
	} else if of.sealed != 0 && b.end() > of.sealed {
		return dst, b, fmt.Errorf("%w: block %d is in plain, and all from %d on are encrypted", errTampered, b.first, of.sealed)
	}
	at := len(dst)
	if dst, err = k.expand(dst, body, h.codec, h.rawLen); err != nil {
		return dst[:at], b, err
	}
	b.raw = dst[at:]
	if len(b.raw) != h.rawLen {
		return dst[:at], b, fmt.Errorf("%w: expands to %d bytes, not %d", errDamaged, len(b.raw), h.rawLen)
	}
	if h.flags&flagSparse != 0 {
		if err := b.takeSeqs(); err != nil {
			return dst[:at], b, err
		}
	}
	if err := countFramed(b); err != nil {
		return dst[:at], b, err
	}
	return dst, b, nil
}

// takeSeqs cuts the seqs of a sparse block off the front of raw.
func (b *block) takeSeqs() error {
	if b.count > maxSegmentRecords || b.count > len(b.raw) {
		return fmt.Errorf("%w: %d seqs in %d bytes", errDamaged, b.count, len(b.raw))
	}
	b.seqs = make([]uint64, b.count)
	seq := b.first
	for i := range b.seqs {
		d, n := binary.Uvarint(b.raw)
		if n <= 0 || i > 0 && d == 0 || d >= b.span || seq+d >= b.end() {
			return fmt.Errorf("%w: seq of record %d", errDamaged, i)
		}
		seq += d
		b.seqs[i] = seq
		b.raw = b.raw[n:]
	}
	return nil
}

// countFramed checks that b.raw holds exactly b.count framed records; none only
// in a sparse block.
func countFramed(b block) error {
	rest, n := b.raw, 0
	for len(rest) > 0 {
		var ok bool
		if _, rest, ok = nextFramed(rest); !ok {
			return fmt.Errorf("%w: bad frame after %d records", errDamaged, n)
		}
		n++
	}
	if n != b.count || n == 0 && b.seqs == nil {
		return fmt.Errorf("%w: %d records, header says %d", errDamaged, n, b.count)
	}
	return nil
}
