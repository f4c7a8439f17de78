package kafka

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

// maxKey is how long the name of an object may be (Amazon S3, "Object key
// naming guidelines": 1,024 bytes); a part of it must fit a file name.
const (
	maxKey  = 1024
	maxName = 200
)

// checkKey checks the template of an object's name.
func checkKey(t string) error {
	c := &claim{Record: recordID{Gateway: "g", Generation: "g", Lane: "l", Seq: 1}, SHA256: strings.Repeat("0", 64)}
	if _, err := expandKey(t, c, &gateway.Record{}); err != nil {
		return err
	}
	var words []string
	for rest := t; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			break
		}
		word, next, _ := strings.Cut(after, "}")
		words, rest = append(words, word), next
	}
	has := func(want string) bool {
		for _, w := range words {
			if w == want {
				return true
			}
		}
		return false
	}
	if !has("sha256") && (!has("generation") || !has("lane") || !has("seq")) {
		return errors.New("does not tell records apart: it needs {generation}, {lane} and {seq}, or {sha256}")
	}
	return nil
}

// expandKey returns the name of the object of a claim. What a device sends
// cannot lead out of the store: each value is one part of the name, of
// characters that no store and no file system takes amiss.
func expandKey(t string, c *claim, r *gateway.Record) (string, error) {
	var out strings.Builder
	for rest := t; rest != ""; {
		text, after, ok := strings.Cut(rest, "{")
		out.WriteString(text)
		if !ok {
			break
		}
		word, next, ok := strings.Cut(after, "}")
		if !ok {
			return "", errors.New("'{' without '}'")
		}
		value, err := keyValue(word, c, r)
		if err != nil {
			return "", err
		}
		out.WriteString(plain(value))
		rest = next
	}
	parts := strings.Split(out.String(), "/")
	for i, p := range parts {
		if p = plain(p); p == "." || p == ".." || p == "" {
			p = "_"
		}
		parts[i] = p[:min(len(p), maxName)]
	}
	key := strings.Join(parts, "/")
	if len(key) > maxKey {
		return "", fmt.Errorf("makes a name of %d bytes, more than %d", len(key), maxKey)
	}
	return key, nil
}

func keyValue(word string, c *claim, r *gateway.Record) (string, error) {
	if n, ok := strings.CutPrefix(word, "sha256:"); ok {
		digits, err := strconv.Atoi(n)
		if err != nil || digits < 1 || digits > 64 {
			return "", fmt.Errorf("{%s}: write 1 to 64 digits", word)
		}
		return c.SHA256[:digits], nil
	}
	switch word {
	case "gateway":
		return c.Record.Gateway, nil
	case "generation":
		return c.Record.Generation, nil
	case "lane":
		return c.Record.Lane, nil
	case "seq":
		return strconv.FormatUint(c.Record.Seq, 10), nil
	case "sha256":
		return c.SHA256, nil
	case "source":
		return r.Source, nil
	case "device":
		if r.Device == "" {
			return r.Name, nil
		}
		return r.Device, nil
	case "name":
		return r.Name, nil
	}
	return "", fmt.Errorf("{%s} is not a placeholder", word)
}

// plain replaces what is not of [A-Za-z0-9._=-].
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-', c == '=':
			return c
		}
		return '_'
	}, s)
}
