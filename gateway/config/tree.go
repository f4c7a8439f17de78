package config

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	maxFileBytes = 2 << 20 // of a configuration file
	maxTokens    = 200_000 // of a file; the library's parser is quadratic for some
	maxMerged    = 200_000 // entries that merge keys may add
	maxNesting   = 64      // of flow collections, and of openers on one line
	maxIndent    = 256     // columns of indentation
)

// kind is the shape of a node.
type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindInt
	kindFloat
	kindText
	kindList
	kindMap
	kindBroken // has a fault already
)

// node is one value of the file with its place. It is what remains of the
// library's tree: aliases are followed (two nodes may be the same pointer;
// there are no cycles) and merge keys are expanded.
type node struct {
	kind      kind
	line, col int // from 1; col counts characters
	text      string
	plain     bool // scalar without quotes
	items     []*node
	entries   []entry
}

// entry is one key of a mapping.
type entry struct {
	key       string
	line, col int // of the key
	val       *node
}

// get returns the entry with the key, nil when there is none.
func (n *node) get(key string) *entry {
	if n == nil {
		return nil
	}
	for i := range n.entries {
		if n.entries[i].key == key {
			return &n.entries[i]
		}
	}
	return nil
}

// describe says what stands there, for messages.
func (n *node) describe() string {
	switch n.kind {
	case kindNull:
		return "nothing"
	case kindList:
		return "a list"
	case kindMap:
		return "a mapping"
	case kindBool, kindInt, kindFloat:
		return n.text
	}
	return fmt.Sprintf("the text %q", clip(n.text, 40))
}

func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}

// parseTree reads the text of a file. Faults go to rep; the result is nil
// when there is nothing to look at.
func parseTree(rep *reporter) *node {
	if at, msg := unreadable(rep.src); msg != "" {
		line, col := position(rep.src, at)
		rep.add(Fault{Line: line, Column: col, Msg: msg})
		return nil
	}
	tokens := lexer.Tokenize(rep.src)
	if len(tokens) > maxTokens {
		rep.at(pos{1, 1}, "", fmt.Sprintf("has more than %d keys, values and brackets", maxTokens), "move lists into files of their own where an option takes one")
		return nil
	}
	if t := tooDeep(tokens); t != nil {
		rep.add(Fault{Line: t.Position.Line, Column: t.Position.Column, Msg: fmt.Sprintf("is nested too deep: at most %d levels", maxNesting)})
		return nil
	}
	file, err := parseTokens(tokens)
	if err != nil {
		rep.syntax(err)
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil || doc.Body.Type() == ast.CommentType || doc.Body.Type() == ast.DirectiveType {
			continue
		}
		if body != nil {
			rep.at(place(doc.Body), "", "second document in one file: a configuration is one document", "remove the line ---")
			break
		}
		body = doc.Body
	}
	if body == nil {
		msg := "is empty: needs at least gateway, sources and sinks"
		if rep.what != "" {
			msg = "is empty: must be a " + rep.what
		}
		rep.add(Fault{Line: 1, Column: 1, Msg: msg})
		return nil
	}
	b := builder{rep: rep, anchors: map[string]*node{}}
	return b.build(body)
}

// parseTokens runs the library's parser, whose panics become errors.
func parseTokens(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be read as YAML (%v)", r)
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// unreadable returns the offset of the first byte that no configuration
// contains, and why; "" when there is none.
func unreadable(src string) (int, string) {
	if len(src) > maxFileBytes {
		return 0, fmt.Sprintf("is larger than %d MiB: not a configuration", maxFileBytes>>20)
	}
	for i := 0; i < len(src); {
		r, n := utf8.DecodeRuneInString(src[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return i, "is not UTF-8 text: save the file as UTF-8"
		case r < 0x20 && r != '\n' && r != '\t', r == 0x7f, r == 0xfeff:
			return i, fmt.Sprintf("has the control character U+%04X", r)
		}
		i += n
	}
	return 0, ""
}

// position turns a byte offset into line and column, both from 1.
func position(src string, at int) (line, col int) {
	before := src[:at]
	line = strings.Count(before, "\n") + 1
	return line, utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
}

// tooDeep returns the token at which the file is nested deeper than anything
// a configuration needs: the library's parser is recursive and a stack that
// overflows cannot be recovered.
func tooDeep(tokens token.Tokens) *token.Token {
	flow, openers, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, openers = t.Position.Line, 0
			if flow == 0 && t.Position.Column > maxIndent && t.Type != token.CommentType {
				return t
			}
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType, token.AliasType:
			openers++
		case token.MappingValueType:
			if flow == 0 {
				openers++
			}
		case token.CollectEntryType:
			openers = 0
		}
		if flow > maxNesting || openers > maxNesting {
			return t
		}
	}
	return nil
}

// builder turns the library's tree into nodes.
type builder struct {
	rep     *reporter
	anchors map[string]*node
	merged  int // entries added by merge keys so far
}

// pos is a place in the file.
type pos struct{ line, col int }

