package kafka

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// Bounds of the server's iteration count: RFC 7677 section 4 asks for at least
// 4096; the upper bound keeps a false server from burning our CPU.
const (
	minIterations = 4096
	maxIterations = 1 << 20
)

// scram is the client side of SCRAM (RFC 5802) without channel binding, as
// sarama wants it. Like Kafka's own client it takes user and password as UTF-8
// without SASLprep (org.apache.kafka.common.security.scram.internals.ScramFormatter).
type scram struct {
	hash     func() hash.Hash
	password string
	nonce    string // ours; set by tests
	bare     string // client-first-message-bare
	want     string // server signature to come, base64
	step     int
}

func newSHA256() hash.Hash { return sha256.New() }
func newSHA512() hash.Hash { return sha512.New() }

// Begin implements sarama.SCRAMClient.
func (c *scram) Begin(user, password, _ string) error {
	c.password, c.step = password, 0
	if c.nonce == "" {
		c.nonce = rand.Text()
	}
	c.bare = "n=" + strings.NewReplacer("=", "=3D", ",", "=2C").Replace(user) + ",r=" + c.nonce
	return nil
}

// Step implements sarama.SCRAMClient.
func (c *scram) Step(challenge string) (string, error) {
	c.step++
	switch c.step {
	case 1:
		return "n,," + c.bare, nil
	case 2:
		return c.proof(challenge)
	case 3:
		return "", c.verify(challenge)
	}
	return "", errors.New("log in with SCRAM: more steps than the exchange has")
}

// Done implements sarama.SCRAMClient.
func (c *scram) Done() bool { return c.step >= 3 }

// proof answers the server-first-message (RFC 5802 section 3).
func (c *scram) proof(serverFirst string) (string, error) {
	a := attributes(serverFirst)
	nonce := a["r"]
	if !strings.HasPrefix(nonce, c.nonce) || len(nonce) <= len(c.nonce) {
		return "", errors.New("log in with SCRAM: the server's nonce does not continue ours")
	}
	salt, err := base64.StdEncoding.DecodeString(a["s"])
	if err != nil || len(salt) == 0 {
		return "", errors.New("log in with SCRAM: the server's salt is not base64")
	}
	n, err := strconv.Atoi(a["i"])
	if err != nil || n < minIterations || n > maxIterations {
		return "", fmt.Errorf("log in with SCRAM: %q iterations are outside %d to %d", a["i"], minIterations, maxIterations)
	}
	salted, err := pbkdf2.Key(c.hash, c.password, salt, n, c.hash().Size())
	if err != nil {
		return "", fmt.Errorf("log in with SCRAM: %w", err)
	}
	final := "c=biws,r=" + nonce
	message := c.bare + "," + serverFirst + "," + final
	key := c.mac(salted, "Client Key")
	h := c.hash()
	h.Write(key)
	signature := c.mac(h.Sum(nil), message)
	for i := range key {
		key[i] ^= signature[i]
	}
	c.want = base64.StdEncoding.EncodeToString(c.mac(c.mac(salted, "Server Key"), message))
	return final + ",p=" + base64.StdEncoding.EncodeToString(key), nil
}

// verify checks the server-final-message: only a server that knows the
// password can sign it.
func (c *scram) verify(serverFinal string) error {
	a := attributes(serverFinal)
	if e := a["e"]; e != "" {
		return fmt.Errorf("log in with SCRAM: refused by the server: %s", e)
	}
	if !hmac.Equal([]byte(a["v"]), []byte(c.want)) {
		return errors.New("log in with SCRAM: the server does not know the password: it may be another server in its place")
	}
	return nil
}

func (c *scram) mac(key []byte, text string) []byte {
	m := hmac.New(c.hash, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// attributes splits "r=...,s=...,i=..." by its one-letter names.
func attributes(s string) map[string]string {
	m := make(map[string]string)
	for part := range strings.SplitSeq(s, ",") {
		if name, value, ok := strings.Cut(part, "="); ok {
			m[name] = value
		}
	}
	return m
}
