package kafka

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// eventContentType is the media type of a structured event (CloudEvents Kafka
// Protocol Binding 1.0, section 3.3.1).
const eventContentType = "application/cloudevents+json; charset=UTF-8"

// events makes CloudEvents 1.0 of records.
type events struct {
	whole  bool // structured: the value is the whole event
	source template
	typ    string
}

func newEvents(c *Config) *events {
	e := &events{whole: c.CloudEvents == wordStructured, typ: c.EventType}
	e.source, _ = parseTemplate(c.EventSource) // checked by Validate
	return e
}

// structured reports whether the value is the whole event.
func (e *events) structured() bool { return e != nil && e.whole }

// attribute adds a header "ce_…" with what was appended to buf since start.
func (e *events) attribute(a *arena, key []byte, start int) {
	if len(a.buf) > start { // an attribute is never empty
		a.header(key, start)
	}
}

// headers adds the attributes of the event (binary mode: section 3.2.3).
func (e *events) headers(a *arena, r *gateway.Record) {
	k := &a.keys
	a.text(k.ceVersion, "1.0")
	a.text(k.ceType, e.typ)
	start := len(a.buf)
	a.buf = appendID(a.buf, &a.at)
	e.attribute(a, k.ceID, start)
	start = len(a.buf)
	a.buf = e.appendSource(a.buf, r, &a.at)
	e.attribute(a, k.ceSource, start)
	start = len(a.buf)
	a.buf = appendFit(a.buf, subject(r))
	e.attribute(a, k.ceSubject, start)
	if t := eventTime(r); !t.IsZero() {
		a.stamp(k.ceTime, t)
	}
}

// appendID appends what is the same for a repeat and different for all other
// records.
func appendID(dst []byte, at *codec.Position) []byte {
	for _, part := range [...]string{at.Gateway, at.Generation, at.Lane} {
		dst = append(appendFit(dst, part), '/')
	}
	return strconv.AppendUint(dst, at.Seq, 10)
}

// subject is what was observed.
func subject(r *gateway.Record) string {
	if r.Device != "" {
		return r.Device
	}
	return r.Name
}

// eventTime is when it happened, as far as it is known.
func eventTime(r *gateway.Record) time.Time {
	for _, t := range [...]time.Time{r.Time, r.Received} {
		if y := t.UTC().Year(); !t.IsZero() && y >= 0 && y <= 9999 {
			return t
		}
	}
	return time.Time{}
}

// appendSource appends the URI reference of the source: what stands for a
// placeholder is percent-encoded (RFC 3986, section 2.1), but for '/'.
func (e *events) appendSource(dst []byte, r *gateway.Record, at *codec.Position) []byte {
	o := origin{at.Gateway, at.Lane}
	for i := range e.source {
		start := len(dst)
		dst = e.source[i:i+1].expand(dst, o, r)
		if e.source[i].of != ofText {
			dst = escape(dst, start)
		}
	}
	return dst
}

// escape percent-encodes what was appended to dst since start.
func escape(dst []byte, start int) []byte {
	const hexits = "0123456789ABCDEF"
	more := 0
	for _, c := range dst[start:] {
		if !plainInURI(c) {
			more += 2
		}
	}
	if more == 0 {
		return dst
	}
	end := len(dst)
	dst = append(dst, make([]byte, more)...)
	for to, from := len(dst)-1, end-1; from >= start; from-- { // from behind, in place
		c := dst[from]
		if plainInURI(c) {
			dst[to] = c
			to--
			continue
		}
		dst[to-2], dst[to-1], dst[to] = '%', hexits[c>>4], hexits[c&15]
		to -= 3
	}
	return dst
}

func plainInURI(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/", c) >= 0
}

// isURI reports whether what t expands to is always a URI reference that is
// not empty.
func (t template) isURI() bool {
	text := ""
	for _, p := range t {
		if p.of == ofText {
			text += p.text
		} else {
			text += "x"
		}
	}
	_, err := url.Parse(text)
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"<>\^`+"`{|}", r) }
	constant := false
	for _, p := range t {
		constant = constant || p.of == ofText || p.of == ofGateway || p.of == ofSource // never empty
	}
	return err == nil && constant && !strings.ContainsFunc(text, bad)
}

// unfitForEvents reports whether an attribute may not hold r (CloudEvents 1.0,
// "Type System", String).
func unfitForEvents(r rune) bool {
	return unicode.IsControl(r) || r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef
}

// appendFit appends s, what an attribute may not hold as U+FFFD.
func appendFit(dst []byte, s string) []byte {
	for _, r := range s {
		if unfitForEvents(r) {
			r = utf8.RuneError
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// envelope appends the event as JSON (CloudEvents JSON Event Format 1.0) around
// the data in f.data.
func (f *form) envelope(dst []byte, r *gateway.Record, at *codec.Position) []byte {
	var room [256]byte
	text := func(key string, value []byte) {
		dst = append(append(append(dst, ',', '"'), key...), '"', ':')
		dst = codec.AppendJSONString(dst, string(value))
	}
	dst = append(dst, `{"specversion":"1.0"`...)
	text("id", appendID(room[:0], at))
	text("source", f.events.appendSource(room[:0], r, at))
	text("type", []byte(f.events.typ))
	if s := appendFit(room[:0], subject(r)); len(s) > 0 {
		text("subject", s)
	}
	if t := eventTime(r); !t.IsZero() {
		text("time", t.UTC().AppendFormat(room[:0], time.RFC3339Nano))
	}
	if f.trace != nil { // the extension of that name
		text(traceParent, f.trace.parent(room[:0], r, at))
		if state := stateOf(r); state != "" {
			text(traceState, []byte(state))
		}
	}
	kind := f.enc.ContentType(r)
	text("datacontenttype", appendFit(room[:0], kind))
	switch shapeOf(kind, f.data) {
	case shapeJSON:
		dst = append(append(dst, `,"data":`...), f.data...)
	case shapeText:
		text("data", f.data)
	default:
		dst = append(dst, `,"data_base64":"`...)
		dst = append(base64.StdEncoding.AppendEncode(dst, f.data), '"')
	}
	return append(dst, '}')
}

// shape is how data stand in a structured event.
type shape uint8

const (
	shapeBytes shape = iota
	shapeJSON
	shapeText
)

// shapeOf decides by the media type, and by whether the data are what it says.
func shapeOf(kind string, data []byte) shape {
	essence, parameters, _ := strings.Cut(strings.ToLower(kind), ";")
	essence = strings.TrimSpace(essence)
	main, sub, _ := strings.Cut(essence, "/")
	switch {
	case !utf8.Valid(data) || strings.Contains(parameters, "charset") && !strings.Contains(parameters, "utf-8"):
		return shapeBytes
	case (sub == "json" || strings.HasSuffix(sub, "+json")) && json.Valid(data):
		return shapeJSON
	case main == "text" && sub != "json" && !strings.HasSuffix(sub, "+json"):
		return shapeText
	}
	return shapeBytes
}
