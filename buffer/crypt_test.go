package buffer

import (
	"bytes"
	"crypto/sha3"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// testKey returns a key of the tests.
func testKey(n byte) Key { return Key(bytes.Repeat([]byte{n}, 32)) }

// fixed replaces the random nonce by a known one.
func (s *sealer) fixed() {
	s.random = func(p []byte) { copy(p, "ABCDEFGHIJKLMNOPQRSTUVWX") }
}

// TestXAES checks the published vectors of XAES-256-GCM (c2sp.org/XAES-256-GCM).
func TestXAES(t *testing.T) {
	nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
	for _, v := range []struct {
		key           byte
		k1, aad, want string
	}{
		{1, "e531954aca063d5b8d9c47a47d4cc6f0", "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "23810ec50edb99f374409466ed1f4b7b", "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		x, s := newXAES(testKey(v.key)), &scratch{aad: []byte(v.aad)}
		if got := hex.EncodeToString(x.k1[:]); got != v.k1 {
			t.Errorf("key %d: K1 %s, want %s", v.key, got, v.k1)
		}
		got, err := x.seal(s, nil, nonce, []byte("XAES-256-GCM"))
		if err != nil || hex.EncodeToString(got) != v.want {
			t.Errorf("key %d: %x, %v, want %s", v.key, got, err, v.want)
		}
		if back, err := x.open(s, nil, nonce, got); err != nil || string(back) != "XAES-256-GCM" {
			t.Errorf("key %d: opened as %q, %v", v.key, back, err)
		}
	}
}

// TestXAESAccumulated is the randomized test of the specification, with its
// 10,000 iterations.
func TestXAESAccumulated(t *testing.T) {
	random, sum := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	read := func(n int) []byte {
		p := make([]byte, n)
		_, _ = random.Read(p)
		return p
	}
	s := &scratch{}
	for range 10_000 {
		x := newXAES(Key(read(32)))
		nonce := read(24)
		plain := read(int(read(1)[0]))
		s.aad = read(int(read(1)[0]))
		sealed, err := x.seal(s, nil, nonce, plain)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := x.open(s, nil, nonce, sealed); err != nil || !bytes.Equal(back, plain) {
			t.Fatalf("opened as %x, %v", back, err)
		}
		_, _ = sum.Write(sealed)
	}
	got := make([]byte, 32)
	_, _ = sum.Read(got)
	if want := "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"; hex.EncodeToString(got) != want {
		t.Fatalf("%x, want %s", got, want)
	}
}

// TestKeyNeverPrints: only the id of a key is ever seen.
func TestKeyNeverPrints(t *testing.T) {
	k := testKey(7)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{k, &k, []Key{k}, Options{Keys: []Key{k}}} {
			got := fmt.Sprintf(verb, v)
			if strings.Contains(got, "0707") || strings.Contains(got, "7 7") || strings.Contains(got, "0x7, 0x7") || !strings.Contains(got, k.ID()) {
				t.Errorf("%s of %T prints %s", verb, v, got)
			}
		}
	}
	if k.ID() == testKey(8).ID() || len(k.ID()) != 16 {
		t.Error("ids do not tell keys apart")
	}
}

// sealedBlock returns a block of 40 records of text from seq 4711 on.
func sealedBlock(t testing.TB, k *coder, of scope, sparse bool) []byte {
	t.Helper()
	raw := &Batch{}
	b := block{first: 4711, when: 1800000000000}
	for n := range 40 {
		raw.Add(goldenRecord(n))
		if sparse {
			b.seqs = append(b.seqs, b.first+uint64(3*n))
		}
	}
	b.count, b.raw, b.span = 40, raw.buf, 40
	if sparse {
		b.span, b.until = 120, 1800000060000
	}
	p, err := k.encode(nil, of, b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSealedBlock: any changed bit of a stored block is refused, also when the
// checksum was made right, as is a block of another lane or queue; nothing of
// it is handed out.
func TestSealedBlock(t *testing.T) {
	of := scope{generation: Generation{1, 2, 3}, lane: "alarm"}
	for _, codec := range []Compression{None, S2, Zstd} {
		for _, sparse := range []bool{false, true} {
			k := newCoder(codec, testKey(1))
			p := sealedBlock(t, k, of, sparse)
			if bytes.Contains(p, []byte("pump-")) || bytes.Contains(p, []byte(of.lane)) {
				t.Fatalf("%s: something is in plain", codec)
			}
			out, b, err := k.decode(nil, p, of)
			if err != nil || b.count != 40 || !b.sealed || !bytes.Contains(out, goldenRecord(39)) || (b.seqs != nil) != sparse {
				t.Fatalf("%s: %+v, %v", codec, b, err)
			}
			for bit := range len(p) * 8 {
				q := bytes.Clone(p)
				q[bit/8] ^= 1 << (bit % 8)
				if bit/8 < 32 || bit/8 >= blockHeader {
					reseal(q)
				}
				out, _, err := k.decode(nil, q, of)
				if err == nil || len(out) > 0 {
					t.Fatalf("%s: bit %d of byte %d changed: %v, %d bytes handed out", codec, bit%8, bit/8, err, len(out))
				}
				if bit/8 > blockHeader+5+sealedHeader && !errors.Is(err, errTampered) {
					t.Fatalf("%s: byte %d of the body changed: %v", codec, bit/8, err)
				}
			}
			for _, other := range []scope{{generation: Generation{1, 2, 4}, lane: "alarm"}, {generation: of.generation, lane: "bulk"}} {
				if _, _, err := k.decode(nil, p, other); !errors.Is(err, errTampered) {
					t.Fatalf("in %+v: %v", other, err)
				}
			}
			if _, _, err := newCoder(codec, testKey(2)).decode(nil, p, of); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), testKey(1).ID()) {
				t.Fatalf("with another key: %v", err)
			}
			if err := newCoder(codec).check(p); err != nil {
				t.Fatalf("whole without the key: %v", err)
			}
		}
	}
}

// TestSealedNonces: no two blocks have the same nonce, nor the same bytes.
func TestSealedNonces(t *testing.T) {
	k := newCoder(None, testKey(1))
	seen := map[string]bool{}
	for range 1000 {
		p := sealedBlock(t, k, scope{}, false)
		seen[string(p[blockHeader+1:blockHeader+1+sealedHeader])] = true
	}
	if len(seen) != 1000 {
		t.Fatalf("%d nonces for 1000 blocks", len(seen))
	}
}

// TestPlainAmongSealed: a block in plain is taken below the seq at which
// encryption was switched on, and nowhere else.
func TestPlainAmongSealed(t *testing.T) {
	p := sealedBlock(t, newCoder(Zstd), scope{}, false) // seqs 4711..4750
	k := newCoder(Zstd, testKey(1))
	for from, want := range map[uint64]error{0: nil, 4751: nil, 4750: errTampered, 1: errTampered} {
		if _, _, err := k.decode(nil, p, scope{sealed: from}); !errors.Is(err, want) {
			t.Errorf("sealed from %d: %v, want %v", from, err, want)
		}
	}
}

// TestMark: a mark opens for its lane alone, and any changed bit is refused.
func TestMark(t *testing.T) {
	k := newCoder(None, testKey(1), testKey(2))
	of := scope{generation: Generation{9}, lane: "a"}
	v, err := k.mark(of, 4711)
	if err != nil || len(v) != markBytes {
		t.Fatalf("%d bytes, %v", len(v), err)
	}
	if g, from, err := k.readMark(v, "a"); err != nil || g != of.generation || from != 4711 {
		t.Fatalf("%s, %d, %v", g, from, err)
	}
	if _, _, err := newCoder(None, testKey(2), testKey(1)).readMark(v, "a"); err != nil {
		t.Fatalf("as an old key: %v", err)
	}
	if _, _, err := k.readMark(v, "b"); !errors.Is(err, errTampered) {
		t.Fatalf("of another lane: %v", err)
	}
	for bit := range len(v) * 8 {
		q := bytes.Clone(v)
		q[bit/8] ^= 1 << (bit % 8)
		if _, _, err := k.readMark(q, "a"); err == nil {
			t.Fatalf("bit %d changed: taken", bit)
		}
	}
	if _, _, err := k.readMark(v[:20], "a"); !errors.Is(err, errDamaged) {
		t.Fatalf("cut short: %v", err)
	}
}
