package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
)

// maxFaults bounds the report on a file that is no configuration at all.
const maxFaults = 100

// Fault is one thing wrong with a configuration file.
type Fault struct {
	File    string // as given to Load or Parse
	Line    int    // from 1; 0 when the file could not be read
	Column  int    // from 1, in characters
	Path    string // of the option, e.g. "sources[0].topics"; "" for the file as a whole
	Msg     string // what is wrong and what is allowed
	Hint    string // what to do; may be empty
	Excerpt string // the line and a caret below the place; secrets are masked
}

// Error returns the fault on one line, without the excerpt.
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Msg)
	if f.Hint != "" {
		b.WriteString(": " + f.Hint)
	}
	return b.String()
}

// Faults is everything wrong with a file, sorted by line.
type Faults []Fault

// Error returns all faults, each with its excerpt.
func (fs Faults) Error() string {
	var b strings.Builder
	for i := range fs {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(fs[i].Error())
		if fs[i].Excerpt != "" {
			b.WriteString("\n" + strings.TrimRight(fs[i].Excerpt, "\n"))
		}
	}
	return b.String()
}

// reporter collects the faults of one file.
type reporter struct {
	file   string
	dir    string // of the file
	src    string // text of the file with \n line breaks, without byte order mark
	lines  []string
	faults Faults
	masked []*node // values of secrets, never shown
	what   string  // the file is: a profile …; "" = a configuration
}

func newReporter(file, src string) *reporter {
	return &reporter{file: file, dir: filepath.Dir(file), src: src, lines: strings.Split(src, "\n")}
}

// line returns the text of a line, counted from 1.
func (r *reporter) line(n int) string {
	if n < 1 || n > len(r.lines) {
		return ""
	}
	return r.lines[n-1]
}

func (r *reporter) add(f Fault) {
	if len(r.faults) < maxFaults {
		r.faults = append(r.faults, f)
	}
}

func (r *reporter) at(p pos, path, msg, hint string) {
	r.add(Fault{Line: p.line, Column: p.col, Path: path, Msg: msg, Hint: hint})
}

// result sorts the faults and gives each its file and excerpt.
func (r *reporter) result() error {
	if len(r.faults) == 0 {
		return nil
	}
	for i := range r.faults {
		f := &r.faults[i]
		f.File = r.file
		f.Excerpt = r.excerpt(f.Line, f.Column)
	}
	slices.SortStableFunc(r.faults, func(a, b Fault) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	r.faults = slices.CompactFunc(r.faults, func(a, b Fault) bool { return a == b })
	return r.faults
}

// excerptWidth is how many characters of a line are shown.
const excerptWidth = 100

// maxExcerpt is how many bytes of a line are worth looking at.
const maxExcerpt = 16 << 10

// excerpt shows a line with a caret below col.
func (r *reporter) excerpt(line, col int) string {
	if len(r.line(line)) > maxExcerpt {
		return ""
	}
	s := []rune(r.mask(line))
	if len(s) == 0 || line < 1 {
		return ""
	}
	col = min(max(1, col), len(s)+1)
	from := 0
	if len(s) > excerptWidth && col > excerptWidth*3/4 {
		from = min(col-excerptWidth/2, len(s)-excerptWidth)
	}
	shown := s[from:min(len(s), from+excerptWidth)]
	prefix := fmt.Sprintf("%7s | ", strconv.Itoa(line))
	var pad strings.Builder
	for _, c := range shown[:min(col-1-from, len(shown))] {
		if c != '\t' {
			c = ' '
		}
		pad.WriteRune(c)
	}
	return prefix + string(shown) + "\n" + strings.Repeat(" ", len(prefix)-2) + "| " + pad.String() + "^\n"
}

// mask returns a line with the secrets in it starred out: the values of
// Secret options, of keys that sound like one, and passwords in URLs.
func (r *reporter) mask(line int) string {
	s := r.line(line)
	for _, n := range r.masked {
		s = r.maskNode(s, line, n)
	}
	s = maskPattern(s, `(?i)[\w-]*(?:pass|pwd|secret|token|credential|private|psk)[\w-]*["']?[ \t]*:[ \t]*("(?:[^"\\]|\\.)*"?|'[^']*'?|[^ \t,}\]#][^,}\]]*)`)
	return maskPattern(s, `://[^/@\s:]*:([^@/\s"']+)@`)
}

// maskNode stars out what the secret n covers in a line.
func (r *reporter) maskNode(s string, line int, n *node) string {
	if reference(n.text) || n.text == "" {
		return s
	}
	if line == n.line {
		cut := len(string([]rune(s)[:min(n.col-1, utf8.RuneCountInString(s))]))
		head, tail := s[:cut], s[cut:]
		end := len(tail)
		if n.plain && strings.HasPrefix(tail, n.text) {
			end = len(n.text)
		} else if m := regexp.MustCompile(`^(?:"(?:[^"\\]|\\.)*"|'[^']*')`).FindString(tail); m != "" {
			end = len(m)
		}
		return head + stars(tail[:end]) + tail[end:]
	}
	// A block of text: its lines follow the one of the key.
	if line > n.line && line <= n.line+strings.Count(n.text, "\n")+1 {
		if t := strings.TrimSpace(s); t != "" && strings.Contains(n.text, t) {
			return strings.Repeat(" ", len(s)-len(strings.TrimLeft(s, " "))) + stars(t)
		}
	}
	return s
}

func maskPattern(s, pattern string) string {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatchIndex(s, -1) {
		if v := s[m[2]:m[3]]; !reference(strings.Trim(v, `"'`)) {
			s = s[:m[2]] + starsBytes(v) + s[m[3]:]
		}
	}
	return s
}

// reference reports whether a secret is given as a reference.
func reference(s string) bool {
	return strings.HasPrefix(s, "env:") || strings.HasPrefix(s, "file:") || strings.HasPrefix(s, "credential:")
}

// soundsSecret reports whether the value of a key may be a secret.
func soundsSecret(key string) bool {
	key = strings.ToLower(key)
	for _, s := range []string{"pass", "pwd", "secret", "token", "credential", "private", "psk"} {
		if strings.Contains(key, s) {
			return true
		}
	}
	return false
}

// stars replaces every character, so that carets stay in place.
func stars(s string) string { return strings.Repeat("*", utf8.RuneCountInString(s)) }

// starsBytes replaces every byte, so that offsets stay in place; characters
// beyond ASCII then count more than once, which only moves a caret.
func starsBytes(s string) string { return strings.Repeat("*", len(s)) }

// syntax reports an error of the library's parser.
func (r *reporter) syntax(err error) {
	f := Fault{Line: 1, Column: 1, Msg: err.Error()}
	if ye, ok := errors.AsType[yaml.Error](err); ok {
		f.Msg = strings.TrimSpace(ye.GetMessage())
		if t := ye.GetToken(); t != nil && t.Position != nil {
			f.Line, f.Column = max(1, t.Position.Line), max(1, t.Position.Column)
		}
	}
	f.Msg = "not valid YAML: " + f.Msg
	line := r.line(f.Line)
	if strings.Contains(line[:len(line)-len(strings.TrimLeft(line, " \t"))], "\t") {
		f.Hint = "indent with spaces, not tabs"
	}
	r.add(f)
}
