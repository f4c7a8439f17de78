package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/waystation-iot/waystation/buffer"
)

// makeKey is the advice in every error about a key.
const makeKey = "make one with: head -c 32 /dev/urandom | base64 > key; chmod 600 key"

// ReadKey reads a key of encryption at rest. ref is "file:PATH" or
// "credential:NAME", which hold 32 bytes, 64 hexadecimal digits or base64, or
// "env:NAME" with one of the latter two; a relative file is looked up below
// dir. One trailing line break is passed over. A key that other users of the
// machine may read, and one that was not drawn at random, are refused. Errors
// never say what the key is.
func ReadKey(ref Secret, dir string) (key buffer.Key, err error) {
	from := string(ref)
	var text string
	switch kind, _, _ := strings.Cut(from, ":"); kind {
	case "file", "credential":
		path, pathErr := ref.file(dir)
		if pathErr != nil {
			return key, fmt.Errorf("read key: %w", pathErr)
		}
		if text, err = readSecret(path); err == nil {
			err = private(path)
		}
	case "env":
		text, err = ref.Reveal(dir)
	case "":
		return key, errors.New("read key: none is given; " + makeKey)
	default: // do not print it: it may be the key
		return key, errors.New("read key: write where it is, as file:PATH, env:NAME or credential:NAME, not the key itself")
	}
	if err != nil {
		return key, fmt.Errorf("read key: %w", err)
	}
	raw, err := parseKey(text, !strings.HasPrefix(from, "env:"))
	if err != nil {
		return key, fmt.Errorf("read key %s: %w; %s", from, err, makeKey)
	}
	return buffer.Key(raw), nil
}

// parseKey returns the 32 bytes of a key.
func parseKey(text string, rawAllowed bool) ([]byte, error) {
	const n = len(buffer.Key{})
	line := strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	var key []byte
	switch {
	case len(line) == 2*n:
		key, _ = hex.DecodeString(line)
	case len(line) == base64.StdEncoding.EncodedLen(n):
		key, _ = base64.StdEncoding.Strict().DecodeString(line)
	case len(line) == base64.RawStdEncoding.EncodedLen(n):
		key, _ = base64.RawStdEncoding.Strict().DecodeString(line)
	case rawAllowed && len(text) == n:
		key = []byte(text)
	case rawAllowed && len(text) == n+1 && text[n] == '\n':
		key = []byte(text[:n])
	case len(line) == 0:
		return nil, errors.New("it is empty")
	}
	switch {
	case len(key) != n && rawAllowed:
		return nil, fmt.Errorf("%d bytes are found: need 32 bytes, 64 hexadecimal digits or 44 characters of base64", len(line))
	case len(key) != n:
		return nil, fmt.Errorf("%d characters are found: need 64 hexadecimal digits or 44 characters of base64", len(line))
	case printable(key):
		return nil, errors.New("the 32 bytes are text: a password, or half of the hexadecimal digits, is no key")
	case bytes.Count(key, key[:1]) == n:
		return nil, errors.New("the 32 bytes are all the same")
	}
	return key, nil
}

// printable reports whether p is all ASCII text: 32 random bytes never are.
func printable(p []byte) bool {
	return !bytes.ContainsFunc(p, func(r rune) bool { return r < ' ' || r > '~' })
}

// private returns an error when other users may read or write a file.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o006 != 0 {
		return fmt.Errorf("every user of this machine may read or write %s (mode %04o): chmod 600 it, and make a new key if others had access", path, mode)
	}
	return nil
}
