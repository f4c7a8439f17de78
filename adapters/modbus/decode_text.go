package modbus

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/waystation-iot/waystation/gateway"
)

// kept is the text that was made last, and of what: text seldom changes.
type kept struct {
	made   bool
	data   string // registers of text and bytes
	number uint64 // number that has no name
	text   string
	reason string
}

// text makes the value of text or bytes.
func (f *field) text(data []byte) gateway.Value {
	if k := &f.kept; !k.made || k.data != string(data) {
		*k = kept{made: true, data: string(data)}
		b := bytes.Clone(data)
		if f.order&bytesSwapped != 0 {
			for i := 0; i+1 < len(b); i += 2 {
				b[i], b[i+1] = b[i+1], b[i]
			}
		}
		k.text = string(b)
		if f.class == classText {
			k.text = plainText(b)
		}
	}
	if f.class == classBytes {
		return gateway.BytesValue(f.name, f.kept.text)
	}
	v := gateway.StringValue(f.name, f.kept.text)
	v.Unit = f.unit
	return v
}

// plainText reads the text of registers: up to the first NUL, without padding
// by spaces or 0xFF, and as ISO 8859-1 when it is not UTF-8.
func plainText(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	b = bytes.TrimRight(b, " \xFF")
	if utf8.Valid(b) {
		return string(b)
	}
	return latin1(b)
}

// latin1 reads ISO 8859-1, whose characters are the first of Unicode.
func latin1(b []byte) string {
	var s strings.Builder
	s.Grow(2 * len(b))
	for _, c := range b {
		s.WriteRune(rune(c))
	}
	return s.String()
}

// named makes the value of a number that has a name. One without stays text,
// so that the value is always of the same kind, but cannot be trusted.
func (f *field) named(raw uint64) gateway.Value {
	if text, ok := f.enum[raw]; ok {
		return gateway.StringValue(f.name, text)
	}
	if k := &f.kept; !k.made || k.number != raw {
		*k = kept{made: true, number: raw, text: strconv.FormatUint(raw, 10)}
		if f.class == classInt {
			k.text = strconv.FormatInt(signed(raw, f.width), 10)
		}
		k.reason = "no name for " + k.text
	}
	v := gateway.StringValue(f.name, f.kept.text)
	v.Quality, v.Reason = gateway.Uncertain, f.kept.reason
	return v
}

// reasonOf says in a few words why there is nothing to decode.
func reasonOf(err error) string {
	var unread *unreadError
	if errors.As(err, &unread) {
		return "not read yet: the device refuses something near it"
	}
	if code := exception(err); code != 0 {
		return exceptionText(code)
	}
	switch {
	case isSilence(err):
		return "no answer"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "not read in time"
	}
	return clipReason(err.Error())
}

// maxReason is how long the reason of a value may be, in bytes.
const maxReason = 120

func clipReason(s string) string {
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return s
}

// exceptionText names an exception code as MODBUS Application Protocol V1.1b3
// section 7 does.
func exceptionText(code byte) string {
	switch code {
	case 1:
		return "illegal function (1)"
	case 2:
		return "illegal data address (2)"
	case 3:
		return "illegal data value (3)"
	case 4:
		return "server device failure (4)"
	case 5:
		return "acknowledge (5)"
	case 6:
		return "server device busy (6)"
	case 8:
		return "memory parity error (8)"
	case 10:
		return "gateway path unavailable (10)"
	case 11:
		return "gateway target device failed to respond (11)"
	}
	return "exception " + strconv.Itoa(int(code))
}
