package codec

import (
	"time"
	"unicode/utf8"

	"github.com/waystation-iot/waystation/gateway"
)

// validLen is the length of s when each byte that is not UTF-8 stands as
// U+FFFD, and whether there is none.
func validLen(s string) (n int, ok bool) {
	if utf8.ValidString(s) {
		return len(s), true
	}
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		n += utf8.RuneLen(r) // of U+FFFD for a bad byte
		i += size
	}
	return n, false
}

// appendValid appends s, each byte that is not UTF-8 as U+FFFD.
func appendValid(dst []byte, s string) []byte {
	for _, r := range s {
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// writable reports whether every reader can hold t: the years of
// google.protobuf.Timestamp and of the usual libraries.
func writable(t time.Time) bool {
	return !t.IsZero() && t.UTC().Year() >= 1 && t.UTC().Year() <= 9999
}

// distinct counts the keys of tags.
func distinct(tags []gateway.Tag) (n int) {
	for i := range tags {
		if !laterTag(tags[i+1:], tags[i].Key) {
			n++
		}
	}
	return n
}

// worst is q, a grade beyond the known ones being the worst of them.
func worst(q gateway.Quality) gateway.Quality { return min(q, gateway.Bad) }

// AppendJSONString appends s as a JSON string, each byte that is not UTF-8 as
// U+FFFD.
func AppendJSONString(dst []byte, s string) []byte {
	dst, _ = appendString(dst, s)
	return dst
}
