package modbus

import (
	"context"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	mostIdentify   = 4  // requests for one identification
	mostIdentifier = 64 // bytes of a tag
)

// identify asks a unit who it is (function 43/14, basic objects; MODBUS
// Application Protocol V1.1b3 section 6.21) and returns what it told of the
// tags vendor, product and revision. A unit that refuses the function has none
// and is no error. Many units do not answer a function they do not know: that is
// a *silence like any other, and says nothing of the unit.
func identify(ctx context.Context, l line, unit byte, timeout time.Duration) ([]gateway.Tag, error) {
	tags, err := identity(ctx, l, unit, timeout)
	if exception(err) != 0 {
		err = nil
	}
	return tags, err
}

// identity is identify, with the exception as an error.
func identity(ctx context.Context, l line, unit byte, timeout time.Duration) (tags []gateway.Tag, err error) {
	names := [...]string{"vendor", "product", "revision"}
	var found [len(names)]string
	q := &request{unit: unit, function: encapsulated, timeout: timeout}
	for range mostIdentify {
		var data []byte
		if data, err = l.Ask(ctx, q); err != nil {
			break // what was told before is kept
		}
		more, next := data[2] != 0, uint16(data[3])
		for id, value := range objects(data[5:], int(data[4])) {
			if int(id) < len(found) && found[id] == "" {
				found[id] = tagText(value)
			}
		}
		if !more || next <= q.count || int(next) >= len(names) {
			break
		}
		q.count = next
	}
	for id, value := range found {
		if value != "" {
			tags = append(tags, gateway.Tag{Key: names[id], Value: value})
		}
	}
	if len(tags) > 0 && (isSilence(err) || exception(err) != 0) {
		err = nil
	}
	return tags, err
}

// objects goes through a list of n objects, each with identifier and length.
// It ends where the list does not hold what it says.
func objects(list []byte, n int) func(yield func(byte, []byte) bool) {
	return func(yield func(byte, []byte) bool) {
		for ; n > 0 && len(list) >= 2; n-- {
			id, length := list[0], int(list[1])
			if list = list[2:]; length > len(list) {
				length = len(list)
			}
			if !yield(id, list[:length]) {
				return
			}
			list = list[length:]
		}
	}
}

// tagText makes of what a unit calls itself something for a tag: devices pad
// with spaces, zeros and worse.
func tagText(value []byte) string {
	text := string(value)
	if !utf8.ValidString(text) { // the standard wants ASCII; some write Latin-1
		runes := make([]rune, len(value))
		for i, b := range value {
			runes[i] = rune(b)
		}
		text = string(runes)
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	for len(text) > mostIdentifier {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	return strings.TrimSpace(text)
}
