package main

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/zstd"
)

type rawOptions struct {
	zstd    bool
	prefill int64 // bytes of zeros written before the first record
}

// rawQueue is the physical limit: one file that only grows, one write and one
// fdatasync per batch; the cursor is 8 bytes in a second file. A frame is
// length u32, CRC-32C u32, bytes: of a record, or of a compressed batch of
// frames without CRC.
type rawQueue struct {
	o      rawOptions
	log    *os.File
	cursor *os.File
	w, r   int64
	buf    []byte
	plain  []byte
	crc    *crc32.Table
	enc    *zstd.Encoder
	dec    *zstd.Decoder
}

func openRaw(dir string, o rawOptions) (_ queue, err error) {
	q := &rawQueue{o: o, crc: crc32.MakeTable(crc32.Castagnoli)}
	if q.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if q.cursor, err = os.OpenFile(filepath.Join(dir, "cursor"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if q.enc, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(256<<10)); err != nil {
		return nil, err
	}
	if q.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1)); err != nil {
		return nil, err
	}
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < o.prefill; at += int64(len(zeros)) {
		if _, err := q.log.WriteAt(zeros, at); err != nil {
			return nil, err
		}
	}
	_, err = q.cursor.WriteAt(make([]byte, 4096), 0)
	return q, errors.Join(err, q.log.Sync(), q.cursor.Sync())
}

func (q *rawQueue) frame(dst, p []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(p)))
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(p, q.crc))
	return append(dst, p...)
}

func (q *rawQueue) append(recs [][]byte) error {
	q.buf = q.buf[:0]
	if q.o.zstd {
		q.plain = q.plain[:0]
		for _, r := range recs {
			q.plain = append(binary.AppendUvarint(q.plain, uint64(len(r))), r...)
		}
		q.buf = q.frame(q.buf, q.enc.EncodeAll(q.plain, nil))
	} else {
		for _, r := range recs {
			q.buf = q.frame(q.buf, r)
		}
	}
	if _, err := q.log.WriteAt(q.buf, q.w); err != nil {
		return err
	}
	q.w += int64(len(q.buf))
	return syscall.Fdatasync(int(q.log.Fd()))
}

func (q *rawQueue) drain(max int, fn func([]byte)) (n int, err error) {
	for n < max && q.r < q.w && err == nil {
		p := make([]byte, min(q.w-q.r, 1<<20))
		if _, err := q.log.ReadAt(p, q.r); err != nil {
			return n, err
		}
		for n < max && len(p) >= 8 && len(p)-8 >= int(binary.BigEndian.Uint32(p)) {
			size := int(binary.BigEndian.Uint32(p))
			body := p[8 : 8+size]
			if crc32.Checksum(body, q.crc) != binary.BigEndian.Uint32(p[4:]) {
				return n, errors.New("checksum differs")
			}
			p = p[8+size:]
			q.r += int64(8 + size)
			if !q.o.zstd {
				fn(body)
				n++
				continue
			}
			if q.plain, err = q.dec.DecodeAll(body, q.plain[:0]); err != nil {
				return n, err
			}
			for rest := q.plain; len(rest) > 0; n++ {
				size, k := binary.Uvarint(rest)
				fn(rest[k : k+int(size)])
				rest = rest[k+int(size):]
			}
		}
	}
	if n == 0 {
		return 0, nil
	}
	if _, err := q.cursor.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(q.r)), 0); err != nil {
		return n, err
	}
	return n, syscall.Fdatasync(int(q.cursor.Fd()))
}

func (q *rawQueue) close() error {
	_ = q.enc.Close()
	q.dec.Close()
	return errors.Join(q.cursor.Close(), q.log.Close())
}
