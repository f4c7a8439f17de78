package buffer

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// A sealed block carries before its body
//
//	key id 8 bytes, generation of the queue 8 bytes, nonce 24 bytes
//
// and its body is XAES-256-GCM of the compressed records, with a tag of 16
// bytes at the end. The associated data are the block's bytes 0..27, what
// stands between its checksum and the nonce, and the name of the lane: a block
// that was altered, or moved to another seq, lane or queue, does not decrypt.
// The checksum of the block is over what is stored, so that what a medium did
// to it is seen without the key.
const (
	keyIDBytes   = 8
	nonceBytes   = 24
	tagBytes     = 16
	sealedHeader = keyIDBytes + len(Generation{}) + nonceBytes
)

// Associated data begin with one of these, so that nothing sealed for one
// purpose opens as another. A block's begin with blockMagic.
const (
	markMagic  = "wM"
	shelfMagic = "wS"
)

// ErrNoKey says that a block is encrypted with a key that was not given.
var ErrNoKey = errors.New("no key for an encrypted queue")

// errTampered says that bytes are whole, but not what was sealed, or not where
// it was sealed.
var errTampered = errors.New("altered or moved by someone without the key")

// sealer encrypts with the first key and decrypts with all. It may be used
// from any goroutine.
type sealer struct {
	keys   []*xaes
	random func([]byte) // fills a nonce; tests make it known
	pool   sync.Pool    // of *scratch
}

func newSealer(keys []Key) *sealer {
	s := &sealer{random: func(p []byte) { _, _ = rand.Read(p) }} // never fails
	s.pool.New = func() any { return new(scratch) }
	for _, k := range keys {
		s.keys = append(s.keys, newXAES(k))
	}
	return s
}

// seals reports whether there is a key to encrypt with.
func (s *sealer) seals() bool { return len(s.keys) > 0 }

// find returns the key of an id.
func (s *sealer) find(id []byte) (*xaes, error) {
	for _, x := range s.keys {
		if string(x.id[:]) == string(id) {
			return x, nil
		}
	}
	return nil, fmt.Errorf("%w: it is encrypted with the key whose id is %x: give that key as the current or as an old one", ErrNoKey, id)
}

// scratch is what sealing and opening need besides their input.
type scratch struct {
	block [aes.BlockSize]byte
	key   [32]byte
	aad   []byte
	plain []byte
}

// xaes is XAES-256-GCM (c2sp.org/XAES-256-GCM): AES-256-GCM under a key and a
// nonce derived from a nonce of 24 bytes, long enough to be drawn at random
// for every block that a gateway ever writes.
type xaes struct {
	id    [keyIDBytes]byte
	block cipher.Block
	k1    [aes.BlockSize]byte // CMAC subkey, NIST SP 800-38B section 6.1
}

// ID returns what tells the key from others, in hexadecimal: it is stored with
// everything the key encrypts. The key does not follow from it.
func (k Key) ID() string { return hex.EncodeToString(newXAES(k).id[:]) }

// Format writes the id in every verb of fmt: a key never prints.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "(key "+k.ID()+")") }

func newXAES(key Key) *xaes {
	x := &xaes{}
	mac := hmac.New(sha256.New, key[:])
	_, _ = mac.Write([]byte("waystation queue key id"))
	copy(x.id[:], mac.Sum(nil))
	x.block, _ = aes.NewCipher(key[:]) // fails for other lengths only
	x.block.Encrypt(x.k1[:], x.k1[:])
	carry := byte(0)
	for i, b := range slices.Backward(x.k1[:]) {
		x.k1[i] = b<<1 | carry
		carry = b >> 7
	}
	x.k1[len(x.k1)-1] ^= carry * 0b10000111
	return x
}

