package gateway

import (
	"encoding/hex"
	"errors"
	"strings"

	"github.com/waystation-iot/waystation/buffer"
)

// ReadKey reads a key of encryption, 64 hexadecimal digits, from the file or
// environment variable that ref names. A relative file is looked up below dir.
func ReadKey(ref Secret, dir string) (buffer.Key, error) {
	var k buffer.Key
	text, err := ref.Reveal(dir)
	if err != nil {
		return k, err
	}
	b, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(b) != len(k) {
		return k, errors.New("read key: must be 64 hexadecimal digits")
	}
	return buffer.Key(b), nil
}
