package gateway

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/waystation-iot/waystation/buffer"
)

// ReadKey reads a key of encryption at rest: 64 hexadecimal digits. A relative
// file is looked up below dir.
func ReadKey(ref Secret, dir string) (key buffer.Key, err error) {
	text, err := ref.Reveal(dir)
	if err != nil {
		return key, fmt.Errorf("read key: %w", err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(b) != len(key) {
		return key, fmt.Errorf("read key: it is not %d hexadecimal digits", 2*len(key))
	}
	copy(key[:], b)
	return key, nil
}
