package codec

import (
	"fmt"
	"unicode/utf8"
)

// maxDepth is how deep arrays and objects of a payload may be nested.
const maxDepth = 64

// scanner checks that a text is JSON (RFC 8259) before anything is taken out
// of it: gjson is lenient with what it is given.
type scanner struct {
	s     string
	i     int
	depth int
}

// checkJSON returns nil when s is exactly one JSON value in valid UTF-8,
// nested at most maxDepth deep; else an error with the byte offset.
func checkJSON(s string) error {
	sc := scanner{s: s}
	sc.space()
	if sc.i == len(s) {
		return fmt.Errorf("decode json: payload is empty")
	}
	if err := sc.value(); err != nil {
		return err
	}
	sc.space()
	if sc.i < len(s) {
		return sc.fail("unexpected text after the value")
	}
	return nil
}

func (sc *scanner) fail(msg string) error {
	return fmt.Errorf("decode json: %s at byte %d", msg, sc.i)
}

func (sc *scanner) space() {
	for sc.i < len(sc.s) {
		switch sc.s[sc.i] {
		case ' ', '\t', '\n', '\r':
			sc.i++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end.
func (sc *scanner) peek() byte {
	if sc.i < len(sc.s) {
		return sc.s[sc.i]
	}
	return 0
}

func (sc *scanner) value() error {
	switch c := sc.peek(); {
	case c == '{':
		return sc.nested('}')
	case c == '[':
		return sc.nested(']')
	case c == '"':
		return sc.str()
	case c == '-' || (c >= '0' && c <= '9'):
		return sc.number()
	case c == 't':
		return sc.literal("true")
	case c == 'f':
		return sc.literal("false")
	case c == 'n':
		return sc.literal("null")
	case sc.i >= len(sc.s):
		return sc.fail("payload ends too early")
	}
	if r, n := utf8.DecodeRuneInString(sc.s[sc.i:]); r == utf8.RuneError && n == 1 {
		return sc.fail("invalid UTF-8")
	}
	return sc.fail("unexpected character")
}

// nested reads an object or an array up to end.
func (sc *scanner) nested(end byte) error {
	if sc.depth++; sc.depth > maxDepth {
		return sc.fail(fmt.Sprintf("nested deeper than %d", maxDepth))
	}
	defer func() { sc.depth-- }()
	sc.i++
	sc.space()
	if sc.peek() == end {
		sc.i++
		return nil
	}
	for {
		if err := sc.item(end == '}'); err != nil {
			return err
		}
		sc.space()
		switch c := sc.peek(); {
		case c == end:
			sc.i++
			return nil
		case c == ',':
			sc.i++
			sc.space()
		case sc.i >= len(sc.s):
			return sc.fail("payload ends too early")
		default:
			return sc.fail(fmt.Sprintf("expected , or %c", end))
		}
	}
}

// item reads one element of an array, or one key and value of an object.
func (sc *scanner) item(keyed bool) error {
	if !keyed {
		return sc.value()
	}
	if sc.peek() != '"' {
		if sc.i >= len(sc.s) {
			return sc.fail("payload ends too early")
		}
		return sc.fail("expected a key in double quotes")
	}
	if err := sc.str(); err != nil {
		return err
	}
	sc.space()
	if sc.peek() != ':' {
		return sc.fail("expected : after the key")
	}
	sc.i++
	sc.space()
	return sc.value()
}

func (sc *scanner) literal(want string) error {
	for k := range len(want) {
		if sc.peek() != want[k] {
			return sc.fail("expected " + want)
		}
		sc.i++
	}
	return nil
}

// str reads a string, RFC 8259 §7.
func (sc *scanner) str() error {
	for sc.i++; sc.i < len(sc.s); {
		switch c := sc.s[sc.i]; {
		case c == '"':
			sc.i++
			return nil
		case c == '\\':
			if err := sc.escape(); err != nil {
				return err
			}
		case c < 0x20:
			return sc.fail("control character in a string")
		case c < utf8.RuneSelf:
			sc.i++
		default:
			r, n := utf8.DecodeRuneInString(sc.s[sc.i:])
			if r == utf8.RuneError && n == 1 {
				return sc.fail("invalid UTF-8")
			}
			sc.i += n
		}
	}
	return sc.fail("payload ends inside a string")
}

func (sc *scanner) escape() error {
	sc.i++
	switch sc.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		sc.i++
		return nil
	case 'u':
		sc.i++
		for range 4 {
			if !isHex(sc.peek()) {
				return sc.fail("bad \\u escape")
			}
			sc.i++
		}
		return nil
	}
	return sc.fail("bad escape")
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// number reads a number, RFC 8259 §6.
func (sc *scanner) number() error {
	if sc.peek() == '-' {
		sc.i++
	}
	if sc.peek() == '0' {
		sc.i++
		if c := sc.peek(); c >= '0' && c <= '9' {
			return sc.fail("number with a leading zero")
		}
	} else if !sc.digits() {
		return sc.fail("expected a digit")
	}
	if sc.peek() == '.' {
		sc.i++
		if !sc.digits() {
			return sc.fail("expected a digit after the point")
		}
	}
	if c := sc.peek(); c == 'e' || c == 'E' {
		sc.i++
		if c := sc.peek(); c == '+' || c == '-' {
			sc.i++
		}
		if !sc.digits() {
			return sc.fail("expected a digit in the exponent")
		}
	}
	return nil
}

// digits reads one or more digits and reports whether there was one.
func (sc *scanner) digits() bool {
	start := sc.i
	for c := sc.peek(); c >= '0' && c <= '9'; c = sc.peek() {
		sc.i++
	}
	return sc.i > start
}
