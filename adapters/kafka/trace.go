package kafka

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// Names of the headers and tags (W3C Trace Context, sections 3.2 and 3.3).
const (
	traceParent = "traceparent"
	traceState  = "tracestate"
)

// tracer writes the W3C trace context of records.
type tracer struct {
	sampled bool // of contexts made here
	scratch []byte
}

// headers adds traceparent, and tracestate if the record came with one; with
// event also as attributes of the event (CloudEvents, Distributed Tracing
// extension).
func (t *tracer) headers(a *arena, r *gateway.Record, event bool) {
	start := len(a.buf)
	a.buf = t.parent(a.buf, r, &a.at)
	a.header(a.keys.traceParent, start)
	if event {
		a.header(a.keys.ceTraceParent, start)
	}
	state := stateOf(r)
	a.text(a.keys.traceState, state)
	if event {
		a.text(a.keys.ceTraceState, state)
	}
}

// parent appends the traceparent of r: the one it came with if that is valid,
// else one made of its position in the queue, so that a repeat has the same.
func (t *tracer) parent(dst []byte, r *gateway.Record, at *codec.Position) []byte {
	if p := tag(r, traceParent); validParent(p) {
		return append(dst, p...)
	}
	s := t.scratch[:0]
	for _, part := range [...]string{at.Gateway, at.Generation, at.Lane} {
		s = append(binary.AppendUvarint(s, uint64(len(part))), part...)
	}
	s = binary.BigEndian.AppendUint64(s, at.Seq)
	t.scratch = s
	sum := sha256.Sum256(s)
	sum[15] |= 1 // an id of zeros is not valid
	sum[23] |= 1
	dst = append(dst, "00-"...)
	dst = hex.AppendEncode(dst, sum[:16])
	dst = hex.AppendEncode(append(dst, '-'), sum[16:24])
	if t.sampled {
		return append(dst, "-01"...)
	}
	return append(dst, "-00"...)
}

// stateOf is the tracestate that r came with. Without a valid traceparent it
// means nothing (section 3.3.1.1).
func stateOf(r *gateway.Record) string {
	if s := tag(r, traceState); s != "" && validState(s) && validParent(tag(r, traceParent)) {
		return s
	}
	return ""
}

// validParent checks a traceparent by section 3.2.2: version 00 is 55
// characters, a later version may have more after a '-'.
func validParent(p string) bool {
	const length = 55 // 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(p) < length || p[2] != '-' || p[35] != '-' || p[52] != '-' || p[:2] == "ff" {
		return false
	}
	if len(p) > length && (p[:2] == "00" || p[length] != '-') {
		return false
	}
	trace, parent := p[3:35], p[36:52]
	for _, part := range [...]string{p[:2], trace, parent, p[53:55]} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	return strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != "" && printable(p)
}

// printable reports whether s is ASCII that can be seen.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// validState checks a tracestate by section 3.3.1: at most 32 members
// key=value, each key once; members may be empty.
func validState(s string) bool {
	const most = 32
	keys := make([]string, 0, 4)
	for member := range strings.SplitSeq(s, ",") {
		member = strings.Trim(member, " \t")
		if member == "" {
			continue
		}
		key, value, ok := strings.Cut(member, "=")
		if !ok || !validStateKey(key) || !validStateValue(value) || len(keys) == most {
			return false
		}
		for _, k := range keys {
			if k == key {
				return false
			}
		}
		keys = append(keys, key)
	}
	return len(keys) > 0
}

// validStateKey: a letter and at most 255 more characters, or tenant@system of
// at most 241 and 14 (section 3.3.1.3.1).
func validStateKey(key string) bool {
	allowed := func(s string) bool { return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-*/") == "" }
	letter := func(s string) bool { return s != "" && s[0] >= 'a' && s[0] <= 'z' }
	tenant, system, multi := strings.Cut(key, "@")
	if !multi {
		return letter(key) && len(key) <= 256 && allowed(key)
	}
	digit := tenant != "" && tenant[0] >= '0' && tenant[0] <= '9'
	return (letter(tenant) || digit) && len(tenant) <= 241 && allowed(tenant) && letter(system) && len(system) <= 14 && allowed(system)
}

// validStateValue: 1 to 256 printable characters without ',' and '=', the last
// not a space (section 3.3.1.3.2).
func validStateValue(v string) bool {
	return v != "" && len(v) <= 256 && printable(v) && !strings.ContainsAny(v, ",=") && v[len(v)-1] != ' '
}