// gcm derives the cipher for a nonce, of which the last 12 bytes are the
// cipher's: counter mode of NIST SP 800-108r1 section 4.1 with AES-CMAC, label
// "X" and the first 12 bytes as context.
func (x *xaes) gcm(s *scratch, nonce []byte) (cipher.AEAD, error) {
	for i := range 2 {
		s.block = [aes.BlockSize]byte{0, byte(i + 1), 'X', 0}
		copy(s.block[4:], nonce[:12])
		subtle.XORBytes(s.block[:], s.block[:], x.k1[:])
		x.block.Encrypt(s.key[i*aes.BlockSize:], s.block[:])
	}
	b, err := aes.NewCipher(s.key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// seal appends plain, encrypted with s.aad as associated data, to dst.
func (x *xaes) seal(s *scratch, dst, nonce, plain []byte) ([]byte, error) {
	g, err := x.gcm(s, nonce)
	if err != nil {
		return dst, fmt.Errorf("encrypt: %w", err)
	}
	return g.Seal(dst, nonce[12:], plain, s.aad), nil
}

// open appends what body was sealed from to dst, or returns errTampered.
func (x *xaes) open(s *scratch, dst, nonce, body []byte) ([]byte, error) {
	g, err := x.gcm(s, nonce)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	out, err := g.Open(dst, nonce[12:], body, s.aad)
	if err != nil {
		return nil, errTampered
	}
	return out, nil
}

// sealBlock encrypts the body of the block that begins at at, in place.
func (k *coder) sealBlock(dst []byte, at, body int, of scope) ([]byte, error) {
	s := k.pool.Get().(*scratch)
	defer k.pool.Put(s)
	x := k.keys[0]
	head := dst[body-sealedHeader : body]
	copy(head, x.id[:])
	copy(head[keyIDBytes:], of.generation[:])
	nonce := head[sealedHeader-nonceBytes:]
	k.random(nonce)
	s.associate(dst[at:], body-at, of.lane)
	return x.seal(s, dst[:body], nonce, dst[body:])
}

// openBlock returns the decrypted body of a block. It is valid until s is used
// again.
func (k *coder) openBlock(s *scratch, p []byte, h header, of scope) ([]byte, error) {
	head := p[h.body-sealedHeader : h.body]
	x, err := k.find(head[:keyIDBytes])
	if err != nil {
		return nil, err
	}
	if g := Generation(head[keyIDBytes:]); g != of.generation {
		return nil, fmt.Errorf("%w: block %d is of queue %s, not %s", errTampered, h.first, g, of.generation)
	}
	s.associate(p, h.body, of.lane)
	s.plain, err = x.open(s, s.plain[:0], head[sealedHeader-nonceBytes:], p[h.body:])
	if err != nil {
		return nil, fmt.Errorf("%w: block %d of lane %s", err, h.first, of.lane)
	}
	return s.plain, nil
}

// associate sets the associated data of a block whose body begins at body.
func (s *scratch) associate(p []byte, body int, lane string) {
	s.aad = append(s.aad[:0], p[:28]...)
	s.aad = append(s.aad, p[blockHeader:body-nonceBytes]...)
	s.aad = append(s.aad, lane...)
}

// sealedBy returns the id of the key of a block, nil when it is in plain.
func sealedBy(p []byte, h header) []byte {
	if h.flags&flagSealed == 0 {
		return nil
	}
	return p[h.body-sealedHeader:][:keyIDBytes]
}

// A mark says from which seq on every block of a lane is sealed: what was
// written in plain before encryption was switched on is read, what someone
// adds in plain after that is not. Every segment carries it:
//
//	key id 8 bytes, generation 8, seq u64, nonce 24, tag 16
//
// the tag being that of nothing, with all before the nonce and the name of the
// lane as associated data.
const markBytes = keyIDBytes + len(Generation{}) + 8 + nonceBytes + tagBytes

// mark returns a mark under the current key.
func (k *coder) mark(of scope, from uint64) ([]byte, error) {
	s := k.pool.Get().(*scratch)
	defer k.pool.Put(s)
	x := k.keys[0]
	v := make([]byte, 0, markBytes)
	v = append(append(v, x.id[:]...), of.generation[:]...)
	v = binary.BigEndian.AppendUint64(v, from)
	s.aad = append(append(append(s.aad[:0], markMagic...), v...), of.lane...)
	at := len(v)
	v = v[:at+nonceBytes]
	k.random(v[at:])
	return x.seal(s, v, v[at:], nil)
}

// readMark returns the queue that a mark of a lane is of, and its seq.
func (k *coder) readMark(v []byte, lane string) (g Generation, from uint64, err error) {
	if len(v) != markBytes {
		return g, 0, fmt.Errorf("%w: mark of %d bytes", errDamaged, len(v))
	}
	x, err := k.find(v[:keyIDBytes])
	if err != nil {
		return g, 0, err
	}
	s := k.pool.Get().(*scratch)
	defer k.pool.Put(s)
	at := markBytes - tagBytes - nonceBytes
	s.aad = append(append(append(s.aad[:0], markMagic...), v[:at]...), lane...)
	if _, err := x.open(s, s.plain[:0], v[at:at+nonceBytes], v[at+nonceBytes:]); err != nil {
		return g, 0, err
	}
	return Generation(v[keyIDBytes:]), binary.BigEndian.Uint64(v[at-8:]), nil
}
