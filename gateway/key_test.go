package gateway

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystation-iot/waystation/buffer"
)

// keyBytes is a key as it is drawn, and one whose last byte is a line break.
func keyBytes(last byte) []byte {
	k := []byte("\xfe\x00key of the tests, not to be used")[:31]
	return append(k, last)
}

// keyWriter returns what writes a file with a mode into dir.
func keyWriter(t *testing.T, dir string) func(name, text string, mode os.FileMode) {
	return func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
}

func TestReadKey(t *testing.T) {
	dir := t.TempDir()
	write := keyWriter(t, dir)
	raw, odd := string(keyBytes(7)), string(keyBytes('\n'))
	b64 := base64.StdEncoding.EncodeToString([]byte(raw))
	write("raw", raw, 0o600)
	write("raw-line", raw+"\n", 0o600)
	write("odd", odd, 0o600)
	write("odd-line", odd+"\n", 0o600)
	write("hex", hex.EncodeToString([]byte(raw)), 0o640)
	write("HEX", strings.ToUpper(hex.EncodeToString([]byte(raw)))+"\r\n", 0o400)
	write("b64", b64+"\n", 0o600)
	write("b64-short", strings.TrimRight(b64, "="), 0o600)
	t.Setenv("WAYSTATION_TEST_KEY", b64)
	t.Setenv("WAYSTATION_TEST_KEY_HEX", hex.EncodeToString([]byte(raw)))
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for ref, want := range map[Secret]string{
		"file:raw": raw, "file:raw-line": raw, "file:odd": odd, "file:odd-line": odd, "file:hex": raw, "file:HEX": raw, "file:b64": raw, "file:b64-short": raw,
		Secret("file:" + filepath.Join(dir, "raw")): raw, "env:WAYSTATION_TEST_KEY": raw, "env:WAYSTATION_TEST_KEY_HEX": raw, "credential:b64": raw, "credential:raw": raw,
	} {
		if got, err := ReadKey(ref, dir); err != nil || got != buffer.Key([]byte(want)) {
			t.Errorf("%s: %v", string(ref), err)
		}
	}
	if got, err := ReadKey("credential:raw", "/nowhere"); err != nil || got != buffer.Key([]byte(raw)) {
		t.Errorf("a credential does not depend on the configuration's directory: %v", err)
	}
}

// What is no key, or no secret, is refused with what was found and what to do;
// the error never tells what it is.
func TestReadKeyRefuses(t *testing.T) {
	dir, raw := t.TempDir(), string(keyBytes(7))
	b64 := base64.StdEncoding.EncodeToString([]byte(raw))
	write := keyWriter(t, dir)
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	write("short", "\xff"+raw[:20], 0o600)
	write("long", raw+"\xfe\xfd", 0o600)
	write("nothing", "\n", 0o600)
	write("password", "correct horse battery staple 123"+"\n", 0o600)
	write("half-hex", strings.Repeat("0123456789abcdef", 2), 0o600)
	write("zeros", string(make([]byte, 32)), 0o600)
	write("not-hex", strings.Repeat("x", 64), 0o600)
	write("not-b64", strings.Repeat("!", 44), 0o600)
	write("open", b64, 0o644)
	t.Setenv("WAYSTATION_TEST_KEY_RAW", raw[2:]+"..")
	for ref, want := range map[Secret]string{
		"file:short": "21 bytes are found", "file:long": "34 bytes are found", "file:nothing": "it is empty", "file:password": "are text", "file:half-hex": "are text",
		"file:zeros": "all the same", "file:not-hex": "64 bytes are found", "file:not-b64": "44 bytes are found", "file:open": "chmod 600", "file:missing": "no such file",
		"env:WAYSTATION_TEST_KEY_RAW": "32 characters are found", "env:WAYSTATION_TEST_UNSET": "not set", "": "none is given", Secret(b64): "not the key itself",
		"credential:no/slash": "without a slash", "credential:..": "without a slash", "credential:missing": "no such file", "file:/dev/zero": "regular file",
	} {
		_, err := ReadKey(ref, dir)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want it to say %q", string(ref), err, want)
			continue
		}
		for _, secret := range []string{b64, "battery", "012345", "key of the", "xxxx", "!!!!"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%q: the error tells the key: %v", string(ref), err)
			}
		}
	}
	for _, ref := range []Secret{"", "file:short", "file:zeros", "env:WAYSTATION_TEST_KEY_RAW"} {
		if _, err := ReadKey(ref, dir); !strings.Contains(err.Error(), "head -c 32 /dev/urandom | base64 > key") {
			t.Errorf("%q: %v does not say how to make one", string(ref), err)
		}
	}
}

// A systemd credential is a secret like others.
func TestRevealCredential(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kafka"), []byte("from systemd\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if got, err := Secret("credential:kafka").Reveal("/nowhere"); err != nil || got != "from systemd" {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "/etc/passwd", "../kafka"} {
		if _, err := Secret("credential:" + name).Reveal(dir); err == nil || !strings.Contains(err.Error(), "without a slash") {
			t.Errorf("credential %q: %v", name, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := Secret("credential:kafka").Reveal(dir); err == nil || !strings.Contains(err.Error(), "LoadCredential=kafka:PATH") {
		t.Errorf("without systemd: %v", err)
	}
}
