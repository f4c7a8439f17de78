package gateway

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Size is a number of bytes. In configuration it is written as a whole or
// decimal number with an optional unit: B, KiB, MiB, GiB, TiB (powers of
// 1024, IEC 80000-13) or kB, MB, GB, TB (powers of 1000).
type Size int64

// sizeUnits lists the units, longest suffix first.
func sizeUnits() []struct {
	suffix string
	factor float64
} {
	return []struct {
		suffix string
		factor float64
	}{
		{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
		{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
	}
}

// ParseSize reads a size such as "64MiB", "1.5 GB" or "4096".
func ParseSize(s string) (Size, error) {
	num, factor := strings.TrimSpace(s), 1.0
	for _, u := range sizeUnits() {
		if rest, ok := strings.CutSuffix(num, u.suffix); ok {
			num, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f*factor > math.MaxInt64/2 {
		return 0, fmt.Errorf("bad size %q: write a number and a unit, such as 512KiB, 64MiB or 8GiB", s)
	}
	return Size(f * factor), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSize(string(b))
	return err
}

// MarshalText implements encoding.TextMarshaler. What it writes reads as the
// same size: in bytes where String would round.
func (s Size) MarshalText() ([]byte, error) {
	text := s.String()
	if back, err := ParseSize(text); err != nil || back != s {
		text = strconv.FormatInt(int64(s), 10) + "B"
	}
	return []byte(text), nil
}

// String returns the size in the largest binary unit that keeps it readable.
func (s Size) String() string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(s), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return strconv.FormatFloat(math.Round(f*100)/100, 'f', -1, 64) + units[i]
}

// Secret is a password, token or key. In configuration it is a reference,
// "env:NAME", "file:PATH" or "credential:NAME", or the text itself. It never
// prints.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(secret)"
}

// Format hides the secret in every verb of fmt: %d of a text prints it whole.
// A struct that holds a Secret in an unexported field still prints it: keep
// the field exported, or do not print the struct.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// GoString hides the secret from those who ask for Go syntax.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the secret in every encoding.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal resolves the reference. A relative file is looked up below dir, a
// credential where systemd puts those of a service. One trailing line break of
// a file or credential is cut off.
func (s Secret) Reveal(dir string) (string, error) {
	if name, ok := strings.CutPrefix(string(s), "env:"); ok {
		v, set := os.LookupEnv(name)
		if !set {
			return "", fmt.Errorf("read secret: environment variable %s is not set", name)
		}
		return v, nil
	}
	path, err := s.file(dir)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	if path == "" {
		return string(s), nil
	}
	b, err := readSecret(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(b, "\n"), "\r"), nil
}

// credentialsDir is the variable in which systemd says where the credentials
// of a service are (systemd.exec, LoadCredential=).
const credentialsDir = "CREDENTIALS_DIRECTORY"

// file returns the file that a secret refers to, "" when it is none.
func (s Secret) file(dir string) (string, error) {
	if path, ok := strings.CutPrefix(string(s), "file:"); ok {
		return InDir(dir, path), nil
	}
	name, ok := strings.CutPrefix(string(s), "credential:")
	if !ok {
		return "", nil
	}
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return "", fmt.Errorf("credential %q: give the name that stands in LoadCredential=NAME:PATH of the systemd unit, without a slash", name)
	}
	from := os.Getenv(credentialsDir)
	if from == "" {
		return "", fmt.Errorf("credential %s: %s is not set: start the gateway as a systemd service with LoadCredential=%s:PATH in its unit, or use file:PATH",
			name, credentialsDir, name)
	}
	return filepath.Join(from, name), nil
}

// maxSecretBytes is the size of the largest file that can be a secret.
const maxSecretBytes = 64 << 10

// readSecret reads a regular file: a device or a pipe named by mistake would
// be read without end.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a regular file", path)
	case info.Size() > maxSecretBytes:
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxSecretBytes)
	}
	b, err := os.ReadFile(path)
	return string(b), err
}

// InDir returns path, below dir when it is relative.
func InDir(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
