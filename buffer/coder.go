package buffer

import (
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// The codecs of a block body. The numbers are part of the format.
const (
	codecNone byte = iota
	codecS2
	codecZstd
)

// coder encodes and decodes blocks. Encoding is for one goroutine,
// decoding for any number.
type coder struct {
	*sealer
	codec byte
	crc   *crc32.Table
	enc   *zstd.Encoder // made at first use
	dec   func() (*zstd.Decoder, error)
}

// newCoder returns a coder that encrypts with the first of the keys, when
// there is one. The zstd state, about 1 MiB each way, is made when it is first
// needed.
func newCoder(c Compression, keys ...Key) *coder {
	k := &coder{sealer: newSealer(keys), crc: crc32.MakeTable(crc32.Castagnoli), codec: codecNone}
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
