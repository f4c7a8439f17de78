package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// A block is the unit of storage and of damage. Version 1, big-endian:
//
//	0  magic "wB"     2  version u8   3  codec u8   4  count u32
//	8  first seq u64  16 committed at, Unix ms i64
//	24 raw length u32 28 body length u32
//	32 CRC-32C (Castagnoli) of bytes 0..31 and the body, u32
//	36 body: the framed records (see Batch), compressed with codec
const (
	blockHeader  = 36
	blockMagic   = "wB"
	blockVersion = 1
	// maxRawBlock is what a body may expand to: one largest record with its frame.
	maxRawBlock = MaxRecordBytes + binary.MaxVarintLen64
)

// The codecs of a block body. The numbers are part of the format.
const (
	codecNone byte = iota
	codecS2
	codecZstd
)

// errDamaged says that a block's bytes are not what was written.
var errDamaged = errors.New("damaged block")

// block is a decoded header with the framed records.
type block struct {
	first uint64
	count int
	when  int64 // Unix ms of the commit
	raw   []byte
}

// coder compresses and decompresses blocks. Encoding is for one goroutine,
// decoding for any number.
type coder struct {
	codec byte
	crc   *crc32.Table
	enc   *zstd.Encoder // made at first use
	dec   func() (*zstd.Decoder, error)
}

// newCoder returns a coder. The zstd state, about 1 MiB each way, is made
// when it is first needed.
func newCoder(c Compression) *coder {
	k := &coder{crc: crc32.MakeTable(crc32.Castagnoli), codec: codecNone}
	switch c {
	case Zstd:
		k.codec = codecZstd
	case S2:
		k.codec = codecS2
	}
	k.dec = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(4*maxRawBlock))
	})
	return k
}

// encode appends the block for the framed records raw to dst.
func (k *coder) encode(dst []byte, b block) ([]byte, error) {
	at := len(dst)
	var head [blockHeader]byte
	dst = append(dst, head[:]...)
	codec := k.codec
	var err error
	if dst, err = k.compress(dst, b.raw); err != nil {
		return nil, err
	}
	if len(dst)-at-blockHeader >= len(b.raw) { // compression gained nothing
		codec = codecNone
		dst = append(dst[:at+blockHeader], b.raw...)
	}
	h, body := dst[at:at+blockHeader], dst[at+blockHeader:]
	copy(h, blockMagic)
	h[2], h[3] = blockVersion, codec
	be := binary.BigEndian
	be.PutUint32(h[4:], uint32(b.count))
	be.PutUint64(h[8:], b.first)
	be.PutUint64(h[16:], uint64(b.when))
	be.PutUint32(h[24:], uint32(len(b.raw)))
	be.PutUint32(h[28:], uint32(len(body)))
	be.PutUint32(h[32:], crc32.Update(crc32.Checksum(h[:32], k.crc), k.crc, body))
	return dst, nil
}

func (k *coder) compress(dst, raw []byte) ([]byte, error) {
	switch k.codec {
	case codecS2:
		n := len(dst)
		need := s2.MaxEncodedLen(len(raw))
		if cap(dst)-n < need {
			dst = append(dst, make([]byte, need)...)
		}
		return dst[:n+len(s2.Encode(dst[n:n+need], raw))], nil
	case codecZstd:
		if k.enc == nil {
			var err error
			k.enc, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
				zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(256<<10))
			if err != nil {
				return nil, fmt.Errorf("start zstd: %w", err)
			}
		}
		return k.enc.EncodeAll(raw, dst), nil
	}
	return append(dst, raw...), nil
}

// blockEnd reads the first seq and the seq after the block's last record from
// its header without checking the body.
func blockEnd(p []byte) (first, end uint64, ok bool) {
	if len(p) < blockHeader || string(p[:2]) != blockMagic {
		return 0, 0, false
	}
	first = binary.BigEndian.Uint64(p[8:])
	return first, first + uint64(binary.BigEndian.Uint32(p[4:])), true
}

// rawLength reads the expanded length of a block from its header.
func rawLength(p []byte) uint32 { return binary.BigEndian.Uint32(p[24:]) }

// blockTime reads when a block was committed from its header.
func blockTime(p []byte) time.Time { return fromMilli(int64(binary.BigEndian.Uint64(p[16:]))) }

// decode checks p and appends its framed records to dst; the returned block's
// raw is the appended part.
func (k *coder) decode(dst, p []byte) ([]byte, block, error) {
	var b block
	if err := k.check(p); err != nil {
		return dst, b, err
	}
	be := binary.BigEndian
	body := p[blockHeader:]
	b.first, b.count, b.when = be.Uint64(p[8:]), int(be.Uint32(p[4:])), int64(be.Uint64(p[16:]))
	rawLen := int(be.Uint32(p[24:]))
	if int(be.Uint32(p[28:])) != len(body) || rawLen > maxRawBlock || rawLen < 0 {
		return dst, b, fmt.Errorf("%w: lengths differ", errDamaged)
	}
	at := len(dst)
	dst, err := k.expand(dst, body, p[3], rawLen)
	if err != nil {
		return dst[:at], b, err
	}
	b.raw = dst[at:]
	if len(b.raw) != rawLen {
		return dst[:at], b, fmt.Errorf("%w: expands to %d bytes, not %d", errDamaged, len(b.raw), rawLen)
	}
	return dst, b, countFramed(b)
}

// expand appends the decompressed body to dst. On error dst is returned.
func (k *coder) expand(dst, body []byte, codec byte, rawLen int) ([]byte, error) {
	switch codec {
	case codecNone:
		return append(dst, body...), nil
	case codecS2:
		if n, err := s2.DecodedLen(body); err != nil || n != rawLen {
			return dst, fmt.Errorf("%w: s2 length", errDamaged)
		}
		at := len(dst)
		dst = append(dst, make([]byte, rawLen)...)
		if _, err := s2.Decode(dst[at:], body); err != nil {
			return dst[:at], fmt.Errorf("%w: %w", errDamaged, err)
		}
		return dst, nil
	case codecZstd:
		dec, err := k.dec()
		if err != nil {
			return dst, fmt.Errorf("start zstd: %w", err)
		}
		out, err := dec.DecodeAll(body, dst)
		if err != nil {
			return dst, fmt.Errorf("%w: %w", errDamaged, err)
		}
		return out, nil
	}
	return dst, fmt.Errorf("%w: unknown codec %d", errDamaged, codec)
}

// countFramed checks that b.raw holds exactly b.count framed records.
func countFramed(b block) error {
	rest, n := b.raw, 0
	for len(rest) > 0 {
		var ok bool
		if _, rest, ok = nextFramed(rest); !ok {
			return fmt.Errorf("%w: bad frame after %d records", errDamaged, n)
		}
		n++
	}
	if n != b.count || n == 0 {
		return fmt.Errorf("%w: %d records, header says %d", errDamaged, n, b.count)
	}
	return nil
}
