package kafka

import (
	"errors"
	"fmt"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
)

const placeholderHint = "allowed are {gateway} {source} {device} {name} {lane} {tag.KEY}"

// maxTopic is the longest topic name Kafka takes, in bytes.
const maxTopic = 249

// placeholder is what a piece of a template stands for.
type placeholder uint8

const (
	ofText placeholder = iota
	ofGateway
	ofSource
	ofDevice
	ofName
	ofLane
	ofTag
)

// piece is literal text or a placeholder; text is the literal or the tag's key.
type piece struct {
	of   placeholder
	text string
}

// template is a precompiled text with placeholders.
type template []piece

// parseTemplate compiles s.
func parseTemplate(s string) (template, error) {
	var t template
	for s != "" {
		open := strings.IndexAny(s, "{}")
		if open < 0 {
			return append(t, piece{ofText, s}), nil
		}
		if s[open] == '}' {
			return nil, errors.New("'}' without '{'")
		}
		if open > 0 {
			t = append(t, piece{ofText, s[:open]})
		}
		end := strings.IndexByte(s[open:], '}')
		if end < 0 {
			return nil, errors.New("'{' without '}'")
		}
		p, err := parsePlaceholder(s[open+1 : open+end])
		if err != nil {
			return nil, err
		}
		t, s = append(t, p), s[open+end+1:]
	}
	return t, nil
}

func parsePlaceholder(word string) (piece, error) {
	if key, ok := strings.CutPrefix(word, "tag."); ok && key != "" {
		return piece{ofTag, key}, nil
	}
	known := map[string]placeholder{"gateway": ofGateway, "source": ofSource, "device": ofDevice, "name": ofName, "lane": ofLane}
	if of, ok := known[word]; ok {
		return piece{of, ""}, nil
	}
	return piece{}, fmt.Errorf("{%s} is not a placeholder", word)
}

// origin is what a template needs beside the record.
type origin struct {
	gateway string // whose record it is
	lane    string // name
}

// expand appends the text for r to dst. {device} is the name when the record
// has no device.
func (t template) expand(dst []byte, o origin, r *gateway.Record) []byte {
	for i := range t {
		switch p := &t[i]; p.of {
		case ofText:
			dst = append(dst, p.text...)
		case ofGateway:
			dst = append(dst, o.gateway...)
		case ofSource:
			dst = append(dst, r.Source...)
		case ofDevice:
			if r.Device != "" {
				dst = append(dst, r.Device...)
			} else {
				dst = append(dst, r.Name...)
			}
		case ofName:
			dst = append(dst, r.Name...)
		case ofLane:
			dst = append(dst, o.lane...)
		case ofTag:
			dst = append(dst, tag(r, p.text)...)
		}
	}
	return dst
}

// tag returns the value of the record's tag, "" when it has none.
func tag(r *gateway.Record, key string) string {
	for i := range r.Tags {
		if r.Tags[i].Key == key {
			return r.Tags[i].Value
		}
	}
	return ""
}

// badTopicText returns the first literal piece that cannot be in a topic.
func (t template) badTopicText() string {
	for _, p := range t {
		if p.of == ofText && topicName([]byte(p.text)) != p.text && strings.Trim(p.text, ".") != "" {
			return p.text
		}
	}
	return ""
}

// topicName makes a legal topic name of raw (org.apache.kafka.common.internals.Topic:
// [a-zA-Z0-9._-], at most 249, not "", "." or "..").
func topicName(raw []byte) string {
	name := make([]byte, 0, len(raw))
	for _, c := range raw[:min(len(raw), maxTopic)] {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
			name = append(name, c)
		default:
			name = append(name, '_')
		}
	}
	switch string(name) {
	case "", ".":
		return "_"
	case "..":
		return "__"
	}
	return string(name)
}
