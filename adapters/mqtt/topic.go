package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/waystation-iot/waystation/gateway"
)

// maxTopicBytes is the longest topic (section 1.5.3).
const maxTopicBytes = 65535

// topicPiece is literal text, or a placeholder for a text of a record.
type topicPiece struct {
	text string
	of   func(p *place, r *gateway.Record) string // nil for text
}

// place is what a topic needs beside the record.
type place struct{ gateway, lane string }

// parseTopic compiles a template of topics.
func parseTopic(s string) (out []topicPiece, err error) {
	for s != "" {
		open := strings.IndexAny(s, "{}")
		text := s
		if open >= 0 {
			text = s[:open]
		}
		if strings.ContainsAny(text, "+#") || !validText(text) {
			return nil, fmt.Errorf("%q holds + or #, or is no text", text)
		}
		if text != "" {
			out = append(out, topicPiece{text: text})
		}
		if open < 0 {
			break
		}
		end := strings.IndexByte(s[open:], '}')
		if s[open] == '}' || end < 0 {
			return nil, errors.New("a brace has no counterpart")
		}
		word := s[open+1 : open+end]
		of := topicWord(word)
		if of == nil {
			return nil, fmt.Errorf("{%s} is not a placeholder", word)
		}
		out, s = append(out, topicPiece{of: of}), s[open+end+1:]
	}
	return out, nil
}

// topicWord returns what a placeholder stands for; nil when it is none.
func topicWord(word string) func(*place, *gateway.Record) string {
	if key, ok := strings.CutPrefix(word, "tag."); ok && key != "" {
		return func(_ *place, r *gateway.Record) string {
			for i := range r.Tags {
				if r.Tags[i].Key == key {
					return r.Tags[i].Value
				}
			}
			return ""
		}
	}
	switch word {
	case "gateway":
		return func(p *place, _ *gateway.Record) string { return p.gateway }
	case "lane":
		return func(p *place, _ *gateway.Record) string { return p.lane }
	case "source":
		return func(_ *place, r *gateway.Record) string { return r.Source }
	case "name":
		return func(_ *place, r *gateway.Record) string { return r.Name }
	case "device":
		return func(_ *place, r *gateway.Record) string {
			if r.Device != "" {
				return r.Device
			}
			return r.Name
		}
	}
	return nil
}

// appendTopic appends the topic of a record. What a record must not bring in
// becomes '_': wildcards, NUL, what is not UTF-8, and a $ at the beginning,
// which is for the broker's own topics (section 4.7).
func appendTopic(dst []byte, t []topicPiece, p *place, r *gateway.Record) []byte {
	start := len(dst)
	for i := range t {
		if t[i].of == nil {
			dst = append(dst, t[i].text...)
			continue
		}
		for _, c := range t[i].of(p, r) {
			if c == '+' || c == '#' || c == 0 || c == utf8.RuneError || c == '$' && len(dst) == start {
				c = '_'
			}
			dst = utf8.AppendRune(dst, c)
		}
	}
	if len(dst) == start {
		dst = append(dst, '_')
	}
	for len(dst)-start > maxTopicBytes {
		_, n := utf8.DecodeLastRune(dst)
		dst = dst[:len(dst)-n]
	}
	return dst
}
