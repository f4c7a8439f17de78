package codec

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

const (
	maxInterned    = 4096 // strings kept by one intern table
	maxInternedLen = 256  // longer ones are not worth keeping
	maxLevel       = 128  // highest topic level a template may name
)

// template makes a device or a name out of a topic. It belongs to one
// decoder and is used by one goroutine at a time.
type template struct {
	parts  []part
	onTree bool // some part is taken from the payload
	known  interned
	buf    []byte
}

// part is one piece of a template; exactly one of its fields is set.
type part struct {
	text  string // literal
	whole bool   // the whole topic
	level int    // a level of the topic, from 1
	path  string // a gjson path in the payload
}

// compileTemplate reads s. {json:PATH} is allowed when json is set.
func compileTemplate(s string, json bool) (*template, error) {
	t := &template{}
	for s != "" {
		open := strings.IndexAny(s, "{}")
		if open < 0 {
			t.parts = append(t.parts, part{text: s})
			break
		}
		if s[open] == '}' {
			return nil, errors.New("has a } without {: placeholders are {topic}, {1}, {2} …")
		}
		if open > 0 {
			t.parts = append(t.parts, part{text: s[:open]})
		}
		end := strings.IndexByte(s[open:], '}')
		if end < 0 {
			return nil, errors.New("has a { without }: placeholders are {topic}, {1}, {2} …")
		}
		p, err := placeholder(s[open+1:open+end], json)
		if err != nil {
			return nil, err
		}
		t.onTree = t.onTree || p.path != ""
		t.parts = append(t.parts, p)
		s = s[open+end+1:]
	}
	if len(t.parts) == 0 {
		return nil, errors.New("must not be empty: use {topic}, {1}, {2} …")
	}
	return t, nil
}

func placeholder(s string, json bool) (part, error) {
	if s == "topic" {
		return part{whole: true}, nil
	}
	if path, ok := strings.CutPrefix(s, "json:"); ok {
		if !json {
			return part{}, fmt.Errorf("{%s} needs codec: json", s)
		}
		if path == "" {
			return part{}, errors.New("{json:} needs a path, such as {json:meta.id}")
		}
		return part{path: path}, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= maxLevel && s[0] != '+' {
		return part{level: n}, nil
	}
	return part{}, fmt.Errorf("unknown placeholder {%s}: use {topic}, {1}, {2} … {%d}", s, maxLevel)
}

// expand returns the text for topic and, for templates that look into the
// payload, doc. When a part is missing or empty it returns the whole topic.
// It allocates only for a composed text seen for the first time.
func (t *template) expand(topic, doc string) string {
	if len(t.parts) == 1 && !t.onTree {
		if s, ok := t.parts[0].resolve(topic, doc); ok {
			return s
		}
		return topic
	}
	if !t.onTree {
		if s, ok := t.known.get(topic); ok {
			return s
		}
	}
	t.buf = t.buf[:0]
	for i := range t.parts {
		s, ok := t.parts[i].resolve(topic, doc)
		if !ok {
			return topic
		}
		t.buf = append(t.buf, s...)
	}
	if t.onTree {
		return t.known.bytes(t.buf)
	}
	return t.known.put(topic, string(t.buf))
}

// resolve returns the text of one part and whether it is there.
func (p *part) resolve(topic, doc string) (string, bool) {
	switch {
	case p.whole:
		return topic, true
	case p.level > 0:
		s := level(topic, p.level)
		return s, s != ""
	case p.path != "":
		r := gjson.Get(doc, p.path)
		if r.Type != gjson.String && r.Type != gjson.Number {
			return "", false
		}
		if r.Type == gjson.Number {
			return r.Raw, true
		}
		return r.Str, r.Str != ""
	}
	return p.text, true
}

// level returns the n-th level of an MQTT topic, from 1; "" when there is none.
func level(topic string, n int) string {
	for ; n > 1; n-- {
		_, rest, ok := strings.Cut(topic, "/")
		if !ok {
			return ""
		}
		topic = rest
	}
	first, _, _ := strings.Cut(topic, "/")
	return first
}

// interned keeps up to maxInterned strings so that equal ones are allocated
// once. When it is full it starts again.
type interned struct{ m map[string]string }

func (in *interned) get(key string) (string, bool) {
	s, ok := in.m[key]
	return s, ok
}

// put keeps s under key and returns it.
func (in *interned) put(key, s string) string {
	if len(key) > maxInternedLen || len(s) > maxInternedLen {
		return s
	}
	if in.m == nil {
		in.m = make(map[string]string)
	}
	if len(in.m) >= maxInterned {
		clear(in.m)
	}
	in.m[strings.Clone(key)] = s
	return s
}

// bytes returns b as a string, the kept one when it was seen before.
func (in *interned) bytes(b []byte) string {
	if s, ok := in.m[string(b)]; ok {
		return s
	}
	s := string(b)
	return in.put(s, s)
}