// place returns where a node of the library begins.
func place(n ast.Node) pos {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return place(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return place(n.Key)
	case *ast.MappingKeyNode:
		if n.Start != nil {
			return pos{n.Start.Position.Line, n.Start.Position.Column}
		}
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return pos{max(1, t.Position.Line), max(1, t.Position.Column)}
	}
	return pos{1, 1}
}

// build converts n; it never returns nil.
func (b *builder) build(n ast.Node) *node {
	if n == nil {
		return &node{line: 1, col: 1}
	}
	at := place(n)
	out := &node{line: at.line, col: at.col}
	switch n := n.(type) {
	case *ast.MappingNode:
		out.kind = kindMap
		b.entries(out, n.Values)
	case *ast.MappingValueNode:
		out.kind = kindMap
		b.entries(out, []*ast.MappingValueNode{n})
	case *ast.SequenceNode:
		out.kind = kindList
		for _, v := range n.Values {
			out.items = append(out.items, b.build(v))
		}
	case *ast.AnchorNode:
		return b.anchor(n)
	case *ast.AliasNode:
		return b.alias(n)
	case *ast.TagNode:
		return b.tag(n)
	case *ast.LiteralNode:
		out.kind, out.text = kindText, n.Value.Value
	default:
		b.scalar(out, n)
	}
	return out
}

func (b *builder) scalar(out *node, n ast.Node) {
	t := n.GetToken()
	if t != nil {
		out.text = t.Value
		out.plain = t.Type != token.SingleQuoteType && t.Type != token.DoubleQuoteType
	}
	switch n.(type) {
	case *ast.NullNode:
		out.kind = kindNull
	case *ast.BoolNode:
		out.kind = kindBool
	case *ast.IntegerNode:
		out.kind = kindInt
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.kind = kindFloat
	case *ast.StringNode:
		out.kind = kindText
	default:
		out.kind = kindBroken
		b.rep.at(pos{out.line, out.col}, "", "cannot be used here: "+n.Type().String(), "")
	}
}

func (b *builder) anchor(n *ast.AnchorNode) *node {
	v := b.build(n.Value)
	if n.Name != nil {
		b.anchors[n.Name.GetToken().Value] = v
	}
	return v
}

func (b *builder) alias(n *ast.AliasNode) *node {
	at, name := place(n), ""
	if n.Value != nil {
		name = n.Value.GetToken().Value
	}
	if v, ok := b.anchors[name]; ok {
		return v
	}
	b.rep.at(at, "", fmt.Sprintf("alias *%s has no anchor &%s before it", name, name), "text that begins with * is written in quotes")
	return &node{kind: kindBroken, line: at.line, col: at.col}
}

// tag handles !!str, which makes text of a number; other tags are refused.
func (b *builder) tag(n *ast.TagNode) *node {
	v := *b.build(n.Value)
	if n.Start.Value == "!!str" && v.kind < kindList {
		v.kind, v.plain = kindText, false
		return &v
	}
	b.rep.at(place(n), "", "tags such as "+n.Start.Value+" are not used in this file", "")
	return &v
}

// entries adds the keys of a mapping. Keys of merged mappings come last and
// give way to those that are there.
func (b *builder) entries(out *node, values []*ast.MappingValueNode) {
	var merges []*node
	seen := make(map[string]int, len(values)) // line of each key
	for _, mv := range values {
		at := place(mv.Key)
		if mv.Key.IsMergeKey() {
			merges = append(merges, b.build(mv.Value))
			continue
		}
		key, ok := keyText(mv.Key)
		if !ok {
			b.rep.at(at, "", "keys must be plain text", "")
			continue
		}
		val := b.build(mv.Value)
		if soundsSecret(key) {
			b.rep.masked = append(b.rep.masked, val)
		}
		if first, dup := seen[key]; dup {
			b.rep.at(at, "", fmt.Sprintf("key %q comes twice: first in line %d", clip(key, 40), first), "remove one")
			continue
		}
		seen[key] = at.line
		out.entries = append(out.entries, entry{key: key, line: at.line, col: at.col, val: val})
	}
	for _, m := range merges {
		b.merge(out, m, seen)
	}
}

// merge adds the keys of m, or of the mappings in the list m, to out.
func (b *builder) merge(out, m *node, seen map[string]int) {
	switch m.kind {
	case kindMap:
		if b.merged += len(m.entries); b.merged > maxMerged {
			b.rep.at(pos{out.line, out.col}, "", fmt.Sprintf("merge keys add more than %d entries", maxMerged), "")
			return
		}
		for _, e := range m.entries {
			if _, dup := seen[e.key]; !dup {
				seen[e.key] = e.line
				out.entries = append(out.entries, e)
			}
		}
	case kindList:
		for _, item := range m.items {
			if item.kind != kindMap && item.kind != kindBroken {
				b.rep.at(pos{item.line, item.col}, "", "<< needs a mapping, not "+item.describe(), "")
				continue
			}
			b.merge(out, item, seen)
		}
	case kindBroken:
	default:
		b.rep.at(pos{m.line, m.col}, "", "<< needs a mapping, not "+m.describe(), "")
	}
}

func keyText(k ast.MapKeyNode) (string, bool) {
	switch k.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return k.GetToken().Value, true
	}
	return "", false
}
