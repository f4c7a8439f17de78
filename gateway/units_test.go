package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]Size{
		"0": 0, "4096": 4096, "4096B": 4096, "1KiB": 1024, "64MiB": 64 << 20, "8GiB": 8 << 30, "1TiB": 1 << 40, "1.5 GB": 1_500_000_000,
		"1kB": 1000, "2MB": 2_000_000, "1TB": 1e12, " 3 MiB ": 3 << 20, "0.5KiB": 512,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "MiB", "-1", "-1MiB", "x", "1XiB", "1mib", "NaN", "Inf", "1e300GiB", "5000000TiB", "1 MiB x", "--1"} {
		if got, err := ParseSize(in); err == nil || !strings.Contains(err.Error(), "64MiB") {
			t.Errorf("ParseSize(%q) = %d, %v; want an error with an example", in, got, err)
		}
	}
}

// What is written reads as the same size: a configuration that was printed and
// read again is the same.
func TestSizeMarshalsExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.OneOf(rapid.Int64Range(0, 1<<52), rapid.SampledFrom([]int64{0, 1, 1234567, 64 << 20, 8 << 30, 1<<30 - 1, 1536})).Draw(t, "size"))
		text, err := s.MarshalText()
		var back Size
		if err2 := back.UnmarshalText(text); err != nil || err2 != nil || back != s {
			t.Fatalf("%d is written %q and read as %d, %v %v", s, text, back, err, err2)
		}
	})
	for s, want := range map[Size]string{64 << 20: "64MiB", 8 << 30: "8GiB", 1536: "1.5KiB", 5: "5B", 1234567: "1.18MiB", math.MaxInt64: "8388608TiB"} {
		if s.String() != want {
			t.Errorf("%d prints %q, want %q", int64(s), s.String(), want)
		}
	}
}

// No way to print a configuration shows a secret.
func TestSecretsAreNeverPrinted(t *testing.T) {
	const hidden = "hunter2"
	type config struct {
		User     string
		Password Secret
		More     map[string]Secret
		List     []Secret
		Pointer  *Secret
	}
	s := Secret(hidden)
	c := config{User: "u", Password: s, More: map[string]Secret{"k": s}, List: []Secret{s}, Pointer: &s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%o", "%10.3v", "%U", "%e", "%c"} { // %p asks no method, and go vet refuses it
		fmt.Fprintf(&out, verb+verb+verb+verb+"\n", s, &s, c, &c)
		fmt.Fprintf(&out, verb+verb+"\n", c.List, c.More)
	}
	fmt.Fprintln(&out, s, c, fmt.Errorf("connect with %v: %w", s, os.ErrClosed))
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "secret", s, "config", c)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "secret", s, "config", c)
	if err := json.NewEncoder(&out).Encode(c); err != nil {
		t.Fatal(err)
	}
	text := strings.ToLower(out.String())
	for _, shown := range []string{hidden, fmt.Sprintf("%x", hidden), "h u n t", "104"} {
		if strings.Contains(text, shown) {
			t.Errorf("a secret is printed as %q in:\n%s", shown, out.String())
		}
	}
	if !strings.Contains(text, "(secret)") {
		t.Error("nothing says that there is a secret")
	}
	if got := fmt.Sprint(Secret("")); got != "" {
		t.Errorf("no secret prints %q: a missing password must show", got)
	}
}

func TestReveal(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	abs := write("pw", "from file\n")
	write("two", "line\n\n")
	write("dos", "line\r\n")
	t.Setenv("WAYSTATION_TEST_SECRET", "from env")
	for in, want := range map[Secret]string{
		"": "", "plain": "plain", "env:WAYSTATION_TEST_SECRET": "from env", "file:pw": "from file",
		Secret("file:" + abs): "from file", "file:two": "line\n", "file:dos": "line",
	} {
		if got, err := in.Reveal(dir); err != nil || got != want {
			t.Errorf("Reveal(%q) = %q, %v; want %q", string(in), got, err, want)
		}
	}
	write("big", strings.Repeat("x", maxSecretBytes+1))
	for in, want := range map[Secret]string{"env:WAYSTATION_TEST_UNSET": "not set", "file:missing": "no such file", "file:/dev/zero": "regular file", "file:big": "larger"} {
		if _, err := in.Reveal(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Reveal(%q): %v, want it to say %q", string(in), err, want)
		}
	}
}
