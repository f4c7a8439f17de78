package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"syscall"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// checkLast returns ErrNewerFormat when the last block of a segment is whole
// and of a version or codec that this one does not know, and ErrNoKey when it
// is encrypted with a key that was not given.
func (k *coder) checkLast(tx *bolt.Tx) error {
	b := tx.Bucket([]byte(bucketBlocks))
	if b == nil {
		return fmt.Errorf("%w: no block bucket", errDamaged)
	}
	c := b.Cursor()
	key, _ := c.Last()
	first, _, ok := splitKey(key)
	if !ok {
		return nil
	}
	var stored []byte
	for at, v := c.Seek(pieceKey(first, 0)); at != nil && len(v) <= pieceBytes; at, v = c.Next() {
		stored = append(stored, v...)
	}
	err := k.check(stored)
	if errors.Is(err, ErrNewerFormat) {
		return err
	}
	if err != nil { // damaged: for readers to find
		return nil
	}
	h, err := parseHeader(stored)
	if id := sealedBy(stored, h); err == nil && id != nil {
		_, err = k.find(id)
	}
	return err
}

// checkKeys reports whether the keys of a segment ascend, and each block lies
// under its own seq: when not, bbolt does not find all that is there, and what
// the pages hold must be put in order again.
func (s *segment) checkKeys() error {
	return s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketBlocks))
		if b == nil {
			return fmt.Errorf("%w: no block bucket", errDamaged)
		}
		var before []byte
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			first, piece, ok := splitKey(k)
			if !ok || first < s.first || bytes.Compare(k, before) <= 0 {
				return fmt.Errorf("%w: keys out of order at %d", errDamaged, first)
			}
			if at, _, ok := blockEnd(v); piece == 0 && ok && at != first {
				return fmt.Errorf("%w: block %d under key %d", errDamaged, at, first)
			}
			before = append(before[:0], k...)
		}
		return nil
	})
}

// check tells whether p is a whole block as it was written, and one that this
// version can read.
func (k *coder) check(p []byte) error {
	if len(p) < blockHeader || string(p[:2]) != blockMagic {
		return fmt.Errorf("%w: no header", errDamaged)
	}
	if crc32.Update(crc32.Checksum(p[:32], k.crc), k.crc, p[blockHeader:]) != binary.BigEndian.Uint32(p[32:]) {
		return fmt.Errorf("%w: checksum differs", errDamaged)
	}
	_, err := parseHeader(p)
	return err
}

// isDamage tells bytes that are not what was written from a file that this
// process could not get at just now (too many open files, no memory for the
// map, no permission): only the former are set aside.
func isDamage(err error) bool {
	var errno syscall.Errno
	switch {
	case err == nil, errors.Is(err, ErrNewerFormat), errors.Is(err, ErrNoKey), errors.Is(err, ErrClosed), errors.Is(err, ErrGone), errors.Is(err, errMoved), errors.Is(err, bolterrors.ErrTimeout):
		return false
	case errors.Is(err, errDamaged):
		return true
	case errors.As(err, &errno):
		return errno == syscall.EIO || errno == syscall.EUCLEAN || errno == syscall.EBADMSG
	}
	return true
}
